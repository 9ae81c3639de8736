"""Shards: the same features whatever the cut, whoever makes them, and however often a task is stopped."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.runs.making import (
    alone,
    coding,
    column_bytes,
    make_all,
    make_one,
    pair,
    plan_run,
    small_blocks,
    write_fasta,
)
from tests.runs.piped import files, records, run
from vnp.encoders.models.kmer import Counted
from vnp.errors import ChangedInputError, EncoderError, UsageError
from vnp.runs.done.reduce import reduce_run
from vnp.runs.done.status import run_status
from vnp.runs.making import pipeline
from vnp.runs.making.encoders import Embedding, RunEncoders, to_store
from vnp.runs.request import Run
from vnp.sequences.chunks import Chunking
from vnp.sequences.samplesheet import InputFile

__all__ = ["files", "run"]

SAMPLE = Path(__file__).resolve().parent.parent.parent / "vnp/sample"


def features(run: Run, kind: str = "1664") -> dict[str, bytes | list[bytes]]:
    return column_bytes(reduce_run(run, kind, force=True).path)


def test_a_row_is_a_chunk_without_a_protein_encoder(tmp_path: Path) -> None:
    made = plan_run(tmp_path / "run", [write_fasta(tmp_path / "a.fa", records())], 3, protein=None)
    make_all(made)
    with h5py.File(reduce_run(made, "full").path, "r") as file:
        ids = [name.decode() for name in file["ids"][:].tolist()]
        places = zip(ids, file["start"][:].tolist(), file["end"][:].tolist(), strict=True)
        frames, values = file["frame"][:].tolist(), file["features"][:]
        found = {name: (start, end) for name, start, end in places}
    assert (tmp_path / "run/skipped.tsv").read_text().splitlines()[1:] == [
        f"empty\t{tmp_path}/a.fa\t0\t\t\tthe record is empty",
        *(f"n\t{tmp_path}/a.fa\t700\t{number}\t\tonly ambiguous bases" for number in (1, 2, 3)),
        f"gap\t{tmp_path}/a.fa\t27\t\t\tinvalid letter - at base 5 (a gap: remove the alignment)",
    ]
    expected = {}
    for name, bases in records():
        if name not in ("empty", "n", "gap"):
            cut = Chunking(300).cut(np.array([len(bases)]))
            for number, start, end in zip(cut.number.tolist(), cut.start.tolist(), cut.end.tolist(), strict=True):
                expected[f"{name}_chunk_{number}"] = (start, end)
    assert found == expected
    assert list(found) == ids
    assert set(frames) == {-1}
    texts = dict(records())
    pieces = [texts[name.rpartition("_chunk_")[0]][start:end] for name, (start, end) in found.items()]
    np.testing.assert_array_equal(values, alone().dna.embed(pieces).astype(np.float16))
    assert made.request.totals.rows == len(ids)


@pytest.mark.parametrize(("shortest", "rows"), [(1, 3), (100, 1)])
def test_chunks_too_short_for_an_encoder_have_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shortest: int, rows: int
) -> None:
    monkeypatch.setattr(type(alone().dna.spec), "shortest", shortest)
    path = write_fasta(
        tmp_path / "a.fa", [("a", "ACGT" * 25), ("b", "A" * 99), ("c", "N" * 40 + "T"), ("d", "N" * 200)]
    )
    made = plan_run(tmp_path / "run", [path], 1, protein=None)
    assert made.request.totals.rows == rows
    make_all(made)
    reduced = reduce_run(made, "full")
    assert reduced.rows == rows
    assert str(reduced.layout) == "768 = dna 768 (kmer), a row a chunk"
    missing = {} if shortest == 1 else {"shorter than 100 bases": 2}
    assert reduced.skipped == {"only ambiguous bases": 1, **missing}


@pytest.mark.parametrize(
    ("options", "cuts"),
    [
        ({}, ((1, 1000), (3, 9), (20, 64))),
        ({"store": "float32"}, ((1, 1000), (3, 30))),
        ({"chunk": 500}, ((1, 1000), (5, 20))),
        ({"prefix_ids": True}, ((1, 1000), (3, 30))),
        ({"protein": None}, ((1, 1000), (5, 9))),
    ],
)
def test_features_do_not_depend_on_the_number_of_shards(
    tmp_path: Path, files: list[InputFile], options: dict[str, Any], cuts: tuple[tuple[int, int], ...]
) -> None:
    found = []
    tables = []
    for shards, block in cuts:
        made = small_blocks(plan_run(tmp_path / f"run{shards}", files, shards, **options), block)
        make_all(made)
        kinds = ("full",) if made.request.protein is None else ("1664", "full")
        found.append({kind: features(made, kind) for kind in kinds})
        tables.append(made.paths.skipped.read_bytes())
    assert all(other == found[0] for other in found[1:])
    assert len(set(tables)) == 1
    assert len(found[0]["full"]["ids"]) > 100


def test_features_do_not_depend_on_compression(tmp_path: Path) -> None:
    found = []
    for name in ("x.fa", "x.fa.gz"):
        folder = tmp_path / name
        folder.mkdir()
        made = plan_run(folder / "run", [write_fasta(folder / name, records())], 5)
        make_all(made)
        found.append(features(made))
    assert found[0] == found[1]


def test_the_bundled_sample(tmp_path: Path) -> None:
    from vnp.sequences.samplesheet import read_inputs

    found = []
    for shards in (1, 4):
        made = plan_run(tmp_path / str(shards), read_inputs([SAMPLE / "samplesheet.csv"]), shards)
        make_all(made)
        found.append(features(made))
    assert found[0] == found[1]
    assert len(found[0]["ids"]) == made.request.totals.rows > 1000


def test_numbers_are_the_encoders_own(tmp_path: Path, run: Run) -> None:
    from vnp.features.layout import project

    make_all(run)
    reduced = reduce_run(run, "full").path
    with h5py.File(reduced, "r") as file:
        ids, values = file["ids"][:].tolist(), file["features"][:]
        start, end, frame, record = (file[name][:] for name in ("start", "end", "frame", "record"))
    texts = dict(records())
    chosen = [row for row in range(len(ids)) if record[row] < len(texts)]
    forward = [row for row in chosen if frame[row] < 3]
    assert forward
    strands = [texts[ids[row].decode().rsplit("_chunk_", 1)[0]][start[row] : end[row]] for row in forward]
    expected = pair().dna.embed(strands).astype(np.float16)
    assert (values[forward, :768] == expected).all()
    half = column_bytes(reduce_run(run, "1664", force=True).path)["features"]
    assert isinstance(half, bytes)
    projected = np.frombuffer(half, np.float16).reshape(len(ids), 1664)[forward, :384]
    assert (projected == project(pair().dna.embed(strands)).astype(np.float16)).all()


def test_every_record_is_accounted_for(run: Run) -> None:
    make_all(run)
    path = reduce_run(run, "1664").path
    lines = [line.split("\t") for line in run.paths.skipped.read_text().splitlines()[1:]]
    with h5py.File(path, "r") as file:
        names = [name.decode() for name in file["records/name"][:].tolist()]
        chunks = dict(zip(names, file["records/chunks"][:].tolist(), strict=True))
        rows = {(names[r], c) for r, c in zip(file["record"][:].tolist(), file["chunk"][:].tolist(), strict=True)}
    assert names == [n for n, _ in records()] + [f"z{n}" for n, _ in records()] + [f"q{i}" for i in range(30)]
    whole = {line[0] for line in lines if not line[3]}
    without = {(line[0], int(line[3])) for line in lines if line[3] and not line[4]}
    for name in names:
        every = {(name, number) for number in range(1, chunks[name] + 1)}
        if name in whole:
            assert not every & (rows | without)
        else:
            assert every
            assert {key for key in rows if key[0] == name} | {key for key in without if key[0] == name} == every
    assert not rows & without
    reasons = {line[0]: line[5] for line in lines}
    assert reasons["empty"] == "the record is empty"
    assert reasons["n"] == "only ambiguous bases"
    assert reasons["gap"].startswith("invalid letter - at base 5")
    assert reasons["tiny"] == "shorter than 3 bases"
    assert {line[1] for line in lines if line[0].startswith("z")} == {run.request.inputs[1].path}


def test_labels_and_groups_reach_the_features(run: Run) -> None:
    make_all(run)
    with h5py.File(reduce_run(run, "1664").path, "r") as file:
        record, label, group = file["record"][:], file["label"][:], file["group"][:].tolist()
        names = file["records/name"][:].tolist()
    count = len(records())
    assert set(label[record < count].tolist()) == {1}
    assert set(label[(record >= count) & (record < 2 * count)].tolist()) == {0}
    assert set(label[record >= 2 * count].tolist()) == {-1}
    for row, owner in enumerate(record.tolist()):
        assert group[row] == (b"g" if owner < count else names[owner])


class TestFaults:
    @pytest.mark.parametrize(
        ("error", "noted"),
        [
            (EncoderError("the GPU fell off the bus"), "EncoderError: the GPU fell off the bus"),
            (RuntimeError("can't start new thread"), "MachineError: no more processes or threads (ulimit -u"),
        ],
    )
    def test_an_error_is_noted_and_the_blocks_stay(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, noted: str
    ) -> None:
        embed = RunEncoders.embed
        calls = []

        def fails(self: RunEncoders, *args: Any) -> Embedding:
            calls.append(1)
            if len(calls) == 3:
                raise error
            return embed(self, *args)

        monkeypatch.setattr(RunEncoders, "embed", fails)
        with pytest.raises(type(error)):
            make_one(run, 0)
        state = run_status(run).shards[0]
        assert (state.state, state.blocks[0]) == ("failed", 2)
        assert state.error is not None
        assert state.error.startswith(noted)
        assert make_one(run, 0).state == "done"

    def test_a_value_too_large_for_float16_says_what_to_do(self) -> None:
        class Loud:
            def __getattr__(self, name: str) -> Any:
                return getattr(pair().dna, name)

            def launch(self, work: list[str]) -> Counted:
                return Counted(np.full((len(work), 768), 1e6, np.float32))

        loud = replace(pair(), dna=Loud())
        found, _ = loud.embed(loud.prepare(["ACGT"], ["MK"])).result()
        with pytest.raises(EncoderError, match="too large for float16: use --store float32"):
            to_store(found, "float16")
        stored = to_store(found, "float32")
        assert np.isfinite(stored["dna_projected"]).all()

    def test_a_shard_that_is_not_there(self, run: Run) -> None:
        for number in (-1, run.request.shards):
            with pytest.raises(UsageError, match=f"has the shards 0 to {run.request.shards - 1}"):
                make_one(run, number)

    def test_an_input_that_changes_while_it_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write_fasta(tmp_path / "a.fa", [(f"r{i}", coding(900, i)) for i in range(20)])
        run = small_blocks(plan_run(tmp_path / "run", [path], 1), 4)
        changed: list[int] = []

        def change(_inputs: object) -> None:
            if not changed:
                changed.append(1)
                path.write_text(path.read_text().replace("C" * 3, "TAA"))

        monkeypatch.setattr(pipeline, "check_inputs", change)
        with pytest.raises(ChangedInputError, match=r"a\.fa: has changed since the run was planned"):
            make_one(run, 0)
        assert not list(run.paths.shards.iterdir())
        assert not list(run.paths.receipts.iterdir())

    def test_records_of_protein_at_the_end_do_not_stop_their_shard(self, tmp_path: Path) -> None:
        made = [(f"r{i}", coding(300, i)) for i in range(12)] + [(f"p{i}", "MKLFEEPQLLIPWQELFPEIL") for i in range(11)]
        run = plan_run(tmp_path / "run", [write_fasta(tmp_path / "a.fa", made)], 500)
        assert {make_one(run, number).state for number in (0, 10, 14, 22)} == {"done"}


def test_an_interruption_before_encoders_are_loaded_ends_the_reading_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads waits for them, and nobody would wait for it for ever."""
    run = plan_run(tmp_path / "run", [write_fasta(tmp_path / "a.fa", records())])
    waits = threading.Event()

    class Awaited(Future[RunEncoders]):
        def result(self, timeout: float | None = None) -> RunEncoders:
            waits.set()
            return super().result(timeout)

    def interrupt(*_: object) -> None:
        assert waits.wait(120)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(pipeline, "Future", Awaited)
        interrupted.setattr(pipeline._Pipeline, "_load_for", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.make_shards(run, range(3), load=pair)
    assert run_status(run).counts["missing"] + run_status(run).counts.get("stopped", 0) == 3
    assert {outcome.state for outcome in make_all(run)} == {"done"}
