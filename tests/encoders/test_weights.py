from __future__ import annotations

import dataclasses
import json
import os
import pickle
import socket
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.encoders._folders import ESM2_CONFIG, TINY, esm2_state, lock_folder, write_folder
from vnp.encoders import describe, device, from_folder, identity, load
from vnp.encoders.build import read_state
from vnp.encoders.device import choose_device, choose_precision
from vnp.encoders.spec import DNABERT, ESM2, spec
from vnp.encoders.weights.folders import config_family, find_folder, weight_files, weights_root
from vnp.encoders.weights.lock import resolve, verify
from vnp.errors import EncoderError, UsageError, WeightsError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VNP_WEIGHTS", raising=False)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def halves(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    names = sorted(state)
    return [{name: state[name] for name in part} for part in (names[::2], names[1::2])]


def write_bin(folder: Path, content: object, name: str = "pytorch_model.bin", *, new: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG))
    torch.save(content, folder / name, _use_new_zipfile_serialization=new)
    return folder / name


def write_shards(folder: Path, state: dict[str, torch.Tensor], kind: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG))
    table: dict[str, str] = {}
    for number, part in enumerate(halves(state), 1):
        stem, suffix = kind.split(".")
        name = f"{stem}-0000{number}-of-00002.{suffix}"
        if suffix == "bin":
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name)
        table |= dict.fromkeys(part, name)
    (folder / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return table


# --- where weights are


def test_root_is_the_option_then_the_variable_then_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights_root() == tmp_path / "cache" / "vnp" / "weights"
    monkeypatch.setenv("VNP_WEIGHTS", str(tmp_path / "shared"))
    assert weights_root() == tmp_path / "shared"
    assert weights_root(tmp_path) == tmp_path


def test_a_folder_of_one_model_or_of_many(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny")
    assert find_folder(TINY, tmp_path) == folder
    assert find_folder(TINY, folder) == folder


def test_missing_weights_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"python -m jobs\.fetch fastesm2_650 --weights"):
        load("fastesm2_650", weights=tmp_path)
    (tmp_path / "dnabert_s").mkdir()
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        describe("dnabert_s", "dna", tmp_path)


# --- reading tensors


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_whole_and_sharded_files_hold_the_same_tensors(kind: str, tmp_path: Path) -> None:
    state = esm2_state()
    if kind.endswith(".bin"):
        write_bin(tmp_path / "whole", state)
    else:
        write_folder(tmp_path / "whole", state)
    write_shards(tmp_path / "sharded", state, kind)
    assert same(read_state(tmp_path / "whole"), state)
    assert same(read_state(tmp_path / "sharded"), state)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_both_formats_of_bin_and_their_usual_content(new: bool, tmp_path: Path) -> None:
    state = OrderedDict(esm2_state())
    state["a.parameter"] = torch.nn.Parameter(torch.ones(2))
    write_bin(tmp_path, state, new=new)
    assert same(read_state(tmp_path), dict(state))


def test_safetensors_come_before_bin_and_pins_before_both(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_bin(tmp_path, esm2_state(1))
    assert weight_files(tmp_path) == ("model.safetensors",)
    assert weight_files(tmp_path, {"pytorch_model.bin": "00000000"}) == ("pytorch_model.bin",)
    assert same(read_state(tmp_path), esm2_state(0))


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("shape", ["alone", "beside tensors", "raw pickle", "legacy"])
def test_code_in_a_pickle_is_refused_and_does_not_run(shape: str, tmp_path: Path) -> None:
    target = tmp_path / "was-run"
    content: object = Malicious(target)
    if shape != "alone":
        content = {"weight": torch.ones(2), "code": content}
    path = write_bin(tmp_path / "model", content, new=shape != "legacy")
    if shape == "raw pickle":
        path.write_bytes(pickle.dumps(Malicious(target)))
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / "model")
    message = str(caught.value)
    assert str(path) in message
    assert "not a plain state dict" in message
    assert "mkdir" in message or shape == "raw pickle"  # there the file's version is refused first
    assert "weights_only" not in message  # torch's own advice is to switch the check off
    assert len(message.splitlines()) == 1
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {"weight": torch.ones(2)}}, "'state_dict' is a dict, not a tensor"),
        ({"weight": torch.ones(2), "epoch": 3}, "'epoch' is a int, not a tensor"),
        ({3: torch.ones(2)}, "not a plain state dict"),
        ([torch.ones(2)], "it holds a list"),
        (torch.ones(2), "it holds a Tensor"),
        ({}, "holds no tensors"),
        ({"weight": torch.ones(2).to_sparse()}, "not an ordinary dense tensor"),
    ],
)
def test_a_pickle_of_something_else_is_named(content: object, said: str, tmp_path: Path) -> None:
    write_bin(tmp_path, content)
    with pytest.raises(WeightsError, match=said):
        read_state(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "first bytes"])
def test_damaged_files_are_one_message(name: str, damage: str, tmp_path: Path) -> None:
    if name.endswith(".bin"):
        write_bin(tmp_path, esm2_state())
    else:
        write_folder(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "noise": bytes(range(256)) * 40,
            "first bytes": whole[:6],
        }[damage]
    )
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_weights_and_no_config(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="has no weights"):
        read_state(tmp_path)
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        from_folder(tmp_path)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_faults_of_an_index(kind: str, tmp_path: Path) -> None:
    table = write_shards(tmp_path, esm2_state(), kind)
    index = tmp_path / f"{kind}.index.json"

    def refused(said: str) -> None:
        with pytest.raises(WeightsError, match=said):
            read_state(tmp_path)

    index.write_text(json.dumps({"weight_map": table | {"ghost.weight": table[sorted(table)[0]]}}))
    refused("'ghost.weight' is in no file")
    index.write_text(json.dumps({"weight_map": {name: table[name] for name in sorted(table)[1:]}}))
    refused("is not listed")
    index.write_text(json.dumps({"weight_map": table | {"x": "../elsewhere.bin"}}))
    refused("not a plain file name")
    index.write_text(json.dumps({"weight_map": {}}))
    refused("names no tensors")
    index.write_text("[]")
    refused("is not an index")
    index.write_text(json.dumps({"weight_map": table}))
    (tmp_path / table[sorted(table)[0]]).unlink()
    refused("is missing, but")


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    state = esm2_state()
    table = write_shards(tmp_path, state, "model.safetensors")
    save_file(state, tmp_path / table[sorted(table)[0]])
    with pytest.raises(WeightsError, match="also in another file"):
        read_state(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_a_damaged_config(text: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json"):
        from_folder(tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither ESM2 nor DNABERT-S"):
        config_family({"model_type": "bert", "architectures": ["BertModel"]}, tmp_path)
    assert config_family({"model_type": "bert", "alibi_starting_size": 512}, tmp_path) == DNABERT
    assert config_family({"model_type": "fast_esm"}, tmp_path) == ESM2


# --- are they the right ones


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny")
    found = verify(TINY, folder)
    assert list(found) == ["model.safetensors"]
    lock_folder(folder, TINY)
    assert verify(TINY, folder, full=True) == found
    assert resolve(TINY, folder).revision == "1" * 40
    assert resolve(TINY, folder).licence == "MIT"


def test_the_lock_is_found_through_a_link(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "store" / "abc")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tiny").symlink_to(folder)
    lock_folder(tmp_path / "weights" / "tiny", TINY)
    assert resolve(TINY, tmp_path / "weights" / "tiny").revision == "1" * 40


def test_a_changed_file_names_both_hashes_and_the_command(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny")
    before = verify(TINY, folder)["model.safetensors"]
    lock_folder(folder, TINY)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        verify(TINY, folder)
    for part in (str(path), before, "weights.lock.json", "python -m jobs.fetch tiny"):
        assert part in str(caught.value)
    path.write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=r"bytes, weights\.lock\.json says"):
        verify(TINY, folder)
    path.unlink()
    with pytest.raises(WeightsError, match="has no weights"):
        verify(TINY, folder)


def test_a_tokenizer_or_config_that_changed_is_noticed_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny")
    lock_folder(folder, TINY)
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG | {"num_attention_heads": 4}))
    with pytest.raises(WeightsError, match=r"config\.json"):
        verify(TINY, folder)


def test_a_file_beside_the_lock_that_it_does_not_know(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write_bin(folder.parent / "tiny", esm2_state())
    lock_folder(folder, TINY)
    save_file(esm2_state(1), folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors is not among the files"):
        verify(TINY, folder)


def test_pins_hold_without_a_lock_and_may_be_prefixes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny")
    digest = verify(TINY, folder)["model.safetensors"]
    pinned = dataclasses.replace(TINY, revision="1" * 40, pins={"model.safetensors": digest[:8].upper()})
    assert verify(pinned, folder) == {"model.safetensors": digest}
    wrong = dataclasses.replace(pinned, pins={"model.safetensors": "deadbeef"})
    with pytest.raises(WeightsError, match=r"is not the pinned file.*deadbeef"):
        verify(wrong, folder)
    other = dataclasses.replace(pinned, pins={"pytorch_model.bin": "deadbeef"})
    with pytest.raises(WeightsError, match=r"pinned to pytorch_model\.bin, found model\.safetensors"):
        verify(other, folder)


def test_a_lock_of_another_revision_than_the_pin(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiny")
    lock_folder(folder, TINY, revision="2" * 40)
    with pytest.raises(WeightsError, match=r"records revision 2222.*pinned to 1111"):
        verify(dataclasses.replace(TINY, revision="1" * 40), folder)


def test_a_registered_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "fastesm2_650")
    with pytest.raises(WeightsError, match="hidden_size is 16, fastesm2_650 is 1280 wide"):
        load("fastesm2_650", weights=tmp_path)
    with pytest.raises(WeightsError, match="holds esm2 weights, dnabert_s needs dnabert"):
        describe("dnabert_s", "dna", tmp_path / "fastesm2_650")


# --- the whole way, offline


def test_folder_to_embedding_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    folder = write_folder(tmp_path / "tiny")
    encoder = from_folder(folder)
    rows = encoder.embed(["MKTAYIAK", "X"])
    assert rows.shape == (2, 16)
    about = identity(encoder)
    assert about["weights"] == verify(TINY, folder)
    assert (about["name"], about["precision"], about["width"]) == ("tiny", "fp32", 16)
    json.dumps(about)


def test_identity_follows_what_changes_the_numbers(tmp_path: Path) -> None:
    base = identity(from_folder(write_folder(tmp_path / "tiny")))
    assert identity(from_folder(write_folder(tmp_path / "again" / "tiny"))) == base
    assert identity(from_folder(write_folder(tmp_path / "b" / "tiny", esm2_state(1)))) != base
    folder = write_folder(tmp_path / "c" / "tiny")
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG | {"torch_dtype": "float16"}))
    assert identity(from_folder(folder)) == base
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG | {"num_attention_heads": 4}))
    assert identity(from_folder(folder)) != base


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_a_missing_extra_or_misshapen_tensor_is_one_message(fault: str, tmp_path: Path) -> None:
    state = esm2_state()
    name = "encoder.layer.0.output.dense.weight"
    if fault == "missing":
        del state[name]
    elif fault == "extra":
        name = "encoder.layer.7.surprise.weight"
        state[name] = torch.ones(2)
    else:
        state[name] = state[name][:, :-1].contiguous()
    folder = write_folder(tmp_path / "tiny", state)
    with pytest.raises(WeightsError) as caught:
        from_folder(folder)
    assert name in str(caught.value)


def test_devices_and_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(EncoderError, match="sees no GPU"):
            choose_device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(UsageError, match="'tpu'"):
        choose_device("tpu")
    assert [choose_precision(name, torch.device("cpu")) for name in ("auto", "bf16")] == ["fp32", "bf16"]
    for able, expected in ((True, "int8"), (False, "fp32")):
        monkeypatch.setattr(device, "multiplies_bytes", lambda found=able: found)
        assert choose_precision("auto", torch.device("cpu"), int8=True) == expected
        assert choose_precision("fp32", torch.device("cpu"), int8=True) == "fp32"
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    for capability, precision in (((7, 5), "fp16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, found=capability: found)
        assert choose_precision("auto", gpu) == "fp16"
        assert choose_precision("auto", gpu, "bf16") == precision
    assert choose_precision("bf16", gpu) == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5))
    with pytest.raises(EncoderError, match="has no bf16"):
        choose_precision("bf16", gpu)
    with pytest.raises(UsageError, match="fp4"):
        load("kmer", molecule="dna", precision="fp4")


def test_describe_matches_identity_for_kmer() -> None:
    assert describe("kmer", "dna", precision="fp16") == identity(load("kmer", molecule="dna"))


def test_pins_of_the_baseline_are_in_the_registry() -> None:
    assert spec("esm2_650m", "protein").pins["model.safetensors"].startswith("a08adabb949fa67a")
    assert sorted(spec("esm2_3b", "protein").pins.values()) == ["0f971f11", "7560b46f"]


def test_torch_load_cannot_be_talked_out_of_safety(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write_bin(tmp_path / "model", {"code": Malicious(tmp_path / "was-run")})
    with pytest.raises(WeightsError, match="not a plain state dict"):
        read_state(tmp_path / "model")
    assert not (tmp_path / "was-run").exists()
