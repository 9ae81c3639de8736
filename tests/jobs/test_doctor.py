from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from jobs.doctor import main
from tests.encoders._folders import ESM2_CONFIG, TINY, lock_folder, write_folder
from vnp.doctor import Finding, engine, guarded, healthy
from vnp.doctor import examine as machine
from vnp.doctor.examine import look_at_weights as weights
from vnp.doctor.reference import compare
from vnp.encoders.spec import DNABERT
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("VNP_WEIGHTS", "HDF5_USE_FILE_LOCKING", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def by_name(result: Result) -> dict[str, dict[str, str]]:
    return {row["about"]: row for row in json.loads(result.stdout)}


def test_a_bare_machine_is_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler, no container, no weights: all said, nothing failed."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = run("--json")
    rows = by_name(result)
    assert result.exit_code == 0, rows
    assert [rows[name]["state"] for name in ("Python", "libraries", "torch", "HDF5")] == ["ok"] * 4
    for name in ("scheduler", "container", "weights fastesm2_650", "weights dnabert_s"):
        assert rows[name]["state"] == "not here"
    assert "jobs.fetch fastesm2_650" in rows["weights fastesm2_650"]["mend"]
    assert "local processes" in rows["scheduler"]["found"]
    if not torch.cuda.is_available():
        assert "no GPU" in rows["torch"]["found"]
        assert rows["SDPA cpu fp32"]["state"] == "ok"
        assert rows["packed esm2 cpu fp32"]["state"] == rows["packed dnabert cpu fp32"]["state"] == "ok"
    assert list(Path.cwd().iterdir()) == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the kernels, which take seconds."""
    monkeypatch.setattr(engine, "gpus_and_kernels", lambda: [])


@pytest.mark.usefixtures("quick")
def test_the_table_and_the_exit_code_when_named_weights_are_missing(tmp_path: Path) -> None:
    result = run("--protein", "fastesm2_650", "--dna", "kmer", "--weights", str(tmp_path))
    assert result.exit_code == 1
    assert "fails: weights fastesm2_650" in result.stdout
    assert "Traceback" not in result.output
    assert run("--dna", "kmer", "--protein", "kmer").exit_code == 0


@pytest.mark.usefixtures("quick")
def test_wrong_use_is_exit_2(tmp_path: Path) -> None:
    result = run("--protein", "nonsense")
    assert result.exit_code == 2
    assert "there are: fastesm2_650" in result.output


def test_damaged_weights_fail_even_if_not_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "weights" / "fastesm2_650")
    (finding,) = [one for one in weights(tmp_path / "weights", ()) if one.about == "weights fastesm2_650"]
    assert finding.state == "fails"
    assert "hidden_size is 16" in finding.found


def test_weights_against_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "weighted", lambda: (TINY,))
    folder = write_folder(tmp_path / "tiny")
    bundled, finding = weights(tmp_path, ())
    assert (bundled.about, bundled.state) == ("weights sixframe", "ok")
    assert (finding.state, "not in weights.lock.json" in finding.found) == ("warning", True)
    lock_folder(folder, TINY)
    _, finding = weights(tmp_path, ())
    assert (finding.state, "licence MIT" in finding.found) == ("ok", True)
    _, finding = weights(folder, ())
    assert finding.state == "ok"
    (folder / "model.safetensors").write_bytes(b"?")
    _, finding = weights(tmp_path, ())
    assert finding.state == "fails"
    assert "1 bytes" in finding.found


def test_a_folder_of_another_model_is_not_a_failure(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert {one.state for one in weights(tmp_path, ()) if one.about != "weights sixframe"} == {"not here"}
    assert "fails" in {one.state for one in weights(tmp_path, ("dnabert_s",))}


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Slurm", ("sbatch", "squeue", "sacct")),
        ("Grid Engine", ("qconf", "qstat", "qacct")),
        ("PBS", ("pbsnodes", "qsub", "qstat")),
        ("LSF", ("bsub", "bjobs", "bparams")),
    ],
)
def test_the_scheduler_is_seen(
    title: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        program(tmp_path / "bin", name, "/bin/echo version 23")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    answers = ", ".join(f"{name}: version 23" for name in names)
    assert machine.scheduler() == Finding("scheduler", "ok", f"{title}: {answers}")
    program(tmp_path / "bin", names[2], "exit 1")
    finding = machine.scheduler()
    assert (finding.state, f"{names[2]} does not answer" in finding.found) == ("warning", True)


def test_the_container_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    program(tmp_path / "bin", "apptainer", "echo apptainer version 1.3.0")
    assert "apptainer version 1.3.0" in machine.container().found
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/vnp.sif")
    assert machine.container().found == "inside /images/vnp.sif"


def test_a_disk_that_is_full_or_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.space(tmp_path / "not" / "there" / "yet", "run").found.startswith(f"{tmp_path}: ")
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1 << 20))
    assert machine.space(tmp_path, "run").state == "fails"

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    finding = machine.space(tmp_path, "run")
    assert (finding.state, "Read-only file system" in finding.found) == ("fails", True)


def test_hdf5_locks_that_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.hdf5(tmp_path).state == "ok"
    assert list(tmp_path.glob(".vnp-doctor*")) == []
    real = machine._write_and_read
    monkeypatch.setattr(
        machine, "_write_and_read", lambda path, locking: "unable to lock" if locking is None else real(path, locking)
    )
    finding = machine.hdf5(tmp_path)
    assert finding.state == "fails"
    assert "HDF5_USE_FILE_LOCKING=FALSE" in finding.mend
    monkeypatch.setattr(machine, "_write_and_read", lambda *_: "input/output error")
    assert "choose another disk" in machine.hdf5(tmp_path).mend


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert machine.cores().state == "warning"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.cores().state == "ok"


def test_attention_that_gives_wrong_numbers_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.sdpa_error("cpu", "fp32") < 1e-5
    assert engine.sdpa_error("cpu", "bf16") < engine.SDPA_TOLERANCE["bf16"]
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda query, key, value: real(query * 1.1, key, value)
    )
    assert engine._sdpa("cpu", "fp32").state == "fails"
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda query, key, value: query * float("nan")
    )
    assert engine._sdpa("cpu", "fp32").state == "fails"


def test_no_torch_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = [one for one in machine.examine() if one.about.split()[0] in ("torch", "SDPA", "packed", "GPU")]
    assert [(one.about, one.state) for one in findings] == [("torch", "fails")]


def test_a_look_that_crashes_is_a_finding() -> None:
    def crash() -> Finding:
        raise RuntimeError("driver gone\nlong story")

    finding = guarded("GPU 0", crash, "reboot")
    assert finding == Finding("GPU 0", "fails", "RuntimeError: driver gone", "reboot")
    assert not healthy([finding])


@pytest.mark.usefixtures("quick")
def test_findings_come_one_by_one() -> None:
    first = next(iter(machine.examine()))
    assert first.about == "Python"


def save_published(folder: Path) -> None:
    """A transformers model with random weights, in files as they are published."""
    from transformers import EsmConfig, EsmModel

    torch.manual_seed(0)
    config = EsmConfig.from_dict(ESM2_CONFIG)
    model = EsmModel(config, add_pooling_layer=False)
    config.save_pretrained(folder)
    # save_pretrained of some versions renames the LayerNorms' tensors, which published files never do.
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')


def test_reference_agrees_with_the_published_code(tmp_path: Path) -> None:
    save_published(tmp_path / "tiny")
    finding = compare(TINY, tmp_path / "tiny")
    assert finding.state == "ok", finding
    assert "smallest cosine 1.0000000" in finding.found


def test_reference_notices_another_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_published(tmp_path / "tiny")
    # Means over all tokens on one side, over residues on the other.
    monkeypatch.setattr("vnp.doctor.reference.resolve", lambda *_: dataclasses.replace(TINY, family=DNABERT))
    finding = compare(TINY, tmp_path / "tiny")
    assert finding.state == "fails", finding


@pytest.mark.usefixtures("quick")
def test_reference_without_weights_is_a_row_not_a_crash(tmp_path: Path) -> None:
    result = run("--reference", "dnabert_s", "--weights", str(tmp_path), "--json")
    assert result.exit_code == 1
    assert "no weights for dnabert_s" in by_name(result)["reference dnabert_s"]["found"]
    assert by_name(result)["reference dnabert_s"]["mend"] == f"python -m jobs.fetch dnabert_s --weights {tmp_path}"


def test_help_needs_no_tensor_library() -> None:
    code = "import sys, jobs.doctor, jobs.fetch; print([m for m in ('torch', 'numpy', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
