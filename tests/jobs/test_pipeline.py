from __future__ import annotations

from pathlib import Path

import h5py
from click.testing import CliRunner

from jobs import pipeline, status

WORDS = ["--shards", "2", "--dna", "kmer", "--protein", "kmer", "--cluster", "inline"]


def make_fasta(folder: Path) -> Path:
    path = folder / "in.fasta"
    path.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(4)))
    return path


def test_pipeline_in_this_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [str(make_fasta(tmp_path)), "--out", str(run), *WORDS]
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with h5py.File(run / "features.h5") as file:
        assert file["features"].shape[1] == 1664
        before = (run / "features.h5").stat().st_mtime_ns
    assert CliRunner().invoke(status.main, [str(run)]).exit_code == 0

    # Again: nothing is made twice.
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "was there already" in result.output
    assert (run / "features.h5").stat().st_mtime_ns == before


def test_pipeline_stops_where_shards_fail(tmp_path: Path) -> None:
    fasta = make_fasta(tmp_path)
    run = tmp_path / "run"
    words = [str(fasta), "--out", str(run), *WORDS]
    assert CliRunner().invoke(pipeline.main, words, catch_exceptions=False).exit_code == 0
    for path in (run / "features.h5", run / "receipts" / "shard-00001.json"):
        path.unlink()
    plan = run / "plan.h5"
    plan.write_bytes(plan.read_bytes()[:-1])
    result = CliRunner().invoke(pipeline.main, words, catch_exceptions=False)
    assert result.exit_code == 1
    assert "is not the plan that run.json names" in result.output
    assert not (run / "features.h5").exists()


def test_help_says_what_the_chain_holds() -> None:
    said = " ".join(CliRunner().invoke(pipeline.main, ["--help"]).output.split())
    assert "an array of one task a shard" in said
    assert "the merging" in said
    assert "rerun RUN --then pipeline" in said
