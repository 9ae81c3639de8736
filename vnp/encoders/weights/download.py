"""Downloads weights from the Hugging Face hub, checks them, and writes the lock; only ``fetch`` opens connections.

The hub's own ``snapshot_download`` throws away what had come of a file when a download breaks off, so gigabytes would
begin anew; here each file is completed from where it ends, by the same library's ``http_get``.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vnp.encoders.spec import EncoderSpec
from vnp.encoders.tokens.tokenizers import FILES as TOKENIZER_FILES
from vnp.encoders.weights.folders import CONFIG_NAME
from vnp.encoders.weights.lock import LockedEncoder, LockedFile, check_fit, read_lock, verify, weight_sha256, write_lock
from vnp.errors import UsageError, VnpError, WeightsError, storage_error, without_password
from vnp.files.machine import require_room

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Progress = Callable[[str, int, int | None], None]
Moved = Callable[[int], None]

_NETWORK_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3", "hf_xet", "socket", "ssl"}
_SHARD = re.compile(r"(?:model-\d+-of-\d+\.safetensors|pytorch_model-\d+-of-\d+\.bin)")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub."""

    size: int | None = None  # in bytes, where the hub says so
    sha256: str | None = None  # where the hub says so, which it does for large files


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A repository at one commit."""

    commit: str  # its full hash
    licence: str  # as stated there, or ``not stated``
    files: Mapping[str, RemoteFile]  # name to what is known of it


class HuggingFaceHub:
    """The hub at an address, such as a mirror; by default that of ``$HF_ENDPOINT``, else huggingface.co."""

    def __init__(self, endpoint: str | None = None) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented there

        # Progress and errors are told once, by us.
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.address: str = (endpoint or constants.ENDPOINT).rstrip("/")
        self.name = without_password(self.address)  # for messages

    def resolve(self, hub_id: str, revision: str | None) -> RemoteModel:
        """Look up a repository at a revision (None: its newest commit).

        Raises:
            WeightsError: it cannot be reached, or there is no such repository or revision.
        """
        from huggingface_hub import HfApi

        try:
            info = HfApi(endpoint=self.address).model_info(hub_id, revision=revision, files_metadata=True)
        except Exception as error:
            raise self._explain(error, f"looking up {hub_id} at {revision or 'its newest commit'}") from error
        if not info.sha:
            raise WeightsError(f"{self.name} does not say which commit {hub_id} is at")
        files = {
            one.rfilename: RemoteFile(one.size, None if one.lfs is None else one.lfs.sha256)
            for one in info.siblings or []
        }
        return RemoteModel(info.sha, _licence(info), files)

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
        known = (
            (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set; unset it to fetch weights"),
            (errors.GatedRepoError, f"{self.name} wants a login; set HF_TOKEN to a token with access"),
            (errors.RevisionNotFoundError, f"{self.name} has no such revision"),
            (errors.EntryNotFoundError, f"{self.name} has no such file at this revision"),
            (errors.RepositoryNotFoundError, f"{self.name} has no such repository (or wants HF_TOKEN for it)"),
        )
        for kind, words in known:
            if isinstance(error, kind):
                return WeightsError(f"{doing}: {words}")
        if isinstance(error, errors.HfHubHTTPError):
            return WeightsError(f"{doing}: {self.name} answered: {_first_line(error)}; {again}")
        if (
            isinstance(error, ConnectionError | TimeoutError)
            or type(error).__module__.partition(".")[0] in _NETWORK_LIBRARIES
        ):
            return WeightsError(
                f"{doing}: no connection to {self.name} ({_first_line(error)}). If this node has no "
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


def _first_line(error: Exception) -> str:
    text = without_password(str(error).strip())
    return text.splitlines()[0] if text else type(error).__name__


def download_weights(
    spec: EncoderSpec,
    root: Path,
    hub: HuggingFaceHub,
    *,
    revision: str | None = None,
    progress: Progress = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[LockedEncoder, bool]:
    """Bring one encoder's files into ``root/NAME`` and its entry into the lock of ``root``.

    Files are downloaded into a folder of their own, which a broken download leaves for the next one to go on with. They
    are checked there, moved to their final names, and entered in the lock last.

    Args:
        revision: commit, tag or branch; None for the pinned one, else the one in the lock, else the newest.
        progress: called with a file's name, its bytes so far and in all.
        say: told what disk is needed.

    Returns:
        The entry in the lock, and whether anything was downloaded.

    Raises:
        UsageError: the encoder has no weights, or is pinned to another revision.
        WeightsError: the hub cannot be reached, lacks the files, or gave others than the pinned ones.
        StorageError: the disk is full or cannot be written.
    """
    if spec.hub_id is None:
        raise UsageError(f"{spec.name} has no weights to fetch")
    if revision is not None and spec.revision is not None and revision != spec.revision:
        raise UsageError(
            f"{spec.name} is pinned to revision {spec.revision}; only encoders without a pin take --revision"
        )
    folder = root / spec.name
    locked = read_lock(root).get(spec.name)
    if locked is not None and revision in (None, locked.revision) and _sound(spec, folder):
        return locked, False
    wanted = revision or spec.revision or (None if locked is None else locked.revision)
    model = hub.resolve(spec.hub_id, wanted)
    names = choose_files(spec, model, hub.address)
    part = root / f".fetch-{spec.name}-{model.commit[:12]}"
    try:
        part.mkdir(parents=True, exist_ok=True)
        say(_room(part, model, names))
        same = locked is not None and locked.revision == model.commit
        known = locked.files if locked is not None and same else {}
        files = {name: _download(spec, model, name, part, hub, known.get(name), progress) for name in names}
        check_fit(spec, part)
        _put_in_place(part, folder, names, [] if locked is None else list(locked.files))
    except OSError as error:
        raise storage_error(error, f"writing {folder}") from error
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = LockedEncoder(spec.hub_id, model.commit, model.licence, now, files)
    # Read again: another fetch may have finished meanwhile.
    write_lock(root, {**read_lock(root), spec.name: entry})
    return entry, True


def choose_files(spec: EncoderSpec, model: RemoteModel, where: str) -> tuple[str, ...]:
    """Choose what to download: configuration, tokenizer, and one set of weights.

    Weights are the pinned files, else safetensors, else ``.bin``.
    """
    needed = [CONFIG_NAME, *(["tokenizer.json"] if spec.family.tokenizer == "pieces" else []), *sorted(spec.pins)]
    for name in needed:
        if name not in model.files:
            raise WeightsError(f"{spec.hub_id} at {model.commit} on {where} has no {name}, which {spec.name} needs")
    small = [CONFIG_NAME, *(name for name in TOKENIZER_FILES[spec.family.tokenizer] if name in model.files)]
    return (*small, *_choose_weights(spec, model, where))


def _choose_weights(spec: EncoderSpec, model: RemoteModel, where: str) -> list[str]:
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if spec.pins and not any(name.endswith(suffix) for name in spec.pins):
            continue
        if f"{stem}{suffix}" in model.files:
            return [f"{stem}{suffix}"]
        shards = sorted(
            name for name in model.files if _SHARD.fullmatch(name) and name.startswith(stem) and name.endswith(suffix)
        )
        if shards and f"{stem}{suffix}.index.json" in model.files:
            return [f"{stem}{suffix}.index.json", *shards]
    raise WeightsError(f"{spec.hub_id} at {model.commit} on {where} has no weights in a form that vnp reads")


def _download(
    spec: EncoderSpec, model: RemoteModel, name: str, part: Path, hub: HuggingFaceHub, locked: LockedFile | None,
    progress: Progress,
) -> LockedFile:  # fmt: skip
    """Complete one file in the folder for unfinished ones and check it."""
    remote = model.files[name]
    expected = {
        "the pin": spec.pins.get(name),
        "the lock": None if locked is None else locked.sha256,
        "the hub": remote.sha256,
    }
    # Known before a byte moves, where the hub tells: gigabytes that would be refused are not downloaded.
    if remote.sha256 is not None:
        _compare(name, remote.sha256, expected, "the hub offers")
    path = part / name
    if path.exists() and remote.size is not None and path.stat().st_size > remote.size:
        path.unlink()
    if not path.exists():
        _reuse(part.parent / spec.name / name, path, remote)
    if remote.size is None or not path.exists() or path.stat().st_size < remote.size:
        hub.download(
            str(spec.hub_id), model.commit, name, path, remote.size, lambda done: progress(name, done, remote.size)
        )
    size = path.stat().st_size
    try:
        if remote.size is not None and size != remote.size:
            raise WeightsError(f"{name}: {size:,} bytes arrived, the hub says {remote.size:,}; run fetch again")
        digest = weight_sha256(path, again=True)
        _compare(name, digest, expected, "what arrived is")
    except WeightsError:
        path.unlink()  # so that the next fetch starts this file anew
        raise
    return LockedFile(size, digest)


def _reuse(final: Path, path: Path, remote: RemoteFile) -> None:
    """Take a file that already stands at its final name, if it is certainly the one on the hub."""
    if remote.sha256 is None or not final.is_file() or final.stat().st_size != remote.size:
        return
    if weight_sha256(final) == remote.sha256:
        # Some file systems have no hard links; then it is downloaded.
        with contextlib.suppress(OSError):
            path.hardlink_to(final)


def _compare(name: str, digest: str, expected: Mapping[str, str | None], what: str) -> None:
    for source, value in expected.items():
        if value is not None and not digest.startswith(value.lower()):
            raise WeightsError(f"{name} is not the file that is expected: {what} sha256 {digest}, {source} is {value}")


def _sound(spec: EncoderSpec, folder: Path) -> bool:
    try:
        verify(spec, folder)
    except WeightsError:
        return False
    return True


def _room(part: Path, model: RemoteModel, names: tuple[str, ...]) -> str:
    missing = 0
    for name in names:
        remote: RemoteFile = model.files[name]
        here = (part / name).stat().st_size if (part / name).exists() else 0
        missing += max(0, (remote.size or 0) - here)
    return require_room(part.parent, missing)


def _put_in_place(part: Path, folder: Path, names: tuple[str, ...], before: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (part / name).replace(folder / name)
    for name in set(before) - set(names):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(part, ignore_errors=True)
