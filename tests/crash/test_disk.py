"""A disk that is full or fails, at every call that writes: one clear error, nothing half-made, and then it goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.crash._child import WRITING, Ended, Points, in_child
from tests.crash._run import Tiny, extract, make_all, plan, require_finished, require_whole_or_absent
from vnp.files.machine import IGNORE_DISK

GROUPS = 6
CLEANING = frozenset(["unlink", "rmdir"])
REASONS = {errno.EIO: "the disk reported an input/output error", errno.ENOSPC: "no space left on the disk"}


def failing(code: int) -> Callable[[str], None]:
    def fail(_name: str) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture(scope="module")
def sites(tiny: Tiny, memory: Path) -> list[int]:
    """Numbers of the calls that write: of each line of the package that leads to one, the first and the last time."""
    points = Points(only=WRITING | CLEANING)
    with points.watch():
        make_all(tiny.ask(), memory / "sites")
    places = points.places
    first = {place: number for number, place in reversed(list(enumerate(places)))}
    last = {place: number for number, place in enumerate(places)}
    return sorted({*first.values(), *last.values()})


@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO once", "ENOSPC from there on"])
def test_every_write_can_fail(tiny: Tiny, sites: list[int], group: int, code: int, room: Path, scratch: Path) -> None:
    lasting = code == errno.ENOSPC
    failed = 0
    for at in sites[group::GROUPS]:
        # A full disk does not keep anything from being deleted or flushed.
        only = WRITING - {"fsync", "fdatasync"} if lasting else WRITING | CLEANING
        points = Points(at, failing(code), lasting=lasting, only=only)
        root = room / f"run{at}"

        def work(points: Points = points, root: Path = root) -> None:
            with points.watch():
                make_all(tiny.ask(), root)

        ended = in_child(work, scratch)
        if ended.code:
            failed += 1
            _require_clear(ended, REASONS[code])
        require_whole_or_absent(tiny, root)
        make_all(tiny.ask(), root)
        require_finished(tiny, root)
    # What fails while things are only cleaned away is not an error, nor is a call that an earlier end left out.
    assert failed >= len(sites[group::GROUPS]) // 2


@pytest.mark.parametrize("name", sorted(WRITING))
def test_each_kind_of_write_is_an_error_when_it_fails(tiny: Tiny, name: str, room: Path, scratch: Path) -> None:
    points = Points(0, failing(errno.EIO), only=frozenset([name]))

    def work() -> None:
        with points.watch():
            make_all(tiny.ask(), room / "run")

    ended = in_child(work, scratch)
    assert ended.code == 1, f"nobody noticed that {name!r} failed: {ended}"
    _require_clear(ended, REASONS[errno.EIO])


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path_factory.mktemp("small")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("cannot mount a small file system here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("pages", range(0, 64, 4))
def test_a_disk_that_is_really_full(
    tiny: Tiny, small_disk: Path, pages: int, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(IGNORE_DISK, "1")
    ballast, root = small_disk / "ballast", small_disk / "run"
    disk = os.statvfs(small_disk)
    ballast.write_bytes(bytes((disk.f_bavail - pages) * disk.f_frsize))
    try:
        ended = in_child(lambda: make_all(tiny.ask(), root), scratch)
        assert ended.code == 1, ended
        _require_clear(ended, REASONS[errno.ENOSPC])
        require_whole_or_absent(tiny, root)
        ballast.unlink()
        make_all(tiny.ask(), root)
        require_finished(tiny, root)
    finally:
        ballast.unlink(missing_ok=True)
        subprocess.run(["rm", "-rf", str(root)], check=True)


@pytest.mark.parametrize("at", range(0, 120, 6))
def test_commands_end_with_one_message(tiny: Tiny, at: int, room: Path, scratch: Path) -> None:
    from jobs.extract import main as extract_command
    from jobs.reduce import main as reduce_command

    points = Points(at, failing(errno.ENOSPC), lasting=True, only=WRITING - {"fsync", "fdatasync"})
    root = room / "run"
    if at % 12:
        # Far enough to fail while merging.
        run = plan(tiny.ask(), root)
        extract(run)
        points = Points(at // 4, failing(errno.ENOSPC), lasting=True, only=WRITING - {"fsync", "fdatasync"})
    words = scratch / "words.txt"
    commands = [
        (
            extract_command,
            [str(tiny.source), "--out", str(root), "--shards", "2", "--dna", "kmer", "--protein", "kmer"],
        ),
        (reduce_command, [str(root)]),
    ]

    def work() -> int:
        told = os.open(words, os.O_WRONLY | os.O_CREAT)
        with points.watch():
            for command, arguments in commands if at % 12 == 0 else commands[1:]:
                extra = ["--cluster", "inline", "--device", "cpu"] if command is extract_command else []
                result = CliRunner().invoke(command, [*arguments, *extra])
                os.write(told, result.output.encode())
                if result.exit_code:
                    assert isinstance(result.exception, SystemExit), result.exception
                    return result.exit_code
        return 0

    ended = in_child(work, scratch)
    said = words.read_text()
    if ended.code == 0:
        assert at >= 60
        return
    assert ended.code in (1, 3), (ended, said)
    assert "error: " in said
    assert REASONS[errno.ENOSPC] in said
    assert "Traceback" not in said + ended.printed
    assert said.count(REASONS[errno.ENOSPC]) <= 2 * 2, "said once for each shard, and once by the command"
    require_whole_or_absent(tiny, root) if at % 12 else None


def _require_clear(ended: Ended, reason: str) -> None:
    assert ended.signal == 0, ended
    assert ended.code == 1, ended
    assert ended.error.startswith("StorageError: "), ended
    assert reason in ended.error
    assert len(ended.error.splitlines()) == 1
    assert "Traceback" not in ended.printed, ended.printed
