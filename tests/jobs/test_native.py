"""Calls with nothing but the installation: the native model on records of all kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.jobs.commands import calls as call
from tests.jobs.commands import table
from vnp.encoders.models.sixframe import KINDS, VIRAL_KINDS
from vnp.encoders.spec import spec
from vnp.encoders.weights.folders import window_of
from vnp.metrics.presets import presets_from_json
from vnp.native.model import FOLDER
from vnp.sequences.record import reverse_complement

WINDOW = window_of(spec("sixframe"))
WRITTEN = ["predictions.tsv", "chunks.tsv", "viral.fna"]


def bases(size: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), size))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "odd.fna"
    records = {
        "long": bases(WINDOW + 271) + bases(WINDOW + 271)[:30],  # a circle, of two windows
        "inverted": bases(150, 5) + reverse_complement(bases(150, 5).encode()).decode()[-40:],
        "window": bases(WINDOW, 1),
        "closed": "TAATTAATTAA" * 12,
        "least": bases(100, 2),
        "short": bases(99, 3),
        "unknown": "N" * 400,
        "protein": "MEEPQSDPSVEPPLSQETFSDLWKLLPENNVLSPLPSQAMDDLMLSPDDIEQWFTEDPGPDEAPRMPEAAPPVAPAPAAPTPAAPAPAPSWPLSSS",
        "empty": "",
        "some": "N" * 200 + bases(300, 4),
    }
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))
    return path


@pytest.fixture(scope="module")
def done(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "calls"
    result = call(odd, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def test_every_record_of_a_hundred_bases_has_a_call(done: Path) -> None:
    found = {row["name"]: row for row in table(done / "predictions.tsv")}
    presets = presets_from_json(json.loads((FOLDER / "config.json").read_text())["presets"])
    windows = {"long": 2, "inverted": 1, "window": 1, "closed": 1, "least": 1, "some": 1}
    for name, count in windows.items():
        row = found[name]
        said = [row[column] for column in ("n_chunks", "n_scored", "scored_by", "reason")]
        assert said == [str(count), str(count), "native", ""]
        least = presets["default"].of(np.array([int(row["length"])]))[0]
        assert row["call"] == ("viral" if float(row["probability"]) >= least else "host")
        assert (KINDS.index(row["kind"]) < VIRAL_KINDS) == (row["call"] == "viral")
    reasons = {"short": "shorter than 100 bases", "unknown": "only ambiguous bases", "empty": "the record is empty"}
    for name, reason in reasons.items():
        row = found[name]
        assert row["reason"] == reason
        assert row["call"] == row["kind"] == row["scored_by"] == row["probability"] == row["fdr"] == ""
    assert found["protein"]["reason"].startswith("looks like protein")
    ends = {name: (row["topology"], row["terminal_repeat"]) for name, row in found.items()}
    assert len(found) == 10
    assert ends == dict.fromkeys(found, ("linear", "0")) | {
        "long": ("circular", "30"),
        "closed": ("circular", "66"),
        "inverted": ("inverted_repeats", "40"),
        "protein": ("", "0"),
        "empty": ("", "0"),
    }
    chunks = [(row["record"], row["start"], row["end"]) for row in table(done / "chunks.tsv")]
    assert (chunks[0], chunks[3]) == (("long", "0", str(WINDOW)), ("window", "0", str(WINDOW)))
    assert (chunks[1][0], chunks[1][2]) == ("long", str(WINDOW + 301))
    assert not (done / "frames.tsv").exists()


@pytest.mark.parametrize("words", [[], ["--keep-embeddings"]], ids=["scores", "rows"])
def test_any_number_of_shards_gives_the_same_bytes(words: list[str], done: Path, odd: Path, tmp_path: Path) -> None:
    assert call(odd, "--out", tmp_path / "calls", "--shards", 4, *words).exit_code == 0
    for name in WRITTEN:
        assert (tmp_path / "calls" / name).read_bytes() == (done / name).read_bytes(), name


def test_shards_hold_scores_and_presets_call_again(done: Path, tmp_path: Path) -> None:
    result = call("--from", done, "--out", tmp_path / "all", "--threshold", 0)
    assert result.exit_code == 0, result.output
    found = table(tmp_path / "all" / "predictions.tsv")
    assert {row["call"] for row in found if row["score"]} == {"viral"}
    assert all(KINDS.index(row["kind"]) < VIRAL_KINDS for row in found if row["kind"])
    words = ["--preset", "conservative", "--min-length", 150]
    assert call("--from", done, "--out", tmp_path / "few", *words).exit_code == 0
    few = {row["name"]: row for row in table(tmp_path / "few" / "predictions.tsv")}
    assert few["closed"]["reason"] == "shorter than 150 bases"


def test_tables_tell_where_records_come_from_and_what_they_are_made_of(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    long = "word " * 80
    (tmp_path / "lake/a.fna").write_text(
        f">a1 first  one\n{'GCAT' * 50}\n>a2\t{long}\n{'GGNNRA' * 30}\n>a3\n{'N' * 200}\n"
    )
    (tmp_path / "b.fna").write_text(f">b1\n{bases(2500, 3)}\n>b2 protein\nMEEPQSDPSVEPPLSQETFSDLWKLLPENN\n")
    (tmp_path / "sheet.csv").write_text("path,label,group,sample\nlake/a.fna,,,lake\nb.fna,,,\n")
    assert call(tmp_path / "sheet.csv", "--out", tmp_path / "calls").exit_code == 0
    rows = {row["name"]: row for row in table(tmp_path / "calls/predictions.tsv")}
    said = [(row["sample"], row["source"], row["gc"], row["n_share"]) for row in rows.values()]
    assert said[:3] == [("lake", "lake/a.fna", *shares) for shares in (("0.5", "0"), ("0.666667", "0.5"), ("", "1"))]
    assert said[3][:2] == ("", "b.fna")
    assert (said[4][2:], rows["b2"]["length"]) == (("", ""), "30")
    assert [row["description"] for row in rows.values()][::2] == ["first  one", "", "protein"]
    assert rows["lake:a2"]["description"].encode() == long.encode()[:253] + "…".encode()
    counts = json.loads((tmp_path / "calls/summary.json").read_text())
    assert [(one["sample"], one["files"], one["records"]) for one in counts["samples"]] == [
        ("lake", ["lake/a.fna"], 3),
        ("b.fna", ["b.fna"], 2),
    ]
    for name in ("records", "bases", "viral", "viral_bases", "host", "no_call"):
        assert sum(one[name] for one in counts["samples"]) == counts["counts"][name]
    for one in counts["samples"]:
        assert sum(one["kinds"].values()) == one["viral"] + one["host"]
    shown = json.loads((tmp_path / "calls/vnp_mqc.json").read_text())
    assert {name: row["records"] for name, row in shown["data"].items()} == {"lake": 3, "b.fna": 2}
    assert all(row.keys() == shown["headers"].keys() for row in shown["data"].values())


def test_columns_are_chosen(done: Path, tmp_path: Path) -> None:
    for asked, header in (("call, gc", "name\tcall\tgc"), ("name", "name"), ("length,name", "name\tlength")):
        out = tmp_path / asked
        assert call("--from", done, "--out", out, "--columns", asked).exit_code == 0
        lines = (out / "predictions.tsv").read_text().splitlines()
        assert (lines[0], len(lines)) == (header, 11)
    for asked, said in (("name,size", "has no column 'size'"), ("gc,gc", "names gc twice")):
        result = call("--from", done, "--out", tmp_path / "no", "--columns", asked)
        assert (result.exit_code, said in result.output) == (2, True), result.output


def test_windows_may_be_shorter(odd: Path, tmp_path: Path) -> None:
    assert call(odd, "--out", tmp_path / "calls", "--window", WINDOW // 2).exit_code == 0
    assert {row["name"]: row["n_scored"] for row in table(tmp_path / "calls" / "predictions.tsv")}["long"] == "3"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window", WINDOW + 1], f"--window is from 100 to {WINDOW:,}"),
        (["--window", 99], f"--window is from 100 to {WINDOW:,}"),
        (["--virnucpro-output"], "leave it out"),
        (["--checkpoint", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_what_does_not_go_with_it(words: list[Any], said: str, odd: Path, tmp_path: Path) -> None:
    refused = call(odd, "--out", tmp_path / "out", *words)
    assert refused.exit_code != 0
    assert said in refused.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_folder_is_one_line(name: str, odd: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sixframe"
    folder.mkdir()
    for each in ("model.safetensors", "config.json"):
        shutil.copy(FOLDER / each, folder / each)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refused = call(odd, "--checkpoint", folder, "--out", tmp_path / "out")
    assert refused.exit_code == 1, refused.output
    assert str(folder) in refused.output
    assert refused.output.count("\n") <= 2


def test_a_samplesheet_of_predict_needs_a_path_and_no_more(odd: Path, done: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"path\n{odd}\n")
    assert call(sheet, "--out", tmp_path / "calls").exit_code == 0
    assert table(tmp_path / "calls/predictions.tsv") == table(done / "predictions.tsv")
    sheet.write_text(f"file\n{odd}\n")
    refused = call(sheet, "--out", tmp_path / "other")
    assert refused.exit_code == 1
    assert "has the columns path, and may have sample and path2" in refused.stderr
