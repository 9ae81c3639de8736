from __future__ import annotations

import csv
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.refseq.release_server import Release, packed, serve
from vnp.errors import DownloadError, StorageError, UsageError
from vnp.refseq.choice import choose
from vnp.refseq.download import part_path
from vnp.refseq.fetch import (
    LOCK_NAME,
    SHEET_NAME,
    Fetched,
    Request,
    fetch,
    plan,
    preview,
    read_lock,
    write_lock,
)  # fmt: skip
from vnp.refseq.server import Server

NUMBERS = {"viral": 2, "bacteria": 12, "archaea": 3, "fungi": 2, "protozoa": 2, "plant": 12}
GROUPS = ("viral", "archaea", "plant")


def release() -> Release:
    """A small release; every file is a gzip file of its own."""
    names = [
        f"{group}/{group}.{number}.{kind}"
        for group, count in NUMBERS.items()
        for number in range(1, count + 1)
        for kind in ("genomic.gbff.gz", "1.genomic.fna.gz", "protein.faa.gz")
    ]
    return Release({name: packed(seed, 500) for seed, name in enumerate(sorted(names))})


@dataclass
class Site:
    """A release, a folder to fetch into, and what was said and shown."""

    release: Release
    folder: Path
    address: str = ""
    said: list[str] = field(default_factory=list)
    shown: list[tuple[int, int]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def asked(self, *groups: str, **more: int | bool) -> Request:
        found = Request(self.address, groups or GROUPS, 42, None, True)
        return replace(found, **more)  # type: ignore[arg-type]

    def server(self) -> Server:
        return Server(self.address, tries=3, sleep=self.slept.append, chance=lambda: 1.0)

    def fetch(self, asked: Request | None = None, *, force: bool = False, connections: int = 3) -> Fetched:
        return fetch(
            self.server(),
            asked or self.asked(),
            self.folder,
            connections=connections,
            force=force,
            progress=lambda done, total: self.shown.append((done, total)),
            say=self.said.append,
        )

    def downloads(self) -> list[str]:
        return [path for method, path, *_ in self.release.requests if method == "GET" and path.endswith(".gz")]

    def expected(self) -> list[str]:
        def listing(group: str) -> list[str]:
            return [name.partition("/")[2] for name in self.release.files if name.startswith(f"{group}/")]

        return [f"{one.group.name}/{one.name}" for one in choose(listing, GROUPS)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Site(release(), tmp_path / "refseq")
    with serve(found.release) as found.address:
        yield found


def sheet_of(site: Site) -> list[list[str]]:
    with (site.folder / SHEET_NAME).open(newline="") as stream:
        return list(csv.reader(stream))


@pytest.mark.parametrize("md5", [True, False])
def test_a_release_comes_with_lock_and_sheet(site: Site, md5: bool) -> None:
    site.release.md5 = md5
    fetched = site.fetch()
    expected = site.expected()
    assert sorted(site.downloads()) == sorted(expected)
    assert len(expected) == 2 * (1 + 1 + 10)
    assert site.release.most <= 3
    lock = read_lock(site.folder)
    assert lock == fetched.lock
    assert lock is not None
    assert [f"{one.group}/{one.name}" for one in lock.files] == expected
    assert lock.release == "229"
    for one in lock.files:
        name = one.name
        content = site.release.files[f"{one.group}/{name}"]
        assert (site.folder / name).read_bytes() == content
        assert (one.size, one.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert one.checked == ("md5" if md5 else "gzip")
        assert one.fetched is not None
        assert one.url == f"{site.address}{one.group}/{name}"
    sizes = sum(one.size or 0 for one in lock.files)
    assert site.shown[-1] == (sizes, sizes)
    rows = sheet_of(site)
    assert rows[0] == ["path", "label", "group", "organism_group", "annotation"]
    assert rows[1] == ["viral.1.1.genomic.fna.gz", "viral", "", "viral", "viral.1.genomic.gbff.gz"]
    assert rows[2][1:4] == ["host", "", "archaea"]
    assert [name for row in rows[1:] for name in (row[4], row[0])] == [one.name for one in lock.files]
    left = {path.name for path in site.folder.iterdir()}
    assert left == {*(one.name for one in lock.files), LOCK_NAME, SHEET_NAME}


def test_without_fasta_the_sheet_names_genbank(site: Site) -> None:
    lock = site.fetch(site.asked(fasta=False)).lock
    assert len(lock.files) == 12
    assert [(row[0], row[4]) for row in sheet_of(site)[1:]] == [(one.name, "") for one in lock.files]


def test_a_fasta_file_that_the_server_lacks(site: Site) -> None:
    del site.release.files["viral/viral.1.1.genomic.fna.gz"]
    site.fetch()
    rows = sheet_of(site)
    assert rows[1] == ["viral.1.genomic.gbff.gz", "viral", "", "viral", ""]
    assert all(row[0].endswith(".fna.gz") and row[4].endswith(".gbff.gz") for row in rows[2:])


def test_a_second_time_nothing_is_asked_and_everything_is_checked(site: Site) -> None:
    first = site.fetch()
    before = (site.folder / LOCK_NAME).read_bytes()
    site.release.requests.clear()
    second = site.fetch()
    assert site.release.requests == []
    assert second.new == ()
    assert second.lock == first.lock
    assert (site.folder / LOCK_NAME).read_bytes() == before
    assert "checking 24 file(s) that are here" in site.said


def test_a_file_that_was_damaged_or_deleted_comes_again_and_only_it(site: Site) -> None:
    site.fetch()
    names = [path.rpartition("/")[2] for path in site.expected()]
    damaged, gone = names[2], names[5]
    data = bytearray((site.folder / damaged).read_bytes())
    data[300] ^= 1
    (site.folder / damaged).write_bytes(data)
    (site.folder / gone).unlink()
    site.release.requests.clear()
    again = site.fetch()
    assert set(again.new) == {damaged, gone}
    assert {path.rpartition("/")[2] for path in site.downloads()} == {damaged, gone}
    assert any(f"{damaged} is not the file that is wanted" in text for text in site.said)
    assert site.fetch().new == ()


def test_one_file_that_does_not_come_does_not_keep_the_others(site: Site) -> None:
    broken = site.expected()[3]
    site.release.status[broken] = [(503, {})] * 3
    with pytest.raises(DownloadError, match=r"503 .*the same command again"):
        site.fetch()
    lock = read_lock(site.folder)
    assert lock is not None
    assert [one.name for one in lock.files if one.sha256 is None] == [broken.rpartition("/")[2]]
    assert not (site.folder / SHEET_NAME).exists()
    site.release.requests.clear()
    assert site.fetch().new == (broken.rpartition("/")[2],)
    assert site.downloads() == [broken]
    assert (site.folder / SHEET_NAME).exists()


def test_several_that_do_not_come_are_counted(site: Site) -> None:
    for path in site.expected()[:4]:
        site.release.status[path] = [(403, {})]
    with pytest.raises(DownloadError, match=r"4 of 24 files did not come. The first: .* 403"):
        site.fetch()


def test_faults_of_all_kinds_at_once(site: Site) -> None:
    paths = site.expected()
    site.release.drop = {path: [100, 300] for path in paths[::3]}
    site.release.status = {path: [(503, {"Retry-After": "5"}), (500, {})] for path in paths[1::3]}
    site.release.page = dict.fromkeys(paths[2::3], 1)
    site.release.length[paths[0]] = 5_000
    fetched = site.fetch()
    for path in paths:
        assert (site.folder / path.rpartition("/")[2]).read_bytes() == site.release.files[path]
    assert len(fetched.new) == len(paths)
    assert 5.0 in site.slept


def test_a_wrong_checksum_names_the_catalogue(site: Site) -> None:
    path = site.expected()[0]
    site.release.wrong_md5.add(path)
    with pytest.raises(DownloadError, match=f"{path}.*catalogue says {hashlib.md5(b'other').hexdigest()}"):
        site.fetch()
    assert not (site.folder / path.rpartition("/")[2]).exists()


def test_a_new_release_while_files_are_missing(site: Site) -> None:
    path = site.expected()[3]
    site.release.status[path] = [(403, {})]
    with pytest.raises(DownloadError):
        site.fetch()
    site.release.number = "230"
    with pytest.raises(DownloadError, match=r"begun with RefSeq release 229, the server now has 230"):
        site.fetch()
    changed = site.expected()[7]
    site.release.files[changed] = packed(99, 700)
    site.release.requests.clear()
    fetched = site.fetch(force=True)
    assert fetched.lock.release == "230"
    assert set(site.downloads()) == {path, changed}


def test_a_file_that_has_left_the_server(site: Site) -> None:
    path = site.expected()[3]
    asked = site.asked()
    site.folder.mkdir()
    lock = plan(site.server(), asked)
    write_lock(site.folder, lock)
    del site.release.files[path]
    with pytest.raises(DownloadError, match=r"not there \(404.*--force chooses anew"):
        site.fetch()


def test_another_question_is_not_mixed_in(site: Site) -> None:
    site.fetch(site.asked("viral"))
    for other in (site.asked("archaea"), site.asked("viral", seed=1), site.asked("viral", fasta=False)):
        with pytest.raises(UsageError, match=r"another choice of files \(viral from .*seed 42"):
            site.fetch(other)
    site.release.requests.clear()
    fetched = site.fetch(site.asked("viral", "archaea"), force=True)
    assert not any(path.startswith("viral/") for path in site.downloads())
    assert len(fetched.new) == 2
    assert len(fetched.lock.files) == 4


def test_files_that_somebody_brought(site: Site) -> None:
    right, wrong = (path.rpartition("/")[2] for path in site.expected()[:2])
    site.folder.mkdir()
    (site.folder / right).write_bytes(site.release.files[site.expected()[0]])
    (site.folder / wrong).write_bytes(b"mine")
    with pytest.raises(UsageError, match=rf"{wrong} is there, but .*--force"):
        site.fetch()
    assert (site.folder / wrong).read_bytes() == b"mine"
    assert site.downloads() == []
    fetched = site.fetch(force=True)
    assert right not in fetched.new
    assert wrong in fetched.new


def test_a_disk_that_is_too_small(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = site.asked("viral")
    need = sum(one.size or 0 for one in plan(site.server(), asked).files)
    disk = SimpleNamespace(f_blocks=need, f_bavail=need - 1, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    with pytest.raises(StorageError, match="about 1 MB needed in"):
        site.fetch(asked)
    assert site.downloads() == []
    # What is here of an unfinished file need not come again.
    part = part_path(site.folder / "viral.1.genomic.gbff.gz")
    part.write_bytes(site.release.files["viral/viral.1.genomic.gbff.gz"][:1])
    assert len(site.fetch(asked).new) == 2


def test_two_fetches_of_one_folder(site: Site) -> None:
    inside, leave = threading.Event(), threading.Event()

    class Slow(Server):
        def text(self, path: str) -> str:
            inside.set()
            assert leave.wait(30)
            return super().text(path)

    slow = Slow(site.address, sleep=site.slept.append)
    thread = threading.Thread(target=lambda: fetch(slow, site.asked("viral"), site.folder))
    thread.start()
    try:
        assert inside.wait(30)
        with pytest.raises(UsageError, match="another fetch is at work"):
            site.fetch(site.asked("viral"))
    finally:
        leave.set()
        thread.join()
    assert site.fetch(site.asked("viral")).new == ()


def test_an_interruption_ends_all_threads_and_keeps_what_came(site: Site) -> None:
    def interrupt(done: int, _: int) -> None:
        if done > 3_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(site.server(), site.asked(), site.folder, connections=1, progress=interrupt)
    lock = read_lock(site.folder)
    assert lock is not None
    had = [one.name for one in lock.files if one.sha256]
    assert 0 < len(had) < 24
    site.release.requests.clear()
    assert not set(had) & set(site.fetch().new)


def test_a_preview_writes_nothing(site: Site) -> None:
    lock = preview(site.server(), site.asked(), site.folder)
    assert [one.name for one in lock.files] == [path.rpartition("/")[2] for path in site.expected()]
    assert all(one.size and one.md5 and one.sha256 is None for one in lock.files)
    assert not site.folder.exists()
    assert site.downloads() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged .*--force"),
        ("[]", "is damaged"),
        ('{"schema": "vnp-refseq/9"}', "another version of vnp; this one reads 'vnp-refseq/1'"),
        ('{"schema": "vnp-refseq/1"}', "is damaged"),
    ],
)
def test_a_lock_that_cannot_be_read(site: Site, text: str, said: str) -> None:
    site.folder.mkdir()
    (site.folder / LOCK_NAME).write_text(text)
    with pytest.raises(DownloadError, match=said):
        site.fetch()


def test_a_lock_cannot_name_files_elsewhere(site: Site) -> None:
    site.fetch(site.asked("viral"))
    path = site.folder / LOCK_NAME
    path.write_text(path.read_text().replace('"viral.1.genomic.gbff.gz"', '"../viral.1.genomic.gbff.gz"'))
    with pytest.raises(DownloadError, match="is damaged"):
        site.fetch(site.asked("viral"))
