"""Downloads weights, checks them, and writes the lock: all that this suite needs the internet for."""

from __future__ import annotations

import contextlib
import datetime
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from vnp.encoders.spec import EncoderSpec
from vnp.encoders.weights.check import check_fit, verify
from vnp.encoders.weights.folders import CONFIG_NAME
from vnp.encoders.weights.hub import Hub, RemoteFile, RemoteModel
from vnp.encoders.weights.lock import LockedEncoder, LockedFile, file_sha256, read_lock, write_lock
from vnp.errors import StorageError, UsageError, WeightsError, storage_error

Progress = Callable[[str, int, int | None], None]

_TOKENIZER_FILES = {
    "esm2": ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json"),
    "dnabert": ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
}
_SHARD = re.compile(r"(?:model-\d+-of-\d+\.safetensors|pytorch_model-\d+-of-\d+\.bin)")


def fetch(
    spec: EncoderSpec, root: Path, hub: Hub, *, revision: str | None = None, progress: Progress | None = None
) -> tuple[LockedEncoder, bool]:
    """Bring one encoder's files into ``root/NAME`` and its entry into the lock.

    Files are downloaded into a folder of their own, which a broken download leaves for the next one to go on
    with. They are checked there, moved to their final names, and entered in the lock last.

    Args:
        spec: the encoder.
        root: the weights folder.
        hub: where to download from.
        revision: commit, tag or branch; None for the pinned one, else the one in the lock, else the newest.
        progress: called with a file's name, its bytes so far and in all.

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
        _check_space(part, model, names)
        same = locked is not None and locked.revision == model.commit
        known = locked.files if locked is not None and same else {}
        files = {name: _download(spec, model, name, part, hub, known.get(name), progress or _silent) for name in names}
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

    Args:
        spec: the encoder.
        model: what the hub has.
        where: the hub's address, for messages.

    Returns:
        File names, small ones first.

    Raises:
        WeightsError: something that is needed is not there.
    """
    needed = [CONFIG_NAME, *(["tokenizer.json"] if spec.tokenizer == "dnabert" else []), *sorted(spec.pins)]
    for name in needed:
        if name not in model.files:
            raise WeightsError(f"{spec.hub_id} at {model.commit} on {where} has no {name}, which {spec.name} needs")
    small = [CONFIG_NAME, *(name for name in _TOKENIZER_FILES[spec.tokenizer] if name in model.files)]
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
    spec: EncoderSpec,
    model: RemoteModel,
    name: str,
    part: Path,
    hub: Hub,
    locked: LockedFile | None,
    progress: Progress,
) -> LockedFile:
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
            str(spec.hub_id),
            model.commit,
            name,
            path,
            remote.size,
            lambda done: progress(name, done, remote.size),
        )
    size = path.stat().st_size
    try:
        if remote.size is not None and size != remote.size:
            raise WeightsError(f"{name}: {size:,} bytes arrived, the hub says {remote.size:,}; run fetch again")
        digest = file_sha256(path, again=True)
        _compare(name, digest, expected, "what arrived is")
    except WeightsError:
        path.unlink()  # so that the next fetch starts this file anew
        raise
    return LockedFile(size, digest)


def _reuse(final: Path, path: Path, remote: RemoteFile) -> None:
    """Take a file that already stands at its final name, if it is certainly the one on the hub."""
    if remote.sha256 is None or not final.is_file() or final.stat().st_size != remote.size:
        return
    if file_sha256(final) == remote.sha256:
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


def _check_space(part: Path, model: RemoteModel, names: tuple[str, ...]) -> None:
    missing = 0
    for name in names:
        remote: RemoteFile = model.files[name]
        here = (part / name).stat().st_size if (part / name).exists() else 0
        missing += max(0, (remote.size or 0) - here)
    free = shutil.disk_usage(part).free
    if missing > free:
        raise StorageError(
            f"{part.parent}: {missing / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free; "
            "choose another folder (--weights DIR)"
        )


def _put_in_place(part: Path, folder: Path, names: tuple[str, ...], before: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (part / name).replace(folder / name)
    for name in set(before) - set(names):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(part, ignore_errors=True)


def _silent(name: str, done: int, total: int | None) -> None:
    """Report nothing."""
