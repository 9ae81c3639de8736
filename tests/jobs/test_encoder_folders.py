"""``--protein FOLDER``: a folder with a model of a known architecture is an encoder, told from others by its hashes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.encoders._folders import esm2_state, lock_folder, write_folder
from tests.jobs.commands import call, clean
from vnp.encoders import describe, from_folder, identity
from vnp.encoders.spec import EncoderSpec
from vnp.encoders.weights.folders import locate
from vnp.errors import UsageError, WeightsError
from vnp.features.read import open_features
from vnp.runs.request import Run

PLAIN = ("--dna", "kmer", "--chunk", "60", "--cluster", "inline", "--device", "cpu", "--store", "float32")


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fna"
    bases = np.random.default_rng(1).choice(list("ACGT"), 600)
    path.write_text(">one\n" + "".join(bases) + "\n")
    return path


def extract(*arguments: object) -> str:
    done = call("extract", *arguments, *PLAIN)
    assert done.exit_code == 0, clean(done)
    return done.output


def test_rows_are_those_of_the_folder_wherever_it_lies(
    tmp_path: Path, fasta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "mine")
    extract(fasta, "--out", tmp_path / "run", "--protein", "mine")
    assert call("reduce", tmp_path / "run", "--layout", "full").exit_code == 0
    features = open_features(tmp_path / "run")
    assert [part.encoder for part in features.layout.parts] == ["kmer", "mine"]
    stored = features.provenance["encoders"]["protein"]
    assert stored == {**identity(from_folder(folder)), "precision": stored["precision"]}
    request = Run.open(tmp_path / "run").request
    assert request.folders == {"protein": str(folder)}
    # Moved, it is the same encoder, and the run goes on with it.
    (tmp_path / "elsewhere").mkdir()
    shutil.move(folder, tmp_path / "elsewhere" / "mine")
    assert "nothing to do" in extract(fasta, "--out", "run", "--protein", "elsewhere/mine")
    moved = Run.open(tmp_path / "run").request
    assert moved.folders == {"protein": str(tmp_path / "elsewhere" / "mine")}
    assert moved.digest == request.digest
    # By its name alone, where it lies among the weights.
    weights = ("--weights", tmp_path / "elsewhere")
    assert "nothing to do" in extract(fasta, "--out", "run", "--protein", "mine", *weights)


def test_other_weights_under_the_same_name_are_another_run(tmp_path: Path, fasta: Path) -> None:
    extract(fasta, "--out", tmp_path / "run", "--protein", write_folder(tmp_path / "a" / "mine"))
    other = write_folder(tmp_path / "b" / "mine", esm2_state(1))
    done = call("extract", fasta, "--out", tmp_path / "run", "--protein", other, *PLAIN)
    assert done.exit_code == 2
    assert "protein encoder" in clean(done)


def test_folder_called_as_a_registered_encoder_is_held_to_its_pins(tmp_path: Path) -> None:
    found, folder = locate(str(write_folder(tmp_path / "esm2_650m")), "protein")
    assert (found.hub_id, folder) == ("facebook/esm2_t33_650M_UR50D", tmp_path / "esm2_650m")
    with pytest.raises(WeightsError, match=r"16.*1280"):
        describe(str(tmp_path / "esm2_650m"), "protein")


def test_lock_in_a_folder_holds_after_it_was_renamed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "first")
    lock_folder(folder, EncoderSpec("first", "protein", 16, locate(str(folder))[0].family, hub_id="own/first"))
    shutil.move(tmp_path / "weights.lock.json", folder)
    renamed = folder.rename(tmp_path / "second")
    assert describe(str(renamed), "protein")["revision"] == "1" * 40
    content = bytearray((renamed / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (renamed / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="not the file"):
        describe(str(renamed), "protein")


def test_what_is_no_encoder_is_refused(tmp_path: Path, fasta: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    with pytest.raises(UsageError, match="reads protein"):
        locate(str(folder), "dna")
    with pytest.raises(UsageError, match=r"or name a folder with config\.json"):
        locate("nobody", "protein", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5", "architectures": []}))
    done = call("extract", fasta, "--out", tmp_path / "run", "--protein", folder, *PLAIN)
    assert done.exit_code == 1
    assert "neither ESM2" in clean(done)
