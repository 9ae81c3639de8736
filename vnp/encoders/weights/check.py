"""Weights: whether they are the right ones, and the tensors in them.

Nothing here opens a connection, and nothing that a file contains is ever executed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vnp.encoders.spec import EncoderSpec
from vnp.encoders.tokens.tokenizers import tokenizer_digest
from vnp.encoders.weights.folders import (
    CONFIG_NAME,
    SINGLE_FILES,
    config_digest,
    config_family,
    read_config,
    read_index,
    weight_files,
)
from vnp.encoders.weights.lock import LOCK_NAME, LockedEncoder, LockedFile, file_sha256, read_lock
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


def find_lock(name: str, folder: Path) -> LockedEncoder | None:
    """Find an encoder's entry in the lock beside its folder, or in it.

    Args:
        name: the encoder.
        folder: the model's folder.

    Returns:
        The entry, or None if nothing was recorded.

    Raises:
        WeightsError: a lock is damaged.
    """
    # Beside the folder as it was named, and beside what a link leads to.
    for place in (folder, folder.parent, folder.resolve().parent):
        entry = read_lock(place).get(name)
        if entry is not None:
            return entry
    return None


def verify(spec: EncoderSpec, folder: Path, *, full: bool = False) -> dict[str, str]:
    """Check an encoder's files against its pins and its lock.

    Args:
        spec: the encoder.
        folder: the model's folder.
        full: hash every file again, even one that looks unchanged since it was last checked.

    Returns:
        Weight file to SHA-256, for the files that tensors are read from.

    Raises:
        WeightsError: a file is missing or differs; the message names it, both hashes, and what to do.
    """
    entry = find_lock(spec.name, folder)
    used = weight_files(folder, spec.pins)
    again = f"fetch it again: python -m jobs.fetch {spec.name}"
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
    digest = file_sha256(path, again=full)
    if pin is not None and not digest.startswith(pin.lower()):
        raise WeightsError(f"{path} is not the pinned file: its sha256 is {digest}, pinned is {pin}; {again}")
    if locked is not None and digest != locked.sha256.lower():
        raise WeightsError(
            f"{path} is not the file that was fetched: its sha256 is {digest}, "
            f"{LOCK_NAME} says {locked.sha256}; {again}"
        )
    return digest


def check_fit(spec: EncoderSpec, folder: Path) -> tuple[str, str | None]:
    """Check that a folder's configuration and tokenizer are of the encoder's kind, before any tensor is read.

    Args:
        spec: the encoder.
        folder: the model's folder.

    Returns:
        Digest of the configuration and of the tokenizer; the latter is None where there is no tokenizer and the
        encoder is not a registered one.

    Raises:
        WeightsError: they are of another kind, or missing.
    """
    config = read_config(folder)
    family = config_family(config, folder)
    if family != spec.family:
        raise WeightsError(f"{folder} holds {family} weights, {spec.name} needs {spec.family}")
    if config.get("hidden_size") != spec.width:
        raise WeightsError(
            f"{folder / CONFIG_NAME}: hidden_size is {config.get('hidden_size')}, {spec.name} is {spec.width} wide"
        )
    tokenizer = tokenizer_digest(folder, spec.tokenizer)
    if tokenizer is None and spec.hub_id is not None:
        raise WeightsError(f"{folder / 'tokenizer.json'} is missing; fetch it again: python -m jobs.fetch {spec.name}")
    return config_digest(config), tokenizer


def resolve(spec: EncoderSpec, folder: Path, *, full: bool = False) -> EncoderSpec:
    """Complete a spec with what lies in its folder, so that it identifies the numbers it gives.

    Args:
        spec: the encoder.
        folder: the model's folder.
        full: hash every file again.

    Returns:
        The spec with the found revision and licence, and digests of weights, configuration and tokenizer.

    Raises:
        WeightsError: files are missing or are not the right ones.
    """
    config, tokenizer = check_fit(spec, folder)
    entry = find_lock(spec.name, folder)
    return dataclasses.replace(
        spec,
        revision=spec.revision if entry is None else entry.revision,
        licence=spec.licence if entry is None else entry.licence,
        weights=verify(spec, folder, full=full),
        config_digest=config,
        tokenizer_digest=tokenizer,
    )


def read_state(folder: Path, pins: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Read all tensors of a model, on the CPU, mapped from disk where the format allows it.

    Args:
        folder: the model's folder.
        pins: pinned files of the encoder.

    Returns:
        Tensor name to tensor, with the names and types of the files.

    Raises:
        WeightsError: a file is missing, truncated, damaged, or a pickle with anything but plain tensors in
            it; nothing in such a pickle is executed.
    """
    from vnp.encoders.weights.state import read_tensors

    state: dict[str, Tensor] = {}
    names = weight_files(folder, pins)
    for name in names:
        tensors = read_tensors(folder / name)
        twice = sorted(set(tensors) & set(state))
        if twice:
            raise WeightsError(f"{folder / name}: tensor {twice[0]!r} is also in another file of {folder}")
        state.update(tensors)
    for kind in SINGLE_FILES:
        index_path = folder / f"{kind}.index.json"
        if len(names) > 1 and names[0].endswith(Path(kind).suffix) and index_path.is_file():
            _check_index(index_path, state)
    return state


def _check_index(path: Path, state: Mapping[str, Tensor]) -> None:
    promised = set(read_index(path))
    missing, extra = sorted(promised - set(state)), sorted(set(state) - promised)
    if missing or extra:
        what = f"tensor {missing[0]!r} is in no file" if missing else f"tensor {extra[0]!r} is not listed"
        raise WeightsError(
            f"{path}: {what} ({len(missing)} missing, {len(extra)} unlisted); fetch it again (python -m jobs.fetch)"
        )
