from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.making import frames
from vnp.errors import UsageError
from vnp.evaluation.cases import lift, make_cases


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
    assert lift(found, probability, "record", "mean")[0] == pytest.approx(0.075)


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
