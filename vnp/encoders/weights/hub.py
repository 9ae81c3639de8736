"""The Hugging Face hub, as far as fetching weights needs it. Only ``fetch`` opens connections, here."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vnp.errors import VnpError, WeightsError, storage_error

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Moved = Callable[[int], None]

_NETWORK_LIBRARIES = {
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "requests",
    "urllib3",
    "hf_xet",
    "socket",
    "ssl",
}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        size: in bytes, where the hub says so.
        sha256: where the hub says so, which it does for large files.
    """

    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A repository at one commit.

    Attributes:
        commit: its full hash.
        licence: as stated there, or ``not stated``.
        files: name to what is known of it.
    """

    commit: str
    licence: str
    files: Mapping[str, RemoteFile]


class Hub(Protocol):
    """Where weights come from."""

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        ...

    def resolve(self, hub_id: str, revision: str | None) -> RemoteModel:
        """Look up a repository at a revision (None: its newest commit).

        Raises:
            WeightsError: it cannot be reached, or there is no such repository or revision.
        """
        ...

    def download(self, hub_id: str, commit: str, name: str, part: Path, size: int | None, moved: Moved) -> None:
        """Complete the file ``part`` from where it ends.

        Args:
            hub_id: the repository.
            commit: its commit.
            name: the file.
            part: what is here of it, perhaps nothing.
            size: of the whole, if known.
            moved: called with the bytes that are here by now.

        Raises:
            WeightsError: the connection broke or was refused.
            StorageError: the disk is full.
        """
        ...


class HuggingFaceHub:
    """The hub at huggingface.co, or a mirror of it.

    Args:
        endpoint: address; None for ``$HF_ENDPOINT``, else huggingface.co.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented there

        # Progress and errors are told once, by us.
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.address: str = (endpoint or constants.ENDPOINT).rstrip("/")

    def resolve(self, hub_id: str, revision: str | None) -> RemoteModel:
        """Look up a repository at a revision (None: its newest commit)."""
        from huggingface_hub import HfApi

        try:
            info = HfApi(endpoint=self.address).model_info(hub_id, revision=revision, files_metadata=True)
        except Exception as error:
            raise self._explain(error, f"looking up {hub_id} at {revision or 'its newest commit'}") from error
        if not info.sha:
            raise WeightsError(f"{self.address} does not say which commit {hub_id} is at")
        return RemoteModel(commit=info.sha, licence=_licence(info), files=_files(info))

    def download(self, hub_id: str, commit: str, name: str, part: Path, size: int | None, moved: Moved) -> None:
        """Complete the file ``part`` from where it ends."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented there

        url = hf_hub_url(hub_id, name, revision=commit, endpoint=self.address)
        try:
            with _Counted(part, moved) as stream:
                start = stream.seek(0, io.SEEK_END)
                http_get(url, stream, resume_size=start, headers=build_hf_headers(), expected_size=size)
        except Exception as error:
            raise self._explain(error, f"fetching {name} of {hub_id}") from error

    def _explain(self, error: Exception, doing: str) -> VnpError:
        """Say in one line what went wrong and what to do."""
        from huggingface_hub import errors

        again = "run the same command again, it goes on where it stopped"
        if isinstance(error, errors.OfflineModeIsEnabled):
            return WeightsError(f"{doing}: HF_HUB_OFFLINE is set; unset it to fetch weights")
        if isinstance(error, errors.GatedRepoError):
            return WeightsError(f"{doing}: {self.address} wants a login; set HF_TOKEN to a token with access")
        if isinstance(error, errors.RevisionNotFoundError):
            return WeightsError(f"{doing}: {self.address} has no such revision")
        if isinstance(error, errors.EntryNotFoundError):
            return WeightsError(f"{doing}: {self.address} has no such file at this revision")
        if isinstance(error, errors.RepositoryNotFoundError):
            return WeightsError(f"{doing}: {self.address} has no such repository (or wants HF_TOKEN for it)")
        if isinstance(error, errors.HfHubHTTPError):
            return WeightsError(f"{doing}: {self.address} answered: {_first_line(error)}; {again}")
        if isinstance(error, ConnectionError | TimeoutError) or _library(error) in _NETWORK_LIBRARIES:
            return WeightsError(
                f"{doing}: no connection to {self.address} ({_first_line(error)}). If this node has no "
                f"internet, run it on a login node, or fetch elsewhere and copy the folder; else {again}"
            )
        if isinstance(error, OSError) and error.errno is not None:
            return storage_error(error, doing)
        return WeightsError(f"{doing}: {_first_line(error)}; {again}")


class _Counted(io.FileIO):
    """A file, open for going on at its end, that tells how long it is after each write."""

    def __init__(self, path: Path, moved: Moved) -> None:
        path.touch()
        super().__init__(path, "r+")
        self._moved = moved

    def write(self, data: object, /) -> int:
        """Write all of it, as ``http_get`` expects."""
        view = memoryview(data)  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            done += super().write(view[done:])
        self._moved(self.tell())
        return done


def _licence(info: ModelInfo) -> str:
    card = info.card_data
    stated = None if card is None else card.get("license")
    if not stated:
        tags = info.tags or []
        stated = next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None)
    return str(stated) if stated else "not stated"


def _files(info: ModelInfo) -> dict[str, RemoteFile]:
    return {
        one.rfilename: RemoteFile(size=one.size, sha256=None if one.lfs is None else one.lfs.sha256)
        for one in info.siblings or []
    }


def _library(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
