"""From a question to a folder of genomes: choose, compare with what is here, fetch, check, and write it down."""

from __future__ import annotations

import datetime
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from vnp.errors import DownloadError, StorageError, UsageError, VnpError, storage_error
from vnp.files.claims import alone
from vnp.refseq.choice import Chosen, choose
from vnp.refseq.contents import read_contents
from vnp.refseq.download import download, part_path
from vnp.refseq.listing import checksums, folder_files, release_number
from vnp.refseq.lock import Asked, Lock, LockedFile, read_lock, write_lock, write_sheet
from vnp.refseq.server import MissingError, Server

Progress = Callable[[int, int], None]
"""Told the bytes that are here and those of all files."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What ``fetch`` did.

    Attributes:
        lock: what is in the folder now.
        new: names of files that were downloaded.
        sheet: the samplesheet.
    """

    lock: Lock
    new: tuple[str, ...]
    sheet: Path


def plan(server: Server, asked: Asked, connections: int = 3) -> Lock:
    """Choose files and ask for their sizes and checksums; nothing is written.

    Args:
        server: the release.
        asked: groups, seed and numbers.
        connections: how many files to ask for at once.

    Raises:
        DownloadError: the server cannot be reached, or is no RefSeq release.
    """
    release = release_number(server)
    chosen = choose(
        lambda folder: folder_files(server, folder),
        asked.groups,
        seed=asked.seed,
        files=asked.files,
        fasta=asked.fasta,
    )
    digests = checksums(server, release)
    with ThreadPoolExecutor(connections) as threads:
        sizes = list(threads.map(lambda one: server.size(_remote(one)), chosen))
    files = {
        one.name: LockedFile(
            group=one.group.name,
            kind=one.kind,
            url=server.base + _remote(one),
            size=size,
            md5=digests.get(one.name),
        )
        for one, size in zip(chosen, sizes, strict=True)
    }
    return Lock(asked, release, _now(), files)


def preview(server: Server, asked: Asked, folder: Path, *, connections: int = 3, force: bool = False) -> Lock:
    """What ``fetch`` would bring, as far as it can be known before; nothing is written or checked.

    Raises:
        UsageError: the folder holds another choice.
        DownloadError: the server cannot be reached, or is no RefSeq release.
    """
    return _kept(read_lock(folder), asked, folder, force=force) or plan(server, asked, connections)


def fetch(
    server: Server,
    asked: Asked,
    folder: Path,
    *,
    connections: int = 3,
    force: bool = False,
    progress: Progress = lambda _done, _all: None,
    say: Say = lambda _: None,
) -> Fetched:
    """Bring the chosen files into a folder.

    Files that are there and right are not downloaded again; a choice that was made is kept until it is complete.

    Args:
        server: the release.
        asked: groups, seed and numbers.
        folder: where to.
        connections: how many files at once.
        force: choose anew where the folder holds another choice, and write over files that are not of it.
        progress: told how far it is.
        say: told what is worth knowing.

    Raises:
        UsageError: the folder holds another choice, or files that vnp did not put there.
        DownloadError: something did not come; what came is kept.
        StorageError: the disk is full or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, "fetch"):
            return _Fetch(server, folder, connections, force, progress, say).run(asked)
    except OSError as error:
        raise storage_error(error, f"writing {folder}") from error


class _Fetch:
    """One run of ``fetch``."""

    def __init__(
        self, server: Server, folder: Path, connections: int, force: bool, progress: Progress, say: Say
    ) -> None:
        self._server = server
        self._folder = folder
        self._connections = connections
        self._force = force
        self._progress = progress
        self._say = say
        self._guard = threading.Lock()
        self._here: dict[str, int] = {}

    def run(self, asked: Asked) -> Fetched:
        before = read_lock(self._folder)
        kept = _kept(before, asked, self._folder, force=self._force)
        lock = kept or plan(self._server, asked, self._connections)
        sound = self._sound({} if before is None else before.files, lock)
        lock = replace(lock, files={**lock.files, **sound})
        missing = [name for name in lock.files if name not in sound]
        if missing:
            if kept is not None:
                self._require_release(lock)
            self._check_space(lock, missing)
            write_lock(self._folder, lock)
            lock = self._download(lock, missing)
        write_lock(self._folder, lock)
        return Fetched(lock, tuple(missing), write_sheet(self._folder, lock))

    def _sound(self, known: Mapping[str, LockedFile], lock: Lock) -> dict[str, LockedFile]:
        """Files that are here already, and are what is wanted."""
        there = [name for name in lock.files if (self._folder / name).exists()]
        if there:
            self._say(f"checking {len(there)} file(s) that are here")
        with ThreadPoolExecutor(self._connections) as threads:
            entries = threads.map(lambda name: self._found(name, known.get(name), lock.files[name]), there)
            return {name: entry for name, entry in zip(there, entries, strict=True) if entry is not None}

    def _found(self, name: str, entry: LockedFile | None, wanted: LockedFile) -> LockedFile | None:
        """What to write down of a file that is here; None if it is to be fetched again."""
        path = self._folder / name
        here = read_contents(path, unpack=wanted.md5 is None)
        as_wanted = here.md5 == wanted.md5
        if wanted.md5 is None:
            as_wanted = here.damage is None and wanted.size in (None, here.size)
        if entry is not None and entry.sha256 is not None:
            if as_wanted and entry.sha256 == here.sha256 and entry.url == wanted.url:
                return entry
            self._say(f"{path} is not the file that is wanted: it is fetched again")
            return None
        if as_wanted:
            # Its fetch was killed between the file's name and the lock, or somebody brought it along.
            return _arrived(wanted, here.size, here.sha256, None)
        if self._force:
            return None
        raise UsageError(
            f"{path} is there, but is not the file of the release and was not fetched by vnp; move it away, choose "
            "another folder, or --force to write over it"
        )

    def _require_release(self, lock: Lock) -> None:
        now = release_number(self._server)
        if now != lock.release:
            raise DownloadError(
                f"{self._folder} was begun with RefSeq release {lock.release}, the server now has {now}, and files are "
                f"missing; --force chooses anew from {now} and keeps the files that are the same"
            )

    def _check_space(self, lock: Lock, missing: list[str]) -> None:
        parts = {name: part_path(self._folder / name) for name in missing}
        here = sum(part.stat().st_size for part in parts.values() if part.exists())
        need = sum(lock.files[name].size or 0 for name in missing) - here
        free = shutil.disk_usage(self._folder).free
        if need > free:
            raise StorageError(
                f"{self._folder}: {need / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free; choose another "
                "folder, fewer groups or fewer --files"
            )

    def _download(self, lock: Lock, missing: list[str]) -> Lock:
        files = dict(lock.files)
        total = sum(one.size or 0 for one in files.values())
        self._here = {name: one.size or 0 for name, one in files.items() if one.sha256 is not None}

        def one(name: str) -> None:
            wanted = files[name]
            remote = wanted.url.removeprefix(self._server.base)
            found = download(
                self._server,
                remote,
                self._folder / name,
                md5=wanted.md5,
                moved=lambda done: self._moved(name, done, total),
            )
            with self._guard:
                files[name] = _arrived(wanted, found.size, found.sha256, found.last_modified)
                write_lock(self._folder, replace(lock, files=files))

        with ThreadPoolExecutor(self._connections) as threads:
            started = {name: threads.submit(one, name) for name in missing}
            try:
                self._wait(started)
            except BaseException:
                self._server.stopped.set()
                threads.shutdown(cancel_futures=True)
                raise
        _require_all(started, lock)
        return replace(lock, files=files)

    def _wait(self, started: Mapping[str, Future[None]]) -> None:
        """Wait for all; a disk that cannot be written ends all of them, a file that does not come only itself."""
        waiting = set(started.values())
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_EXCEPTION)
            for future in done:
                error = future.exception()
                if error is not None and not isinstance(error, DownloadError):
                    raise error

    def _moved(self, name: str, done: int, total: int) -> None:
        with self._guard:
            self._here[name] = done
            self._progress(sum(self._here.values()), total)


def _kept(before: Lock | None, asked: Asked, folder: Path, *, force: bool) -> Lock | None:
    """The choice that was made here for the same question, if it is to be kept."""
    if before is None or force:
        return None
    if before.asked != asked:
        raise UsageError(
            f"{folder} holds another choice of files ({_described(before.asked)}); choose another folder, or --force "
            "to choose anew here, which keeps the files that both have"
        )
    return before


def _require_all(started: Mapping[str, Future[None]], lock: Lock) -> None:
    failed = {name: error for name, future in started.items() if (error := future.exception()) is not None}
    if not failed:
        return
    first = next(iter(failed.values()))
    if isinstance(first, MissingError):
        raise DownloadError(
            f"{first}: RefSeq release {lock.release or 'of then'} has been replaced, it seems; --force chooses anew, "
            "and keeps the files that are the same"
        ) from first
    if len(failed) == 1 and isinstance(first, VnpError):
        raise first
    raise DownloadError(f"{len(failed)} of {len(started)} files did not come. The first: {first}") from first


def _arrived(wanted: LockedFile, size: int, sha256: str, last_modified: str | None) -> LockedFile:
    checked = "gzip" if wanted.md5 is None else "md5"
    return replace(wanted, size=size, sha256=sha256, checked=checked, last_modified=last_modified, fetched=_now())


def _described(asked: Asked) -> str:
    number = "VirNucPro's numbers" if asked.files is None else f"{asked.files} files a group"
    fasta = "with FASTA" if asked.fasta else "without FASTA"
    return f"{','.join(asked.groups)} from {asked.url}, seed {asked.seed}, {number}, {fasta}"


def _remote(one: Chosen) -> str:
    return f"{one.group.name}/{one.name}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
