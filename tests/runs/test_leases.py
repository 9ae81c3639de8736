"""Tasks that share the shards of a run: who takes which, and what becomes of those whose owners die, sleep or fail."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runs.making import coding, pair, plan_run, small_blocks, write_fasta
from vnp.errors import StorageError, VnpError
from vnp.files.claims import SILENT_SECONDS
from vnp.files.records import write_record
from vnp.runs.done.receipts import Announced, Attempt, now, read_attempts, require_all_sealed, sealed
from vnp.runs.making import leases as module
from vnp.runs.making.leases import TRIES, Leases
from vnp.runs.making.pipeline import Outcome, make_shards
from vnp.runs.planning.plan import read_plan
from vnp.runs.request import Run

SHARDS = 6
BLOCKS = 3
FOREIGN = Attempt(1, "elsewhere", 1, "1", "41_7", None, now(), space="elsewhere-1")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    source = write_fasta(folder / "a.fa", [(f"r{number}", coding(600, number)) for number in range(SHARDS * BLOCKS)])
    run = plan_run(folder / "run", [source], SHARDS, chunk=60)
    sizes = [shard.units for shard in read_plan(run.paths.plan, run.request.plan_sha256)]
    small_blocks(run, -(-max(sizes) // BLOCKS))
    return run.paths.root


@pytest.fixture
def run(planned: Path, tmp_path: Path) -> Run:
    shutil.copytree(planned, tmp_path / "run")
    return Run.open(tmp_path / "run")


def make(run: Run, leases: Leases, **more: Any) -> tuple[list[Outcome], list[tuple[int, VnpError]]]:
    return make_shards(run, leases, leases=leases, load=pair, **more)


def take_all(run: Run, submission: str = "a", **more: Any) -> list[int]:
    """The shards that a task takes that makes none, but puts each back."""
    leases, found = Leases(run, submission, **more), []
    for number in leases:
        leases.announced(number).end("stopped")
        found.append(number)
    return found


def put(run: Run, number: int, attempt: Attempt = FOREIGN, age: float = 0.0) -> Path:
    """An attempt on a shard, last touched so many seconds ago by the clock of the file system."""
    folder = run.paths.blocks(number)
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"attempt-{attempt.number:05d}.json"
    write_record(path, attempt)
    at = path.stat().st_mtime - age
    os.utime(path, (at, at))
    return path


def bytes_of(run: Run) -> list[bytes]:
    return [run.paths.shard(number).read_bytes() for number in range(run.request.shards)]


def test_tasks_at_once_make_each_shard_once_and_the_same_bytes(run: Run, planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned, tmp_path / "alone")
    alone = Run.open(tmp_path / "alone")
    assert make_shards(alone, range(SHARDS), load=pair)[1] == []
    ended: list[list[Outcome]] = []
    tasks = [
        threading.Thread(target=lambda task=task: ended.append(make(run, Leases(run, "a", task))[0]))
        for task in range(SHARDS + 2)
    ]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert len(ended) == len(tasks)
    made = [one for outcomes in ended for one in outcomes]
    assert sorted(one.shard for one in made) == list(range(SHARDS))
    assert {one.state for one in made} == {"done"}
    receipts = require_all_sealed(run, read_plan(run.paths.plan, run.request.plan_sha256))
    assert {receipt.attempt for receipt in receipts} == {1}
    assert bytes_of(run) == bytes_of(alone)
    assert not any(run.paths.parts.iterdir())


def test_tasks_begin_at_different_places_and_share_what_is_there(run: Run) -> None:
    tasks = [Leases(run, "a", task) for task in range(3)]
    taking = [iter(task) for task in tasks]
    found = [next(one) for one in taking for _ in range(2)]
    assert sorted(found) == list(range(SHARDS))
    for task in tasks:
        task.close()


@pytest.mark.parametrize("outcome", ["running", "failed"])
def test_a_shard_whose_task_died_is_taken_last(run: Run, outcome: str) -> None:
    here = Announced(run.paths.blocks(2), None)
    here.end("stopped")
    write_record(run.paths.blocks(2) / "attempt-00001.json", replace(here.attempt, boot="1", outcome=outcome))
    found = take_all(run)
    assert sorted(found) == list(range(SHARDS))
    assert found[-1] == 2
    assert [one.number for _, one in read_attempts(run.paths.blocks(2))] == [1, 2]


def test_a_stopped_shard_is_taken_as_any_other(run: Run) -> None:
    before = take_all(run)
    put(run, before[0], replace(FOREIGN, outcome="stopped", number=2))
    assert take_all(run) == before


@pytest.mark.parametrize("off", [-86400.0, 0.0, 86400.0])
def test_a_lease_elsewhere_ends_by_the_clock_of_the_file_system(
    run: Run, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    clock = time.time
    put(run, 1, age=SILENT_SECONDS + 5)
    alive = put(run, 2, age=SILENT_SECONDS - 60)

    def touch() -> bool:
        os.utime(alive)
        return False

    # Ours is wrong by a day, and so may be the owner's, which says when it began.
    monkeypatch.setattr(time, "time", lambda: clock() + off)
    assert sorted(take_all(run, stop=touch)) == [0, 1, 3, 4, 5]


def test_a_silent_owner_is_waited_for_until_it_shows_that_it_lives_or_loses_its_shard(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    speaks, dies = put(run, 1, age=100), put(run, 2, age=100)
    looks: list[float] = []

    def later() -> bool:
        looks.append(speaks.stat().st_mtime)
        if len(looks) == 10 * SHARDS:
            os.utime(speaks)
        if len(looks) == 20 * SHARDS:
            os.utime(dies, (0, 0))
        return False

    found = take_all(run, stop=later)
    assert len(looks) >= 20 * SHARDS
    assert found[-1] == 2
    assert sorted(found) == [0, 2, 3, 4, 5]


def test_what_cannot_be_seen_yet_is_not_taken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Leases(run, "b")
    held = next(iter(other))
    # As on a mount that remembers a folder for a while.
    monkeypatch.setattr(module, "read_attempts", lambda _folder: [])
    monkeypatch.setattr(module, "_last", lambda _folder: 0)
    mine = iter(Leases(run, "b"))
    found = [next(mine) for _ in range(SHARDS - 1)]
    assert sorted([held, *found]) == list(range(SHARDS))
    other.close()


def test_one_that_comes_between_looking_and_taking_has_the_shard(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[Path] = []

    def look(folder: Path) -> list[Any]:
        found = read_attempts(folder)
        if not came:
            came.append(put(run, int(folder.name.removeprefix("shard-"))))
        return found

    monkeypatch.setattr(module, "read_attempts", look)
    leases = Leases(run, "a")
    taking = iter(leases)
    taken = [next(taking) for _ in range(SHARDS - 1)]
    leases.close()
    assert came[0].parent.name not in [f"shard-{number:05d}" for number in taken]


def test_a_receipt_that_was_not_seen_before_is_seen_once_the_shard_is_taken(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(run, [3], load=pair)
    asked: list[int] = []

    def late(of: Run, number: int) -> Any:
        asked.append(number)
        return None if asked.count(number) == 1 else sealed(of, number)

    monkeypatch.setattr(module, "sealed", late)
    assert sorted(take_all(run)) == [0, 1, 2, 4, 5]
    assert not run.paths.blocks(3).exists()


def test_an_owner_that_wakes_after_its_shard_was_taken_over_does_no_harm(
    run: Run, planned: Path, tmp_path: Path
) -> None:
    shutil.copytree(planned, tmp_path / "alone")
    alone = Run.open(tmp_path / "alone")
    make_shards(alone, range(SHARDS), load=pair)
    slept: list[int] = []
    taken: list[Outcome] = []

    def sleep(number: int, done: int, _blocks: int) -> None:
        if slept or done != 1:
            return
        slept.append(number)
        for path in run.paths.parts.glob("*/attempt-00001.json"):
            os.utime(path, (0, 0))
        taken.extend(make(run, Leases(run, "a", 1))[0])

    outcomes, failed = make(run, Leases(run, "a", 0), block_done=sleep)
    assert failed == []
    assert {one.shard for one in taken} == set(range(SHARDS))
    assert {one.state for one in taken} == {"done"}
    # What it had in hand, and had begun to read.
    assert {one.state for one in outcomes} <= {"left", "already"}
    assert slept[0] in {one.shard for one in outcomes}
    receipt = sealed(run, slept[0])
    assert receipt is not None
    assert receipt.attempt == 2
    assert bytes_of(run) == bytes_of(alone)


def test_a_shard_that_tasks_die_of_is_given_up_until_the_next_submission(run: Run) -> None:
    for number in range(1, TRIES + 1):
        put(run, 4, replace(FOREIGN, number=number, submission="a", outcome="failed"))
        if number < TRIES:
            assert take_all(run)[-1] == 4
            shutil.rmtree(run.paths.blocks(4))
            for earlier in range(1, number + 1):
                put(run, 4, replace(FOREIGN, number=earlier, submission="a", outcome="failed"))
    assert 4 not in take_all(run)
    assert take_all(run, "b")[-1] == 4


def test_deaths_with_a_block_between_them_give_nothing_up(run: Run) -> None:
    for number in range(1, TRIES + 1):
        put(run, 4, replace(FOREIGN, number=number, had=number - 1, submission="a", outcome="failed"))
    (run.paths.blocks(4) / "block-00000.h5").touch()
    assert 4 in take_all(run)


def test_a_task_tries_nothing_twice(run: Run) -> None:
    leases = Leases(run, "a")
    taken = []
    for number in leases:
        taken.append(number)
        leases.announced(number).fail(ValueError("no"))
    assert sorted(taken) == list(range(SHARDS))


@pytest.mark.parametrize("reason", ["no space left on the disk", "read-only file system"])
def test_where_nothing_can_be_written_a_task_soon_ends(run: Run, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def refuse(folder: Path, *_: Any) -> None:
        raise StorageError(f"writing {folder}: {reason}")

    monkeypatch.setattr(module, "Announced", refuse)
    outcomes, failed = make(run, Leases(run, "a"))
    assert outcomes == []
    assert len(failed) == 3 < SHARDS
    assert all(reason in str(error) for _, error in failed)


def test_foreign_files_are_in_nobodys_way(run: Run) -> None:
    folder = run.paths.blocks(0)
    folder.mkdir(parents=True)
    for name in ("attempt-x.json", "attempt-00003.json", "notes.txt"):
        (folder / name).write_text("not an attempt")
    (folder / "attempt-00004.json").mkdir()
    (run.paths.parts / "core.1234").touch()
    # No folder can be made there: that shard alone fails.
    run.paths.blocks(1).touch()
    outcomes, failed = make(run, Leases(run, "a"))
    assert sorted(one.shard for one in outcomes if one.state == "done") == [0, 2, 3, 4, 5]
    ((number, error),) = failed
    assert number == 1
    assert str(run.paths.blocks(1)) in str(error)
    receipt = sealed(run, 0)
    assert receipt is not None
    assert receipt.attempt == 5


@pytest.mark.parametrize(("left", "taken"), [(1.0, 1), (1e6, SHARDS)])
def test_nothing_is_taken_that_would_not_be_done_in_time(
    run: Run, monkeypatch: pytest.MonkeyPatch, left: float, taken: int
) -> None:
    seconds = iter(range(0, 10**6, 100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    leases = Leases(run, "a", until=time.time() + left)
    found = list(leases)
    assert len(found) == taken
    assert leases.open_left == (taken < SHARDS)
    leases.close()


@pytest.mark.parametrize("left", [0, 1])
def test_a_task_that_is_told_to_stop_says_whether_shards_are_left_to_nobody(run: Run, left: int) -> None:
    told: list[bool] = []
    leases = Leases(run, "a", stop=lambda: bool(told))
    taking = iter(leases)
    mine = next(taking)
    for number in [number for number in range(SHARDS) if number != mine][left:]:
        put(run, number)
    told.append(True)
    assert list(taking) == []
    assert leases.open_left == bool(left)
    leases.close()


def test_taking_looks_at_each_shard_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Run(run.paths, replace(run.request, shards=3000))
    looks: list[Path] = []

    class Quick:
        def __init__(self, *_: Any) -> None:
            pass

        def end(self, *_: Any) -> None:
            pass

    def look(folder: Path) -> list[Any]:
        looks.append(folder)
        return []

    monkeypatch.setattr(module, "Announced", Quick)
    monkeypatch.setattr(module, "read_attempts", look)
    assert sorted(take_all(many)) == list(range(3000))
    assert len(looks) == 3000
