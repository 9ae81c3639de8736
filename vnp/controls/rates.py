"""How often windows that are no viruses are called viral, as a table, JSON and a section of a model's card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from vnp.classifier.classifier import Classifier
from vnp.controls.material import CONTROLS, Window
from vnp.errors import InputError
from vnp.files.durable import write_text
from vnp.files.records import write_json
from vnp.files.tables import columns, table_text
from vnp.metrics.metrics import wilson
from vnp.metrics.presets import DEFAULT
from vnp.sequences.samplesheet import table_rows

FILES = ("controls.tsv", "controls.json", "controls.md")
AT_HALF = "half"
"""The column of calls at a probability of one half."""
_FEW = 10


@dataclass(frozen=True, slots=True)
class Rate:
    """How many windows of a control and length are called viral by one threshold."""

    called: int
    share: float
    low: float  # of the 95 % interval of Wilson, over windows
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """A control at one length; no rates where there is no window."""

    control: str
    length: int
    sequences: int  # that windows were cut from
    windows: int  # that have a probability
    seen: bool  # whether the classifier was trained on the sequences
    rates: Mapping[str, Rate]  # by preset, or ``half``


def thresholds_of(classifier: Classifier) -> tuple[str, dict[str, Any]]:
    """The name of the default call, and what gives every call's threshold for lengths."""
    found: dict[str, Any] = {AT_HALF: lambda length: np.full(len(length), 0.5)}
    found |= {name: preset.of for name, preset in classifier.presets.items()}
    if DEFAULT in found:
        return DEFAULT, found
    found["threshold"] = lambda length: np.full(len(length), classifier.threshold)
    return "threshold", found


def read_probabilities(path: Path) -> dict[str, float]:
    """Probabilities in ``predictions.tsv``, by record, of those that have one; InputError where it is another table."""
    rows = table_rows(path, "table of predictions")
    _, header = next(rows, (1, []))
    if not {"name", "probability"} <= set(header):
        raise InputError("is no table of predictions", path=path)
    name, probability = header.index("name"), header.index("probability")
    return {cells[name]: float(cells[probability]) for _, cells in rows if cells[probability]}


def rates(
    windows: Sequence[Window], probability: Mapping[str, float], lengths: Sequence[int], thresholds: Mapping[str, Any]
) -> list[Line]:
    """Count calls of every control and length.

    A window without a probability is not counted. ``thresholds`` have by name what gives the probability from which on
    records of some lengths are viral.
    """
    lines = []
    for control in CONTROLS:
        for length in lengths:
            own = [one for one in windows if one.control == control and one.length == length]
            own = [one for one in own if one.name in probability]
            score: Float64[np.ndarray, "n"] = np.array([probability[one.name] for one in own], np.float64)
            size = np.full(len(own), length)
            found = {name: _rate(score >= of(size)) for name, of in thresholds.items()} if own else {}
            sources = {one.source for one in own}
            lines.append(Line(control, length, len(sources), len(own), any(one.seen for one in own), found))
    return lines


def _rate(called: np.ndarray) -> Rate:
    count = int(called.sum())
    return Rate(count, count / len(called), *wilson(count, len(called)))


def write_rates(lines: Sequence[Line], about: Mapping[str, Any], default: str, folder: Path) -> list[Path]:
    """Write ``controls.tsv``, ``controls.json`` and ``controls.md``.

    ``about`` is what the JSON says of the measurement, ``default`` the name of the default call.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    paths = [folder / name for name in FILES]
    write_text(paths[0], table_text(_rows(lines)))
    write_json(paths[1], {**about, "controls": [_json(line) for line in lines]})
    write_text(paths[2], card(lines, about, default))
    return paths


def _rows(lines: Sequence[Line]) -> Iterator[list[str]]:
    names = _names(lines)
    ends = ("called", "rate", "low", "high")
    yield ["control", "length", "sequences", "windows", "seen", *(f"{name}_{end}" for name in names for end in ends)]
    for line in lines:
        cells = [line.control, str(line.length), str(line.sequences), str(line.windows), "yes" if line.seen else "no"]
        for name in names:
            rate = line.rates.get(name)
            numbers = ("", "", "", "") if rate is None else (
                str(rate.called), f"{rate.share:.6f}", f"{rate.low:.6f}", f"{rate.high:.6f}",
            )  # fmt: skip
            cells += numbers
        yield cells


def _names(lines: Sequence[Line]) -> list[str]:
    """Names of the calls, the laxest first."""
    found = next((line.rates for line in lines if line.rates), {})
    return sorted(found, key=lambda name: ("half", "threshold", "relaxed", "default", "conservative").index(name))


def _json(line: Line) -> dict[str, Any]:
    counted = {
        name: {"called": rate.called, "rate": rate.share, "interval": [rate.low, rate.high]}
        for name, rate in line.rates.items()
    }
    own = {"control": line.control, "length": line.length, "sequences": line.sequences, "windows": line.windows}
    return {**own, "seen": line.seen, "calls": counted}


def _cells(lines: Sequence[Line], default: str) -> tuple[list[str], list[list[str]]]:
    others = [name for name in _names(lines) if name != default]
    header = ["control", "bases", "sequences", "windows", f"% {default}", "95 %", *(f"% {name}" for name in others)]
    rows = []
    for line in lines:
        if not line.windows:
            continue
        rate = line.rates[default]
        own = f"{line.control}{' (seen)' if line.seen else ''}"
        rows.append(
            [own, f"{line.length:,}", f"{line.sequences:,}", f"{line.windows:,}", f"{100 * rate.share:.1f}",
             f"{100 * rate.low:.1f}-{100 * rate.high:.1f}", *(f"{100 * line.rates[name].share:.1f}" for name in others)]
        )  # fmt: skip
    return header, rows


def missing(lines: Sequence[Line]) -> list[str]:
    """One sentence for each control, or length of it, that nothing was there for, or little."""
    found = []
    for control in CONTROLS:
        own = [line for line in lines if line.control == control]
        without = [f"{line.length:,}" for line in own if not line.windows]
        few = [line for line in own if 0 < line.sequences < _FEW]
        if len(without) == len(own):
            found.append(f"{control}: no material")
        elif without:
            found.append(f"{control}: no material of {', '.join(without)} bases")
        if few:
            counts = ", ".join(f"{line.sequences} ({line.length:,} bases)" for line in few)
            found.append(f"{control}: few sequences, {counts}; the interval is one over windows and too narrow")
    return found


_SHORT = {
    "mitochondria and plastids": "organelles", "transposons and integrons": "mobile elements",
    "other host sequences": "other hosts",
}  # fmt: skip


def terminal_lines(lines: Sequence[Line], default: str) -> list[str]:
    """The table for a terminal of 80 columns, without the calls at one half; a star marks what was trained on."""
    header, rows = _cells(lines, default)
    kept = [place for place, cell in enumerate(header) if cell != f"% {AT_HALF}"]
    header = ["control", "bases", "seqs", "cut", *(cell[2:12].replace("conservati", "conserv.") for cell in header[4:])]
    header[5] = "95 %"
    found = []
    for row in (header, *rows):
        name, seen, _ = row[0].partition(" (seen)")
        found.append([_SHORT.get(name, name) + (" *" if seen else ""), *(row[place] for place in kept[1:])])
    return columns(found)


def card(lines: Sequence[Line], about: Mapping[str, Any], default: str) -> str:
    """A section of a model's card."""
    header, rows = _cells(lines, default)
    table = [f"| {' | '.join(row)} |" for row in (header, ["---", *["--:"] * (len(header) - 1)], *rows)]
    seen = (
        ["", "*(seen)*: all sequences there were of this control were trained on, so the rate is too good."]
        if any(line.seen for line in lines)
        else []
    )
    notes = [f"- {note}." for note in missing(lines)]
    text = [
        "## Negative controls", "",
        "Windows that are no viruses, and the share of them (in %) that is called viral: by the default call "
        f"({default}) with the 95 % interval of Wilson over windows, and by the others. Shuffled sequences keep "
        "every pair of neighbours (Altschul and Erickson, 1985). "
        f"Seed {about['seed']}, at most {about['windows']} windows a line.",
        "", *table, *seen, *(["", *notes] if notes else []), "",
    ]  # fmt: skip
    return "\n".join(text)
