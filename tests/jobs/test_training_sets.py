"""From a finished training set to a measured classifier, by the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.datasets.genbank import genbank, genome_with_genes, random_protein
from tests.jobs.commands import KMER, call, clean, extract, measure
from tests.runs.datasets import change_table, genomes, table_of, write_dataset
from tests.runs.making import coding, write_fasta
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.split import read_split
from vnp.features.read import open_features
from vnp.features.split import PARTS

QUICK = ("--epochs", "3", "--recipe", "adamw", "--batch", "64")

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of the same genomes, of 300 bases and of three lengths, each extracted and reduced."""
    folder = tmp_path_factory.mktemp("sets")
    for name, lengths in (("plain", (300,)), ("mixed", (150, 300, 500))):
        write_dataset(folder / name, genomes(20, 1500), lengths=lengths)
        run = folder / f"run_{name}"
        # The chunk of both is that of the longest, so that a classifier of one reads the other.
        clean(extract(folder / name, "--out", run, "--shards", "2", "--chunk", "500"))
        clean(call("reduce", run))
    return folder


@pytest.fixture(scope="module")
def model(sets: Path) -> Path:
    for name in ("plain", "mixed"):
        result = call("train", sets / f"run_{name}", "--out", sets / f"models/{name}.pth", *QUICK)
        assert "the split of the dataset:\n  train: " in result.output
        assert "overrides" not in result.output
    return sets / "models/mixed.pth"


class TestExtract:
    def test_says_what_it_took(self, sets: Path, tmp_path: Path) -> None:
        result = extract(sets / "mixed", "--out", tmp_path / "run")
        assert "a dataset of" in result.output
        assert "with its own labels, groups and split (chunk 500)" in result.output
        reduced = call("reduce", tmp_path / "run")
        table = table_of(sets / "mixed")
        parts = ", ".join(f"{table['split'].count(part):,} {part}" for part in PARTS)
        assert f"rows by the split that came with the data: {parts}" in reduced.output
        assert f"next: python -m jobs.train {tmp_path / 'run'}" in reduced.output
        told = json.loads(call("reduce", tmp_path / "run", "--json").output)
        assert told["split"] == {part: table["split"].count(part) for part in PARTS}

    def test_a_chunk_of_the_command_line_or_of_vnp_toml_must_hold_its_records(
        self, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = extract(sets / "mixed", "--out", tmp_path / "run", "--chunk", "300")
        assert result.exit_code == 2
        assert "--chunk 300 would cut the records" in clean(result)
        (tmp_path / "vnp.toml").write_text("chunk = 300\n")
        result = extract(sets / "mixed", "--out", tmp_path / "run")
        assert result.exit_code == 2
        assert "also in vnp.toml" in clean(result)
        assert not (tmp_path / "run").exists()

    def test_without_its_table_a_warning_says_what_is_lost(self, tmp_path: Path) -> None:
        folder = write_dataset(tmp_path / "set", genomes(4, 900))
        (folder / "dataset.parquet").unlink()
        result = extract(folder, "--out", tmp_path / "run")
        assert "warning" in result.stderr
        assert "has no dataset.parquet beside it, so it is taken as plain FASTA" in result.stderr
        assert "a dataset of" not in result.output

    def test_a_rehearsal_writes_nothing(self, sets: Path, tmp_path: Path) -> None:
        result = extract(sets / "mixed", "--out", tmp_path / "run", "--shards", "3", "--dry-run")
        assert f"{len(table_of(sets / 'mixed')['id']):,} rows" in result.output
        assert not (tmp_path / "run").exists()

    def test_only_some_shards_then_a_rerun_then_again(self, sets: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        clean(extract(sets / "mixed", "--out", run, "--shards", "4", "--chunk", "500"))
        (run / "receipts/shard-00002.json").unlink()
        (run / "shards/shard-00002.h5").unlink()
        assert "shard 2: done" in call("extract", "--out", run, "--only", "2").output
        (run / "receipts/shard-00001.json").unlink()
        assert call("rerun", run, "--cluster", "inline").exit_code == 0
        assert "nothing to do" in extract(sets / "mixed", "--out", run, "--shards", "4").output
        clean(call("reduce", run))
        assert open_features(run).ids() == open_features(sets / "run_mixed").ids()

    def test_frames_writes_those_that_are_listed(self, sets: Path, tmp_path: Path) -> None:
        result = call("frames", sets / "mixed", "--out", tmp_path / "frames")
        assert "--chunk 500" in result.output
        text = (tmp_path / "frames/identified_protein.faa").read_text()
        assert [line[1:] for line in text.splitlines() if line[0] == ">"] == table_of(sets / "mixed")["id"]

    def test_reads_are_not_cut_from_chunks(self, sets: Path, tmp_path: Path) -> None:
        result = call("benchmark", "reads", sets / "mixed", "--out", tmp_path / "reads")
        assert result.exit_code == 2
        assert "a dataset holds chunks already" in clean(result)


class TestTrain:
    def test_the_split_of_the_data_is_obeyed_by_all_that_is_written(self, sets: Path, model: Path) -> None:
        table = table_of(sets / "mixed")
        part_of = dict(zip(table["unit"], table["split"], strict=True))
        checkpoint = Checkpoint.load(model)
        assert checkpoint.split["kind"] == "dataset"
        for part in PARTS:
            found = checkpoint.split["parts"][part]
            assert found["rows"] == table["split"].count(part)
            assert found["groups"] == len({unit for unit, name in part_of.items() if name == part})
        assert set(checkpoint.metrics) == {"validation", "test"}
        assert checkpoint.metrics["test"]["frame"]["count"] == table["split"].count("test")
        key, stored = read_split(model.with_name("mixed.split.tsv"))
        assert key == "group"
        assert {name: PARTS[part] for name, part in stored.items()} == part_of
        metrics = json.loads(model.with_name("mixed.metrics.json").read_text())
        assert metrics["split"]["kind"] == "dataset"

    @pytest.mark.parametrize("split", ["group", "random", "file"])
    def test_another_split_overrides_it_with_a_note(self, sets: Path, model: Path, tmp_path: Path, split: str) -> None:
        given = str(model.with_name("mixed.split.tsv")) if split == "file" else split
        result = call("train", sets / "run_plain", "--out", tmp_path / "m.pth", "--split", given, *QUICK)
        assert f"note: the data brings a split of its own, which --split {given} overrides" in result.output
        assert Checkpoint.load(tmp_path / "m.pth").split["kind"] == split

    def test_features_without_a_split_are_dealt_out_as_before(self, sets: Path, tmp_path: Path) -> None:
        for name in ("viral", "host"):
            write_fasta(tmp_path / f"{name}.fa", [(f"{name}{n}", coding(600, n)) for n in range(5)])
        (tmp_path / "s.csv").write_text("path,label,group\nviral.fa,viral,\nhost.fa,host,\n")
        clean(extract(tmp_path / "s.csv", "--out", tmp_path / "run"))
        clean(call("reduce", tmp_path / "run"))
        result = call("train", tmp_path / "run", "--out", tmp_path / "m.pth", *QUICK)
        assert "split by group:\n  train: " in result.output
        assert Checkpoint.load(tmp_path / "m.pth").split["kind"] == "group"

    def test_rows_without_a_split_beside_rows_with_one(self, sets: Path, tmp_path: Path) -> None:
        write_fasta(tmp_path / "more.fa", [(f"more{n}", coding(600, n)) for n in range(8)])
        (tmp_path / "s.csv").write_text("path,label,group\nmore.fa,host,\n")
        clean(extract(sets / "plain", tmp_path / "s.csv", "--out", tmp_path / "run"))
        clean(call("reduce", tmp_path / "run"))
        for command in (("train",), ("benchmark", "accuracy")):
            out = tmp_path / ("m.pth" if command == ("train",) else "results")
            result = call(*command, tmp_path / "run", "--out", out)
            assert result.exit_code == 1
            said = clean(result)
            assert "96 of" in said
            assert "came without a split, those of more0, more1, more2, more3, more4 and 3 more" in said
            assert "--split group deals all groups out anew" in said
        result = call("train", tmp_path / "run", "--out", tmp_path / "m.pth", "--split", "group", *QUICK)
        assert result.exit_code == 0, result.output

    def test_two_datasets_that_disagree(self, sets: Path, tmp_path: Path) -> None:
        other = write_dataset(tmp_path / "other", genomes(20, 1500), lengths=(200,))

        def turn(columns: dict[str, list[str]]) -> None:
            columns["split"] = ["test" if part == "train" else "train" for part in columns["split"]]

        change_table(other, turn)
        clean(extract(sets / "plain", other, "--out", tmp_path / "run"))
        clean(call("reduce", tmp_path / "run"))
        result = call("train", tmp_path / "run", "--out", tmp_path / "m.pth")
        assert result.exit_code == 1
        assert "units are in more than one part of the split that came with the data: unit 0 v" in clean(result)

    def test_dedupe_has_nothing_to_do(self, sets: Path, tmp_path: Path) -> None:
        result = call("train", sets / "run_plain", "--out", tmp_path / "m.pth", "--dedupe")
        assert result.exit_code == 2
        assert "the split that came with the data stands" in clean(result)


class TestAccuracy:
    def test_by_length_of_chunk_on_the_test_part(self, sets: Path, model: Path, tmp_path: Path) -> None:
        out = tmp_path / "results"
        plain = model.with_name("plain.pth")
        result = call("benchmark", "accuracy", f"{sets / 'run_mixed'}@{plain}", f"{sets / 'run_mixed'}@{model}",
                      "--out", out, "--replicates", "50")  # fmt: skip
        clean(result)
        table = table_of(sets / "mixed")
        tested = [row for row, part in enumerate(table["split"]) if part == "test"]
        assert "by length of chunk" in result.output
        for length in ("150 bp", "300 bp", "500 bp"):
            assert length in result.output
        found = json.loads((out / "accuracy.json").read_text())
        assert found["split"]["kind"] == "dataset"
        assert found["levels"]["frame"]["measured"]["plain"][0]["count"] == len(tested)
        for name in ("plain", "mixed"):
            strata = [one for one in found["levels"]["frame"]["measured"][name] if one["by"] == "chunk"]
            assert {one["stratum"]: one["count"] for one in strata} == {
                f"{length} bp": sum(table["length"][row] == length for row in tested) for length in (150, 300, 500)
            }
            for one in strata:
                low, high = one["intervals"]["roc_auc"]
                assert low - 1e-9 <= one["roc_auc"] <= high + 1e-9
        pairs = found["levels"]["chunk"]["pairs_by_chunk"]
        assert [pair["stratum"] for pair in pairs] == ["150 bp", "300 bp", "500 bp"]
        assert all((pair["first"], pair["second"]) == ("plain", "mixed") for pair in pairs)
        by_length = {
            name: {one["stratum"]: one for one in found["levels"]["chunk"]["measured"][name] if one["by"] == "chunk"}
            for name in ("plain", "mixed")
        }
        for pair in pairs:
            values = [by_length[name][pair["stratum"]]["roc_auc"] for name in ("plain", "mixed")]
            assert pair["second_minus_first"]["roc_auc"]["value"] == pytest.approx(values[1] - values[0])
        lines = (out / "accuracy.tsv").read_text().splitlines()
        assert sum("\tchunk\tchunk\t150 bp\t" in line for line in lines) == 2
        assert "By length of chunk" in (out / "accuracy.html").read_text()
        assert "none of the groups held out is in its training or validation (plain.split.tsv)" in result.output

    def test_training_on_the_spot_follows_the_split_too(self, sets: Path, tmp_path: Path) -> None:
        out = tmp_path / "results"
        result = call(
            "benchmark", "accuracy", sets / "run_plain", "--out", out, "--recipe", "adamw", "--replicates", "50"
        )
        clean(result)
        table = table_of(sets / "plain")
        found = json.loads((out / "accuracy.json").read_text())
        assert found["levels"]["frame"]["measured"]["run_plain"][0]["count"] == table["split"].count("test")
        _, stored = read_split(out / "split.tsv")
        assert {name: PARTS[part] for name, part in stored.items()} == dict(
            zip(table["unit"], table["split"], strict=True)
        )
        assert "by length of chunk" not in result.output

    def test_groups_of_a_test_part_that_were_trained_on_are_named_and_left_out(
        self, sets: Path, model: Path, tmp_path: Path
    ) -> None:
        other = write_dataset(tmp_path / "other", genomes(20, 1500), lengths=(150, 300))
        clash = [f"unit {number} {kind}" for number in (0, 1) for kind in "vh"]

        def hold_out(columns: dict[str, list[str]]) -> None:
            columns["split"] = [
                "test" if unit in clash else part for unit, part in zip(columns["unit"], columns["split"], strict=True)
            ]

        change_table(other, hold_out)
        clean(extract(other, "--out", tmp_path / "run", "--chunk", "500"))
        clean(call("reduce", tmp_path / "run"))
        out = tmp_path / "results"
        result = call("benchmark", "accuracy", f"{tmp_path / 'run'}@{model}", "--out", out, "--replicates", "50")
        clean(result)
        assert "note: mixed: 4 groups held out here were in its training or validation" in result.output
        assert all(name in result.output for name in clash)
        table = table_of(other)
        rows = sum(part == "test" and unit not in clash
                   for part, unit in zip(table["split"], table["unit"], strict=True))  # fmt: skip
        found = json.loads((out / "accuracy.json").read_text())
        assert found["levels"]["frame"]["measured"]["mixed"][0]["count"] == rows

    def test_without_a_test_part_there_is_nothing_to_compare_on(self, sets: Path, model: Path, tmp_path: Path) -> None:
        own = write_dataset(tmp_path / "own", genomes(20, 1500))
        change_table(
            own,
            lambda columns: columns.update(split=["train" if part == "test" else part for part in columns["split"]]),
        )
        clean(extract(own, "--out", tmp_path / "run", "--chunk", "500"))
        clean(call("reduce", tmp_path / "run"))
        result = call("benchmark", "accuracy", f"{tmp_path / 'run'}@{model}", "--out", tmp_path / "results")
        assert result.exit_code == 1
        assert "the split that came with the data has no test part to compare on" in clean(result)
        result = call("train", tmp_path / "run", "--out", tmp_path / "m.pth", *QUICK)
        assert result.exit_code == 0, result.output
        assert set(Checkpoint.load(tmp_path / "m.pth").metrics) == {"validation"}

    def test_another_split_says_that_it_overrides(self, sets: Path, model: Path, tmp_path: Path) -> None:
        result = call("benchmark", "accuracy", f"{sets / 'run_mixed'}@{model}", "--out", tmp_path / "results",
                      "--split", "group", "--replicates", "50")  # fmt: skip
        clean(result)
        assert "The data brings a split of its own, which --split group overrides." in result.output


def test_a_pipeline_goes_from_a_dataset_to_the_test_part(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = write_dataset(tmp_path / "set", genomes(20, 600))
    result = call("pipeline", made, "--out", run, "--shards", "2", *KMER, "--cluster", "inline")
    clean(result)
    assert Checkpoint.load(run / "model/model.pth").split["kind"] == "dataset"
    found = json.loads((run / "accuracy/accuracy.json").read_text())
    assert found["levels"]["frame"]["measured"]["model"][0]["count"] == table_of(made)["split"].count("test")


def test_a_prediction_takes_every_open_frame_of_a_dataset(sets: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "calls"
    clean(call("predict", sets / "plain", "--checkpoint", model, "--out", out, "--cluster", "inline"))
    frames = (out / "frames.tsv").read_text().splitlines()[1:]
    assert len(frames) > len(table_of(sets / "plain")["id"])


def test_the_index_is_timed_against_the_scan(tmp_path: Path) -> None:
    bases, features, _ = genome_with_genes([random_protein(200, seed) for seed in range(5)])
    path = tmp_path / "genome.gb"
    path.write_text(genbank("V1", bases, features))
    result = measure("dataset", path, "--chunk", "90", "--json")
    clean(result)
    found = json.loads(result.output)
    assert (found["records"], found["proteins"], found["bases"]) == (1, 5, len(bases))
    assert 0 < found["in an annotated protein"] < found["open frames"]
    assert found["index over scan"] > 0
    assert "index over scan" in measure("dataset", path, "--chunk", "90").output
