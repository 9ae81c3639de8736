"""Files cut short or with a flipped bit, wherever that is: always noticed, and only what was damaged is made anew."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from tests.crash._child import in_child
from tests.crash._run import LAYOUT, Tiny, extract, files, plan, require_finished, sha256, valid
from vnp.errors import DamagedShardError, RunExistsError, VnpError
from vnp.runs.done.reduce import reduce_run
from vnp.runs.done.status import run_status
from vnp.runs.request import Run

GROUPS = 4
RECEIPT_PLACES = 40
SHARD_CUTS = 25
SHARD_FLIPS = 14
FLIPS_A_CHILD = 20
BLOCK_PLACES = 15
EACH = 4
"""Of so many places, one is mended by making the shard again; of the others it is enough that they were noticed."""

Damage = Callable[[Path], str]


def cut(choose: random.Random) -> Damage:
    """Cut a file short, most often somewhere, now and then to nothing or by one byte."""
    share = choose.random()

    def damage(path: Path) -> str:
        size = path.stat().st_size
        kept = {0: 0, 1: size - 1}.get(int(share * 12), int(share * size))
        with path.open("r+b") as file:
            file.truncate(kept)
        return f"{path.name} cut to {kept} of {size} bytes"

    return damage


def flip(choose: random.Random) -> Damage:
    """Turn one bit over."""
    share, bit = choose.random(), choose.randrange(8)

    def damage(path: Path) -> str:
        content = bytearray(path.read_bytes())
        place = int(share * len(content))
        content[place] ^= 1 << bit
        path.write_bytes(content)
        return f"{path.name} with bit {bit} of byte {place} of {len(content)} flipped"

    return damage


@pytest.fixture
def finished(tiny: Tiny, room: Path) -> Callable[[], Run]:
    """Gives copies of the undisturbed run."""
    original = tiny.source.parent / "undisturbed"

    def copy() -> Run:
        shutil.rmtree(room / "run", ignore_errors=True)
        shutil.copytree(original, room / "run")
        return Run.open(room / "run")

    return copy


def require_only_redone(run: Run, number: int, tiny: Tiny, how: str, *, make: bool = True) -> None:
    """Rerun makes this shard alone, and the run is whole again."""
    assert run_status(run).unfinished == [number], how
    if not make:
        return
    states = {outcome.shard: outcome.state for outcome in extract(run)}
    assert states == {shard: "done" if shard == number else "already" for shard in states}, how
    reduce_run(run, LAYOUT)
    require_finished(tiny, run.paths.root)


@pytest.mark.parametrize("group", range(GROUPS))
def test_receipts(tiny: Tiny, finished: Callable[[], Run], group: int) -> None:
    choose = random.Random(f"receipts {group}")
    for place in range(RECEIPT_PLACES):
        run = finished()
        number = choose.randrange(run.request.shards)
        how = choose.choice([cut, flip])(choose)(run.paths.receipt(number))
        with pytest.raises(DamagedShardError):
            reduce_run(run, LAYOUT)
        assert run_status(run).shards[number].state == "damaged", how
        require_only_redone(run, number, tiny, how, make=place % EACH == 0)


@pytest.mark.parametrize("group", range(GROUPS))
def test_shards_cut_short(tiny: Tiny, finished: Callable[[], Run], group: int) -> None:
    choose = random.Random(f"cuts {group}")
    for place in range(SHARD_CUTS):
        run = finished()
        number = choose.randrange(run.request.shards)
        how = cut(choose)(run.paths.shard(number))
        with pytest.raises(DamagedShardError):
            reduce_run(run, LAYOUT)
        assert run_status(run).shards[number].state == "damaged", how
        require_only_redone(run, number, tiny, how, make=place % EACH == 0)


@pytest.mark.parametrize("group", range(SHARD_FLIPS))
def test_shards_with_a_flipped_bit(tiny: Tiny, finished: Callable[[], Run], group: int, scratch: Path) -> None:
    choose = random.Random(f"flips {group}")

    def flips() -> None:
        noticed = 0
        for place in range(FLIPS_A_CHILD):
            run = finished()
            number = choose.randrange(run.request.shards)
            how = flip(choose)(run.paths.shard(number))
            run.paths.features.unlink()
            run.paths.skipped.unlink()
            said = ""
            try:
                reduce_run(run, LAYOUT)
            except DamagedShardError as error:
                said = str(error)
            if not said:
                # Of what reduce does not read, such as the whole DNA half, nothing is used.
                assert sha256(run.paths.features) == tiny.expected[run.paths.features.name], how
                continue
            noticed += 1
            assert f"shard-{number:05d}" in said, how
            assert not run.paths.features.exists(), how
            require_only_redone(run, number, tiny, how, make=place % EACH == 0)
        assert noticed > FLIPS_A_CHILD // 4

    # In a child: a library that reads a damaged file could crash.
    ended = in_child(flips, scratch)
    assert (ended.signal, ended.code) == (0, 0), ended


def test_several_shards_at_once_are_all_named(tiny: Tiny, finished: Callable[[], Run]) -> None:
    run = finished()
    for number in range(run.request.shards):
        with h5py.File(run.paths.shard(number), "r+") as file:
            file["protein"][0, 0] += 1
    run.paths.features.unlink()
    attempts = 0
    while len(list(valid(run))) < run.request.shards:
        with pytest.raises(DamagedShardError):
            reduce_run(run, LAYOUT)
        extract(run)
        attempts += 1
        assert attempts <= run.request.shards
    reduce_run(run, LAYOUT)
    require_finished(tiny, run.paths.root)


@pytest.mark.parametrize("group", range(GROUPS))
def test_blocks(tiny: Tiny, group: int, room: Path, scratch: Path) -> None:
    original = room / "stopped"
    run = plan(tiny.ask(), original)
    extract(run, stop=lambda: True)
    blocks = [name for name in files(original) if Path(name).name.startswith("block-")]
    assert blocks
    choose = random.Random(f"blocks {group}")
    for place in range(BLOCK_PLACES):
        root = room / f"run{place}"
        shutil.copytree(original, root)
        how = choose.choice([cut, flip])(choose)(root / choose.choice(blocks))
        again = Run.open(root)

        def work(again: Run = again) -> None:
            extract(again)
            reduce_run(again, LAYOUT)

        ended = in_child(work, scratch)
        assert (ended.signal, ended.code) == (0, 0), f"{how}: {ended}"
        require_finished(tiny, root)
        shutil.rmtree(root)


def test_attempts_are_only_words(tiny: Tiny, room: Path) -> None:
    run = plan(tiny.ask(), room / "run")
    extract(run, stop=lambda: True)
    path = next(run.paths.parts.glob("*/attempt-*.json"))
    before = run_status(run).unfinished
    content = path.read_bytes()
    choose = random.Random("attempts")
    for _ in range(60):
        path.write_bytes(content)
        how = choose.choice([cut, flip])(choose)(path)
        assert run_status(run).unfinished == before, how
    extract(run)
    reduce_run(run, LAYOUT)
    require_finished(tiny, run.paths.root)


@pytest.mark.parametrize("make", [cut, flip])
def test_the_plan(tiny: Tiny, finished: Callable[[], Run], make: Callable[[random.Random], Damage]) -> None:
    choose = random.Random("plan")
    for _ in range(30):
        run = finished()
        how = make(choose)(run.paths.plan)
        for work in (
            lambda run=run: run_status(run),
            lambda run=run: extract(run),
            lambda run=run: reduce_run(run, LAYOUT),
        ):
            with pytest.raises(VnpError, match="force"):
                work()
        assert sha256(run.paths.features) == tiny.expected["features.h5"], how


@pytest.mark.parametrize("make", [cut, flip])
def test_the_request(finished: Callable[[], Run], make: Callable[[random.Random], Damage]) -> None:
    """What decides the features cannot change unseen; other fields, such as the date, are not guarded."""
    choose = random.Random("request")
    noticed = 0
    for _ in range(80):
        run = finished()
        how = make(choose)(run.paths.request)
        try:
            again = Run.open(run.paths.root)
        except VnpError:
            noticed += 1
        else:
            assert again.request.digest == run.request.digest, how
    assert noticed >= 40


def test_merged_features_cut_short(tiny: Tiny, finished: Callable[[], Run]) -> None:
    choose = random.Random("features")
    for _ in range(10):
        run = finished()
        how = cut(choose)(run.paths.features)
        with pytest.raises(RunExistsError, match="--force"):
            reduce_run(run, LAYOUT)
        reduce_run(run, LAYOUT, force=True)
        assert sha256(run.paths.features) == tiny.expected["features.h5"], how
