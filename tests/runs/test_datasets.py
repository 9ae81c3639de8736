"""A dataset, as jobs.dataset writes it, becomes a run: its records, its frames, its split, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.runs.datasets import change_table, genomes, table_of, write_dataset
from tests.runs.making import ask, coding, column_bytes, dna, make_all, make_one, plan_run, small_blocks, write_fasta
from vnp.errors import ChangedInputError, InputError, RunError, RunExistsError, UsageError
from vnp.features.read import open_features
from vnp.features.split import PARTS
from vnp.files.records import read_record, write_record
from vnp.runs.done.reduce import reduce_run
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.plan import read_needed, read_plan
from vnp.runs.planning.start import start_run
from vnp.runs.planning.survey import survey
from vnp.sequences.samplesheet import InputFile, lost_tables, read_inputs

FRAMES = ("F1", "F2", "F3", "R1", "R2", "R3")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three lengths with a choice of the open frames."""
    return write_dataset(tmp_path_factory.mktemp("mixed"), genomes(), lengths=(150, 300, 500))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A small dataset that a test may spoil."""
    return write_dataset(tmp_path / "own", genomes(10, 1500))


def rows_of(path: Path) -> dict[str, Any]:
    found = column_bytes(path)
    features = open_features(path)
    return {"ids": features.ids(), "label": features.labels().tolist(), "group": features.groups(),
            "split": features.splits().tolist(), "columns": found}  # fmt: skip


class TestRecognised:
    @pytest.mark.parametrize("name", ["", "dataset.fna.gz", "dataset.parquet"])
    def test_by_its_folder_and_by_each_file(self, own: Path, name: str) -> None:
        found = InputFile(own / "dataset.fna.gz", dataset=own / "dataset.parquet")
        assert read_inputs([own / name]) == [found]
        assert lost_tables([found]) == []

    def test_in_a_samplesheet_beside_plain_files(self, own: Path, tmp_path: Path) -> None:
        write_fasta(tmp_path / "plain.fa", [("p", dna(400, 1))])
        (tmp_path / "sheet.csv").write_text("path,label,group\nplain.fa,viral,g\nown,,\n")
        plain, dataset = read_inputs([tmp_path / "sheet.csv"])
        assert (plain.label, plain.group, plain.dataset) == (1, "g", None)
        assert dataset == InputFile(own / "dataset.fna.gz", dataset=own / "dataset.parquet")

    @pytest.mark.parametrize("cells", ["viral,", ",g"])
    def test_a_sheet_must_not_speak_for_it(self, own: Path, tmp_path: Path, cells: str) -> None:
        (tmp_path / "sheet.csv").write_text(f"path,label,group\nown/dataset.parquet,{cells}\n")
        with pytest.raises(InputError, match=r"sheet\.csv, line 2: .* is a dataset, .*leave both empty"):
            read_inputs([tmp_path / "sheet.csv"])

    def test_without_its_table_it_is_fasta(self, own: Path) -> None:
        (own / "dataset.parquet").unlink()
        for path in (own, own / "dataset.fna.gz"):
            (found,) = read_inputs([path])
            assert found == InputFile(own / "dataset.fna.gz")
            assert len(lost_tables([found])) == 1

    def test_without_its_fasta_there_is_nothing_to_read(self, own: Path) -> None:
        (own / "dataset.fna.gz").unlink()
        for path in (own, own / "dataset.parquet"):
            with pytest.raises(InputError, match=r"dataset\.fna\.gz: there is no such file"):
                read_inputs([path])

    def test_other_folders_and_tables_are_refused(self, own: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder without dataset"):
            read_inputs([tmp_path])
        (own / "dataset.parquet").rename(own / "other.parquet")
        with pytest.raises(InputError, match="is a table, not sequences"):
            read_inputs([own / "other.parquet"])

    def test_twice_by_different_names(self, own: Path) -> None:
        with pytest.raises(UsageError, match="given twice"):
            read_inputs([own, own / "dataset.parquet"])


class TestRows:
    @pytest.mark.parametrize("shards", [1, 7])
    def test_ids_labels_units_and_split_are_those_of_the_table(self, mixed: Path, tmp_path: Path, shards: int) -> None:
        table = table_of(mixed)
        run = small_blocks(plan_run(tmp_path / "run", read_inputs([mixed]), shards), 40)
        assert run.request.chunk == 500
        assert run.request.totals.rows == len(table["id"])
        make_all(run)
        reduced = reduce_run(run, "1664")
        found = rows_of(run.paths.features)
        assert found["ids"] == table["id"]
        assert found["label"] == [int(label == "viral") for label in table["label"]]
        assert found["group"] == table["unit"]
        assert found["split"] == [PARTS.index(part) for part in table["split"]]
        assert reduced.parts == {part: table["split"].count(part) for part in PARTS}
        records = open_features(run.paths.features).records()
        first = dict(reversed(list(zip(table["name"], range(len(table["name"])), strict=True))))
        assert [name.decode() for name in records.name] == list(dict.fromkeys(table["name"]))
        for at, name in enumerate(records.name):
            row = first[name.decode()]
            assert records.length[at] == table["length"][row]
            assert records.chunks[at] == 1
            assert PARTS[records.split[at]] == table["split"][row]
            assert records.group[at].decode() == table["unit"][row]

    def test_ids_digests_are_that_of_the_column(self, mixed: Path, tmp_path: Path) -> None:
        run = plan_run(tmp_path / "run", read_inputs([mixed]), 1)
        make_all(run)
        receipt = json.loads(run.paths.receipt(0).read_text())
        expected = hashlib.sha256("".join(f"{name}\n" for name in table_of(mixed)["id"]).encode()).hexdigest()
        assert receipt["ids_sha256"] == expected

    def test_the_numbers_are_those_of_the_same_frames_in_plain_fasta(self, mixed: Path, tmp_path: Path) -> None:
        run = plan_run(tmp_path / "run", read_inputs([mixed]), 2)
        plain = plan_run(tmp_path / "plain", [mixed / "dataset.fna.gz"], 2, chunk=500)
        for one in (run, plain):
            make_all(one)
            reduce_run(one, "1664")
        chosen, every = (open_features(one.paths.features) for one in (run, plain))
        assert every.rows > chosen.rows
        place = {name: row for row, name in enumerate(every.ids())}
        rows = [place[name] for name in chosen.ids()]
        np.testing.assert_array_equal(chosen.mapped(), every.mapped()[rows])
        assert every.splits().max() == -1
        assert set(every.labels().tolist()) == {-1}

    def test_shards_are_balanced_by_the_chosen_frames(self, tmp_path: Path) -> None:
        found = genomes(40, 3000)
        folder = write_dataset(tmp_path / "set", found)

        def keep_few(columns: dict[str, list[Any]]) -> None:
            """All frames of the first half of the records, one of each in the second."""
            names = list(dict.fromkeys(columns["name"]))
            half, seen = set(names[: len(names) // 2]), set()
            kept = []
            for row, name in enumerate(columns["name"]):
                if name in half or name not in seen:
                    kept.append(row)
                seen.add(name)
            for name in columns:
                columns[name] = [columns[name][row] for row in kept]

        change_table(folder, keep_few)
        surveyed = survey(read_inputs([folder]), None)
        assert surveyed.totals.rows == len(table_of(folder)["id"])
        tokens = [shard.tokens for shard in surveyed.marks.cut(4)]
        assert max(tokens) / min(tokens) < 1.1
        assert sum(shard.rows for shard in surveyed.marks.cut(4)) == surveyed.totals.rows

    def test_two_datasets_beside_plain_files_and_a_sheet(self, own: Path, tmp_path: Path) -> None:
        other = write_dataset(tmp_path / "other", genomes(10, 1600, 50, "b"), lengths=(400,))
        plain = write_fasta(tmp_path / "plain.fa", [("p1", coding(900, 1)), ("p2", coding(100, 2))])
        write_fasta(tmp_path / "listed.fa", [("q1", coding(500, 3))])
        (tmp_path / "sheet.csv").write_text("path,label,group\nlisted.fa,host,unit 9\n")
        files = read_inputs([plain, own, tmp_path / "sheet.csv", other])
        run = small_blocks(plan_run(tmp_path / "run", files, 5), 16)
        assert run.request.chunk == 400
        make_all(run)
        parts = reduce_run(run, "1664").parts
        found = rows_of(run.paths.features)
        first, second = table_of(own), table_of(other)
        plain_rows = 3 * 6 + 1 * 6
        listed_rows = 2 * 6
        before = len(first["id"])
        assert found["ids"][plain_rows : plain_rows + before] == first["id"]
        assert found["ids"][plain_rows + before + listed_rows :] == second["id"]
        assert found["group"] == ["p1"] * 18 + ["p2"] * 6 + first["unit"] + ["unit 9"] * 12 + second["unit"]
        assert found["split"][:plain_rows] == [-1] * plain_rows
        assert found["label"][:plain_rows] == [-1] * plain_rows
        assert found["label"][plain_rows + before :][:listed_rows] == [0] * listed_rows
        assert parts["none"] == plain_rows + listed_rows
        assert sum(parts.values()) == len(found["ids"])

    def test_prefixes_are_the_names_of_the_folders(self, own: Path, tmp_path: Path) -> None:
        other = write_dataset(tmp_path / "other", genomes(10, 1500))
        with pytest.raises(InputError, match=r"two records are called 'g0:1-300'.*--prefix-ids"):
            survey(read_inputs([own, other]), None)
        run = plan_run(tmp_path / "run", read_inputs([own, other]), 2, prefix_ids=True)
        make_all(run)
        reduce_run(run, "1664")
        ids = open_features(run.paths.features).ids()
        assert ids == [f"own:{name}" for name in table_of(own)["id"]] + [f"other:{n}" for n in table_of(other)["id"]]

    def test_any_order_of_tasks_and_a_killed_one_give_the_same_bytes(self, mixed: Path, tmp_path: Path) -> None:

        made = []
        for name in ("straight", "stopped"):
            run = small_blocks(plan_run(tmp_path / name, read_inputs([mixed]), 3), 30)
            if name == "stopped":
                assert make_one(run, 2, stop=lambda: True).state == "stopped"
                for number in (2, 0, 1):
                    make_one(run, number)
            else:
                make_all(run)
            made.append([column_bytes(run.paths.shard(number)) for number in range(3)])
        assert made[0] == made[1]


class TestChunk:
    def test_a_smaller_chunk_is_refused(self, mixed: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"--chunk 300 would cut the records of .*make it 500 or more"):
            plan_run(tmp_path / "run", read_inputs([mixed]), chunk=300)

    def test_a_larger_one_is_taken(self, own: Path, tmp_path: Path) -> None:
        run = plan_run(tmp_path / "run", read_inputs([own]), chunk=500)
        assert run.request.chunk == 500
        make_all(run)
        reduce_run(run, "1664")
        assert open_features(run.paths.features).ids() == table_of(own)["id"]

    def test_without_a_dataset_it_is_300(self, tmp_path: Path) -> None:
        fasta = write_fasta(tmp_path / "a.fa", [("a", dna(900, 1))])
        assert plan_run(tmp_path / "run", [fasta]).request.chunk == 300


class TestPlan:
    def test_a_task_reads_its_own_records_and_no_others(self, mixed: Path, tmp_path: Path) -> None:
        run = plan_run(tmp_path / "run", read_inputs([mixed]), 6)
        shards = read_plan(run.paths.plan, run.request.plan_sha256)
        table = table_of(mixed)
        names = list(dict.fromkeys(table["name"]))
        units = dict(zip(table["name"], table["unit"], strict=True))
        for number, shard in enumerate(shards):
            (found,) = read_needed(run, shards, number)[0].values()
            assert (found.first, len(found)) == (shard.start.record, shard.units)
            own = names[found.first : found.first + len(found)]
            assert [found.units[unit].decode() for unit in found.unit] == [units[name] for name in own]
            # Units lie together, so a task gets few of them.
            assert len(found.units) <= len({units[name] for name in own}) + 1

    def test_a_task_needs_neither_the_table_nor_pyarrow(
        self, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = table_of(own)["id"]
        run = plan_run(tmp_path / "run", read_inputs([own]), 2)
        (own / "dataset.parquet").unlink()
        for name in [name for name in sys.modules if name.startswith("pyarrow")]:
            monkeypatch.setitem(sys.modules, name, None)
        make_all(run)
        reduce_run(run, "1664")
        assert open_features(run.paths.features).ids() == ids

    def test_without_pyarrow_planning_says_what_to_install(
        self, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, "vnp.runs.planning.dataset", raising=False)
        for name in ("pyarrow", "pyarrow.parquet"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=r"dataset\.parquet.* pyarrow, .*pip install '.*\[parquet\]'"):
            plan_run(tmp_path / "run", read_inputs([own]))
        assert not (tmp_path / "run/run.json").exists()

    def test_the_plan_is_covered_by_its_digest(self, own: Path, tmp_path: Path) -> None:
        run = plan_run(tmp_path / "run", read_inputs([own]), 2)
        with h5py.File(run.paths.plan, "r+") as file:
            file["datasets/0/split"][0] = 2 - file["datasets/0/split"][0]
        with pytest.raises(RunError, match=r"not the plan that run\.json names"):
            make_all(run)

    def test_other_frames_are_another_run(self, own: Path, tmp_path: Path) -> None:
        first = plan_run(tmp_path / "one", read_inputs([own]))
        change_table(own, lambda columns: columns.update(split=["train"] * len(columns["split"])))
        second = plan_run(tmp_path / "two", read_inputs([own]))
        assert first.request.totals == second.request.totals
        assert first.request.digest != second.request.digest

    def test_the_same_request_finds_the_run_and_a_changed_table_is_noticed(self, own: Path, tmp_path: Path) -> None:
        wish = ask(read_inputs([own]))
        run, before = start_run(wish, tmp_path / "run")
        assert not before
        again, before = start_run(wish, tmp_path / "run")
        assert before
        assert again.request == run.request
        with pytest.raises(RunExistsError, match="chunk: 300 there, 400 asked"):
            start_run(ask(read_inputs([own]), chunk=400), tmp_path / "run")
        with pytest.raises(RunExistsError, match=r"input 1, .*dataset\.fna\.gz there, which holds something else"):
            start_run(ask([own / "dataset.fna.gz"]), tmp_path / "run")
        change_table(own, lambda columns: columns.update(split=["train"] * len(columns["split"])))
        with pytest.raises(
            ChangedInputError, match=r"dataset\.parquet: is not the table that the run was planned with"
        ):
            start_run(wish, tmp_path / "run")
        (own / "dataset.parquet").unlink()
        with pytest.raises(ChangedInputError, match=r"dataset\.parquet: cannot be read any more"):
            start_run(wish, tmp_path / "run")

    def test_an_ask_survives_the_way_through_a_job(self, own: Path, tmp_path: Path) -> None:
        wish = ask(read_inputs([own]))
        write_record(tmp_path / "ask.json", wish)
        assert read_record(tmp_path / "ask.json", RunOptions) == wish


def repeat_frame(columns: dict[str, list[Any]]) -> None:
    row = next(row for row in range(1, len(columns["name"])) if columns["name"][row] == columns["name"][row - 1])
    columns["frame"][row] = columns["frame"][row - 1]


def drop_record(columns: dict[str, list[Any]]) -> None:
    gone = columns["name"][0]
    kept = [row for row, name in enumerate(columns["name"]) if name != gone]
    for name, values in columns.items():
        columns[name] = [values[row] for row in kept]


def swap_records(columns: dict[str, list[Any]]) -> None:
    one, two = list(dict.fromkeys(columns["name"]))[:2]
    rows = [row for name in (two, one) for row, found in enumerate(columns["name"]) if found == name]
    rest = list(range(len(rows), len(columns["name"])))
    for name, values in columns.items():
        columns[name] = [values[row] for row in (*rows, *rest)]


def set_last(column: str, value: Any) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[column][-1] = value

    return change


class TestFaults:
    def test_a_changed_fasta_is_one_clear_error(self, own: Path, tmp_path: Path) -> None:
        path = own / "dataset.fna.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"A", b"C", 1), mtime=0))
        with pytest.raises(
            InputError, match=r"dataset\.fna\.gz: is not the FASTA that dataset\.parquet was written with"
        ):
            plan_run(tmp_path / "run", read_inputs([own]))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (set_last("label", "virus"), r"row \d+ has a label that is none of host, viral"),
            (set_last("split", "other"), r"row \d+ has a split that is none of train, validation, test"),
            (set_last("frame", "F7"), r"row \d+ has a frame that is none of"),
            (set_last("unit", None), r"row \d+ has"),
            (set_last("id", "x"), r"row \d+ has an id that does not fit its name and frame"),
            (repeat_frame, r"repeats a frame, or frames are not in the order"),
            (drop_record, r"records in its rows and .* in its metadata"),
            (swap_records, r"record 'g0:1-300': does not fit .*dataset\.parquet: the table has another record here"),
            (lambda columns: [columns.update({name: []}) for name in columns], "has no rows"),
        ],
    )
    def test_a_table_that_contradicts_itself(
        self, own: Path, tmp_path: Path, change: Callable[[dict[str, list[Any]]], None], message: str
    ) -> None:
        change_table(own, change)
        with pytest.raises(InputError, match=message):
            plan_run(tmp_path / "run", read_inputs([own]))
        assert not (tmp_path / "run/run.json").exists()

    def test_rows_of_a_record_that_disagree(self, own: Path, tmp_path: Path) -> None:
        def disagree(columns: dict[str, list[Any]]) -> None:
            names = columns["name"]
            row = next(row for row in range(1, len(names)) if names[row] == names[row - 1])
            columns["split"][row] = "test" if columns["split"][row] != "test" else "train"

        change_table(own, disagree)
        with pytest.raises(InputError, match="has another split than the record's first row"):
            plan_run(tmp_path / "run", read_inputs([own]))

    def test_a_frame_that_is_not_open(self, own: Path, tmp_path: Path) -> None:
        def list_all(columns: dict[str, list[Any]]) -> None:
            first = {name: row for row, name in reversed(list(enumerate(columns["name"])))}
            rows = [(row, frame) for row in sorted(first.values()) for frame in FRAMES]
            for name, values in columns.items():
                columns[name] = [values[row] for row, _ in rows]
            columns["frame"] = [frame for _, frame in rows]
            columns["id"] = [f"{columns['name'][at]}_chunk_1{frame}" for at, (_, frame) in enumerate(rows)]

        change_table(own, list_all)
        with pytest.raises(InputError, match=r"dataset\.parquet lists a frame of it that has a stop"):
            plan_run(tmp_path / "run", read_inputs([own]))

    @pytest.mark.parametrize(
        ("about", "message"),
        [
            ({"schema": "vnp-dataset/9"}, r"has the format 'vnp-dataset/9'"),
            ({"schema": None}, "is not the table of a dataset"),
            ({"fasta_sha256": None}, "lacks fasta_sha256"),
            ({"chunk": "500"}, "lacks chunk"),
        ],
    )
    def test_another_metadata(self, own: Path, tmp_path: Path, about: dict[str, Any], message: str) -> None:
        change_table(own, lambda _columns: None, **about)
        with pytest.raises(InputError, match=message):
            plan_run(tmp_path / "run", read_inputs([own]))

    def test_a_file_that_is_no_parquet(self, own: Path, tmp_path: Path) -> None:
        (own / "dataset.parquet").write_bytes(b"PAR1 and then nothing")
        with pytest.raises(InputError, match=r"dataset\.parquet: cannot be read as a dataset's table"):
            plan_run(tmp_path / "run", read_inputs([own]))


def test_batches_of_the_table_do_not_matter(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vnp.runs.planning.dataset import read_dataset

    whole = read_dataset(mixed / "dataset.parquet", mixed / "dataset.fna.gz")
    for size in (1, 3, 64):
        monkeypatch.setattr("vnp.runs.planning.dataset._BATCH", size)
        found = read_dataset(mixed / "dataset.parquet", mixed / "dataset.fna.gz")
        for name in ("label", "split", "frames", "unit"):
            np.testing.assert_array_equal(getattr(found.selection, name), getattr(whole.selection, name))
        assert found.selection.units == whole.selection.units
        np.testing.assert_array_equal(found.names, whole.names)
