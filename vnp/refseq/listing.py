"""What a RefSeq release says of itself: its number, the files of a folder, and their checksums.

The release is laid out as NCBI describes it in ``release-catalog/README``: ``RELEASE_NUMBER`` beside the folders of the
groups, and ``release-catalog/release#.files.installed`` with a checksum for each file: MD5 since December 2022, a CRC
before, which is not used.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from vnp.errors import DownloadError
from vnp.refseq.server import MissingError, Server

_NAME = re.compile(r"\w[\w.+-]*")
_MD5 = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", re.IGNORECASE)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def release_number(server: Server) -> str | None:
    """Read the number of the release; None where the server has no file for it.

    Raises:
        DownloadError: the server cannot be reached.
    """
    try:
        found = server.text("RELEASE_NUMBER").strip()
    except MissingError:
        return None
    if not re.fullmatch(r"\d{1,9}", found):
        raise DownloadError(
            f"{server.base}RELEASE_NUMBER holds no number but {found[:60]!r}: is this a RefSeq release, and does "
            "nothing stand between, such as a proxy's login page?"
        )
    return found


def folder_files(server: Server, folder: str) -> tuple[str, ...]:
    """List the files of a folder, in the order of the server's page.

    Raises:
        DownloadError: the server cannot be reached, or has no such folder.
    """
    page = _Links()
    page.feed(server.text(f"{folder}/"))
    address = f"{server.base}{folder}/"
    return tuple(name for link in page.found if (name := _name(address, link)))


def _name(address: str, link: str) -> str | None:
    """Name of a file that a link leads to, if the file is in this folder."""
    try:
        parts = urlsplit(urljoin(address, link))
    except ValueError:
        return None
    folder, name = parts.path.rpartition("/")[::2]
    here = urlsplit(address)
    if (parts.netloc, f"{folder}/", parts.query) != (here.netloc, here.path, ""):
        return None
    name = unquote(name)
    return name if _NAME.fullmatch(name) else None


def checksums(server: Server, release: str | None) -> dict[str, str]:
    """Read the MD5 of every file of the release; empty where the catalogue has none.

    Raises:
        DownloadError: the server cannot be reached.
    """
    if release is None:
        return {}
    try:
        text = server.text(f"release-catalog/release{release}.files.installed")
    except MissingError:
        return {}
    found = {}
    for line in text.splitlines():
        digest = _MD5.search(line)
        names = [word.rpartition("/")[2] for word in line.split() if word != (digest and digest[0])]
        if digest is not None and names:
            found[names[-1]] = digest[0].lower()
    return found
