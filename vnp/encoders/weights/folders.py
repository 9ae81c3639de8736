"""Weight folders: where they are and which files are in them.

A folder holds ``config.json``, the tokenizer's files, and the tensors as ``model.safetensors``, as sharded
safetensors with an index, or as ``pytorch_model.bin``, whole or sharded.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

import vnp
from vnp.encoders.spec import SIXFRAME, TRAINED, EncoderSpec, Family, registered, spec, weighted
from vnp.errors import UsageError, WeightsError
from vnp.files.machine import cache_folder
from vnp.files.records import read_json

CONFIG_NAME = "config.json"
_LARGEST_CONFIG = 1 << 20
_LARGEST_INDEX = 1 << 26
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
_ORDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# What in config.json changes the numbers that come out; the rest is bookkeeping.
_NUMERIC_KEYS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"),
    *("layer_norm_eps", "hidden_act", "position_embedding_type", "emb_layer_norm_before"),
    *("token_dropout", "mask_token_id", "pad_token_id", "type_vocab_size", "network"),
)


def weights_root(given: Path | None = None) -> Path:
    """Where weights are kept: the user's ``--weights``, else ``$VNP_WEIGHTS``, else ``weights`` in the cache folder."""
    if given is not None:
        return given.expanduser()
    if os.environ.get("VNP_WEIGHTS"):
        return Path(os.environ["VNP_WEIGHTS"]).expanduser()
    return cache_folder("weights")


def locate(name: str, molecule: str | None = None, weights: Path | None = None) -> tuple[EncoderSpec, Path | None]:
    """What an encoder is, by its name or by the folder that it lies in; and that folder where it is no registered one.

    A folder that holds a ``sixframe`` network is ``sixframe`` with other weights. One that is called as a registered
    encoder of its kind is held to the pins of that. Any other is an encoder of its own, called after its folder.

    Args:
        name: of a registered encoder, of a folder in the folder of weights, or the path of a folder.
        molecule: what it is to read; None where the name says.
        weights: as in ``find_folder``.

    Raises:
        UsageError: there is none, or it reads the other molecule.
        WeightsError: the folder does not hold a model that can be run.
    """
    if registered(name, molecule):
        return spec(name, molecule), None
    folder = folder_named(name)
    if folder is None and (weights_root(weights) / name / CONFIG_NAME).is_file():
        folder = weights_root(weights) / name
    if folder is None:
        try:
            return spec(name, molecule), None
        except UsageError as error:
            raise UsageError(f"{error}; or name a folder with {CONFIG_NAME} and weights") from None
    found = spec_of_folder(folder)
    if molecule is not None and found.molecule != molecule:
        raise UsageError(f"{folder} holds a {found.family.title} model, which reads {found.molecule}: use another one")
    return found, folder


def locate_weighted(name: str, weights: Path | None = None) -> tuple[EncoderSpec, Path | None]:
    """What an encoder with weights is, as ``locate`` says it; UsageError also where it has none."""
    if any(not one.needs_weights for one in registered(name)):
        there = ", ".join(one.name for one in weighted())
        raise UsageError(f"{name} has no weights; give {there}, or the folder of a model")
    return locate(name, None, weights)


def folder_named(name: str) -> Path | None:
    """The folder that a name means where it is a path and no encoder's name."""
    if registered(name):
        return None
    path = Path(name).expanduser()
    return path if "/" in name or name in (".", "..") or (path / CONFIG_NAME).is_file() else None


def spec_of_folder(folder: Path, *, pinned: bool = True) -> EncoderSpec:
    """What the model in a folder is, by its ``config.json``; WeightsError where it is none that can be run.

    With ``pinned`` a folder called as a registered encoder is held to be that.
    """
    config = read_config(folder)
    family = config_family(config, folder)
    if family is SIXFRAME:
        return spec(family.name, family.molecule)
    name = folder.resolve().name
    for known in registered(name, family.molecule) if pinned else ():
        if known.family is family:
            return known
    width = config_width(config)
    if not isinstance(width, int) or width < 1:
        raise WeightsError(f"{folder / CONFIG_NAME}: hidden_size is {width!r}, not a number of columns")
    return EncoderSpec(name, family.molecule, width, family)


def find_folder(spec: EncoderSpec, weights: Path | None = None) -> Path:
    """Find the folder with an encoder's files.

    ``weights`` is the folder of this one model (it has a ``config.json``), or one with a folder an encoder.

    Raises:
        WeightsError: it is not there; the message has the command that fetches it.
    """
    if spec.bundled is not None:
        return _own_folder(spec, weights)
    root = weights_root(weights)
    for folder in (root, root / spec.name):
        if (folder / CONFIG_NAME).is_file():
            return folder
    how = f"python -m jobs.fetch {spec.name} --weights {quote(str(root))}"
    if (root / spec.name).is_dir():
        raise WeightsError(f"{root / spec.name} has no {CONFIG_NAME}; fetch it again: {how}")
    sizes = "".join(f"\n  {one.name:<13} {one.molecule:<8} {one.gigabytes:5.1f} GB" for one in weighted())
    raise WeightsError(
        f"no weights for {spec.name}: {root / spec.name} does not exist. On a node with internet run:\n"
        f"  {how}\n"
        "or name the folder that has them (--weights DIR or VNP_WEIGHTS).\n"
        f"Encoders whose weights are to be fetched:{sizes}\n"
        "Without any: python -m jobs.predict with its native model, and the encoders kmer\nand sixframe"
    )


def bundled_folder(spec: EncoderSpec) -> Path | None:
    """The folder of the package with an encoder's weights, if they come with it."""
    return None if spec.bundled is None else Path(vnp.__file__).parent / spec.bundled


def _own_folder(spec: EncoderSpec, weights: Path | None) -> Path:
    """Where an encoder's weights are that come with the package, and that users may have trained anew."""
    bundled = bundled_folder(spec)
    assert bundled is not None
    if weights is None:
        return bundled
    root = weights_root(weights)
    without = f"{spec.name} has its weights in the package: leave out --weights (and VNP_WEIGHTS), or name"
    if not root.is_dir():
        raise WeightsError(f"{root} does not exist; {without} a folder that jobs.finetune wrote")
    for folder in (root, root / spec.name):
        if (folder / CONFIG_NAME).is_file():
            kind = read_config(folder).get("model_type")
            if kind not in spec.family.model_types:
                raise WeightsError(
                    f"{folder} holds a model of the type {kind!r}; {without} a folder with a folder an encoder"
                )
            return folder
    return bundled


def window_of(spec: EncoderSpec, weights: Path | None = None) -> int:
    """Bases that an encoder of windows was trained to read at once; WeightsError where its folder does not say."""
    folder = find_folder(spec, weights)
    window = read_config(folder).get("window")
    if not isinstance(window, int) or window < 1:
        raise WeightsError(f"{folder / CONFIG_NAME} has {window!r} as window, not a number of bases")
    return window


def config_width(config: Mapping[str, object]) -> object:
    """The numbers of a row, as a configuration says."""
    return config.get("hidden_size", config.get("width"))


def read_config(folder: Path) -> dict[str, object]:
    """Read ``config.json``."""
    path = folder / CONFIG_NAME
    try:
        content = read_json(path, _LARGEST_CONFIG)
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; a weights folder needs it (python -m jobs.fetch)") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object; fetch it again (python -m jobs.fetch)")
    return content


def config_family(config: Mapping[str, object], folder: Path) -> Family:
    """The first architecture that a configuration fits."""
    found = next((one for one in TRAINED if one.describes(config)), None)
    if found is None:
        known = " nor ".join(one.title for one in TRAINED)
        raise WeightsError(
            f"{folder / CONFIG_NAME}: model_type {config.get('model_type')!r}, architectures "
            f"{config.get('architectures') or []}: neither {known}"
        )
    return found


def weight_files(folder: Path, pins: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Choose which files the tensors are read from.

    Pinned files come first if all are there; then safetensors before ``.bin``, one file before many. An
    index is never among them.
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
    """Read the index of sharded weights: tensor to file name, each of a file in the same folder."""
    try:
        table = read_json(path, _LARGEST_INDEX)["weight_map"]
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


def config_digest(config: Mapping[str, object]) -> str:
    """Hash what in a configuration changes the numbers that come out."""
    kept = {key: config[key] for key in _NUMERIC_KEYS if key in config}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
