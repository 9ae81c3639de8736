"""Units and blocks against a plain reading of the same files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs.making import dna, write_fasta, write_fastq
from vnp.runs import units
from vnp.runs.making.blocks import BlockPlan
from vnp.runs.planning.survey import survey
from vnp.runs.request import PlannedInput, Position, Shard
from vnp.runs.units import UnitBatch, read_blocks, read_units
from vnp.sequences.samplesheet import InputFile

Unit = tuple[int, int, str, int, int, bytes, str | None]
"""Input, ordinal of the record in it, name, number of the chunk, its start, its bases, problem."""


def naive(files: list[list[tuple[str, str]]], chunk: int) -> list[Unit]:
    """Every unit, one at a time, by the rule of the chunks as its docstring has it."""
    found: list[Unit] = []
    for index, records in enumerate(files):
        for ordinal, (name, bases) in enumerate(records):
            if not bases or "*" in bases:
                problem = "the record is empty" if not bases else f"invalid letter * at base {bases.index('*') + 1}"
                found.append((index, ordinal, name, 0, 0, b"", problem))
                continue
            count = math.ceil(len(bases) / chunk)
            low, rest = divmod(count * chunk - len(bases), count)
            for i in range(count):
                start = i * (chunk - low) - min(i, low + rest)
                found.append((index, ordinal, name, i + 1, start, bases[start : start + chunk].encode(), None))
    return found


def listed(batches: Iterator[UnitBatch] | list[UnitBatch]) -> list[Unit]:
    found: list[Unit] = []
    for batch in batches:
        for owner, row, number in zip(batch.owner, batch.unit_chunk, batch.numbers(), strict=True):
            record = batch.records[owner]
            start, bases = 0, b""
            if row >= 0:
                assert batch.chunks.sequence[row] == owner
                start, end = int(batch.chunks.start[row]), int(batch.chunks.end[row])
                bases = batch.sequences[owner][start:end]
            found.append(
                (batch.input, int(batch.ordinals[owner]), record.name, int(number), start, bases, record.problem)
            )
    return found


def planned(paths: list[Path], chunk: int) -> tuple[PlannedInput, ...]:
    return survey([InputFile(path) for path in paths], chunk).inputs


lengths = st.one_of(st.just(0), st.integers(1, 40), st.integers(41, 400), st.just(-1))
inputs = st.lists(st.lists(lengths, min_size=1, max_size=8), min_size=1, max_size=3).filter(
    lambda files: all(any(length != 0 for length in file) for file in files)
)


def make(folder: Path, shape: list[list[int]], suffix: str) -> tuple[list[Path], list[list[tuple[str, str]]]]:
    """Files of records of these lengths; -1 makes one with a letter that is no base."""
    files, paths = [], []
    for index, sizes in enumerate(shape):
        records = [
            (f"f{index}r{ordinal}", "ACGT*ACGTACGTACGTACGT" if size < 0 else dna(size, index * 100 + ordinal))
            for ordinal, size in enumerate(sizes)
        ]
        files.append(records)
        paths.append(write_fasta(folder / f"{index}{suffix}", records, width=37))
    return paths, files


def sizes_of(count: int, most: int) -> list[int]:
    """So many units, in pieces of ``most`` and what is left."""
    return [most] * (count // most) + [count % most] * (count % most > 0)


@settings(max_examples=60)
@given(
    shape=inputs,
    chunk=st.integers(30, 90),
    first=st.floats(0, 1),
    last=st.floats(0, 1),
    block=st.integers(1, 9),
    batch_units=st.integers(1, 7),
    suffix=st.sampled_from([".fa", ".fa.gz"]),
)
def test_blocks_are_the_naive_list(
    shape: list[list[int]], chunk: int, first: float, last: float, block: int, batch_units: int, suffix: str
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "BATCH_UNITS", batch_units)
        patch.setattr(units, "_BATCH_BASES", 300)
        paths, files = make(Path(folder), shape, suffix)
        expected = naive(files, chunk)
        entries = planned(paths, chunk)
        # Where every unit starts, as planning sees it.
        whole = list(read_units(entries, chunk, Position(0), len(expected)))
        assert listed(whole) == expected
        low = round(first * (len(expected) - 1))
        count = round(last * (len(expected) - low))
        unit = expected[low]
        offset, line = next(
            (batch.records[i].offset, batch.records[i].line)
            for batch in whole
            for i in range(len(batch.records))
            if (batch.input, int(batch.ordinals[i])) == unit[:2]
        )
        start = Position(unit[0], unit[1], max(unit[3] - 1, 0), -1 if offset is None else offset, line)
        blocks = list(read_blocks(entries, chunk, start, sizes_of(count, block)))
        wanted = expected[low : low + count]
        assert [listed(found) for found in blocks] == [wanted[at : at + block] for at in range(0, count, block)]


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=12), block=st.integers(1, 5))
def test_fastq_is_read_on_from_any_record(sizes: list[int], block: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        records = [(f"r{i}", dna(size, i)) for i, size in enumerate(sizes)]
        entries = planned([write_fastq(Path(folder) / "a.fq", records)], 50)
        expected = naive([records], 50)
        offset = 0
        for ordinal, (name, bases) in enumerate(records):
            rest = [unit for unit in expected if unit[1] >= ordinal]
            start = Position(0, ordinal, 0, offset, 4 * ordinal + 1)
            blocks = read_blocks(entries, 50, start, sizes_of(len(rest), block))
            assert [unit for found in blocks for unit in listed(found)] == rest
            offset += len(f"@{name}\n{bases}\n+\n{bases}\n")


def test_a_planned_input_without_a_record_cannot_be(tmp_path: Path) -> None:
    entries = planned([write_fasta(tmp_path / "a.fa", [("x", "ACGT")])], 300)
    assert list(read_units(entries, 300, Position(0), 0)) == []
    assert listed(read_units(entries, 300, Position(0), 99)) == [(0, 0, "x", 1, 0, b"ACGT", None)]


@pytest.mark.parametrize(("count", "most"), [(1, 10), (10, 10), (11, 10), (61, 12), (16, 3), (16_001, 64)])
def test_blocks_are_even(count: int, most: int) -> None:
    plan = BlockPlan("", Shard(0, Position(0), count, 0, 0, 0), most)
    assert sum(plan.sizes) == count
    assert len(plan.sizes) == plan.count == -(-count // most)
    assert max(plan.sizes) <= most
    assert max(plan.sizes) - min(plan.sizes) <= 1
