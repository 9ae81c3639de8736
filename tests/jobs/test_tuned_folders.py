"""An encoder that ``finetune`` wrote goes where others go, and its rows never meet those of the encoder that it was."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.encoders._folders import write_folder
from tests.jobs.commands import call, clean
from tests.runs.datasets import made_up, write_dataset
from vnp.doctor import reference
from vnp.doctor.examine import look_at_folder
from vnp.encoders import describe, from_folder
from vnp.encoders.weights.provenance import read_provenance
from vnp.errors import EncoderError, UsageError
from vnp.files.hashing import file_sha256

HERE = ("--cluster", "inline", "--device", "cpu")
QUICK = ("--epochs", "1", "--device", "cpu")

pytestmark = pytest.mark.usefixtures("without_plots")


def done(name: str, *arguments: object) -> str:
    result = call(name, *arguments)
    assert result.exit_code == 0, clean(result) + result.stdout
    return " ".join(result.output.split())


def refused(name: str, *arguments: object) -> str:
    result = call(name, *arguments)
    assert result.exit_code in (1, 2, 3), result.output
    return " ".join(clean(result).split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, an encoder ``a/mine``, the same tuned, ``b/mine``, and of each rows and a classifier."""
    place = tmp_path_factory.mktemp("tuned")
    write_dataset(place / "set", made_up(), lengths=(90,))
    write_folder(place / "a" / "mine")
    tune = ("--objective", "labels", "--train", "all", "--steps", 3, "--tokens", 400, "--device", "cpu")
    done("finetune", place / "set", "--encoder", place / "a/mine", "--out", place / "b/mine", *tune)
    for one in "ab":
        done("extract", place / "set", "--out", place / one / "run", "--dna", "kmer", "--protein", place / one / "mine",
             *HERE)  # fmt: skip
        done("reduce", place / one / "run")
        said = done("train", place / one / "run", "--out", place / one / "model.pth", *QUICK)
        assert f"predict INPUT --checkpoint {place / one / 'model.pth'} --protein FOLDER" in said
    return place


@pytest.fixture
def fasta(place: Path, tmp_path: Path) -> Path:
    path = tmp_path / "new.fna"
    path.write_bytes(b"".join(b">%s\n%s\n" % (one.name.encode(), one.sequence) for one in made_up(4)))
    return path


def test_predict_takes_the_folder(place: Path, fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ("--checkpoint", place / "b/model.pth", *HERE)
    said = refused("predict", fasta, "--out", tmp_path / "lost", *model)
    assert "trained on rows of mine, which is none of vnp's encoders: name its folder with --protein FOLDER" in said
    calls = tmp_path / "calls"
    done("predict", fasta, "--out", calls, *model, "--protein", place / "b/mine")
    assert len((calls / "predictions.tsv").read_text().splitlines()) == 5
    done("predict", fasta, "--out", tmp_path / "again", *model, "--weights", place / "b")
    for name in ("predictions.tsv", "frames.tsv"):
        assert (calls / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    said = refused("predict", fasta, "--out", tmp_path / "other", *model, "--protein", place / "a/mine")
    assert "the protein encoders differ" in said
    said = refused("predict", fasta, "--out", tmp_path / "native", "--protein", place / "b/mine", *HERE)
    assert "--protein says nothing to native" in said
    said = refused("predict", fasta, "--out", tmp_path / "wrong", *model, "--dna", place / "b/mine")
    assert "reads protein" in said


@pytest.mark.parametrize(("rows", "model"), ["ab", "ba"])
def test_rows_of_base_and_tuned_do_not_meet(place: Path, tmp_path: Path, rows: str, model: str) -> None:
    """Not in a prediction, not in a comparison, not in a run that was begun with the other."""
    run, checkpoint = place / rows / "run", place / model / "model.pth"
    assert "the protein encoders differ" in refused("predict", "--from", run, "--checkpoint", checkpoint, "--out",
                                                    tmp_path / "calls")  # fmt: skip
    said = refused("benchmark", "accuracy", f"{run}@{checkpoint}", "--out", tmp_path / "ab", "--device", "cpu")
    assert "the protein encoders differ" in said
    begun = tmp_path / "begun"
    shutil.copytree(run, begun)
    other = place / model / "mine"
    said = refused("extract", place / "set", "--out", begun, "--dna", "kmer", "--protein", other, *HERE)
    assert "protein encoder" in said


def test_folder_that_was_exchanged_seals_nothing(place: Path, fasta: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "a/mine", tmp_path / "mine")
    asked = ("extract", fasta, "--out", tmp_path / "run", "--dna", "kmer", "--protein", folder, "--chunk", 90, *HERE)
    done(*asked)
    (tmp_path / "run/receipts/shard-00000.json").unlink()
    shutil.rmtree(tmp_path / "run/shards")
    shutil.rmtree(folder)
    shutil.copytree(place / "b/mine", folder)
    said = refused("rerun", tmp_path / "run", "--cluster", "inline")
    assert "this run was planned with" in said
    assert not list((tmp_path / "run").glob("shards/*.h5"))


def test_provenance_says_where_weights_come_from(place: Path) -> None:
    made = read_provenance(place / "b/mine")
    assert made is not None
    base = describe(str(place / "a/mine"), "protein")
    assert made.base == {name: value for name, value in base.items() if name != "precision"}
    assert made.base["weights"] == {"model.safetensors": file_sha256(place / "a/mine/model.safetensors")}
    assert made.data["fasta_sha256"] == file_sha256(place / "set/dataset.fna.gz")
    assert made.data["table_sha256"] == file_sha256(place / "set/dataset.parquet")
    units = [line.split("\t") for line in (place / "b/mine/split.tsv").read_text().splitlines()[1:]]
    assert {part: sum(one == part for _, one in units) for part in ("train", "validation", "test")} == {
        name: part["units"] for name, part in made.data["parts"].items()
    }
    assert (made.objective, made.train, made.recipe["seed"], made.result["steps"]) == ("labels", "all", 1, 3)
    assert made.split_sha256 == file_sha256(place / "b/mine/split.tsv")
    assert describe(str(place / "b/mine"), "protein")["trained_on"] == made.split_sha256
    assert "trained_on" not in base
    stored = json.loads((place / "b/mine/provenance.json").read_text())
    assert stored["schema"] == "vnp-provenance/1"


def test_doctor_looks_at_the_folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnp.doctor.engine.gpus_and_kernels", lambda: [])
    result = call("doctor", "--protein", place / "b/mine", "--dna", "kmer", "--json")
    assert result.exit_code == 0, result.output
    found = next(one for one in json.loads(result.stdout) if one["about"] == "weights mine")
    assert "fine-tuned from mine on 12 units (labels, all, step" in found["found"]
    assert "as in weights.lock.json" in found["found"]
    plain = look_at_folder("mine", place / "a")
    assert (plain.state, "fine-tuned" in plain.found) == ("ok", False)
    for name in ("model.safetensors", "split.tsv", "provenance.json", "config.json"):
        folder = shutil.copytree(place / "b/mine", tmp_path / name / "mine")
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(content)
        assert call("doctor", "--protein", folder).exit_code == 1
        assert look_at_folder(str(folder), None).state == "fails"


def test_eight_bits_are_measured_on_the_folder_and_for_it_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("vnp.doctor.engine.gpus_and_kernels", lambda: [])
    folder = str(shutil.copytree(place / "b/mine", tmp_path / "mine"))
    with pytest.raises(EncoderError, match=f"--fp8 {folder}"):
        describe(folder, "protein", precision="fp8")
    assert call("doctor", "--fp8", folder).exit_code == (0 if torch.cuda.is_available() else 1)

    def on_the_cpu(path: Path, **more: Any) -> Any:
        return from_folder(path, attention=more.get("attention", "auto"))

    monkeypatch.setattr(reference, "from_folder", on_the_cpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(reference, "proteins", lambda: ["MKTAYIAKQR", "GAVLIPFWMSTCYNQ"])
    result = call("doctor", "--fp8", folder, "--json")
    assert result.exit_code == 0, result.output
    assert next(one for one in json.loads(result.stdout) if one["about"].startswith("fp8"))["state"] == "ok"
    assert describe(folder, "protein", precision="fp8")["precision"] == "fp8"
    with pytest.raises(EncoderError, match="nobody measured"):
        describe(str(place / "a/mine"), "protein", precision="fp8")
    for name in ("kmer", "nobody"):
        with pytest.raises(UsageError):
            reference.fp8(name, None)


def test_speed_of_the_folder(place: Path, tmp_path: Path) -> None:
    small = ("--device", "cpu", "--tokens", 200, "--repeats", 1, "--quick", "--time", 1)
    result = call("benchmark", "speed", "--model", place / "b/mine", *small, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "on a CPU: small models" not in result.stderr
    (model,) = json.loads((tmp_path / "speed.json").read_text())["models"]
    assert (model["name"], model["source"]) == ("mine", f"weights of {place / 'b/mine'}")
    said = refused("benchmark", "speed", "--model", "kmer", *small)
    assert "kmer has no weights" in said


def test_what_the_encoder_saw_goes_along_with_its_rows(place: Path, tmp_path: Path) -> None:
    run = shutil.copytree(place / "b/run", tmp_path / "run")
    kept = run / "protein.split.tsv"
    assert kept.read_bytes() == (place / "b/mine/split.tsv").read_bytes()
    kept.unlink()
    said = refused("train", run, "--out", tmp_path / "model.pth", *QUICK)
    assert "put it back beside the features" in said


def test_no_classifier_is_measured_on_what_the_encoder_saw(place: Path, tmp_path: Path) -> None:
    """Whatever deals out the units anew, and whatever they are called then."""
    run = place / "b/run"
    for deal in ((), ("--units", "family")):
        said = refused("train", run, "--out", tmp_path / "model.pth", "--split", "group", *deal, *QUICK)
        assert "was fine-tuned on" in said
        assert "units that are kept apart here" in said
        assert not (tmp_path / "model.pth").exists()
        done("train", place / "a/run", "--out", tmp_path / "base.pth", "--split", "group", *deal, *QUICK, "--force")
    # Without the split beside it nobody knows what a classifier was trained on; what its encoder saw is left out, for
    # the other contestant too.
    lone = shutil.copy(place / "b/model.pth", tmp_path / "lone.pth")
    compare = ("benchmark", "accuracy", "--replicates", 20, "--device", "cpu", "--json", f"tuned={run}@{lone}")
    result = call(*compare, f"base={place / 'a/run'}@{tmp_path / 'base.pth'}", "--out", tmp_path / "ab", "--all")
    assert "fine-tuned" not in result.output
    result = call(*compare, f"base={place / 'a/run'}@{place / 'a/model.pth'}", "--out", tmp_path / "cd")
    assert "its encoder was fine-tuned on none of the units compared" in result.stdout
    result = call(*compare, "--out", tmp_path / "ef", "--split", "group")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert re.search(r"tuned: its encoder was fine-tuned on the units of [1-9]\d* rows, which", str(found["notes"]))


def test_classifier_is_not_measured_on_its_units_under_other_names(place: Path, tmp_path: Path) -> None:
    compare = ("benchmark", "accuracy", f"{place / 'a/run'}@{place / 'a/model.pth'}", "--replicates", 20)
    result = call(*compare, "--units", "family", "--out", tmp_path / "ab", "--device", "cpu")
    found = re.search(r"compared on the (\d+) of (\d+) rows that it was not trained on", result.output)
    assert found is not None
    assert 0 < int(found[1]) < int(found[2]) / 2


def test_units_of_other_names_are_doubted(place: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", [replace(one, unit=f"other {one.unit}") for one in made_up()], lengths=(90,))
    run = tmp_path / "run"
    done("extract", tmp_path / "set", "--out", run, "--dna", "kmer", "--protein", place / "b/mine", *HERE)
    done("reduce", run)
    result = call("train", run, "--out", tmp_path / "model.pth", *QUICK)
    assert result.exit_code == 0, result.output
    assert "warning: none of its units is named among those that its encoder was fine-tuned on" in result.stderr
