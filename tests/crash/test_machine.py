"""Anything that can happen to a run, in any order: every input frame is there exactly once, or reduce refuses."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.crash._child import Points, die, in_child
from tests.crash._run import LAYOUT, SHARDS, Tiny, extract, files, plan, require_finished, sha256, valid
from vnp.errors import VnpError
from vnp.runs.done.reduce import reduce_run
from vnp.runs.done.status import run_status
from vnp.runs.request import Run

EXAMPLES = 15
STEPS = 12
shards = st.integers(0, SHARDS - 1)
calls = st.integers(0, 130)
damaged = ("receipts/shard-", "shards/shard-", "parts/shard-")


class Life(RuleBasedStateMachine):
    """What can happen to a run."""

    tiny: Tiny
    room: Path
    scratch: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.room)) / "run"
        self.run = plan(self.tiny.ask(), self.root)

    @rule(shard=shards)
    def submit(self, shard: int) -> None:
        extract(self.run, [shard])

    @rule(shard=shards, at=calls, after=st.booleans())
    def kill(self, shard: int, at: int, after: bool) -> None:
        self._in_child(Points(at, die, after=after), lambda: extract(self.run, [shard]))

    @rule(at=calls, after=st.booleans())
    def kill_reduce(self, at: int, after: bool) -> None:
        self._in_child(Points(at, die, after=after), lambda: reduce_run(self.run, LAYOUT, force=True))

    @rule(shard=shards)
    def requeue(self, shard: int) -> None:
        """A task is asked to stop after its first block."""
        extract(self.run, [shard], stop=lambda: True)

    @rule(shard=shards, at=calls, dies_at=st.none() | calls)
    def second_writer(self, shard: int, at: int, dies_at: int | None) -> None:
        def come_between(name: str) -> None:
            # Within HDF5 no second use of HDF5 can begin.
            if "HDF5" not in name:
                self._in_child(Points(dies_at, die), lambda: extract(self.run, [shard]))

        with Points(at, come_between).watch():
            assert extract(self.run, [shard])[0].state in ("done", "left", "already")

    @precondition(lambda self: self._damageable())
    @rule(which=st.integers(0, 30), share=st.floats(0, 1, exclude_max=True), bit=st.none() | st.integers(0, 7))
    def corrupt(self, which: int, share: float, bit: int | None) -> None:
        names = self._damageable()
        path = self.root / names[which % len(names)]
        content = bytearray(path.read_bytes())
        place = int(share * len(content))
        if bit is None or not content:
            del content[place:]
        else:
            content[place] ^= 1 << bit
        path.write_bytes(content)

    @rule()
    def rerun(self) -> None:
        extract(self.run, run_status(self.run).unfinished)
        assert run_status(self.run).complete

    @rule()
    def reduce(self) -> None:
        whole = len(list(valid(self.run))) == SHARDS
        try:
            reduce_run(self.run, LAYOUT, force=True)
        except VnpError:
            assert not whole, "reduce refused a run in which nothing is missing or damaged"
        else:
            assert whole, "reduce took a run in which something is missing or damaged"
            require_finished(self.tiny, self.root)

    @invariant()
    def merged_is_the_whole_or_not_there(self) -> None:
        for path in (self.run.paths.features, self.run.paths.skipped):
            assert not path.exists() or sha256(path) == self.tiny.expected[path.name]

    def teardown(self) -> None:
        """Whatever happened, rerun and reduce bring it to its end."""
        for _ in range(SHARDS + 1):
            extract(self.run, run_status(self.run).unfinished)
            try:
                reduce_run(self.run, LAYOUT, force=True)
            except VnpError:
                continue
            break
        require_finished(self.tiny, self.root)
        shutil.rmtree(self.root.parent)

    def _damageable(self) -> list[str]:
        return [name for name in files(self.root) if name.startswith(damaged) and not name.endswith(".tmp")]

    def _in_child(self, points: Points, work: Callable[[], object]) -> None:
        def watched() -> None:
            with points.watch():
                work()

        ended = in_child(watched, self.scratch)
        assert ended.signal in (0, 9), ended
        assert ended.code in (-1, 0, 1), ended


def test_whatever_happens_nothing_is_lost(tiny: Tiny, room: Path, scratch: Path) -> None:
    class Here(Life):
        pass

    Here.tiny, Here.room, Here.scratch = tiny, room, scratch
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_run_stays_planned(tiny: Tiny, room: Path) -> None:
    """The machine works on a run of several shards with several blocks, else it would test little."""
    run: Run = plan(tiny.ask(), room / "run")
    state = run_status(run)
    assert len(state.shards) == SHARDS
    assert max(found.blocks[1] for found in state.shards) > 1
