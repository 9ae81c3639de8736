from __future__ import annotations

import numpy as np
import pytest

from vnp.controls.material import CONTROLS, HOSTS, LOW_COMPLEXITY, Window
from vnp.controls.rates import card, missing, rates, terminal_lines

THRESHOLDS = {
    "half": lambda length: np.full(len(length), 0.5),
    "relaxed": lambda length: np.where(length < 1000, 0.7, 0.6),
    "default": lambda length: np.where(length < 1000, 0.9, 0.8),
}


def windows(control: str, length: int, count: int, sources: int, *, seen: bool = False) -> list[Window]:
    return [
        Window(f"{control}{length}_{n}", control, f"s{n % sources}", length, seen, b"A" * length) for n in range(count)
    ]


def test_rates_are_counted_by_control_length_and_threshold() -> None:
    made = [*windows(HOSTS, 500, 20, 20), *windows(HOSTS, 2000, 10, 2, seen=True), *windows(LOW_COMPLEXITY, 500, 4, 4)]
    chance = {one.name: 0.85 if one.name.endswith(("_1", "_2")) else 0.1 for one in made}
    # One without a score is not counted.
    del chance[f"{LOW_COMPLEXITY}500_3"]
    lines = rates(made, chance, [500, 2000], THRESHOLDS)
    assert [(line.control, line.length) for line in lines] == [
        (name, size) for name in CONTROLS for size in (500, 2000)
    ]
    found = {(line.control, line.length): line for line in lines}
    short, long = found[HOSTS, 500], found[HOSTS, 2000]
    assert (short.windows, short.sequences, short.seen) == (20, 20, False)
    assert {name: rate.called for name, rate in short.rates.items()} == {"half": 2, "relaxed": 2, "default": 0}
    assert {name: rate.called for name, rate in long.rates.items()} == {"half": 2, "relaxed": 2, "default": 2}
    # Wilson's interval of 0 of 20 and 2 of 10, by its formula with z = 1.96.
    assert (short.rates["default"].low, short.rates["default"].high) == pytest.approx((0, 0.16113), abs=1e-5)
    assert (long.rates["default"].low, long.rates["default"].high) == pytest.approx((0.05668, 0.50984), abs=1e-5)
    assert found[LOW_COMPLEXITY, 500].windows == 3
    said = missing(lines)
    assert "plasmids: no material" in said
    assert f"{LOW_COMPLEXITY}: no material of 2,000 bases" in said
    assert any(note.startswith(f"{HOSTS}: few sequences, 2 (2,000 bases)") for note in said)
    shown = terminal_lines(lines, "default")
    assert max(map(len, shown)) <= 80
    assert any(line.startswith("other hosts *") for line in shown)
    text = card(lines, {"seed": 0, "windows": 20}, "default")
    assert "| other host sequences (seen) | 2,000 | 2 | 10 | 20.0 | 5.7-51.0 | 20.0 | 20.0 |" in text
    assert "- vectors: no material." in text
