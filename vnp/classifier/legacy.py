"""Reads VirNucPro's classifiers, which are whole pickled program objects, without letting anything in them run.

A pickle is a program that may call whatever it can name. ``torch.load`` with ``weights_only`` lets it name only tensors
and what is admitted besides: the class of the classifier and PyTorch's layers, each of which stands for an empty shell
that is made here, so that not even PyTorch's own code for them is called by the file.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from vnp.classifier.checkpoint import VIRNUCPRO_CLASS, Checkpoint
from vnp.encoders.spec import spec
from vnp.errors import FeatureError, LayoutError, UsageError, storage_error
from vnp.features.layout import FULL, FeatureLayout, make_layout
from vnp.files.records import read_regular
from vnp.files.tensors import require_intact
from vnp.runs.request import versions

_DNA = "dnabert_s"
_PROTEINS = {2560: "esm2_3b", 1280: "fastesm2_650"}
_MOST_BYTES = 1 << 30
_MOST_CHUNK = 10**9
_SHELLS = {
    VIRNUCPRO_CLASS,
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.dropout.Dropout",
}
_ADMITTED = _SHELLS | {
    "torch.FloatStorage",
    "torch.LongStorage",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    "builtins.set",
    "__builtin__.set",
}
_NAMES = {"hidden_layer": "hidden", "bn1": "norm", "output_layer": "output"}
_TENSORS = ("hidden.weight", "hidden.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
            "norm.num_batches_tracked", "output.weight", "output.bias")  # fmt: skip


class _ForeignError(Exception):
    """The file is not what VirNucPro saves; the message says why."""


def convert(path: Path, *, chunk: int, protein: str | None = None) -> Checkpoint:
    """Turn a classifier of VirNucPro into a checkpoint. It comes without calibration: there is no data to fit it on.

    Args:
        path: what VirNucPro's ``train.py`` saved, by any PyTorch, or a state dictionary of such a network.
        chunk: bases of the chunks that it was trained on, 300 or 500; the file does not say.
        protein: encoder of its protein columns; by default the one of their width.

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
        weights = _weights(_load(path))
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    except _ForeignError as error:
        raise FeatureError(
            f"is not a classifier of VirNucPro: {error}. Nothing in it was run. jobs.convert reads what VirNucPro's "
            "train.py saves",
            path=path,
        ) from error
    except Exception as error:
        # Anything at all may come of reading what somebody made up.
        said = str(error).partition("\n")[0]
        raise FeatureError(
            f"is damaged, or not a classifier of VirNucPro ({type(error).__name__}: {said}). Nothing in it was run",
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


def _load(path: Path) -> Any:
    """A shell of the network, or the state dictionary, that a file holds."""
    content = read_regular(path, _MOST_BYTES)
    if zipfile.is_zipfile(io.BytesIO(content)):
        require_intact(content)
        _operations(io.BytesIO(_pickle_in(content)))
    else:
        content = _without_sources(content)
    # Made anew for each file: what a pickle may write into them dies with it.
    shells: list[Any] = [(type("Shell", (), {}), name) for name in _SHELLS]
    with torch.serialization.safe_globals(shells):
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _pickle_in(content: bytes) -> bytes:
    """The pickle in a zip archive of PyTorch's."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise _ForeignError("parts of it are compressed, which PyTorch does not do")
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _ForeignError("it is a zip archive, but not one of PyTorch's")
        return archive.read(pickles[0])


def _without_sources(content: bytes) -> bytes:
    """A file of PyTorch before 1.6 without the source texts of its classes, which ``weights_only`` does not take.

    Such a file is a number, a version, the system, the object and its storages' keys, each a pickle, and then bytes. A
    class stands in the object as ``("module", class, file, source)``, marked as stored elsewhere; only the class stays.
    """
    stream = io.BytesIO(content)
    for _ in ("number", "version", "system"):
        _operations(stream)
    operations = _operations(stream)
    parts, done, mark, shell = [], 0, 0, None
    for number, (opcode, name, place) in enumerate(operations):
        if opcode == "MARK":
            mark, shell = place, None
        elif name in _SHELLS:
            shell = number
        elif opcode == "BINPERSID" and shell is not None:
            # The class, and the note of it for later.
            parts += [content[done:mark], content[operations[shell][2] : operations[shell + 2][2]]]
            done = place + 1
    return b"".join([*parts, content[done:]])


def _operations(stream: IO[bytes]) -> list[tuple[str, str, int]]:
    """The operations of a pickle, not carried out: what each does, what it asks for by name, and its place."""
    found: list[tuple[str, str, int]] = []
    texts: list[str] = []
    for opcode, argument, place in pickletools.genops(stream):
        name = ""
        if opcode.name == "GLOBAL":
            name = str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            name = ".".join(texts[-2:])
        elif "UNICODE" in opcode.name:
            texts.append(str(argument))
        if name and name not in _ADMITTED:
            raise _ForeignError(f"it asks for {name}")
        found.append((opcode.name, name, place or 0))
    return found


def _weights(found: Any) -> dict[str, torch.Tensor]:
    """The network's tensors under this project's names."""
    weights = {}
    for name, tensor in _flat(found).items():
        if not isinstance(tensor, torch.Tensor):
            raise _ForeignError("it holds something else than tensors where its weights should be")
        layer, _, rest = name.partition(".")
        weights[f"{_NAMES.get(layer, layer)}.{rest}"] = tensor.detach().clone(memory_format=torch.contiguous_format)
    if set(weights) != set(_TENSORS):
        odd = ", ".join(sorted(set(weights) ^ set(_TENSORS)))
        raise _ForeignError(f"its layers are not those of VirNucPro's classifier ({odd})")
    if weights["hidden.weight"].ndim != 2 or weights["output.weight"].shape[0] != 2:
        raise _ForeignError("its layers are not shaped as those of VirNucPro's classifier")
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise _ForeignError("its weights hold NaN or infinity")
    return dict(sorted(weights.items()))


def _flat(found: Any) -> dict[str, Any]:
    """Tensors by name, of a shell of the network or of a state dictionary."""
    if isinstance(found, Mapping):
        return {str(name): tensor for name, tensor in found.items()}
    return {
        f"{layer}.{name}": tensor
        for layer, module in vars(found)["_modules"].items()
        for kind in ("_parameters", "_buffers")
        for name, tensor in vars(module).get(kind, {}).items()
        if tensor is not None
    }
