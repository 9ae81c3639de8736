from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.comparison.making import frames
from vnp.comparison._cases import lift, make_cases
from vnp.errors import UsageError


def test_levels_count_frames_chunks_and_records() -> None:
    found = frames(12, per_chunk=2, chunks=3)
    sizes = {level: len(make_cases(found, level)) for level in ("frame", "chunk", "record")}
    assert sizes == {"frame": 72, "chunk": 36, "record": 12}
    chunks = make_cases(found, "chunk")
    assert (
        chunks.label.tolist()
        == [0] * 3
        + [1] * 3
        + [0] * 3
        + [1] * 3
        + [0] * 3
        + [1] * 3
        + [0] * 3
        + [1] * 3
        + [0] * 3
        + [1] * 3
        + [0] * 3
        + [1] * 3
    )
    assert chunks.groups == 6
    with pytest.raises(UsageError, match="genome"):
        make_cases(found, "genome")


def test_scores_go_up_in_the_order_of_the_cases() -> None:
    found = frames(4, per_chunk=2, chunks=2)
    probability = np.arange(16) / 20
    assert lift(found, probability, "frame") is probability
    # Of 0.30 and 0.35 in the third record's … chunk the one further from one half decides.
    chunk = lift(found, probability, "chunk")
    assert chunk.tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.55, 0.65, 0.75])
    assert lift(found, probability, "record").tolist() == pytest.approx([0.0, 0.2, 0.4, 0.75])
    assert lift(found, probability, "record", "length-weighted")[0] == pytest.approx(0.075)


def test_strata_have_the_right_cases() -> None:
    found = replace(frames(3, per_chunk=2, chunks=3), length=np.array([150, 999, 1_000]))
    parts = {(by, name): kept.nonzero()[0].tolist() for by, name, kept in make_cases(found, "record").parts()}
    assert parts["organism", "bacteria"] == [0, 2]
    assert parts["organism", "viral"] == [1]
    assert parts["length", "below 300 bp"] == [0]
    assert parts["length", "500 to 999 bp"] == [1]
    assert parts["length", "1,000 to 2,999 bp"] == [2]
    assert parts["frames", "6 to 20"] == [0, 1, 2]
    uneven = found.only(np.array([0, 1, 2, 6, 12, 13]))
    by_frame = {
        name: kept.nonzero()[0].tolist() for by, name, kept in make_cases(uneven, "frame").parts() if by == "frames"
    }
    assert by_frame == {"1": [2, 3], "2": [0, 1, 4, 5]}


def test_groups_without_a_case_are_not_drawn() -> None:
    found = frames(12)
    assert make_cases(found.only(found.record < 4), "record").groups == 2


class TestLengthsOfChunks:
    @staticmethod
    def strata(lengths: list[int], size: int | None = 500) -> dict[str, int] | None:
        """How many records of each stratum, one chunk and frame a record."""
        found = replace(frames(len(lengths), per_chunk=1, chunks=1), length=np.array(lengths), size=size)
        cases = make_cases(found, "chunk")
        counts = {name: int(kept.sum()) for by, name, kept in cases.parts() if by == "chunk"}
        assert sum(counts.values()) in (0, len(lengths))
        assert ("chunk" in cases.strata) == bool(counts)
        return counts or None

    def test_a_few_lengths_are_told_apart(self) -> None:
        assert self.strata([150] * 5 + [500] * 3 + [300] * 4) == {"150 bp": 5, "300 bp": 4, "500 bp": 3}

    def test_a_longer_record_has_chunks_of_the_size(self) -> None:
        assert self.strata([150] * 5 + [500, 700, 90_000]) == {"150 bp": 5, "500 bp": 3}

    def test_ends_of_records_go_together(self) -> None:
        lengths = [150] * 60 + [300] * 60 + [411, 97]
        assert self.strata(lengths) == {"150 bp": 60, "300 bp": 60, "other lengths": 2}

    def test_a_range_is_binned(self) -> None:
        counts = self.strata(list(range(150, 501)))
        assert counts is not None
        assert next(iter(counts)) == "150 to 199 bp"
        assert counts["500 to 599 bp"] == 1
        assert counts["200 to 249 bp"] == 50

    def test_chunks_that_are_alike_need_no_table(self) -> None:
        assert self.strata([500] * 10) is None
        assert self.strata([700] * 100 + [120]) is None
        assert self.strata([150] * 5 + [300] * 5, size=None) is None

    def test_at_every_level(self) -> None:
        found = replace(frames(6, per_chunk=2, chunks=1), length=np.array([150, 300] * 3), size=300)
        for level, number in (("frame", 6), ("chunk", 3), ("record", 3)):
            parts = {name: int(kept.sum()) for by, name, kept in make_cases(found, level).parts() if by == "chunk"}
            assert parts == {"150 bp": number, "300 bp": number}
