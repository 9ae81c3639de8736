"""While a shard is embedded, the next one is begun and the last one sealed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.runs.making import coding, column_bytes, make_all, pair, plan_run, small_blocks, write_fasta
from vnp.errors import RunError
from vnp.runs.done.receipts import read_attempts
from vnp.runs.making import pipeline
from vnp.runs.making.blocks import seal_shard
from vnp.runs.making.encoders import RunEncoders
from vnp.runs.making.pipeline import make_shards
from vnp.runs.planning.plan import read_plan
from vnp.runs.request import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(RunEncoders, "load", lambda *_: pair())
    records = [(f"record{number}", coding(3_000, number)) for number in range(4)]
    return plan_run(tmp_path / "run", [write_fasta(tmp_path / "in.fna", records)], shards=4)


def never() -> bool:
    return False


def test_the_next_shard_is_embedded_while_one_is_sealed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = pipeline._Pipeline._embed
    begun = {number: threading.Event() for number in range(5)}
    begun[4].set()
    seen: list[tuple[str, int]] = []

    def slow_seal(run: Run, plan: Any, *rest: Any) -> Any:
        number = plan.shard.number
        assert begun[number + 1].wait(30), "nothing was begun while this shard was sealed"
        seen.append(("sealed", number))
        return seal_shard(run, plan, *rest)

    def watched(self: Any, shard: Any, block: Any) -> None:
        number = shard.number
        begun[number].set()
        seen.append(("embedded", number))
        embed(self, shard, block)

    monkeypatch.setattr(pipeline, "seal_shard", slow_seal)
    monkeypatch.setattr(pipeline._Pipeline, "_embed", watched)
    outcomes, failed = make_shards(run, range(4), stop=never)
    assert [outcome.shard for outcome in outcomes] == [0, 1, 2, 3]
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert failed == []
    # Never more than one waits to be sealed.
    for number in range(2):
        assert seen.index(("sealed", number)) < seen.index(("embedded", number + 2))


def test_the_same_bytes_as_one_after_the_other(run: Run, tmp_path: Path) -> None:
    make_shards(run, range(4), stop=never)
    other = plan_run(tmp_path / "other", [tmp_path / "in.fna"], shards=4)
    make_all(other)
    for number in range(4):
        ours, theirs = (column_bytes(each.paths.shard(number)) for each in (run, other))
        assert ours == theirs


def test_a_shard_that_cannot_be_sealed_does_not_keep_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(run: Run, plan: Any, *rest: Any) -> Any:
        if plan.shard.number == 1:
            raise RunError("the disk of shard 1")
        return seal_shard(run, plan, *rest)

    monkeypatch.setattr(pipeline, "seal_shard", failing)
    outcomes, failed = make_shards(run, range(4), stop=never)
    assert [outcome.shard for outcome in outcomes] == [0, 2, 3]
    assert [(number, str(error)) for number, error in failed] == [(1, "the disk of shard 1")]
    monkeypatch.undo()
    monkeypatch.setattr(RunEncoders, "load", lambda *_: pair())
    outcomes, failed = make_shards(run, range(4), stop=never)
    assert [outcome.state for outcome in outcomes] == ["already", "done", "already", "already"]


def test_a_fault_of_the_program_while_sealing_is_not_swallowed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "seal_shard", broken)
    with pytest.raises(ZeroDivisionError):
        make_shards(run, range(4), stop=never)


def test_a_stop_seals_what_is_whole_and_puts_aside_what_was_begun(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = RunEncoders.embed
    asked: list[int] = []

    def counted(self: RunEncoders, prepared: Any) -> Any:
        asked.append(1)
        return embed(self, prepared)

    monkeypatch.setattr(RunEncoders, "embed", counted)
    outcomes, failed = make_shards(run, range(4), stop=lambda: len(asked) == 2)
    states = {outcome.shard: outcome.state for outcome in outcomes}
    assert failed == []
    # The third may or may not have been begun when the stop was seen.
    assert states in ({0: "done", 1: "done"}, {0: "done", 1: "done", 2: "stopped"})
    begun = [attempt.outcome for _, attempt in read_attempts(run.paths.blocks(2))]
    assert begun == ["stopped"] * (2 in states)
    assert not run.paths.blocks(3).exists()
    outcomes, _ = make_shards(run, range(4), stop=never)
    assert [outcome.state for outcome in outcomes] == ["already", "already", "done", "done"]


def test_a_shard_is_begun_while_the_last_block_of_another_is_embedded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_blocks(run, 3)
    read = {number: threading.Event() for number in range(5)}
    read[4].set()
    read_blocks, embed = pipeline._Pipeline._read_blocks, RunEncoders.embed
    embedded = []

    def watched(self: Any, shard: Any, *rest: Any) -> Any:
        for step in read_blocks(self, shard, *rest):
            if step.block is not None:
                read[shard.number].set()
            yield step

    def last_waits(self: RunEncoders, prepared: Any) -> Any:
        embedded.append(1)
        shard, block = divmod(len(embedded) - 1, blocks)
        if block == blocks - 1:
            assert read[shard + 1].wait(30), "the next shard was not begun"
        elif block == 0 and shard < 3:
            assert not read[shard + 1].is_set(), "the next shard was begun too early"
        return embed(self, prepared)

    blocks = read_plan(run.paths.plan, run.request.plan_sha256)[0].blocks(3)
    assert blocks >= 3
    monkeypatch.setattr(pipeline._Pipeline, "_read_blocks", watched)
    monkeypatch.setattr(RunEncoders, "embed", last_waits)
    outcomes, failed = make_shards(run, range(4), stop=never)
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert failed == []


def test_an_interruption_puts_aside_what_was_begun(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = RunEncoders.embed
    begun = threading.Event()
    begin = pipeline._Pipeline._begin

    def interrupted(self: RunEncoders, prepared: Any) -> Any:
        assert begun.wait(30)
        raise KeyboardInterrupt

    def note(self: Any, shard: Any) -> Any:
        found = begin(self, shard)
        if shard.number == 1:
            begun.set()
        return found

    monkeypatch.setattr(RunEncoders, "embed", interrupted)
    monkeypatch.setattr(pipeline._Pipeline, "_begin", note)
    with pytest.raises(KeyboardInterrupt):
        make_shards(run, range(4), stop=never)
    ended = [read_attempts(run.paths.blocks(number))[-1][1] for number in (0, 1)]
    assert [attempt.outcome for attempt in ended] == ["stopped", "stopped"]
    monkeypatch.setattr(RunEncoders, "embed", embed)
    outcomes, _ = make_shards(run, range(4), stop=never)
    assert {outcome.state for outcome in outcomes} == {"done"}


def test_a_shard_that_cannot_be_begun_does_not_keep_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = pipeline._Pipeline._begin

    def failing(self: Any, shard: Any) -> Any:
        if shard.number in (0, 2):
            raise RunError(f"shard {shard.number} cannot be read")
        return begin(self, shard)

    monkeypatch.setattr(pipeline._Pipeline, "_begin", failing)
    outcomes, failed = make_shards(run, range(4), stop=never)
    assert [outcome.shard for outcome in outcomes] == [1, 3]
    assert [number for number, _ in failed] == [0, 2]
