"""The numbers of status for Prometheus: read back by its own parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs import extract, status
from vnp.runs.done.prometheus import metrics_text
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.start import start_run
from vnp.sequences.samplesheet import InputFile

parser = pytest.importorskip("prometheus_client.parser")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two shards, one of them made, whose folder's name must be escaped."""
    fasta = tmp_path / "in.fasta"
    fasta.write_text("".join(f">r{i}\n{'ATGGCC' * 50}\n" for i in range(4)))
    asked = RunOptions((InputFile(fasta, -1, None),), shards=2, dna="kmer", protein="kmer")
    found, _ = start_run(asked, tmp_path / 'a "run" \\ b')
    monkeypatch.setenv("PATH", "/nowhere")
    made = CliRunner().invoke(extract.main, ["--out", str(found.paths.root), "--only", "0"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    return found.paths.root


def look(*words: object) -> Result:
    return CliRunner().invoke(status.main, list(map(str, words)), catch_exceptions=False)


def numbers(text: str) -> dict[tuple[str, str], float]:
    """Values by name and state; the label run is checked on the way."""
    samples = [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]
    assert len({sample.labels["run"] for sample in samples}) == 1
    return {(sample.name.removeprefix("vnp_run_"), sample.labels.get("state", "")): sample.value for sample in samples}


def test_the_file_has_statuss_own_numbers_and_takes_the_place_of_the_one_before(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "vnp.prom"
    plain = look(run, "--json")
    for _ in range(2):
        done = look(run, "--json", "--prometheus", path)
        assert (done.exit_code, done.stdout) == (3, plain.stdout)
    said, found = json.loads(done.stdout), numbers(path.read_text())
    shards = {state: value for (name, state), value in found.items() if name == "shards"}
    assert {state: value for state, value in shards.items() if value} == said["counts"] == {"done": 1, "missing": 1}
    assert sum(shards.values()) == 2
    for name in ("rows", "rows_embedded", "rows_planned"):
        assert found[name, ""] == said[name] > 0
    # None, and no line, where so few rows took no time that is worth a number.
    assert found.get(("tokens_per_second", "")) == said["tokens_per_second"]
    assert found["complete", ""] == 0
    assert found["attempts", ""] == 1
    assert found["seconds_left", ""] == pytest.approx(3600 * said["hours_left"])
    labels = next(iter(parser.text_string_to_metric_families(path.read_text()))).samples[0].labels
    assert labels == {"run": str(run)}
    assert path.stat().st_mode & 0o444 == 0o444, "node_exporter is another user"
    assert [entry.name for entry in tmp_path.glob("*.prom*")] == ["vnp.prom"]


def test_what_tasks_used_is_efficiencys(run: Path, tmp_path: Path) -> None:
    done = look(run, "--efficiency", "--json", "--prometheus", tmp_path / "vnp.prom")
    used, found = json.loads(done.stdout)["run"], numbers((tmp_path / "vnp.prom").read_text())
    assert found["task_seconds", ""] == pytest.approx(3600 * used["hours"])
    assert found["memory_bytes", ""] == used["memory"] > 0
    assert found["gpu_seconds", ""] == 0
    assert ("gpu_busy", "") not in found, "what is not known has no line"


def test_a_run_that_is_not_planned_is_not_complete() -> None:
    assert numbers(metrics_text(Path("/run"), None)) == {("complete", ""): 0}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("vnp.txt", None, "must end in .prom"), ("node.prom", "# HELP node_load1 x\n", "already there, and no metrics")],
)
def test_what_would_not_be_read_or_is_anothers_is_refused(
    run: Path, tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    done = look(run, "--prometheus", path)
    assert done.exit_code == 2
    assert said in done.stderr
    assert (path.read_text() if path.exists() else None) == text
