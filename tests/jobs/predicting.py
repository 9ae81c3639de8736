"""What tests of predict share: the command, odd records, and finished predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs.predict import main as predict
from tests.prediction.conftest import INPUTS
from vnp.runs.done.crate import NAME as CRATE
from vnp.sequences.reading import read_records

WRITTEN = {"frames.tsv", "chunks.tsv", "predictions.tsv", "viral.fna", "report.html", "summary.json", "vnp_mqc.json"}


def call(*words: object, command: Any = predict) -> Result:
    inline = (
        ["--cluster", "inline", "--no-native"]
        if command is predict and "--cluster" not in words and "--from" not in words
        else []
    )
    return CliRunner().invoke(command, [*map(str, words), *inline])


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of which some can have no score."""
    path = tmp_path_factory.mktemp("odd") / "odd.fna"
    genome = next(iter(read_records(INPUTS[0]))).sequence.decode()
    path.write_text(
        f">whole\n{genome}\n>closed\n{'TAATTAATTAA' * 9}\n>unknown\n{'N' * 400}\n>tiny\nAC\n>empty\n"
        f">protein\nMEEPQSDPSV\n>piece\n{genome[500:800]}\n"
    )
    return path


@pytest.fixture(scope="module")
def done(odd: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished prediction of the odd records and two genomes, in three shards."""
    out = tmp_path_factory.mktemp("done") / "calls"
    result = call(odd, INPUTS[1], INPUTS[3], "--checkpoint", checkpoint, "--out", out, "--shards", 3)
    assert result.exit_code == 0, result.output
    assert f"report: {out}/report.html" in result.output
    return out


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder but logs and the crate, which say when they were made."""
    files = (path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts and path.name != CRATE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
