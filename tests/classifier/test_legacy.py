from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.classifier.virnucpro import save_all
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.legacy import convert
from vnp.errors import FeatureError, LayoutError, StorageError, UsageError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("virnucpro")
    save_all(folder)
    return folder


@pytest.mark.parametrize("kind", ["zip", "legacy", "state"])
@pytest.mark.parametrize(("width", "protein"), [(3328, "esm2_3b"), (2048, "fastesm2_650")])
def test_a_converted_classifier_says_what_the_old_one_said(
    saved: Path, tmp_path: Path, kind: str, width: int, protein: str
) -> None:
    made = convert(saved / f"{kind}_{width}.pth", chunk=500)
    made.write(tmp_path / "new.pth")
    new = Checkpoint.load(tmp_path / "new.pth")
    said = torch.load(saved / f"expected_{width}.pt", weights_only=True)
    probability = new.scorer("cpu").probability(said["rows"].numpy())
    # There is nothing to calibrate on.
    assert np.allclose(probability, said["expected"][:, 1].numpy(), atol=1e-6)
    assert (new.origin, new.chunk, new.layout.width) == ("VirNucPro", 500, width)
    assert [(part.encoder, part.width) for part in new.layout.parts] == [("dnabert_s", 768), (protein, width - 768)]


def test_it_fits_features_of_its_encoders_whatever_their_weights_are_called(saved: Path) -> None:
    made = convert(saved / "zip_3328.pth", chunk=300)
    full = {part: {**identity, "revision": "abc", "weights": {"a": "b"}} for part, identity in made.encoders.items()}
    made.require(made.layout, full, 300, "RUN")
    full["protein"]["pooling"] = "tokens"
    with pytest.raises(FeatureError, match="protein encoders differ"):
        made.require(made.layout, full, 300, "RUN")


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_loading_one_is_refused_with_how_to_convert_it(saved: Path, kind: str) -> None:
    path = saved / f"{kind}_3328.pth"
    with pytest.raises(FeatureError, match=r"(?s)checkpoint of VirNucPro.*jobs\.convert .*3328\.pth --chunk 300 --out"):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("zip_1000.pth", LayoutError, "rows of 1000 numbers"),
        ("zip_three_classes.pth", FeatureError, "not shaped"),
        ("zip_other_layers.pth", FeatureError, "Identity"),
        ("zip_nan.pth", FeatureError, "NaN"),
        ("expected_3328.pt", FeatureError, "its layers are not those"),
    ],
)
def test_other_networks_are_refused(saved: Path, name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        convert(saved / name, chunk=300)


def test_an_encoder_of_another_width_is_wrong_use(saved: Path) -> None:
    with pytest.raises(UsageError, match=r"3328 numbers.*768 \+ 1280"):
        convert(saved / "zip_3328.pth", chunk=300, protein="esm2_650m")
    assert convert(saved / "zip_2048.pth", chunk=300, protein="esm2_650m").layout.parts[1].encoder == "esm2_650m"
    with pytest.raises(UsageError, match="300 or 500"):
        convert(saved / "zip_3328.pth", chunk=0)
    with pytest.raises(UsageError, match="beyond 1000000000"):
        convert(saved / "zip_3328.pth", chunk=10**23)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("kept", [0, 10, 0.2, 0.7, 0.99])
def test_truncated_files_are_refused(saved: Path, tmp_path: Path, kind: str, kept: float) -> None:
    whole = (saved / f"{kind}_2048.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(FeatureError, match="Nothing in it was run"):
        convert(tmp_path / "old.pth", chunk=300)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none"):
        convert(tmp_path / "none.pth", chunk=300)


class Calls:
    """A pickle that calls something when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def names(module: str, name: str) -> bytes:
    """A pickle that asks for a name and calls it without arguments."""
    return f"c{module}\n{name}\n(tR.".encode()


def as_zip(content: bytes) -> bytes:
    """A file that torch would take for one of its own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["plain", "zip", "legacy"])
@pytest.mark.parametrize("call", ["exec", "eval", "os.system", "open", "subprocess"])
def test_nothing_in_a_malicious_file_runs(tmp_path: Path, kind: str, call: str) -> None:
    import os
    import subprocess

    marker, path = tmp_path / "it ran", tmp_path / "old.pth"
    made = {
        "exec": Calls(exec, f"open({str(marker)!r}, 'w').close()"),
        "eval": Calls(eval, f"open({str(marker)!r}, 'w').close()"),
        "os.system": Calls(os.system, f"touch '{marker}'"),
        "open": Calls(open, str(marker), "w"),
        "subprocess": Calls(subprocess.call, ["touch", str(marker)]),
    }[call]
    if kind == "plain":
        path.write_bytes(pickle.dumps(made))
    else:
        torch.save({"hidden_layer": made}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(FeatureError, match=r"Nothing in it was run"):
        convert(path, chunk=300)
    assert not marker.exists()
    with pytest.raises(FeatureError):
        Checkpoint.load(path)
    assert not marker.exists()


def test_the_malicious_files_would_run_elsewhere(tmp_path: Path) -> None:
    """The tests above prove something only if the same bytes do run in a reader that admits everything."""
    marker = tmp_path / "it ran"
    content = pickle.dumps(Calls(open, str(marker), "w"))

    class Free(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return super().find_class(module, name)

    Free(io.BytesIO(content)).load().close()
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("os", "getcwd"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("__main__", "MLPClassifier.__init__"),
        ("__main__", "Other"),
        ("torch.nn.modules.linear", "torch.load"),
        ("collections", "OrderedDict.fromkeys"),
        ("vnp.classifier.legacy", "convert"),
        ("copyreg", "_reconstructor"),
    ],
)
def test_names_beyond_the_few_are_refused(tmp_path: Path, module: str, name: str) -> None:
    for protocol, content in ((0, names(module, name)), (4, stack_global(module, name))):
        path = tmp_path / f"{protocol}.pth"
        path.write_bytes(as_zip(content))
        with pytest.raises(FeatureError, match=f"asks for {module}.{name}"):
            convert(path, chunk=300)


def stack_global(module: str, name: str) -> bytes:
    """The same request in protocol 4, which allows dots in names."""
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + texts + b"\x93)R."


def test_tensors_that_reach_beyond_their_numbers_are_refused(saved: Path, tmp_path: Path) -> None:
    """The pickle is sound; the storage under it has been cut short."""
    source = zipfile.ZipFile(saved / "zip_2048.pth")
    with zipfile.ZipFile(tmp_path / "old.pth", "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(
                entry.filename, content[: len(content) // 2 // 8 * 8] if "/data/" in entry.filename else content
            )
    with pytest.raises(FeatureError, match=r"is damaged.*size"):
        convert(tmp_path / "old.pth", chunk=300)


def test_a_compressed_archive_is_refused(saved: Path, tmp_path: Path) -> None:
    """Compressed parts could unfold to more than there is memory."""
    source = zipfile.ZipFile(saved / "zip_2048.pth")
    with zipfile.ZipFile(tmp_path / "old.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(FeatureError, match="compressed"):
        convert(tmp_path / "old.pth", chunk=300)
