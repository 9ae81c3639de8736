"""From a question to a folder of genomes: choose, compare with what is here, fetch, check, and write it down.

``refseq.lock.json`` says which files of which release were chosen and fetched, and ``refseq.csv`` lists them for
``jobs.dataset``. The lock is written when the choice is made and after each file, so that a fetch that was stopped goes
on with the same choice, and a later one can tell whether the files are still what was fetched.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from vnp.errors import DownloadError, UsageError, storage_error
from vnp.files.claims import alone
from vnp.files.durable import write_text
from vnp.files.machine import require_room
from vnp.files.records import read_record, write_record
from vnp.files.tables import table_text
from vnp.refseq.choice import GROUPS, choose, fasta_name
from vnp.refseq.download import Contents, download, part_path, read_contents
from vnp.refseq.server import MissingError, Server, checksums, folder_files, release_number

LOCK_NAME = "refseq.lock.json"
SHEET_NAME = "refseq.csv"
LOCK_SCHEMA = "vnp-refseq/1"

Progress = Callable[[int, int], None]
"""Told the bytes that are here and those of all files."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to fetch; the same request and release give the same files."""

    url: str  # address of the release, with a slash at the end
    groups: tuple[str, ...]  # names of folders
    seed: int  # of the draws
    files: int | None  # GenBank files of every group, or None for VirNucPro's numbers
    fasta: bool  # whether FASTA files come along


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file of the choice; ValueError where RefSeq has none of its name and group."""

    name: str  # of the file
    group: str  # folder that it is in
    kind: str  # ``genbank`` or ``fasta``
    url: str  # where it comes from
    size: int | None  # in bytes; as the server says until it is here; None where it does not
    md5: str | None  # from the release's catalogue; None where that has none
    sha256: str | None = None  # of what came; None until it is here
    # ``md5`` (against the catalogue) or ``gzip`` (unpacked to its end); None until it is here
    checked: str | None = None
    last_modified: str | None = None  # as the server said it
    fetched: str | None = None  # when, in UTC, ISO 8601

    def __post_init__(self) -> None:
        if self.group not in GROUPS or Path(self.name).name != self.name:
            raise ValueError(f"{self.name!r} of {self.group!r} is no file of RefSeq")


@dataclass(frozen=True, slots=True)
class Lock:
    """A choice of files, what it was made for, the release's number if the server tells it, and what is here."""

    asked: Request
    release: str | None
    chosen: str
    files: tuple[LockedFile, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What ``fetch`` did: what is in the folder now, the names of files that were downloaded, and the samplesheet."""

    lock: Lock
    new: tuple[str, ...]
    sheet: Path


def read_lock(folder: Path) -> Lock | None:
    """Read the lock of a folder; None if there is none, DownloadError where it cannot be read."""
    remedy = "delete it and run the same command again with --force, which keeps the files that are right"
    return read_record(
        folder / LOCK_NAME, Lock, schema=LOCK_SCHEMA, seal="digest", older=True, error=DownloadError, remedy=remedy
    )


def plan(server: Server, request: Request, connections: int = 3) -> Lock:
    """Choose files, and ask for sizes and checksums; DownloadError where the server is no RefSeq release."""
    release = release_number(server)
    chosen = choose(
        lambda folder: folder_files(server, folder),
        request.groups,
        seed=request.seed,
        files=request.files,
        fasta=request.fasta,
    )
    digests = checksums(server, release)
    paths = [f"{one.group.name}/{one.name}" for one in chosen]
    with ThreadPoolExecutor(connections) as threads:
        sizes = list(threads.map(server.size, paths))
    files = [
        LockedFile(one.name, one.group.name, one.kind, server.base + path, size, digests.get(one.name))
        for one, path, size in zip(chosen, paths, sizes, strict=True)
    ]
    return Lock(request, release, _now(), tuple(files))


def preview(server: Server, request: Request, folder: Path, *, connections: int = 3, force: bool = False) -> Lock:
    """What ``fetch`` would bring, as far as it can be known before; nothing is written or checked."""
    return _kept(read_lock(folder), request, folder, force=force) or plan(server, request, connections)


def fetch(
    server: Server,
    request: Request,
    folder: Path,
    *,
    connections: int = 3,
    force: bool = False,
    progress: Progress = lambda _done, _all: None,
    say: Say = lambda _: None,
) -> Fetched:
    """Bring the chosen files into a folder, so many ``connections`` at once.

    Files that are there and right are not downloaded again; a choice that was made is kept until it is complete. With
    ``force`` it is made anew where the folder holds another one, and files that are not of it are written over.

    Raises:
        UsageError: the folder holds another choice, or files that vnp did not put there.
        DownloadError: something did not come; what came is kept.
        StorageError: the disk is full or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, "fetch"):
            before = read_lock(folder)
            kept = _kept(before, request, folder, force=force)
            lock = kept or plan(server, request, connections)
            sound = _sound(folder, before, lock, connections, force, say)
            files = {one.name: sound.get(one.name, one) for one in lock.files}
            missing = [name for name in files if name not in sound]
            if missing:
                if kept is not None:
                    _require_release(server, lock, folder)
                say(_room(folder, [files[name] for name in missing]))
                write_lock(folder, replace(lock, files=tuple(files.values())))
                _download(server, folder, lock, files, missing, connections, progress)
            lock = replace(lock, files=tuple(files.values()))
            write_lock(folder, lock)
            return Fetched(lock, tuple(missing), _write_sheet(folder, lock))
    except OSError as error:
        raise storage_error(error, f"writing {folder}") from error


def write_lock(folder: Path, lock: Lock) -> None:
    """Write the lock durably."""
    write_record(folder / LOCK_NAME, lock, schema=LOCK_SCHEMA, seal="digest")


def _sound(
    folder: Path, before: Lock | None, lock: Lock, connections: int, force: bool, say: Say
) -> dict[str, LockedFile]:
    """What to write down of the files that are here already and are what is wanted."""
    known = {one.name: one for one in before.files} if before is not None else {}

    def found(wanted: LockedFile) -> LockedFile | None:
        path, entry = folder / wanted.name, known.get(wanted.name)
        here = read_contents(path, unpack=wanted.md5 is None)
        as_wanted = here.md5 == wanted.md5
        if wanted.md5 is None:
            as_wanted = here.damage is None and wanted.size in (None, here.size)
        if entry is not None and entry.sha256 is not None:
            if as_wanted and entry.sha256 == here.sha256 and entry.url == wanted.url:
                return entry
            say(f"{path} is not the file that is wanted: it is fetched again")
            return None
        if as_wanted:
            # Its fetch was killed between the file's name and the lock, or somebody brought it along.
            return _arrived(wanted, here)
        if force:
            return None
        raise UsageError(
            f"{path} is there, but is not the file of the release and was not fetched by vnp; move it away, choose "
            "another folder, or --force to write over it"
        )

    there = [one for one in lock.files if (folder / one.name).exists()]
    if there:
        say(f"checking {len(there)} file(s) that are here")
    with ThreadPoolExecutor(connections) as threads:
        return {entry.name: entry for entry in threads.map(found, there) if entry is not None}


def _require_release(server: Server, lock: Lock, folder: Path) -> None:
    now = release_number(server)
    if now != lock.release:
        raise DownloadError(
            f"{folder} was begun with RefSeq release {lock.release}, the server now has {now}, and files are "
            f"missing; --force chooses anew from {now} and keeps the files that are the same"
        )


def _room(folder: Path, missing: list[LockedFile]) -> str:
    parts = [part_path(folder / one.name) for one in missing]
    here = sum(part.stat().st_size for part in parts if part.exists())
    need = sum(one.size or 0 for one in missing) - here
    return require_room(folder, need)


def _download(
    server: Server,
    folder: Path,
    lock: Lock,
    files: dict[str, LockedFile],
    missing: list[str],
    connections: int,
    progress: Progress,
) -> None:
    """Bring the missing files, and write each into ``files`` and the lock when it is here."""
    total = sum(one.size or 0 for one in files.values())
    here = {name: one.size or 0 for name, one in files.items() if one.sha256 is not None}
    guard = threading.Lock()

    def bring(name: str) -> None:
        def moved(done: int) -> None:
            with guard:
                here[name] = done
                progress(sum(here.values()), total)

        wanted = files[name]
        remote = wanted.url.removeprefix(server.base)
        found = download(server, remote, folder / name, md5=wanted.md5, moved=moved)
        with guard:
            files[name] = _arrived(wanted, found)
            write_lock(folder, replace(lock, files=tuple(files.values())))

    with ThreadPoolExecutor(connections) as threads:
        started = [threads.submit(bring, name) for name in missing]
        try:
            waiting: set[Future[None]] = set(started)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_EXCEPTION)
                for future in done:
                    # A disk that cannot be written ends all of them, a file that does not come only itself.
                    if (error := future.exception()) is not None and not isinstance(error, DownloadError):
                        raise error
        except BaseException:
            server.stopped.set()
            threads.shutdown(cancel_futures=True)
            raise
    failed = [error for future in started if (error := future.exception()) is not None]
    if failed:
        _refuse(failed, len(started), lock)


def _refuse(failed: list[BaseException], count: int, lock: Lock) -> None:
    first = failed[0]
    if isinstance(first, MissingError):
        raise DownloadError(
            f"{first}: RefSeq release {lock.release or 'of then'} has been replaced, it seems; --force chooses anew, "
            "and keeps the files that are the same"
        ) from first
    if len(failed) == 1:
        raise first
    raise DownloadError(f"{len(failed)} of {count} files did not come. The first: {first}") from first


def _write_sheet(folder: Path, lock: Lock) -> Path:
    """Write the samplesheet that ``jobs.dataset`` takes, with label and organism group.

    The bases are taken from the FASTA files where they came along, for many GenBank records have none of their own.
    """
    path = folder / SHEET_NAME
    names = {one.name for one in lock.files}
    rows = [("path", "label", "group", "organism_group", "annotation")]
    for one in lock.files:
        if one.kind == "genbank":
            group, fasta = GROUPS[one.group], fasta_name(one.name)
            files = (fasta, one.name) if fasta in names else (one.name, "")
            rows.append((files[0], group.label, "", group.organisms, files[1]))
    write_text(path, table_text(rows, ","))
    return path


def _kept(before: Lock | None, request: Request, folder: Path, *, force: bool) -> Lock | None:
    """The choice that was made here for the same request, if it is to be kept."""
    if before is None or force:
        return None
    asked = before.asked
    if asked != request:
        number = "VirNucPro's numbers" if asked.files is None else f"{asked.files} files a group"
        fasta = "with FASTA" if asked.fasta else "without FASTA"
        raise UsageError(
            f"{folder} holds another choice of files ({','.join(asked.groups)} from {asked.url}, seed {asked.seed}, "
            f"{number}, {fasta}); choose another folder, or --force to choose anew here, which keeps the files that "
            "both have"
        )
    return before


def _arrived(wanted: LockedFile, found: Contents) -> LockedFile:
    return replace(
        wanted,
        size=found.size,
        sha256=found.sha256,
        checked="gzip" if wanted.md5 is None else "md5",
        last_modified=found.last_modified,
        fetched=_now(),
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
