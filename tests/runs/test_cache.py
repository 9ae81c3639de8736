from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.extract import main as extract
from tests.encoders._folders import write_folder
from vnp.runs.making import cache
from vnp.runs.making.cache import SUFFIX, RowCache, digests_of

OF = {"encoder": "x"}


def filled(folder: Path, names: list[str], seed: int = 0, most_bytes: int = 1 << 30) -> np.ndarray:
    """Keep rows of some sequences; they are drawn by chance."""
    rows = np.random.default_rng(seed).normal(size=(len(names), 8)).astype(np.float32)
    here = RowCache(folder, OF, 8, most_bytes)
    here.add(digests_of(names), rows)
    here.close()
    return rows


def test_rows_come_back_as_they_were_kept(tmp_path: Path) -> None:
    names = [f"ACGT{number}" for number in range(300)]
    rows = filled(tmp_path, names)
    asked = ["other", *names[10:20], names[5], names[5]]
    found, there = RowCache(tmp_path, OF, 8, 1).find(digests_of(asked))
    assert found.tolist() == [False] + [True] * 12
    np.testing.assert_array_equal(there, rows[[*range(10, 20), 5, 5]])
    assert not RowCache(tmp_path, {"encoder": "y"}, 8, 1).find(digests_of(names))[0].any()


def test_what_a_task_keeps_it_finds_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SEGMENT_BYTES", 8 * 4 * 10)
    here, names = RowCache(tmp_path, OF, 8, 1 << 30), [f"A{number}" for number in range(100)]
    rows = np.random.default_rng(1).normal(size=(100, 8)).astype(np.float32)
    for low in range(0, 100, 10):
        here.add(digests_of(names[low : low + 10]), rows[low : low + 10])
    here.close()
    found, there = here.find(digests_of(names))
    assert found.all()
    np.testing.assert_array_equal(there, rows)


@pytest.mark.parametrize("place", [3, 15, 40, 350, 700, -1, "cut", "empty"])
def test_damaged_rows_are_never_given(place: int | str, tmp_path: Path) -> None:
    names = [f"G{number}" for number in range(20)]
    rows = filled(tmp_path, names)
    path = next(tmp_path.glob(f"*/*{SUFFIX}"))
    whole = path.read_bytes()
    data = bytearray(whole[:-5] if place == "cut" else b"" if place == "empty" else whole)
    if isinstance(place, int):
        data[place] ^= 4
    # It is damaged before it is opened, and while it is: then its tables are known already, and rows are compared.
    for when in ("before", "while"):
        path.write_bytes(data if when == "before" else whole)
        here = RowCache(tmp_path, OF, 8, 1)
        if when == "while":
            path.write_bytes(data)
        found, there = here.find(digests_of(names))
        kept = isinstance(place, int) and when == "while" and 0 <= place < 20 + 16 * len(names)
        assert kept or not found.all()
        np.testing.assert_array_equal(there, rows[found])
    path.unlink(missing_ok=True)
    again = filled(tmp_path, names)
    np.testing.assert_array_equal(RowCache(tmp_path, OF, 8, 1).find(digests_of(names))[1], again)


def test_segments_that_were_used_last_stay(tmp_path: Path) -> None:
    for number in range(5):
        filled(tmp_path, [f"{number}-{row}" for row in range(50)], number)
    sizes = {path: path.stat().st_size for path in tmp_path.glob(f"*/*{SUFFIX}")}
    for path in sizes:
        os.utime(path, (1_000, 1_000))
    # One of those that are all as old is asked for.
    assert RowCache(tmp_path, OF, 8, 1).find(digests_of(["3-0"]))[0].all()
    filled(tmp_path, ["more"], 9, most_bytes=3 * max(sizes.values()))
    here = RowCache(tmp_path, OF, 8, 1)
    left = [bool(here.find(digests_of([f"{number}-7"]))[0].all()) for number in range(5)]
    assert left[3]
    assert sum(left) == 2
    assert here.find(digests_of(["more"]))[0].all()


def test_many_write_at_once(tmp_path: Path) -> None:
    names = [f"T{number}" for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: filled(tmp_path, names[at : at + 100], 5), range(0, 400, 50)))
    here = RowCache(tmp_path, OF, 8, 1)
    assert here.find(digests_of(names))[0].all()
    assert not [*tmp_path.glob("*/.*.tmp")]


def test_a_task_learns_what_others_kept_when_it_writes(tmp_path: Path) -> None:
    here = RowCache(tmp_path, OF, 8, 1 << 30)
    rows = filled(tmp_path, ["TTT", "GGG"])
    assert not here.find(digests_of(["TTT"]))[0].any()
    here.add(digests_of(["AAA"]), rows[:1])
    here.close()
    found, there = here.find(digests_of(["GGG", "AAA", "TTT"]))
    assert found.all()
    np.testing.assert_array_equal(there, rows[[1, 0, 0]])


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads of which many are there twice."""
    draw = np.random.default_rng(4)
    distinct = ["".join(draw.choice(list("ACGT"), 120)) for _ in range(20)]
    path = tmp_path_factory.mktemp("reads") / "reads.fna"
    path.write_text("".join(f">r{number}\n{distinct[number % 20]}\n" for number in range(50)))
    return path


def run(reads: Path, out: Path, model: Path, *more: str) -> tuple[bytes, list[dict[str, Any]]]:
    words = [str(reads), "--out", str(out), "--dna", "kmer", "--protein", str(model), "--cluster", "inline",
             "--device", "cpu", "--shards", "2", *more]  # fmt: skip
    done = CliRunner().invoke(extract, words)
    assert done.exit_code == 0, done.output
    found = [json.loads(path.read_text()) for path in sorted((out / "receipts").glob("*.json"))]
    shards = b"".join(path.read_bytes() for path in sorted((out / "shards").glob("*.h5")))
    return shards, found


def test_a_run_has_the_same_bytes_with_and_without_a_cache(reads: Path, tmp_path: Path) -> None:
    model, kept = write_folder(tmp_path / "model"), ("--cache", str(tmp_path / "cache"))
    plain, _ = run(reads, tmp_path / "plain", model)
    first, made = run(reads, tmp_path / "first", model, *kept)
    second, found = run(reads, tmp_path / "second", model, *kept)
    assert plain == first == second
    rows = sum(one["rows"] for one in found)
    assert sum(one["cached"]["protein"] for one in found) == rows > 0
    assert all(one["tokens"]["protein"] == 0 for one in found)
    assert sum(one["tokens"]["protein"] for one in made) > 0
    assert "dna" not in found[0]["cached"], "k-mers cost less than looking"


@pytest.mark.parametrize(
    ("more", "message"), [(("--cache-size", "0"), "more than 0, not 0"), (("--cache", "{file}"), "is a file")]
)
def test_what_no_cache_can_be(more: tuple[str, str], message: str, reads: Path, tmp_path: Path) -> None:
    words = [str(reads), "--out", str(tmp_path / "run"), "--dna", "kmer", "--protein", "kmer", "--cluster", "inline"]
    done = CliRunner().invoke(extract, [*words, *(one.format(file=reads) for one in more)])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
