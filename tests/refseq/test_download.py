from __future__ import annotations

import base64
import datetime
import email.utils
import gzip
import hashlib
import resource
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.refseq.release_server import Release, packed, serve
from vnp.errors import DownloadError, StorageError, UsageError
from vnp.refseq.download import Contents, download, part_path, read_contents
from vnp.refseq.server import TIMEOUT_SECONDS, MissingError, Server, checksums, folder_files, release_number

REMOTE = "viral/viral.1.genomic.gbff.gz"
CONTENT = packed(1)
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Site:
    """A release and a client that does not really sleep."""

    release: Release
    folder: Path
    address: str = ""
    slept: list[float] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.folder / "viral.1.genomic.gbff.gz"

    def server(self, tries: int = 4) -> Server:
        return Server(self.address, tries=tries, sleep=self.slept.append, chance=lambda: 1.0)

    def download(self, md5: str | None = MD5) -> Contents:
        return download(self.server(), REMOTE, self.path, md5=md5)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Site(Release({REMOTE: CONTENT}), tmp_path)
    with serve(found.release) as found.address:
        yield found


def nothing_left(site: Site) -> bool:
    return [path.name for path in site.folder.iterdir()] == [site.path.name]


def test_a_file_comes_and_is_what_it_should_be(site: Site) -> None:
    found = site.download()
    assert site.path.read_bytes() == CONTENT
    assert (found.size, found.md5) == (len(CONTENT), MD5)
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert nothing_left(site)
    assert site.slept == []
    assert all(agent and agent.startswith("vnp/") for agent in site.release.agents)


@pytest.mark.parametrize("md5", [MD5, None])
def test_dropped_connections_go_on_where_they_broke(site: Site, md5: str | None) -> None:
    site.release.drop[REMOTE] = [5_000, 12_000, 12_001]
    site.download(md5)
    assert site.path.read_bytes() == CONTENT
    ranges = [part for part, _ in site.release.gets(REMOTE)]
    assert ranges == [None, "bytes=5000-", "bytes=12000-", "bytes=12001-"]
    assert len({when for _, when in site.release.gets(REMOTE)[1:]}) == 1
    # Each went further than the one before, so none counts as a second failure in a row.
    assert site.slept == [1.0, 1.0, 1.0]


def test_a_killed_download_is_gone_on_with_by_the_next(site: Site) -> None:
    site.release.drop[REMOTE] = [9_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"broke after 9,000 of .* the same command again"):
        site.download()
    assert not site.path.exists()
    assert site.slept == [1.0, 2.0, 4.0]
    assert part_path(site.path).stat().st_size == 9_000
    site.download()
    assert site.path.read_bytes() == CONTENT
    assert site.release.gets(REMOTE)[-1][0] == "bytes=9000-"
    assert nothing_left(site)


def test_a_server_without_ranges_starts_anew(site: Site) -> None:
    site.release.ranges = False
    site.release.drop[REMOTE] = [9_000]
    site.download()
    assert site.path.read_bytes() == CONTENT
    assert [part for part, _ in site.release.gets(REMOTE)] == [None, "bytes=9000-"]


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(site: Site) -> None:
    site.release.ranges = False
    site.release.drop[REMOTE] = [9_000] * 50
    with pytest.raises(DownloadError, match=r"after 9,000 of .*4 tries"):
        site.download()


def test_without_tag_or_checksum_pieces_are_not_joined(site: Site) -> None:
    site.release.tags = False
    site.release.drop[REMOTE] = [9_000]
    site.download(None)
    assert [part for part, _ in site.release.gets(REMOTE)] == [None, None]
    assert site.path.read_bytes() == CONTENT


def test_without_tag_the_checksum_guards_joined_pieces(site: Site) -> None:
    site.release.tags = False
    site.release.drop[REMOTE] = [9_000]
    site.download()
    assert [part for part, _ in site.release.gets(REMOTE)] == [None, "bytes=9000-"]
    assert site.path.read_bytes() == CONTENT


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changes_between_tries_is_not_mixed(site: Site, tags: bool) -> None:
    new = packed(2)
    site.release.tags = tags
    site.release.changing[REMOTE] = [new]
    site.release.drop[REMOTE] = [9_000]
    site.download(hashlib.md5(new).hexdigest())
    assert site.path.read_bytes() == new


def test_a_file_that_becomes_shorter_than_its_piece(site: Site) -> None:
    new = packed(2, 300)
    site.release.tags = False
    site.release.changing[REMOTE] = [new]
    site.release.drop[REMOTE] = [9_000]
    site.download(hashlib.md5(new).hexdigest())
    assert site.path.read_bytes() == new


@pytest.mark.parametrize("md5", [MD5, None])
def test_a_length_that_is_too_large(site: Site, md5: str | None) -> None:
    """All bytes come, then the connection ends; the next question shows that none is missing."""
    site.release.length[REMOTE] = len(CONTENT) + 1_000
    site.download(md5)
    assert site.path.read_bytes() == CONTENT
    assert [part for part, _ in site.release.gets(REMOTE)] == [None, f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize(("md5", "said"), [(MD5, "has the MD5"), (None, "not whole: the gzip file ends too early")])
def test_a_length_that_is_too_small(site: Site, md5: str | None, said: str) -> None:
    site.release.length[REMOTE] = len(CONTENT) - 1_000
    with pytest.raises(DownloadError, match=said):
        site.download(md5)
    assert len(site.release.gets(REMOTE)) == 2
    assert list(site.folder.iterdir()) == []


def test_a_wrong_checksum_is_tried_twice_and_leaves_nothing(site: Site) -> None:
    with pytest.raises(DownloadError, match=rf"MD5 {MD5}, the release's catalogue says 0{{32}}"):
        site.download("0" * 32)
    assert len(site.release.gets(REMOTE)) == 2
    assert list(site.folder.iterdir()) == []


def test_a_piece_that_was_spoilt_on_disk_is_found(site: Site) -> None:
    part_path(site.path).write_bytes(b"\x1f\x8b" + bytes(998))
    site.download()
    assert site.path.read_bytes() == CONTENT
    assert [part for part, _ in site.release.gets(REMOTE)] == ["bytes=1000-", None]


def test_the_server_asks_for_a_pause(site: Site) -> None:
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=300)
    site.release.status[REMOTE] = [
        (503, {"Retry-After": "17"}),
        (429, {"Retry-After": email.utils.format_datetime(later, usegmt=True)}),
        (500, {"Retry-After": "soon"}),
    ]
    site.download()
    assert site.slept[0] == 17.0
    assert 250 < site.slept[1] <= 300
    assert site.slept[2] == 4.0
    assert site.path.read_bytes() == CONTENT


def test_a_pause_of_hours_is_left_to_the_user(site: Site) -> None:
    site.release.status[REMOTE] = [(503, {"Retry-After": "7200"})]
    with pytest.raises(DownloadError, match="pause of 120 minutes"):
        site.download()
    assert site.slept == []


def test_a_server_that_stays_busy_is_given_up(site: Site) -> None:
    site.release.status[REMOTE] = [(502, {})] * 50
    with pytest.raises(DownloadError, match=r"answered 502 Bad Gateway \(4 tries\)"):
        site.download()
    assert site.slept == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(("code", "kind", "said"), [(404, MissingError, "not there"), (403, DownloadError, "403")])
def test_what_is_refused_is_not_asked_again(site: Site, code: int, kind: type[Exception], said: str) -> None:
    site.release.status[REMOTE] = [(code, {})] * 2
    with pytest.raises(kind, match=said):
        site.download()
    assert len(site.release.gets(REMOTE)) == 1


def test_a_web_page_in_place_of_the_file(site: Site) -> None:
    site.release.page[REMOTE] = 1
    site.release.drop[REMOTE] = [6_000]
    site.download()
    assert site.path.read_bytes() == CONTENT
    site.path.unlink()
    site.release.page[REMOTE] = 50
    with pytest.raises(DownloadError, match=r"no gzip file \(text/html\), perhaps a page of a proxy"):
        site.download()
    assert not part_path(site.path).exists()


def test_a_web_page_does_not_cost_what_came_before(site: Site) -> None:
    site.release.drop[REMOTE] = [6_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        site.download()
    site.release.page[REMOTE] = 1
    site.download()
    assert site.release.gets(REMOTE)[-1][0] == "bytes=6000-"
    assert site.path.read_bytes() == CONTENT


def test_no_connection_is_one_message_at_once(site: Site) -> None:
    with serve(Release({})) as address:
        pass
    server = Server(address, sleep=site.slept.append)
    with pytest.raises(DownloadError, match=r"no connection to .*login node.*--refseq-url"):
        release_number(server)
    assert site.slept == []


def test_a_server_that_was_there_and_is_gone_is_waited_for(site: Site) -> None:
    with serve(Release({REMOTE: CONTENT})) as address:
        server = Server(address, tries=3, sleep=site.slept.append, chance=lambda: 0.0)
        assert release_number(server) == "229"
    with pytest.raises(DownloadError, match="the connection broke"):
        download(server, REMOTE, site.path, md5=MD5)
    assert site.slept == [0.5, 1.0]


def test_a_server_that_sends_nothing_is_not_waited_for_for_ever(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr("vnp.refseq.server.TIMEOUT_SECONDS", 0.2)
        server = Server(f"http://127.0.0.1:{silent.getsockname()[1]}/", sleep=site.slept.append)
        with pytest.raises(DownloadError, match=r"no connection to .* \(nothing came for 0 s\)"):
            download(server, REMOTE, site.path, md5=MD5)


def test_a_file_that_has_moved_is_followed(site: Site) -> None:
    site.release.files = {"elsewhere.gz": CONTENT}
    site.release.status[REMOTE] = [(302, {"Location": "/refseq/release/elsewhere.gz"})] * 2
    site.release.drop["elsewhere.gz"] = [9_000]
    site.download()
    assert site.path.read_bytes() == CONTENT
    assert [part for part, _ in site.release.gets("elsewhere.gz")] == [None, "bytes=9000-"]


def test_a_password_is_told_to_the_server_alone(site: Site) -> None:
    server = Server(site.address.replace("//", "//ada:secret@"), tries=1)
    assert release_number(server) == "229"
    assert site.release.authorizations == {"Basic " + base64.b64encode(b"ada:secret").decode()}
    assert server.base == site.address
    site.release.status[REMOTE] = [(403, {}), (502, {})]
    for _ in range(2):
        with pytest.raises(DownloadError, match=f"^{site.address}{REMOTE}: the server answered"):
            download(server, REMOTE, site.path, md5=MD5)


@pytest.mark.parametrize(
    "address",
    ["ftp://ada:secret@server/", "https://ada:sec/secret@server/", "ada:secret@server/", "https:/ada:secret@server/",
     "https://server/?key=secret", "https://ada:secret@server:port/", "https://ada:sec@secret@server/#secret"],
)  # fmt: skip
def test_a_password_is_not_in_a_refusal(address: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a folder") as refused:
        Server(address)
    assert "secret" not in str(refused.value)
    assert "server" in str(refused.value)


def test_a_certificate_that_is_not_trusted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        error = ssl.SSLCertVerificationError("certificate verify failed")
        error.verify_message = "self-signed certificate"
        try:
            raise error
        except ssl.SSLError as found:
            raise httpx2.ConnectError(str(found)) from found

    server = site.server()
    monkeypatch.setattr(server, "_client", httpx2.Client(transport=httpx2.MockTransport(refuse)))
    with pytest.raises(DownloadError, match=r"not trusted \(self-signed certificate\).*SSL_CERT_FILE"):
        release_number(server)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "gopher://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UsageError, match="the proxy that the environment names"):
        Server("https://server/")


def test_a_disk_that_takes_no_more(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"writing .*viral.1.genomic.gbff.gz: the file is too large"):
            site.download()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(site.release.gets(REMOTE)) == 1


@pytest.mark.parametrize("address", ["ftp://server/refseq/", "server/refseq", "file:///etc/", "https://server/?a=b"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="not the address of a folder"):
        Server(address)


def test_the_release_tells_of_itself(site: Site) -> None:
    server = site.server()
    assert release_number(server) == "229"
    assert folder_files(server, "viral") == ("viral.1.genomic.gbff.gz",)
    assert checksums(server, "229") == {"viral.1.genomic.gbff.gz": MD5}
    assert checksums(server, None) == {}
    site.release.md5 = False
    assert checksums(server, "229") == {}
    site.release.number = "230"
    assert checksums(server, "229") == {}


def test_a_page_that_breaks_off_is_asked_for_again(site: Site) -> None:
    site.release.drop["viral/"] = [40]
    assert folder_files(site.server(), "viral") == ("viral.1.genomic.gbff.gz",)
    assert site.slept == [1.0]


def test_a_login_page_is_no_release(site: Site) -> None:
    site.release.page["RELEASE_NUMBER"] = 1
    with pytest.raises(DownloadError, match=r"holds no number but '<html>.*login page"):
        release_number(site.server())


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (CONTENT, None),
        (CONTENT + packed(2), None),
        (CONTENT + bytes(512), None),
        (CONTENT[:-1], "ends too early"),
        (CONTENT + packed(2)[:100], "ends too early"),
        (b"", "ends too early"),
        (CONTENT[:20_000] + b"\0" + CONTENT[20_001:], "damaged"),
        (CONTENT[:-8] + bytes(4) + CONTENT[-4:], "damaged"),
        (CONTENT + b"<html>please", "damaged"),
        (b"<html>", "ends too early"),
    ],
)
def test_whole_gzip_files(tmp_path: Path, content: bytes, damage: str | None) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    found = read_contents(path, unpack=True)
    assert (found.damage is None) == (damage is None)
    assert damage is None or damage in str(found.damage)
    assert read_contents(path, unpack=False).damage is None
    try:
        gzip.decompress(content)
        plain_reads_it = bool(content)
    except (OSError, EOFError):
        plain_reads_it = False
    assert plain_reads_it == (damage is None)


def test_the_longest_silence_is_bearable() -> None:
    assert 10 <= TIMEOUT_SECONDS <= 120
