"""One run, one precision: what auto means is settled once, and numbers of two kinds are never called together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from jobs.predict import main as predict
from vnp.encoders import device
from vnp.encoders.models import eight_bits
from vnp.errors import EncoderError, RunError
from vnp.files.records import read_record, write_record
from vnp.prediction import predict as prediction
from vnp.runs.done.receipts import Receipt, withdraw
from vnp.runs.making.encoders import Arithmetic, settle
from vnp.runs.request import Run


@pytest.fixture
def contigs(tmp_path: Path) -> Path:
    path = tmp_path / "contigs.fna"
    random = np.random.default_rng(8)
    path.write_text(
        "".join(f">c{size}\n{''.join(random.choice(list('ACGT'), size))}\n" for size in (900, 300, 150, 120))
    )
    return path


def call(contigs: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(predict, [str(contigs), "--out", str(out), "--shards", "2", "--cluster", "inline", *more])


def cpu(monkeypatch: pytest.MonkeyPatch, *, multiplies: bool) -> None:
    """A machine without a GPU, with or without instructions for products of bytes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "multiplies_bytes", lambda: multiplies)
    if not multiplies:
        monkeypatch.setattr(eight_bits, "multiplies_bytes", lambda: False)


@pytest.mark.parametrize("first", ["int8", "fp32"])
def test_a_task_on_another_cpu_goes_on_as_the_first_one_began(
    contigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    out = tmp_path / "calls"
    with monkeypatch.context() as patch:
        cpu(patch, multiplies=first == "int8")
        assert call(contigs, out).exit_code == 0
    expected = (out / "predictions.tsv").read_bytes()
    run = Run.open(out)
    withdraw(run, 1)
    cpu(monkeypatch, multiplies=first != "int8")
    (out / "predictions.json").unlink()
    result = call(contigs, out)
    assert result.exit_code == 0, result.output
    receipts = [Receipt.read(run.paths.receipt(number)) for number in (0, 1)]
    assert [one and one.encoders["dna"]["precision"] for one in receipts] == [first, first]
    assert (out / "predictions.tsv").read_bytes() == expected


def test_scores_of_two_precisions_are_not_called_together(contigs: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    assert call(contigs, out).exit_code == 0
    run = Run.open(out)
    receipt = Receipt.read(run.paths.receipt(1))
    assert receipt is not None
    other = replace(receipt, encoders={"dna": {**receipt.encoders["dna"], "precision": "bf16"}})
    run.paths.receipt(1).unlink()
    other.write(run.paths.receipt(1))
    result = CliRunner().invoke(predict, ["--from", str(out), "--out", str(tmp_path / "again")])
    assert result.exit_code == 1
    assert "shard-00001 was embedded by sixframe with precision 'bf16'" in result.output
    assert "cannot be mixed" in result.output
    assert "rerun" in result.output


def test_another_kind_of_device_is_refused_once_a_shard_is_made(
    contigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu(monkeypatch, multiplies=False)
    out = tmp_path / "calls"
    assert call(contigs, out).exit_code == 0
    run = Run.open(out)
    on_gpu = Arithmetic("cuda", {"dna": "bf16"}, "node7")
    write_record(run.paths.arithmetic, on_gpu, seal="digest")
    asked = Run(run.paths, replace(run.request, device="cpu"))
    with pytest.raises(RunError, match=r"computed on cuda \(by node7\), not cpu: go on with --device cuda"):
        settle(asked)
    left_open = Run(run.paths, replace(run.request, device="auto"))
    with pytest.raises(EncoderError, match=r"torch sees no GPU here.* begun on cuda by node7"):
        settle(left_open)
    # Before any is made, it is still open.
    for number in (0, 1):
        withdraw(run, number)
    found = settle(asked)
    assert found is not None
    assert (found.device, found.precision) == ("cpu", {"dna": "fp32"})
    assert read_record(run.paths.arithmetic, Arithmetic, seal="digest") == found == settle(left_open)


def test_nothing_is_settled_where_all_is_said(contigs: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    assert call(contigs, out, "--precision", "fp32", "--device", "cpu").exit_code == 0
    run = Run.open(out)
    assert settle(run) is None
    assert not run.paths.arithmetic.exists()


def test_more_records_than_fit_in_memory_are_refused(
    contigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "calls"
    assert call(contigs, out).exit_code == 0
    monkeypatch.setattr(prediction, "_FEW_RECORDS", 3)
    monkeypatch.setattr(prediction, "available_memory", lambda: 599)
    again = ["--from", str(out), "--out", str(tmp_path / "again"), "--min-length", "200"]
    result = CliRunner().invoke(predict, again)
    assert (result.exit_code, "calling 4 records needs about" in result.output) == (1, True)
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(prediction, "available_memory", lambda: 600)
    assert CliRunner().invoke(predict, again).exit_code == 0
