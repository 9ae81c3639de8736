"""Two tasks on one shard: whoever comes between at whatever moment, the file is whole and one of them wins."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.crash._child import WRITING, Points, die, in_child
from tests.crash._run import LAYOUT, SHARDS, Tiny, extract, plan, require_finished
from tests.runs.making import make_one
from vnp.errors import RunError
from vnp.runs.done.receipts import require_sealed
from vnp.runs.done.reduce import reduce_run
from vnp.runs.making.encoders import Embedded, Embedding, RunEncoders
from vnp.runs.request import Run

SHARD = SHARDS - 1
CALLS = (WRITING | {"unlink", "rmdir"}) - {"write of HDF5"}
GROUPS = 3


def moments(tiny: Tiny, folder: Path) -> list[int]:
    """Numbers of the calls of one task, of each line of the package the first and the last."""
    run = plan(tiny.ask(), folder / "counted")
    points = Points(only=CALLS)
    with points.watch():
        extract(run, [SHARD])
    first = {place: number for number, place in reversed(list(enumerate(points.places)))}
    last = {place: number for number, place in enumerate(points.places)}
    return sorted({*first.values(), *last.values()})


@pytest.mark.parametrize("group", range(GROUPS))
def test_another_task_comes_between(tiny: Tiny, group: int, room: Path, scratch: Path) -> None:
    """Between any two calls of the first task the second does all of its work, or dies of it."""
    choose = random.Random(f"between {group}")
    states = set()
    for at in moments(tiny, room)[group::GROUPS]:
        run = plan(tiny.ask(), room / f"run{at}")
        dies_at = choose.choice([None, choose.randrange(40)])

        def come_between(_name: str, run: Run = run, dies_at: int | None = dies_at) -> None:
            points = Points(dies_at, die, only=CALLS)

            def second() -> None:
                with points.watch():
                    extract(run, [SHARD])

            ended = in_child(second, scratch)
            assert ended.code == 0 or ended.signal == 9, ended

        with Points(at, come_between, only=CALLS).watch():
            outcome = extract(run, [SHARD])[0]
        states.add(outcome.state)
        # The first calls only make sure of the run's folders; whoever comes between then is first.
        assert outcome.state in ("done", "left", "already"), at
        assert require_sealed(run, SHARD, full=True) is not None
        extract(run)
        reduce_run(run, LAYOUT)
        require_finished(tiny, run.paths.root)
    assert states - {"already"} == {"done", "left"}


class Halved(RunEncoders):
    """Encoders that say that they run in another precision, and give other numbers."""

    def identities(self) -> dict[str, dict[str, object]]:
        found = super().identities()
        return {name: {**identity, "precision": "halved"} for name, identity in found.items()}

    def embed(self, work: Mapping[str, Any]) -> Embedding:
        whole = super().embed(work)
        return HalvedEmbedding(whole.launched, dataclasses.replace(whole.account, encoders=self.identities()))


class HalvedEmbedding(Embedding):
    def result(self) -> Embedded:
        found, account = Embedding.result(self)
        return {name: values / 2 for name, values in found.items()}, account


def halved(run: Run) -> RunEncoders:
    pair = RunEncoders.load(run.request)
    return Halved(pair.dna, pair.protein, pair.seconds)


def require_of_one_kind(tiny: Tiny, run: Run) -> None:
    """The numbers of a sealed shard are those of the encoders that its receipt names, all of them."""
    receipt = require_sealed(run, SHARD, full=True)
    assert receipt is not None
    share = 0.5 if receipt.encoders["protein"].get("precision") == "halved" else 1.0
    undisturbed = tiny.source.parent / "undisturbed" / "shards" / run.paths.shard(SHARD).name
    with h5py.File(undisturbed, "r") as expected, h5py.File(run.paths.shard(SHARD), "r") as found:
        wanted = (expected["protein"][:] * share).astype(expected["protein"].dtype)
        assert np.array_equal(found["protein"][:], wanted)


def test_tasks_of_two_precisions(tiny: Tiny, room: Path, scratch: Path) -> None:
    """A second task whose encoders run otherwise comes between: numbers are never mixed in one shard."""
    for at in moments(tiny, room):
        run = plan(tiny.ask(), room / f"run{at}")

        def come_between(_name: str, run: Run = run) -> None:
            ended = in_child(lambda: make_one(run, SHARD, lambda: halved(run)), scratch)
            assert ended.code in (0, 1), ended

        with Points(at, come_between, only=CALLS).watch(), contextlib.suppress(RunError):
            extract(run, [SHARD])
        extract(run, [SHARD])
        require_of_one_kind(tiny, run)


def test_blocks_that_change_while_they_are_sealed(tiny: Tiny, room: Path) -> None:
    """Another task drops and rewrites a block between its check and its merging: the shard is not sealed of both."""
    other = plan(tiny.ask(), room / "other")
    taken = room / "block.h5"

    def take(_name: str) -> None:
        shutil.copy(other.paths.block(SHARD, 0), taken)

    sealing = Points(only=frozenset(["create"]))
    counted = plan(tiny.ask(), room / "counted")
    with sealing.watch():
        extract(counted, [SHARD])
    at = next(number for number, place in enumerate(sealing.places) if any("merge.py" in line for line in place))
    with Points(at, take, only=frozenset(["create"])).watch():
        make_one(other, SHARD, lambda: halved(other))

    run = plan(tiny.ask(), room / "run")

    def swap(_name: str) -> None:
        run.paths.block(SHARD, 0).unlink()
        shutil.copy(taken, run.paths.block(SHARD, 0))

    with Points(at, swap, only=frozenset(["create"])).watch(), pytest.raises(RunError, match=r"jobs\.rerun"):
        extract(run, [SHARD])
    assert not run.paths.receipt(SHARD).exists()
    extract(run, [SHARD])
    require_of_one_kind(tiny, run)
