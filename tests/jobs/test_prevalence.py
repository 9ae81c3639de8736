"""``predict --prevalence`` from the command to the tables: found, given, taken back and refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vnp
from tests.jobs.commands import calls as call
from vnp.metrics.prevalence import at_prevalence
from vnp.sequences.reading import read_records

SAMPLE = Path(vnp.__file__).parent / "sample"
HOSTS, VIRUSES, SIZE = 140, 20, 600


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "predictions.json").read_text())
    return found


def column(folder: Path, name: str) -> list[str]:
    with (folder / "predictions.tsv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file, delimiter="\t")]


def pieces(label: str, count: int) -> list[str]:
    """Pieces of the bundled genomes, evenly from all files."""
    files = sorted((SAMPLE / label).glob("*.gz"))
    sequences = [max((record.sequence.decode() for record in read_records(file)), key=len) for file in files]
    long = [one for one in sequences if len(one) >= SIZE]
    random = np.random.default_rng(8)
    chosen = [long[number % len(long)] for number in range(count)]
    starts = [int(random.integers(0, len(one) - SIZE + 1)) for one in chosen]
    return [one[start : start + SIZE] for one, start in zip(chosen, starts, strict=True)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calls of a mixture, an eighth viral, without a prevalence."""
    folder = tmp_path_factory.mktemp("mixture")
    records = [*pieces("host", HOSTS), *pieces("viral", VIRUSES)]
    (folder / "mixture.fna").write_text("".join(f">r{at}\n{bases}\n" for at, bases in enumerate(records)))
    done = call(folder / "mixture.fna", "--out", folder / "plain", "--no-fasta")
    assert done.exit_code == 0, done.output
    return folder / "plain"


def test_the_share_is_found_and_everything_follows_it(plain: Path, tmp_path: Path) -> None:
    done = call("--from", plain, "--out", tmp_path / "auto", "--prevalence", "auto")
    assert done.exit_code == 0, done.output
    found = summary(tmp_path / "auto")
    told = found["prevalence"]
    assert told["refused"] == ""
    assert told["records"] == HOSTS + VIRUSES
    assert told["low"] <= told["share"] <= told["high"]
    assert told["low"] < VIRUSES / (HOSTS + VIRUSES) < told["high"]
    assert found["viral_share"] == pytest.approx(told["share"], abs=1e-6)
    assert "estimated from 160 records" in " ".join(done.output.split())
    assert "estimated from 160 records" in (tmp_path / "auto/report.html").read_text()
    before, after = (np.array(column(one, "probability"), float) for one in (plain, tmp_path / "auto"))
    np.testing.assert_allclose(after, at_prevalence(before, told["share"]), atol=2e-3)
    assert column(tmp_path / "auto", "call") == ["viral" if one >= 0.5 else "host" for one in after]
    rates = np.array(column(tmp_path / "auto", "fdr"), float)
    assert rates[np.argmax(after)] == pytest.approx(1 - after.max(), abs=2e-3)


def test_a_share_that_is_given_is_taken_and_taken_back(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "given")
    done = call("--from", tmp_path / "given", "--force", "--prevalence", "0.01")
    assert done.exit_code == 0, done.output
    assert summary(tmp_path / "given")["prevalence"]["share"] == 0.01
    before, after = (np.array(column(one, "probability"), float) for one in (plain, tmp_path / "given"))
    np.testing.assert_allclose(after, at_prevalence(before, 0.01), atol=2e-3)
    again = call("--from", tmp_path / "given", "--force", "--prevalence", "none")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "given/predictions.tsv").read_bytes() == (plain / "predictions.tsv").read_bytes()


def test_five_records_tell_no_share(plain: Path, tmp_path: Path) -> None:
    five = tmp_path / "five.fna"
    lines = (plain.parent / "mixture.fna").read_text().splitlines(keepends=True)
    five.write_text("".join(lines[:10]))
    done = call(five, "--out", tmp_path / "calls", "--no-fasta", "--prevalence", "auto")
    assert done.exit_code == 0, done.output
    told = summary(tmp_path / "calls")["prevalence"]
    assert told["refused"] == "5 records with a score are too few, 50 are needed"
    said = " ".join(done.output.split())
    assert "--prevalence auto is not used: 5 records with a score are too few" in said
    assert "is not used" in (tmp_path / "calls/report.html").read_text()
    assert column(tmp_path / "calls", "probability") == column(plain, "probability")[:5]
    assert column(tmp_path / "calls", "call") == column(plain, "call")[:5]


@pytest.mark.parametrize("said", ["0", "1", "2", "5%", "many"])
def test_shares_that_cannot_be_are_refused(plain: Path, tmp_path: Path, said: str) -> None:
    done = call("--from", plain, "--out", tmp_path / "calls", "--prevalence", said)
    assert (done.exit_code, "above 0 and below 1" in done.output) == (2, True)
    assert not (tmp_path / "calls").exists()
