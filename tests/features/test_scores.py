"""Tables of scores: small, joined in order, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from vnp.errors import FeatureError
from vnp.features.scores import Facts, Scores, join_scores, read_named, read_scores, write_scores
from vnp.features.table import Records, Skipped

READS = 1_000


def make_records(ordinal: np.ndarray, name: str = "read.{}") -> Records:
    count, small = len(ordinal), np.zeros(len(ordinal), np.int8)
    names = [name.format(number).encode() for number in ordinal.tolist()]
    whole = np.ones(count, np.int32)
    return Records(ordinal, names, np.full(count, 150), whole, 0 * whole, small, small, names)


def write(path: Path, first: int, count: int, *, rows: bool = True, name: str = "read.{}") -> Scores:
    """Records of 150 bases from one on, with a row each."""
    ordinal = np.arange(first, first + count)
    has = ordinal if rows else ordinal[:0]
    random = np.random.default_rng(first)
    scores = Scores(
        record=has,
        chunk=np.ones(len(has), np.int32),
        frame=np.full(len(has), -1, np.int8),
        start=np.zeros(len(has), np.int64),
        end=np.full(len(has), 150),
        logits=random.normal(size=(len(has), 7)).astype(np.float32),
        novelty=random.normal(size=len(has)).astype(np.float16),
    )
    records = make_records(ordinal, name)
    skipped = Skipped(
        ordinal if not rows else ordinal[:0],
        np.ones(0 if rows else count, np.int32),
        np.full(0 if rows else count, -1, np.int8),
        [] if rows else [b"no open frame"] * count,
    )
    facts = Facts(np.arange(count, dtype=np.int32), 2 * ordinal, ordinal, [b"of %d" % one for one in ordinal.tolist()])
    write_scores(path, scores=scores, facts=facts, records=records, skipped=skipped, attributes={"kind": "block"})
    return scores


def test_many_blocks_join_to_a_small_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.h5" for number in range(20)]
    written = [write(path, number * READS, READS) for number, path in enumerate(paths)]
    joined = join_scores(paths, tmp_path / "shard.h5", {"kind": "shard"})
    assert (joined.rows, joined.records, joined.width, joined.frames) == (20 * READS, 20 * READS, 7, 0)
    with h5py.File(tmp_path / "shard.h5") as file:
        found, names = read_scores(file), read_named(file)
    for column in Scores.__slots__:
        assert np.array_equal(getattr(found, column), np.concatenate([getattr(one, column) for one in written])), column
    assert names.name == [b"read.%d" % number for number in range(20 * READS)]
    # Logits are noise: 30 bytes that stay as they are.
    assert (tmp_path / "shard.h5").stat().st_size < 47 * 20 * READS


def test_a_record_that_a_border_cuts_is_one(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 0, 3)
    write(tmp_path / "b.h5", 2, 3, rows=False)
    joined = join_scores([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "shard.h5", {})
    assert (joined.rows, joined.records, joined.skipped) == (3, 5, {"no open frame": 3})
    with h5py.File(tmp_path / "shard.h5") as file:
        assert read_named(file).ordinal.tolist() == [0, 1, 2, 3, 4]


def test_names_of_any_length_stay_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 0, 2)
    write(tmp_path / "b.h5", 2, 2, name="é" * 400 + "{}")
    join_scores([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "shard.h5", {})
    with h5py.File(tmp_path / "shard.h5") as file:
        assert [name.decode() for name in read_named(file).name] == [
            "read.0",
            "read.1",
            "é" * 400 + "2",
            "é" * 400 + "3",
        ]


@pytest.mark.parametrize(("first", "said"), [(0, "records are missing or repeated"), (3, "missing"), (1, "twice")])
def test_what_does_not_go_on_is_refused(tmp_path: Path, first: int, said: str) -> None:
    write(tmp_path / "a.h5", 0, 2)
    write(tmp_path / "b.h5", first, 2)
    with pytest.raises(FeatureError, match=said):
        join_scores([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "shard.h5", {})


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    scores = write(tmp_path / "a.h5", 0, 2)
    scores.logits[1, 3] = np.nan
    none = Skipped(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int8), [])
    records, facts = make_records(np.arange(2)), Facts.unknown(2)
    with pytest.raises(FeatureError, match="NaN"):
        write_scores(tmp_path / "b.h5", scores=scores, facts=facts, records=records, skipped=none, attributes={})
