"""SIGKILL at any moment of planning, extracting, sealing and reducing, then once more: the same bytes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.crash._child import Points, die, in_child
from tests.crash._run import Tiny, make_all, require_finished, require_whole_or_absent

GROUPS = 5
AT_CALLS = 21
AT_TIMES = 10


@pytest.fixture(scope="module")
def calls(tiny: Tiny, memory: Path) -> int:
    """How many calls of an undisturbed run change files."""
    points = Points()
    with points.watch():
        make_all(tiny.ask(), memory / "counted")
    return len(points.names)


@pytest.mark.parametrize("group", range(GROUPS))
def test_killed_at_a_call_that_changes_files(tiny: Tiny, calls: int, group: int, room: Path, scratch: Path) -> None:
    choose = random.Random(f"calls {group}")
    for number in range(AT_CALLS):
        # Spread over the whole run, so that no part is left out by chance.
        at = choose.randrange(number * calls // AT_CALLS, (number + 1) * calls // AT_CALLS)
        points = Points(at, die, after=choose.random() < 0.5)
        root = room / f"run{number}"

        def work(points: Points = points, root: Path = root) -> None:
            with points.watch():
                make_all(tiny.ask(), root)

        ended = in_child(work, scratch)
        # The order of calls in threads can make a run a few calls shorter; it must have been killed all the same.
        assert ended.signal == 9 or (ended.code == 0 and at > calls * 0.9), ended
        _recover(tiny, root)


@pytest.mark.parametrize("group", range(GROUPS))
def test_killed_at_a_random_time(tiny: Tiny, group: int, room: Path, scratch: Path) -> None:
    choose = random.Random(f"times {group}")
    began = time.perf_counter()
    assert in_child(lambda: make_all(tiny.ask(), room / "timed"), scratch).code == 0
    whole = time.perf_counter() - began
    killed = 0
    for number in range(AT_TIMES):
        root = room / f"run{number}"
        ended = in_child(lambda root=root: make_all(tiny.ask(), root), scratch, choose.uniform(0, whole))  # type: ignore[misc]
        assert ended.signal == 9 or ended.code == 0, ended
        killed += ended.signal == 9
        _recover(tiny, root)
    assert killed > 0


def test_killed_again_and_again(tiny: Tiny, calls: int, room: Path, scratch: Path) -> None:
    """Each try dies a little later than the one before, or at once: what they leave must not add up."""
    choose = random.Random("again")
    root = room / "run"
    deaths = 0
    for _ in range(12):
        points = Points(choose.randrange(2, calls // 4), die, after=choose.random() < 0.5)

        def work(points: Points = points) -> None:
            with points.watch():
                make_all(tiny.ask(), root)

        deaths += in_child(work, scratch).signal == 9
        require_whole_or_absent(tiny, root)
    assert deaths >= 4
    _recover(tiny, root)


def _recover(tiny: Tiny, root: Path) -> None:
    require_whole_or_absent(tiny, root)
    make_all(tiny.ask(), root)
    require_finished(tiny, root)
