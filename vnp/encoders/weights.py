"""Weight folders: where they are, whether they are the right ones, and what is in them.

A folder holds ``config.json``, the tokenizer's files, and the tensors as ``model.safetensors``, as sharded
safetensors with an index, or as ``pytorch_model.bin``, whole or sharded. Nothing here opens a connection, and
nothing that a file contains is ever executed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vnp.encoders.lock import LOCK_NAME, LockedEncoder, file_sha256, read_lock
from vnp.encoders.spec import EncoderSpec, Family
from vnp.encoders.tokenizers import tokenizer_digest
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME = "config.json"
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_ORDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# What in config.json changes the numbers that come out; the rest is bookkeeping.
_NUMERIC_KEYS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"),
    *("layer_norm_eps", "hidden_act", "position_embedding_type", "emb_layer_norm_before"),
    *("token_dropout", "mask_token_id", "pad_token_id", "type_vocab_size"),
)


def weights_root(given: Path | None = None) -> Path:
    """Say where weights are kept.

    Args:
        given: the user's ``--weights``, if any.

    Returns:
        That; else ``$VNP_WEIGHTS``; else ``vnp/weights`` in the user's cache folder (``$XDG_CACHE_HOME``, else
        ``~/.cache``).
    """
    if given is not None:
        return given.expanduser()
    if os.environ.get("VNP_WEIGHTS"):
        return Path(os.environ["VNP_WEIGHTS"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vnp" / "weights"


def find_folder(spec: EncoderSpec, weights: Path | None = None) -> Path:
    """Find the folder with an encoder's files.

    Args:
        spec: the encoder.
        weights: the folder of this one model (it has a ``config.json``), or one with a folder an encoder in it.

    Returns:
        The folder of this model.

    Raises:
        WeightsError: it is not there; the message has the command that fetches it.
    """
    root = weights_root(weights)
    for folder in (root, root / spec.name):
        if (folder / CONFIG_NAME).is_file():
            return folder
    how = f"python -m jobs.fetch {spec.name} --weights {root}"
    if (root / spec.name).is_dir():
        raise WeightsError(f"{root / spec.name} has no {CONFIG_NAME}; fetch it again: {how}")
    raise WeightsError(
        f"no weights for {spec.name}: {root / spec.name} does not exist. On a node with internet run: {how}\n"
        "or name the folder that has them (--weights DIR or VNP_WEIGHTS)"
    )


def read_config(folder: Path) -> dict[str, object]:
    """Read ``config.json``.

    Args:
        folder: the model's folder.

    Returns:
        Its content.

    Raises:
        WeightsError: it is missing or not a JSON object.
    """
    path = folder / CONFIG_NAME
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; a weights folder needs it (python -m jobs.fetch)") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object; fetch it again (python -m jobs.fetch)")
    return content


def config_family(config: Mapping[str, object], folder: Path) -> Family:
    """Say which architecture a configuration describes.

    Args:
        config: content of ``config.json``.
        folder: where it came from, for messages.

    Returns:
        ``esm2`` or ``dnabert``.

    Raises:
        WeightsError: neither.
    """
    kind = config.get("model_type")
    listed = config.get("architectures")
    classes = [str(one) for one in listed] if isinstance(listed, list) else []
    if kind in ("esm", "fast_esm", "fastesm") or any("esm" in one.lower() for one in classes):
        return "esm2"
    if kind == "bert" and "alibi_starting_size" in config:
        return "dnabert"
    raise WeightsError(
        f"{folder / CONFIG_NAME}: model_type {kind!r} with architectures {classes} is neither ESM2 nor DNABERT-S"
    )


def weight_files(folder: Path, pins: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Choose which files the tensors are read from.

    Pinned files come first if all are there; then safetensors before ``.bin``, one file before many.

    Args:
        folder: the model's folder.
        pins: pinned files of the encoder.

    Returns:
        Names of the files with tensors, in order; never an index.

    Raises:
        WeightsError: there are none, or an index names one that is missing.
    """
    if pins and all((folder / name).is_file() for name in pins):
        return tuple(sorted(pins))
    for name in _ORDER:
        if not (folder / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return (name,)
        return tuple(sorted(set(read_index(folder / name).values())))
    raise WeightsError(
        f"{folder} has no weights: neither {SINGLE_FILES[0]} nor {SINGLE_FILES[1]}, nor an index of either "
        "(python -m jobs.fetch)"
    )


def read_index(path: Path) -> dict[str, str]:
    """Read the index of sharded weights.

    Args:
        path: such as ``model.safetensors.index.json``.

    Returns:
        Tensor name to file name. Each file exists in the same folder.

    Raises:
        WeightsError: the index is damaged or names a file that is missing or lies elsewhere.
    """
    try:
        table = json.loads(path.read_text("utf-8"))["weight_map"]
        index = {str(tensor): str(file) for tensor, file in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not an index of weights ({type(error).__name__}: {error})") from error
    if not index:
        raise WeightsError(f"{path} names no tensors; fetch it again (python -m jobs.fetch)")
    for file in sorted(set(index.values())):
        if file in (".", "..") or Path(file).name != file:
            raise WeightsError(f"{path} names {file!r}, which is not a plain file name")
        if not (path.parent / file).is_file():
            raise WeightsError(
                f"{path.parent / file} is missing, but {path.name} needs it; fetch it again (python -m jobs.fetch)"
            )
    return index


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
    for place in (folder, folder.resolve().parent):
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
    if entry is not None and spec.revision is not None and entry.revision != spec.revision:
        raise WeightsError(
            f"{folder}: {LOCK_NAME} records revision {entry.revision}, {spec.name} is pinned to {spec.revision}; "
            f"{again}"
        )
    locked = {} if entry is None else entry.files
    if entry is not None and not set(used) <= set(locked):
        raise WeightsError(
            f"{folder}: {', '.join(sorted(set(used) - set(locked)))} is not in {LOCK_NAME}, which has "
            f"{', '.join(sorted(locked))}; {again}"
        )
    found: dict[str, str] = {}
    for name in sorted({*used, *locked}):
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"{path} is missing, but {LOCK_NAME} lists it; {again}")
        if name in locked and path.stat().st_size != locked[name].size:
            raise WeightsError(
                f"{path} has {path.stat().st_size:,} bytes, {LOCK_NAME} says {locked[name].size:,}; {again}"
            )
        digest = file_sha256(path, again=full)
        for source, expected in (
            ("pinned", spec.pins.get(name)),
            (LOCK_NAME, locked[name].sha256 if name in locked else None),
        ):
            if expected is not None and not digest.startswith(expected.lower()):
                raise WeightsError(
                    f"{path} is not the file that is expected: sha256 {digest}, {source}: {expected}; {again}"
                )
        if name in used:
            found[name] = digest
    return found


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
    config = read_config(folder)
    family = config_family(config, folder)
    if family != spec.family:
        raise WeightsError(f"{folder} holds {family} weights, {spec.name} needs {spec.family}")
    if config.get("hidden_size") != spec.width:
        raise WeightsError(
            f"{folder / CONFIG_NAME}: hidden_size is {config.get('hidden_size')}, {spec.name} is {spec.width} wide"
        )
    entry = find_lock(spec.name, folder)
    return dataclasses.replace(
        spec,
        revision=spec.revision if entry is None else entry.revision,
        licence=spec.licence if entry is None else entry.licence,
        weights=verify(spec, folder, full=full),
        config_digest=_config_digest(config),
        tokenizer_digest=tokenizer_digest(folder, spec.tokenizer),
    )


def read_state(folder: Path, pins: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Read all tensors of a model, on the CPU, mapped from disk where the format allows it.

    Args:
        folder: the model's folder.
        pins: pinned files of the encoder.

    Returns:
        Tensor name to tensor, with the names and types of the files.

    Raises:
        WeightsError: a file is missing, truncated, damaged, or a pickle with anything but plain tensors in it;
            nothing in such a pickle is executed.
    """
    from vnp.encoders._tensors import read_tensors

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


def _config_digest(config: Mapping[str, object]) -> str:
    kept = {key: config[key] for key in _NUMERIC_KEYS if key in config}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
