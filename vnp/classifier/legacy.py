"""Reads VirNucPro's classifiers, which are whole pickled program objects, without letting anything in them run.

A pickle is a program that may call whatever it can name. The reader here lets it name only what such a file needs: the
class of the classifier, PyTorch's layers and the functions that rebuild tensors. And each of these names stands for an
empty shell that is made here, so not even PyTorch's own code is called by the file.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from vnp.classifier._pickles import VIRNUCPRO_CLASS
from vnp.classifier.checkpoint import Checkpoint
from vnp.encoders.spec import spec
from vnp.errors import FeatureError, LayoutError, UsageError, storage_error
from vnp.features.layout import FULL, FeatureLayout, make_layout
from vnp.runs.request import versions

_DNA = "dnabert_s"
_PROTEINS = {2560: "esm2_3b", 1280: "fastesm2_650"}
_MOST_BYTES = 1 << 30
_MOST_CHUNK = 10**9
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES: dict[str, type[np.generic]] = {"FloatStorage": np.float32, "LongStorage": np.int64}
_LAYERS = {
    ("torch.nn.modules.linear", "Linear"),
    ("torch.nn.modules.batchnorm", "BatchNorm1d"),
    ("torch.nn.modules.dropout", "Dropout"),
}
_NAMES = {"hidden_layer": "hidden", "bn1": "norm", "output_layer": "output"}
_TENSORS = ("hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
            "norm.num_batches_tracked", "output.weight", "output.bias")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of numbers somewhere in the file."""

    key: str
    dtype: type[np.generic]
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor that is rebuilt once its storage is read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Builds shells of what VirNucPro saved; every other name is refused before it is looked up."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        # Made anew for each file: what a pickle may write into them dies with it.
        shell = type("Shell", (), {})
        self.storages: dict[str, _Storage] = {}
        self._admitted: dict[tuple[str, str], Any] = {
            VIRNUCPRO_CLASS: shell,
            **{name: type("Shell", (), {}) for name in _LAYERS},
            **{("torch", name): name for name in _STORAGES},
            ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: _tensor(*parts),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_rest: tensor,
            ("collections", "OrderedDict"): type("Ordered", (OrderedDict,), {}),
            ("builtins", "set"): type("Names", (set,), {}),
            ("__builtin__", "set"): type("Names", (set,), {}),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name that the pickle asks for."""
        try:
            return self._admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        """A storage, or, in files of PyTorch before 1.6, a class with its source text, which is ignored."""
        if isinstance(pid, tuple) and pid and pid[0] == "module":
            return pid[1]
        kind, name, key, _device, count, *view = pid
        if kind != "storage" or name not in _STORAGES or any(part is not None for part in view):
            raise pickle.UnpicklingError(f"it holds a storage of an unexpected kind: {str(pid)[:100]}")
        return self.storages.setdefault(str(key), _Storage(str(key), _STORAGES[name], int(count)))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any) -> _Tensor:
    shape, stride = tuple(map(int, shape)), tuple(map(int, stride))
    if not isinstance(storage, _Storage) or len(shape) != len(stride) or min((int(offset), *shape, *stride)) < 0:
        raise pickle.UnpicklingError("it holds a tensor that makes no sense")
    return _Tensor(storage, int(offset), shape, stride)


def convert(path: Path, *, chunk: int, protein: str | None = None) -> Checkpoint:
    """Turn a classifier of VirNucPro into a checkpoint. It comes without calibration: there is no data to fit it on.

    Args:
        path: a file that VirNucPro's ``train.py`` saved, by any PyTorch, or a state dictionary of such a network.
        chunk: bases of the chunks that it was trained on, 300 or 500; the file does not say.
        protein: encoder of its protein columns; by default told from the width: 768 + 2560 is ESM2-3B, 768 + 1280
            FastESM2_650.

    Raises:
        FeatureError: the file is damaged, or is not such a classifier; nothing in it was run.
        UsageError: the encoder is not of the width that the classifier reads, or no chunk is of that size.
        StorageError: the file cannot be read.
    """
    if chunk < 30:
        raise UsageError(f"--chunk is {chunk}; VirNucPro's models are for 300 or 500 bases")
    if chunk > _MOST_CHUNK:
        raise UsageError(f"--chunk is {chunk}, beyond {_MOST_CHUNK}; VirNucPro's models are for 300 or 500 bases")
    try:
        found, storages = _read(path)
        weights = _weights(found, storages)
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise FeatureError(
            f"is not a classifier of VirNucPro: {error}. Nothing in it was run. jobs.convert reads what VirNucPro's "
            "train.py saves",
            path=path,
        ) from error
    except Exception as error:
        # Anything at all may come of reading what somebody made up.
        raise FeatureError(
            f"is damaged, or not a classifier of VirNucPro ({type(error).__name__}: {error}). Nothing in it was run",
            path=path,
        ) from error
    layout = _layout(weights["hidden.weight"].shape[1], protein, path)
    made = Checkpoint(
        weights=weights,
        layout=layout,
        encoders={part.name: _identity(part.encoder, part.name) for part in layout.parts},
        chunk=chunk,
        origin="VirNucPro",
        code=versions(),
    )
    made.model()
    return made


def _layout(width: int, protein: str | None, path: Path) -> FeatureLayout:
    dna = spec(_DNA, "dna")
    name = protein or _PROTEINS.get(width - dna.width)
    if name is None:
        known = ", ".join(f"{dna.width} + {other} ({encoder})" for other, encoder in _PROTEINS.items())
        raise LayoutError(f"reads rows of {width} numbers, and VirNucPro's have {known}; use --protein", path=path)
    encoder = spec(name, "protein")
    if dna.width + encoder.width != width:
        raise UsageError(f"{path} reads rows of {width} numbers; {_DNA} and {name} give {dna.width} + {encoder.width}")
    return make_layout(FULL, dna=(_DNA, dna.width), protein=(name, encoder.width))


def _identity(name: str, part: str) -> dict[str, Any]:
    """What is known of an encoder: the file names none, so no revision and no hash."""
    known = spec(name, part)
    return {"name": name, "molecule": part, "width": known.width, "pooling": known.pooling, "hub_id": known.hub_id}


def _read(path: Path) -> tuple[Any, Mapping[str, bytes]]:
    """The shells in a file, and the bytes of its storages by key."""
    with path.open("rb") as file:
        if path.stat().st_size > _MOST_BYTES:
            raise pickle.UnpicklingError(f"it is larger than {_MOST_BYTES >> 20} MB")
        content = io.BytesIO(file.read())
    if zipfile.is_zipfile(content):
        return _read_zip(content)
    content.seek(0)
    return _read_stream(content)


def _read_zip(content: IO[bytes]) -> tuple[Any, Mapping[str, bytes]]:
    with zipfile.ZipFile(content) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise pickle.UnpicklingError("parts of it are compressed, which PyTorch does not do")
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise pickle.UnpicklingError("it is a zip archive, but not one of PyTorch's")
        root = roots[0]
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise pickle.UnpicklingError("it was written on a big-endian machine")
        reader = _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")))
        found = reader.load()
        return found, {key: archive.read(f"{root}data/{key}") for key in reader.storages}


def _read_stream(content: IO[bytes]) -> tuple[Any, Mapping[str, bytes]]:
    """The format of PyTorch before 1.6: a number, a version, the system, the object, its storages' keys, the bytes."""
    if _Unpickler(content).load() != _MAGIC:
        raise pickle.UnpicklingError("it is a pickle, but not one of PyTorch's")
    _Unpickler(content).load()
    if _Unpickler(content).load().get("little_endian") is not True:
        raise pickle.UnpicklingError("it was written on a big-endian machine")
    reader = _Unpickler(content)
    found = reader.load()
    storages = {}
    for key in map(str, _Unpickler(content).load()):
        storage = reader.storages[key]
        if int.from_bytes(content.read(8), "little") != storage.count:
            raise pickle.UnpicklingError("its numbers are not where they should be: the file is damaged")
        storages[key] = content.read(storage.count * np.dtype(storage.dtype).itemsize)
    return found, storages


def _weights(found: Any, storages: Mapping[str, bytes]) -> dict[str, torch.Tensor]:
    """The network's tensors under this project's names."""
    flat = _flat(found)
    weights = {}
    for name, tensor in flat.items():
        layer, _, rest = name.partition(".")
        weights[f"{_NAMES.get(layer, layer)}.{rest}"] = _values(tensor, storages)
    if set(weights) != set(_TENSORS):
        odd = ", ".join(sorted(set(weights) ^ set(_TENSORS)))
        raise pickle.UnpicklingError(f"its layers are not those of VirNucPro's classifier ({odd})")
    if weights["hidden.weight"].ndim != 2 or weights["output.weight"].shape[0] != 2:
        raise pickle.UnpicklingError("its layers are not shaped as those of VirNucPro's classifier")
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise pickle.UnpicklingError("its weights hold NaN or infinity")
    return dict(sorted(weights.items()))


def _flat(found: Any) -> dict[str, _Tensor]:
    """Tensors by name, of a shell of the network or of a state dictionary."""
    if isinstance(found, Mapping):
        return {str(name): tensor for name, tensor in found.items()}
    flat: dict[str, _Tensor] = {}
    for layer, module in vars(found)["_modules"].items():
        state = vars(module)
        for name, tensor in (*state.get("_parameters", {}).items(), *state.get("_buffers", {}).items()):
            if tensor is not None:
                flat[f"{layer}.{name}"] = tensor
    return flat


def _values(tensor: Any, storages: Mapping[str, bytes]) -> torch.Tensor:
    if not isinstance(tensor, _Tensor):
        raise pickle.UnpicklingError("it holds something else than tensors where its weights should be")
    values = np.frombuffer(storages[tensor.storage.key], tensor.storage.dtype)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    too_many = math.prod(tensor.shape) > len(values)
    if 0 in tensor.shape or too_many or last >= len(values) or len(values) != tensor.storage.count:
        raise pickle.UnpicklingError("a tensor reaches beyond its numbers: the file is damaged")
    strides = tuple(step * values.itemsize for step in tensor.stride)
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
    return torch.from_numpy(view.copy())
