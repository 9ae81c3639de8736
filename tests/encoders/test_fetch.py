from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import save

from tests.encoders._folders import ESM2_CONFIG, TINY, esm2_state
from tests.encoders._hub_server import COMMIT, HubContent, serve
from vnp.encoders import from_folder
from vnp.encoders.spec import spec
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY
from vnp.encoders.weights import download as fetch_module
from vnp.encoders.weights.download import HuggingFaceHub, Moved, RemoteFile, RemoteModel, choose_files, download_weights
from vnp.encoders.weights.lock import read_lock, verify
from vnp.errors import StorageError, UsageError, WeightsError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def tensors() -> bytes:
    return save(esm2_state())


def model_files(tensors: bytes) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(ESM2_CONFIG).encode(),
        "README.md": b"a model",
        "model.safetensors": tensors,
        "pytorch_model.bin": b"not wanted",
    }


VOCABULARY = "\n".join(ESM2_VOCABULARY).encode()


class FakeHub(HuggingFaceHub):
    """Files in memory; ``broken`` stops a download after so many bytes, once."""

    def __init__(self, files: dict[str, bytes], commit: str = COMMIT, licence: str = "mit") -> None:
        self.address = "https://hub.example"
        self.files, self.commit, self.licence = files, commit, licence
        self.broken: dict[str, int] = {}
        self.log: list[tuple[str, int]] = []
        self.asked: list[str | None] = []
        self.hashes = True

    def resolve(self, hub_id: str, revision: str | None) -> RemoteModel:
        self.asked.append(revision)
        large = {name for name in self.files if self.hashes and not name.endswith(".json")}
        return RemoteModel(
            self.commit,
            self.licence,
            {
                name: RemoteFile(len(data), hashlib.sha256(data).hexdigest() if name in large else None)
                for name, data in self.files.items()
            },
        )

    def download(self, hub_id: str, commit: str, name: str, part: Path, size: int | None, moved: Moved) -> None:
        start = part.stat().st_size if part.exists() else 0
        self.log.append((name, start))
        stop = self.broken.pop(name, None)
        with part.open("ab") as stream:
            stream.write(self.files[name][start:stop])
        moved(part.stat().st_size)
        if stop is not None:
            raise WeightsError(f"fetching {name}: no connection to {self.address}")


def test_fetched_files_are_locked_and_load(tensors: bytes, tmp_path: Path) -> None:
    hub = FakeHub(model_files(tensors))
    seen: list[tuple[str, int, int | None]] = []
    entry, new = download_weights(TINY, tmp_path, hub, progress=lambda *what: seen.append(what))
    assert new
    assert read_lock(tmp_path) == {"tiny": entry}
    assert (entry.revision, entry.licence, entry.hub_id) == (COMMIT, "mit", "someone/tiny")
    assert entry.files["model.safetensors"].sha256 == hashlib.sha256(tensors).hexdigest()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["tiny", "weights.lock.json"]
    assert sorted(one.name for one in (tmp_path / "tiny").iterdir()) == ["config.json", "model.safetensors"]
    assert seen[-1] == ("model.safetensors", len(tensors), len(tensors))
    assert from_folder(tmp_path / "tiny").embed(["MKT"]).shape == (1, 16)


def test_a_second_fetch_asks_nobody(tensors: bytes, tmp_path: Path) -> None:
    hub = FakeHub(model_files(tensors))
    first, _ = download_weights(TINY, tmp_path, hub)
    again, new = download_weights(TINY, tmp_path, hub)
    assert not new
    assert again == first
    assert hub.asked == [None]


def test_the_lock_pins_what_was_first_found(tensors: bytes, tmp_path: Path) -> None:
    hub = FakeHub(model_files(tensors))
    download_weights(TINY, tmp_path, hub)
    (tmp_path / "tiny" / "model.safetensors").unlink()
    download_weights(TINY, tmp_path, hub)
    assert hub.asked == [None, COMMIT]
    assert verify(TINY, tmp_path / "tiny")


def test_another_revision_replaces_the_files(tensors: bytes, tmp_path: Path) -> None:
    download_weights(TINY, tmp_path, FakeHub(model_files(tensors) | {"vocab.txt": VOCABULARY}))
    newer = FakeHub(model_files(save(esm2_state(1))), commit="d" * 40)
    entry, new = download_weights(TINY, tmp_path, newer, revision="main")
    assert new
    assert entry.revision == "d" * 40
    assert not (tmp_path / "tiny" / "vocab.txt").exists()
    assert verify(TINY, tmp_path / "tiny")


def test_a_dropped_connection_is_gone_on_with(tensors: bytes, tmp_path: Path) -> None:
    hub = FakeHub(model_files(tensors))
    hub.broken["model.safetensors"] = 1000
    with pytest.raises(WeightsError, match="no connection"):
        download_weights(TINY, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()
    assert read_lock(tmp_path) == {}
    download_weights(TINY, tmp_path, hub)
    assert hub.log == [("config.json", 0), ("model.safetensors", 0), ("model.safetensors", 1000)]
    assert verify(TINY, tmp_path / "tiny")


def test_a_pin_that_differs_is_refused_before_gigabytes_move(tensors: bytes, tmp_path: Path) -> None:
    pinned = dataclasses.replace(TINY, revision=COMMIT, pins={"model.safetensors": "deadbeef"})
    hub = FakeHub(model_files(tensors))
    with pytest.raises(WeightsError, match=r"model\.safetensors is not the file.*the hub offers.*deadbeef"):
        download_weights(pinned, tmp_path, hub)
    assert ("model.safetensors", 0) not in hub.log
    hub.hashes = False
    with pytest.raises(WeightsError, match=r"what arrived is.*deadbeef"):
        download_weights(pinned, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()
    assert not list(tmp_path.glob(".fetch*/model.safetensors"))


def test_bytes_that_are_not_what_the_hub_promised(tensors: bytes, tmp_path: Path) -> None:
    hub = FakeHub(model_files(tensors))
    real = hub.resolve

    def lying(hub_id: str, revision: str | None) -> RemoteModel:
        model = real(hub_id, revision)
        hub.files = hub.files | {"model.safetensors": tensors[:-1] + b"?"}
        return model

    hub.resolve = lying  # type: ignore[method-assign]
    with pytest.raises(WeightsError, match=r"what arrived is sha256 .* the hub is"):
        download_weights(TINY, tmp_path, hub)
    assert not (tmp_path / "tiny").exists()


def test_a_full_disk_is_noticed_before_and_during(
    tensors: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub(model_files(tensors))
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=10, f_bavail=0, f_frsize=16))
        with pytest.raises(StorageError, match=r"about 1 MB needed in .*, 1 MB free"):
            download_weights(TINY, tmp_path, hub)
    assert hub.log == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_module, "_put_in_place", full)
    with pytest.raises(StorageError, match="no space left"):
        download_weights(TINY, tmp_path, hub)
    assert read_lock(tmp_path) == {}


def test_pins_allow_no_other_revision() -> None:
    with pytest.raises(UsageError, match="is pinned to revision 08e4846e"):
        download_weights(spec("esm2_650m", "protein"), Path("unused"), FakeHub({}), revision="main")
    with pytest.raises(UsageError, match="no weights to fetch"):
        download_weights(spec("kmer", "dna"), Path("unused"), FakeHub({}))


def test_files_of_another_model_never_get_their_final_names(tensors: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not an ESM2 vocabulary"):
        download_weights(TINY, tmp_path, FakeHub(model_files(tensors) | {"vocab.txt": b"A"}))
    with pytest.raises(WeightsError, match="hidden_size is 16"):
        download_weights(dataclasses.replace(TINY, width=32), tmp_path, FakeHub(model_files(tensors), commit="e" * 40))
    assert not (tmp_path / "tiny").exists()
    assert read_lock(tmp_path) == {}


def remote(*names: str) -> RemoteModel:
    return RemoteModel(COMMIT, "mit", {name: RemoteFile() for name in names})


def test_only_the_needed_files_are_chosen() -> None:
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert choose_files(TINY, remote("config.json", "x.onnx", "model.safetensors", *shards), "hub") == (
        "config.json",
        "model.safetensors",
    )
    assert choose_files(
        TINY, remote("config.json", "vocab.txt", "pytorch_model.bin", "model.safetensors.index.json", *shards), "hub"
    ) == ("config.json", "vocab.txt", "model.safetensors.index.json", *shards)
    big = spec("esm2_3b", "protein")
    halves = sorted(big.pins)
    listing = remote("config.json", "model.safetensors", "pytorch_model.bin.index.json", *halves)
    assert choose_files(big, listing, "hub") == ("config.json", "pytorch_model.bin.index.json", *halves)
    with pytest.raises(WeightsError, match=r"has no pytorch_model-00002-of-00002\.bin"):
        choose_files(big, remote("config.json", halves[0]), "hub")
    with pytest.raises(WeightsError, match=r"has no tokenizer\.json"):
        choose_files(spec("dnabert_s", "dna"), remote("config.json", "pytorch_model.bin"), "hub")
    with pytest.raises(WeightsError, match="no weights in a form"):
        choose_files(TINY, remote("config.json", "tf_model.h5"), "hub")


# --- through the real client, against a server on this machine


def test_the_real_client_fetches_and_resumes(tensors: bytes, tmp_path: Path) -> None:
    content = HubContent(model_files(tensors))
    part = tmp_path / f".fetch-tiny-{COMMIT[:12]}" / "model.safetensors"
    part.parent.mkdir()
    part.write_bytes(tensors[:2000])
    with serve(content) as address:
        entry, _ = download_weights(TINY, tmp_path, HuggingFaceHub(address))
    assert (entry.revision, entry.licence) == (COMMIT, "mit")
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == tensors
    ranges = [span for path, span in content.requests if path.endswith("model.safetensors")]
    assert ranges == ["bytes=2000-"]


def test_the_real_client_survives_a_dropped_connection(tensors: bytes, tmp_path: Path) -> None:
    content = HubContent(model_files(tensors), licence=None, drop_after={"model.safetensors": 5000})
    with serve(content) as address:
        entry, _ = download_weights(TINY, tmp_path, HuggingFaceHub(address))
    ranges = [span for path, span in content.requests if path.endswith("model.safetensors")]
    assert len(ranges) == 2
    assert entry.licence == "not stated"
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == tensors


def test_a_node_without_internet_says_so(tmp_path: Path) -> None:
    with serve(HubContent({})) as address:
        pass  # closed again: nothing listens there now
    with pytest.raises(WeightsError, match=f"no connection to {address}.*login node"):
        download_weights(TINY, tmp_path, HuggingFaceHub(address))
    assert len(list(tmp_path.glob("*"))) == 0


def test_a_password_of_a_mirror_is_told_to_nobody(tmp_path: Path) -> None:
    with serve(HubContent({})) as address:
        address = address.replace("//", "//ada:secret@")
    with pytest.raises(WeightsError, match="no connection to http://127") as refused:
        download_weights(TINY, tmp_path, HuggingFaceHub(address))
    assert "secret" not in str(refused.value)


def test_an_unknown_repository(tensors: bytes, tmp_path: Path) -> None:
    stranger = dataclasses.replace(TINY, hub_id="someone/else")
    with serve(HubContent(model_files(tensors))) as address, pytest.raises(WeightsError, match="no such repository"):
        download_weights(stranger, tmp_path, HuggingFaceHub(address))
