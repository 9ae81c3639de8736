from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.measure import (
    Line,
    Said,
    contest,
    draw_windows,
    markdown,
    read_genomad,
    read_jaeger,
    run_jaeger,
    score_windows,
)
from tests.finetune.conftest import genomes as genomes
from tests.finetune.conftest import sheet as sheet
from tests.jobs.commands import clean, measure
from vnp.controls.material import read_sheet as read_controls
from vnp.errors import FeatureError
from vnp.finetune.genomes import TEST, Genomes, save_genomes
from vnp.sequences.reading import read_records

GENOMAD = """seq_name\tchromosome_score\tplasmid_score\tvirus_score
a\t0.1791\t0.1819\t0.6390
b\t0.6\t0.1\t0.3
"""
JAEGER_HEAD = (
    "contig_id\tlength\tprediction\tentropy\treliability_score\thost_contam\tprophage_contam\tG+C\tN%\tprediction_2\t"
    "#_bacteria_windows\tbacteria_score\tbacteria_var\t#_phage_windows\tphage_score\tphage_var\t#_eukarya_windows\t"
    "eukarya_score\teukarya_var\t#_archaea_windows\tarchaea_score\tarchaea_var\twindow_summary\tterminal_repeats\t"
    "repeat_length\n"
)
JAEGER = JAEGER_HEAD + (
    "a\t44776\tphage\t0.169\t0.9\tFalse\tFalse\t0.5\t0.0\tbacteria\t2\t0.9\t0.9\t27\t3.6\t1.0\t0\t-5.7\t1.9\t0\t-3.0\t"
    "1.4\t7V1n\tDTR\t13.0\n"
    "b\t900\tBacteria\t0.2\t9.9\tFalse\tFalse\t0.5\t0.0\tphage\t2\t2.5\t0.9\t27\t0.5\t1.0\t0\t-5.7\t1.9\t0\t-3.0\t1.4\t"
    "1n\t\t\n"
)


def test_genomads_table(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(GENOMAD)
    assert read_genomad(tmp_path / "x.tsv") == {"a": Said(0.639, True), "b": Said(0.3, False)}
    (tmp_path / "x.tsv").write_text("seq_name\tscore\n")
    with pytest.raises(FeatureError, match="no column chromosome_score"):
        read_genomad(tmp_path / "x.tsv")


def test_jaegers_table(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(JAEGER)
    found = read_jaeger(tmp_path / "x.tsv")
    assert [one.viral for one in found.values()] == [True, False]
    # Of phages less the best of the other classes; what says how reliable it is, is no class.
    assert [one.score for one in found.values()] == pytest.approx([3.6 - 0.9, 0.5 - 2.5])


def test_scores_of_windows_and_of_what_is_not_scored() -> None:
    names = [
        f"{truth}-500-{n}" for truth in ("viral-phage", "viral-eukaryotic_virus", "host-bacteria") for n in range(2)
    ]
    said = {
        "viral-phage-500-0": Said(0.9, True),
        "viral-phage-500-1": Said(0.2, False),
        "viral-eukaryotic_virus-500-0": Said(0.8, True),
        "host-bacteria-500-0": Said(0.5, True),
        "host-bacteria-500-1": Said(0.1, False),
    }
    (found,) = score_windows(names, said)
    assert (found.length, found.windows, found.unscored) == (500, 6, 1)
    # Of 8 pairs of a virus and a host, 5 are right; the one that nothing is said of is below all.
    assert found.roc_auc == pytest.approx(5 / 8)
    assert found.phage_roc_auc == pytest.approx(3 / 4)
    assert (found.recall, found.specificity) == (0.5, 0.5)


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_programs_that_are_missing_or_fail_are_named(tmp_path: Path) -> None:
    fasta = tmp_path / "w.fna"
    fasta.write_text(
        "".join(f">{truth}-500-{n}\n{'ACGT' * 125}\n" for truth in ("viral-phage", "host-bacteria") for n in (0, 1))
    )
    fails = program(tmp_path / "fails", "echo it broke; exit 3")
    writes = program(
        tmp_path / "writes",
        f"mkdir -p $5/default; printf '{JAEGER_HEAD!s}' > $5/default/records_phages_jaeger.tsv\n"
        f'cat {tmp_path}/table > $5/default/records_jaeger.tsv; echo "$@" > {tmp_path}/asked',
    )
    row = JAEGER.splitlines()[1].partition("\t")[2]
    low = JAEGER.splitlines()[2].partition("\t")[2]
    (tmp_path / "table").write_text(
        JAEGER_HEAD + f"viral-phage-500-0\t{row}\nviral-phage-500-1\t{row}\nhost-bacteria-500-0\t{low}\n"
    )
    lines = contest(
        {
            "gone": "gone is not installed here",
            "Broken": lambda fasta, folder: run_jaeger(fasta, folder, fails),
            "Jaeger": lambda fasta, folder: run_jaeger(fasta, folder, writes),
        },
        fasta, fasta, tmp_path / "runs",
    )  # fmt: skip
    assert [(line.name, bool(line.why)) for line in lines] == [("gone", True), ("Broken", True), ("Jaeger", False)]
    assert "ended with 3: it broke" in lines[1].why
    assert (lines[2].scores[0].roc_auc, lines[2].phages) == (1.0, 2)
    assert "--fsize 500 --stride 500" in (tmp_path / "asked").read_text()
    silent = Line("Silent", "", score_windows(["viral-phage-500-0", "host-bacteria-500-0"], {}), 0)
    assert "| Silent | - | - | - | 0 |" in markdown([silent], [500], 4)
    text = markdown(lines, [500], 4)
    assert "| Jaeger | 1.000 | 1.000 | 1.00 | 2 |" in text
    assert "- gone: gone is not installed here" in text
    assert "- Jaeger says nothing of 1 of 4 at 500" in text


@pytest.fixture
def packed(genomes: Genomes, tmp_path: Path) -> Path:
    save_genomes(genomes, tmp_path / "genomes.npz")
    return tmp_path / "genomes.npz"


def test_windows_are_of_units_kept_for_the_test(packed: Path, genomes: Genomes, tmp_path: Path) -> None:
    count = draw_windows(packed, tmp_path / "w.fna", [300, 900], 10, seed=1)
    records = list(read_records(tmp_path / "w.fna"))
    assert len(records) == count == 40
    letters = np.frombuffer(b"ACGTN", np.uint8)
    kept = {
        truth: [
            letters[genomes.record(at)].tobytes()
            for at in np.flatnonzero((genomes.part == TEST) & (genomes.viral == viral)).tolist()
        ]
        for truth, viral in (("viral", True), ("host", False))
    }
    for record in records:
        truth, group, length, _ = record.name.split("-")
        assert len(record.sequence) == int(length)
        assert any(record.sequence in whole for whole in kept[truth])
        assert (group == "phage") == (truth == "viral")


def test_one_command_makes_our_rows(packed: Path, tmp_path: Path) -> None:
    words = ("peers", packed, "--out", tmp_path / "out", "--lengths", "500", "--windows", "10", "--genomad", "no_such")
    done = measure(*words, "--jaeger", program(tmp_path / "fails", "exit 1"))
    assert (clean(done), done.exit_code)[1] == 0, done.output
    found = json.loads((tmp_path / "out/peers.json").read_text())["contestants"]
    assert [(one["name"], bool(one["why_not"])) for one in found] == [
        ("vnp native", False), ("geNomad", True), ("Jaeger", True),
    ]  # fmt: skip
    assert found[0]["windows"][0]["windows"] == 20
    assert "no_such is not installed here" in (tmp_path / "out/peers.md").read_text()
    assert "--force" in clean(measure(*words))


def test_controls_of_the_genomes_kept_for_the_test(packed: Path, genomes: Genomes, tmp_path: Path) -> None:
    known = {part: np.flatnonzero((genomes.part == part) & ~genomes.viral) for part in (0, TEST)}
    letters = np.frombuffer(b"ACGTN", np.uint8)
    vectors = tmp_path / "vectors.fna"
    texts = [letters[genomes.record(int(known[part][0]))].tobytes().decode() for part in (0, TEST)]
    vectors.write_text("".join(f">v{n} Cloning vector pX{n}\n{text}\n" for n, text in enumerate(texts)))
    out = tmp_path / "out"
    words = ("--lengths", "400", "--windows", "2", "--device", "cpu")
    done = measure("native_controls", packed, vectors, "--out", out, *words)
    assert (clean(done), done.exit_code)[1] == 0, done.output
    files = read_controls(out / "controls.csv")
    assert [(one.path.name, one.viral, one.control, one.seen) for one in files] == [
        ("bacteria.fna", False, "", False),
        ("phage.fna", True, "", False),
        ("plasmid.fna", False, "plasmids", False),
        ("0-vectors-no.fna", False, "vectors", False),
        ("0-vectors-yes.fna", False, "vectors", True),
    ]
    assert sum(1 for _ in read_records(out / "phage.fna")) == int(((genomes.part == TEST) & genomes.viral).sum())
    lines = {line["control"]: line for line in json.loads((out / "controls/controls.json").read_text())["controls"]}
    assert (lines["vectors"]["sequences"], lines["vectors"]["seen"]) == (1, False)
    assert lines["plasmids"]["windows"] == 2
