"""A shard is sealed while the next one is embedded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from jobs._task import make_shards
from tests.runs.making import coding, column_bytes, make_all, pair, plan_run, write_fasta
from vnp.errors import RunError
from vnp.runs import work
from vnp.runs.pair import EncoderPair
from vnp.runs.request import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(EncoderPair, "load", lambda _: pair())
    records = [(f"record{number}", coding(3_000, number)) for number in range(4)]
    return plan_run(tmp_path / "run", [write_fasta(tmp_path / "in.fna", records)], shards=4)


def never() -> bool:
    return False


def test_the_next_shard_is_embedded_while_one_is_sealed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seal, embed = work._Task._seal, work._Task.embed
    begun = {number: threading.Event() for number in range(5)}
    begun[4].set()
    seen: list[tuple[str, int]] = []

    def slow_seal(task: Any) -> Any:
        number = task._plan.shard.number
        assert begun[number + 1].wait(30), "nothing was begun while this shard was sealed"
        seen.append(("sealed", number))
        return seal(task)

    def watched(task: Any, encoders: Any) -> None:
        number = task._plan.shard.number
        begun[number].set()
        seen.append(("embedded", number))
        embed(task, encoders)

    monkeypatch.setattr(work._Task, "_seal", slow_seal)
    monkeypatch.setattr(work._Task, "embed", watched)
    outcomes, failed = make_shards(run, iter(range(4)), stop=never)
    assert [outcome.shard for outcome in outcomes] == [0, 1, 2, 3]
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert failed == []
    # Never more than one waits to be sealed.
    for number in range(2):
        assert seen.index(("sealed", number)) < seen.index(("embedded", number + 2))


def test_the_same_bytes_as_one_after_the_other(run: Run, tmp_path: Path) -> None:
    make_shards(run, iter(range(4)), stop=never)
    other = plan_run(tmp_path / "other", [tmp_path / "in.fna"], shards=4)
    make_all(other)
    for number in range(4):
        ours, theirs = (column_bytes(each.paths.shard(number)) for each in (run, other))
        assert ours == theirs


def test_a_shard_that_cannot_be_sealed_does_not_keep_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = work._Task._seal

    def failing(task: Any) -> Any:
        if task._plan.shard.number == 1:
            raise RunError("the disk of shard 1")
        return seal(task)

    monkeypatch.setattr(work._Task, "_seal", failing)
    outcomes, failed = make_shards(run, iter(range(4)), stop=never)
    assert [outcome.shard for outcome in outcomes] == [0, 2, 3]
    assert [(number, str(error)) for number, error in failed] == [(1, "the disk of shard 1")]
    monkeypatch.undo()
    monkeypatch.setattr(EncoderPair, "load", lambda _: pair())
    outcomes, failed = make_shards(run, iter(range(4)), stop=never)
    assert [outcome.state for outcome in outcomes] == ["already", "done", "already", "already"]


def test_a_fault_of_the_program_while_sealing_is_not_swallowed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(work._Task, "_seal", broken)
    with pytest.raises(ZeroDivisionError):
        make_shards(run, iter(range(4)), stop=never)


def test_a_stop_seals_what_is_whole_and_begins_nothing(run: Run) -> None:
    asked: list[int] = []

    def note(shard: int, done: int, blocks: int) -> None:
        if shard == 1 and done == blocks:
            asked.append(shard)

    outcomes, failed = make_shards(run, iter(range(4)), note, stop=lambda: bool(asked))
    assert [(outcome.shard, outcome.state) for outcome in outcomes] == [(0, "done"), (1, "done")]
    assert failed == []
    assert not run.paths.blocks(2).exists()
