from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs.making import ask, coding, dna, plan_run, write_fasta
from vnp.errors import InputError, RunError
from vnp.runs.planning.plan import read_plan, write_plan
from vnp.runs.planning.survey import Marks, prefixes, survey
from vnp.sequences.samplesheet import InputFile, read_inputs

works = st.lists(st.integers(0, 500), min_size=1, max_size=200)


def add(marks: Marks, tokens: list[int], batch: int) -> None:
    for first in range(0, len(tokens), batch):
        part = np.array(tokens[first : first + batch], np.int64)
        place = np.arange(first, first + len(part))
        places = np.column_stack([place, 0 * place, place * 10, place * 2 + 1])
        marks.add(0, places, np.column_stack([part // 100, part, 0 * part + 7]))


class TestMarks:
    @settings(max_examples=150)
    @given(tokens=works, shards=st.integers(1, 60), batch=st.integers(1, 50), most=st.sampled_from([4, 16, 1 << 20]))
    def test_pieces_cover_everything_once(self, tokens: list[int], shards: int, batch: int, most: int) -> None:
        marks = Marks(most)
        add(marks, tokens, batch)
        pieces = marks.cut(shards)
        assert 1 <= len(pieces) <= min(shards, len(tokens))
        at = 0
        for piece in pieces:
            part = tokens[at : at + piece.units]
            assert (piece.start.record, piece.start.offset, piece.start.line) == (at, at * 10, at * 2 + 1)
            assert piece.units > 0
            assert piece.tokens == sum(part)
            assert piece.rows == sum(value // 100 for value in part)
            assert piece.bases == 7 * len(part)
            at += piece.units
        assert at == len(tokens)
        assert marks.counts == [at, sum(value // 100 for value in tokens), sum(tokens)]

    @settings(max_examples=100)
    @given(tokens=works, shards=st.integers(1, 60))
    def test_cuts_are_as_near_as_units_allow(self, tokens: list[int], shards: int) -> None:
        marks = Marks()
        add(marks, tokens, 64)
        pieces = marks.cut(shards)
        work = [piece.tokens + piece.units for piece in pieces]
        if len(tokens) >= 4 * shards:
            assert len(pieces) == shards
        best, largest = (sum(tokens) + len(tokens)) / len(pieces), max(tokens) + 1
        assert max(work) <= best + 2 * largest

    def test_more_shards_than_units(self) -> None:
        marks = Marks()
        add(marks, [0, 900, 0], 2)
        assert [piece.units for piece in marks.cut(50)] == [1, 1, 1]

    def test_one_unit_of_nearly_all_the_work_leaves_no_piece_empty(self) -> None:
        for place in (0, 5, 9):
            marks = Marks()
            tokens = [1] * 10
            tokens[place] = 1_000_000
            add(marks, tokens, 3)
            assert [piece.units for piece in marks.cut(10)] == [1] * 10

    def test_thinned_marks_stay_few_and_nearly_balanced(self) -> None:
        marks = Marks(most=1024)
        rng = np.random.default_rng(0)
        add(marks, rng.integers(0, 1000, 100_000).tolist(), 777)
        pieces = marks.cut(16)
        tokens = [piece.tokens for piece in pieces]
        assert sum(piece.units for piece in pieces) == 100_000
        assert max(tokens) / min(tokens) < 1.05
        assert sum(map(len, marks._kept)) <= 1024


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    records = [(f"a{i}", coding(100 + 97 * i, i)) for i in range(20)]
    records[7] = ("a7", "")
    return [
        write_fasta(tmp_path / "a.fa", records),
        write_fasta(tmp_path / "b.fa.gz", [(f"b{i}", dna(2000, i)) for i in range(9)]),
    ]


@pytest.mark.parametrize("shards", [1, 2, 7, 50, 1000])
def test_planning_is_deterministic_and_contiguous(tmp_path: Path, mixed: list[Path], shards: int) -> None:
    files = read_inputs(mixed)
    first, second = survey(files, 300), survey(files, 300)
    assert (first.inputs, first.totals) == (second.inputs, second.totals)
    table = first.marks.cut(shards)
    assert table == second.marks.cut(shards)
    digest = write_plan(tmp_path / "plan.h5", table)
    assert read_plan(tmp_path / "plan.h5", digest) == table
    assert write_plan(tmp_path / "other.h5", table) == digest
    assert [shard.number for shard in table] == list(range(len(table)))
    assert len(table) == min(shards, first.totals.units)
    keys = [(shard.start.input, shard.start.record, shard.start.chunk) for shard in table]
    assert keys == sorted(set(keys))
    assert keys[0] == (0, 0, 0)
    for name in ("units", "rows", "tokens"):
        assert sum(getattr(shard, name) for shard in table) == getattr(first.totals, name)


def test_totals_and_inputs(tmp_path: Path, mixed: list[Path]) -> None:
    found = survey(read_inputs(mixed), 300)
    assert found.totals.records == 29
    assert found.totals.bases == sum(100 + 97 * i for i in range(20) if i != 7) + 18_000
    assert [(entry.first_record, entry.records) for entry in found.inputs] == [(0, 20), (20, 9)]
    assert [entry.size for entry in found.inputs] == [path.stat().st_size for path in mixed]


def test_offsets_are_known_for_plain_files_only(mixed: list[Path]) -> None:
    table = survey(read_inputs(mixed), 300).marks.cut(1000)
    plain = [shard.start for shard in table if shard.start.input == 0]
    packed = [shard.start for shard in table if shard.start.input == 1]
    content = mixed[0].read_bytes()
    assert plain
    assert packed
    for start in plain:
        assert content[start.offset :].startswith(b">a%d\n" % start.record)
        assert content.count(b"\n", 0, start.offset) + 1 == start.line
    assert {start.offset for start in packed} == {-1}


def test_progress_counts_every_byte_on_disk(mixed: list[Path]) -> None:
    seen: list[int] = []
    survey(read_inputs(mixed), 300, progress=seen.append)
    assert sum(seen) == sum(path.stat().st_size for path in mixed)


def test_the_same_name_twice_names_both_places(tmp_path: Path) -> None:
    one = write_fasta(tmp_path / "one.fa", [("x", "ACGTACGT"), ("y", "ACGT"), ("x", "AAAA")])
    with pytest.raises(InputError, match=r"two records are called 'x': .*one\.fa, line 1 and .*one\.fa, line 5"):
        survey(read_inputs([one]), 300)
    two = write_fasta(tmp_path / "two.fa", [("z", "ACGT"), ("y", "ACGTACGT")])
    one.write_text(">x\nACGT\n>y\nACGT\n")
    with pytest.raises(InputError, match=r"'y': .*one\.fa, line 3 and .*two\.fa, line 3.*--prefix-ids"):
        survey(read_inputs([one, two]), 300)
    found = survey(read_inputs([one, two]), 300, prefix_ids=True)
    assert [entry.prefix for entry in found.inputs] == ["one", "two"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["/x/one.fa.gz", "/x/two.fq"], ["one", "two"]),
        (["/a/reads.fa", "/b/reads.fa", "/b/other.fa"], ["a_reads", "b_reads", "other"]),
        (["/a/reads.fa", "/a/reads.fq", "/a/a_reads_1.fq"], ["a_reads_2", "a_reads_3", "a_reads_1"]),
        (["/x/my reads\t\n(1).fa", "/x/ü:é.fa", "/x/.fa"], ["my_reads_1", "ü_é", "input"]),
        ([("/x/one.fa", "S1"), "/x/S1.fa", ("/x/two.fa", "S2")], ["S1", "x_S1", "S2"]),
        ([("/x/l1.fa", "S1"), ("/x/l2.fa", "S1")], ["S1_1", "S1_2"]),
    ],
)
def test_prefixes_are_one_word_each_and_differ(files: list[str | tuple[str, str]], expected: list[str]) -> None:
    pairs = [(file, None) if isinstance(file, str) else file for file in files]
    found = prefixes([InputFile(Path(path), sample=sample) for path, sample in pairs])
    assert found == expected
    assert len(set(found)) == len(found)


def test_a_sheet_names_samples(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_fasta(tmp_path / f"{name}.fa", [("x", "ACGT")])
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("path,label,group,sample\none.fa,,,lake-1\ntwo.fa,,,\n")
    found = survey(read_inputs([sheet]), 300, prefix_ids=True)
    assert [entry.record_name("x") for entry in found.inputs] == ["lake-1:x", "two:x"]
    for bad in ("a b", "a:b", "a\x1bb"):
        sheet.write_text(f"path,label,group,sample\none.fa,,,{bad}\n")
        with pytest.raises(InputError, match=r"line 2: the sample .* is not one word"):
            read_inputs([sheet])


def test_pairs_in_turn_are_told_how_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.fq"
    path.write_text("@a\nACGT\n+\nIIII\n@a\nACGT\n+\nIIII\n")
    with pytest.raises(InputError, match=r"line 1 and .*line 5. If the file holds pairs of reads in turn, .*/1 and /2"):
        survey(read_inputs([path]), 300)


def test_a_damaged_or_missing_plan_is_refused(tmp_path: Path, mixed: list[Path]) -> None:
    run = plan_run(tmp_path / "run", mixed)
    content = run.paths.plan.read_bytes()
    run.paths.plan.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=r"plan\.h5 is not the plan that run\.json names.*--force"):
        read_plan(run.paths.plan, run.request.plan_sha256)
    run.paths.plan.unlink()
    with pytest.raises(RunError, match=r"is missing; extract with --force"):
        read_plan(run.paths.plan, run.request.plan_sha256)


def test_real_genomes_are_cut_in_balance(shared: Path) -> None:
    files = [InputFile(path) for path in sorted((shared / "data").glob("*.fna.gz"))]
    assert len(files) >= 5
    found = survey(files, 300)
    for shards in (2, 8, 32):
        tokens = [shard.tokens for shard in found.marks.cut(shards)]
        assert len(tokens) == shards
        assert max(tokens) / min(tokens) <= 1.05


def test_an_ask_that_cannot_be_is_refused(mixed: list[Path]) -> None:
    from vnp.errors import UsageError

    for options, message in (
        ({"shards": 0}, "--shards"),
        ({"shards": 10**9}, "--shards"),
        ({"chunk": 29}, "--chunk"),
        ({"chunk": 2_000_000, "dna": "sixframe", "protein": None}, "at most 1,000,000 bases with sixframe"),
        ({"store": "float8"}, "--store"),
        ({"token_budget": 0}, "--token-budget"),
        ({"files": []}, "no input"),
    ):
        with pytest.raises(UsageError, match=message):
            ask(**{"files": mixed, **options}).check()  # type: ignore[arg-type]
