"""``weights.lock.json``: which weights were fetched, and whether those in a folder are they.

The lock lies in the weights folder, beside one folder an encoder. ``jobs.fetch`` writes it; everything else
only reads it. Nothing here opens a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vnp.encoders.spec import SIXFRAME, EncoderSpec, registered
from vnp.encoders.tokens.tokenizers import tokenizer_digest
from vnp.encoders.weights.folders import (
    CONFIG_NAME,
    SINGLE_FILES,
    bundled_folder,
    config_digest,
    config_family,
    config_width,
    read_config,
    weight_files,
)
from vnp.encoders.weights.provenance import trained_on
from vnp.errors import WeightsError
from vnp.files.hashing import remembered_sha256
from vnp.files.records import read_record, write_record

LOCK_NAME = "weights.lock.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file as it was fetched."""

    size: int  # in bytes
    sha256: str  # 64 hexadecimal digits


@dataclass(frozen=True, slots=True)
class LockedEncoder:
    """One encoder as it was fetched."""

    hub_id: str  # repository
    revision: str  # commit that its files came from
    licence: str  # as the hub stated it then, or ``not stated``
    fetched: str  # when, in UTC, ISO 8601
    files: Mapping[str, LockedFile]  # name to size and hash


@dataclass(frozen=True, slots=True)
class _Lock:
    encoders: Mapping[str, LockedEncoder]


def read_lock(folder: Path) -> dict[str, LockedEncoder]:
    """What was fetched into a weights folder, by encoder; empty without a lock, WeightsError where it is damaged."""
    again = "delete it and fetch again (python -m jobs.fetch)"
    found = read_record(
        folder / LOCK_NAME, _Lock, schema=_SCHEMA, seal="digest", older=True, error=WeightsError, remedy=again
    )
    return {} if found is None else dict(found.encoders)


def write_lock(folder: Path, encoders: Mapping[str, LockedEncoder]) -> Path:
    """Write the lock of a weights folder, all of it or nothing."""
    path = folder / LOCK_NAME
    write_record(path, _Lock(encoders), schema=_SCHEMA, seal="digest")
    return path


def find_lock(name: str, folder: Path) -> LockedEncoder | None:
    """An encoder's entry in the lock beside its folder, or in it, if any; WeightsError where a lock is damaged."""
    # Beside the folder as it was named, and beside what a link leads to.
    for place in (folder, folder.parent, folder.resolve().parent):
        entries = read_lock(place)
        if name in entries:
            return entries[name]
        if place == folder and len(entries) == 1 and not registered(name):
            # A folder of its own that was called otherwise when it was written.
            return next(iter(entries.values()))
    return None


def verify(spec: EncoderSpec, folder: Path, *, full: bool = False) -> dict[str, str]:
    """Check an encoder's files against its pins and its lock; ``full`` hashes even what looks unchanged.

    Gives the SHA-256 of the weight files that tensors are read from.

    Raises:
        WeightsError: a file is missing or differs; the message names it, both hashes, and what to do.
    """
    entry = find_lock(spec.name, folder)
    used = weight_files(folder, spec.pins)
    again = f"fetch it again: python -m jobs.fetch {spec.name}"
    if spec.hub_id is None:
        again = "bring it back, or make it again"
    if spec.family is SIXFRAME:
        again = "install vnp again" if folder == bundled_folder(spec) else "bring it back, or train it again"
    if spec.pins and set(used) != set(spec.pins):
        raise WeightsError(
            f"{folder}: {spec.name} is pinned to {', '.join(sorted(spec.pins))}, found {', '.join(used)}; {again}"
        )
    if entry is None:
        return {name: _checked(folder / name, spec.pins.get(name), None, full, again) for name in used}
    if spec.revision is not None and entry.revision != spec.revision:
        raise WeightsError(
            f"{folder}: {LOCK_NAME} records revision {entry.revision}, "
            f"{spec.name} is pinned to {spec.revision}; {again}"
        )
    strange = sorted(set(used) - set(entry.files))
    if strange:
        listed = ", ".join(sorted(entry.files))
        raise WeightsError(f"{folder}: {strange[0]} is not among the files in {LOCK_NAME} ({listed}); {again}")
    found = {
        name: _checked(folder / name, spec.pins.get(name), locked, full, again)
        for name, locked in sorted(entry.files.items())
    }
    return {name: found[name] for name in used}


def _checked(path: Path, pin: str | None, locked: LockedFile | None, full: bool, again: str) -> str:
    """Hash one file and compare it with what is known of it."""
    if not path.is_file():
        raise WeightsError(f"{path} is missing, but {LOCK_NAME} lists it; {again}")
    size = path.stat().st_size
    if locked is not None and size != locked.size:
        raise WeightsError(f"{path} has {size:,} bytes, {LOCK_NAME} says {locked.size:,}; {again}")
    digest = weight_sha256(path, again=full)
    if pin is not None and not digest.startswith(pin.lower()):
        raise WeightsError(f"{path} is not the pinned file: its sha256 is {digest}, pinned is {pin}; {again}")
    if locked is not None and digest != locked.sha256.lower():
        raise WeightsError(
            f"{path} is not the file that was fetched: its sha256 is {digest}, "
            f"{LOCK_NAME} says {locked.sha256}; {again}"
        )
    return digest


def weight_sha256(path: Path, *, again: bool = False) -> str:
    """SHA-256 of a weight file, or what is remembered of it; see ``vnp.files.hashing.remembered_sha256``."""
    try:
        return remembered_sha256(path, again=again)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def check_fit(spec: EncoderSpec, folder: Path) -> tuple[str, str | None]:
    """Check that a folder's configuration and tokenizer are of the encoder's kind; gives their digests.

    That of the tokenizer is None where there is none and the encoder is not a registered one.
    """
    config = read_config(folder)
    family = config_family(config, folder)
    if family != spec.family:
        raise WeightsError(f"{folder} holds {family.name} weights, {spec.name} needs {spec.family.name}")
    if config_width(config) != spec.width:
        raise WeightsError(
            f"{folder / CONFIG_NAME}: hidden_size is {config_width(config)}, {spec.name} is {spec.width} wide"
        )
    tokenizer = tokenizer_digest(folder, spec.family.tokenizer)
    if tokenizer is None and spec.hub_id is not None:
        raise WeightsError(f"{folder / 'tokenizer.json'} is missing; fetch it again: python -m jobs.fetch {spec.name}")
    return config_digest(config), tokenizer


def _as_trained(spec: EncoderSpec, folder: Path) -> EncoderSpec:
    """The pins of the bundled weights are for these alone; a folder of ``finetune`` names its own."""
    if folder == bundled_folder(spec):
        return spec
    digest = read_config(folder).get("weights_sha256")
    if not isinstance(digest, str) or len(digest) != 64:
        raise WeightsError(f"{folder / CONFIG_NAME} does not name the SHA-256 of its weights; train it again")
    return replace(spec, pins={SINGLE_FILES[0]: digest}, licence=None)


def resolve(spec: EncoderSpec, folder: Path, *, full: bool = False) -> EncoderSpec:
    """Complete a spec with what lies in its folder, so that it identifies the numbers it gives.

    That is revision and licence, and digests of weights (all hashed again with ``full``), configuration and tokenizer.

    Raises:
        WeightsError: files are missing or are not the right ones.
    """
    config, tokenizer = check_fit(spec, folder)
    if spec.family is SIXFRAME:
        spec, full = _as_trained(spec, folder), True
    entry = find_lock(spec.name, folder)
    return replace(
        spec,
        revision=spec.revision if entry is None else entry.revision,
        licence=spec.licence if entry is None else entry.licence,
        weights=verify(spec, folder, full=full),
        config_digest=config,
        tokenizer_digest=tokenizer,
        trained_on=trained_on(folder),
    )
