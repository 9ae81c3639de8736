"""The demonstration: calls with the truth beside them."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from jobs.demo import main as demo


def test_native_calls_stand_beside_the_truth(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(demo, ["--out", str(out), "--native-only"])
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    header = lines.index(["record", "genome", "bases", "truth", "call", "kind", "probability"])
    truth = {line[1]: line[3] for line in lines[header + 1 : header + 5]}
    assert truth == {
        "bacillus_phage_gamma": "viral", "hiv_1": "viral", "escherichia_coli": "host", "xenopus_laevis": "host"
    }  # fmt: skip
    assert (out / "native" / "report.html").exists()
    refused = CliRunner().invoke(demo, ["--out", str(out)])
    assert refused.exit_code == 2
    assert "--force" in refused.output
