"""Shards: the same features whatever the cut, whoever makes them, and however often a task is stopped."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
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
    dna,
    make_all,
    make_one,
    pair,
    plan_run,
    small_blocks,
    write_fasta,
    write_fastq,
)
from vnp.encoders.models.kmer import Counted
from vnp.errors import ChangedInputError, EncoderError, RunError, UsageError
from vnp.features.merge import merge
from vnp.files.hashing import file_sha256
from vnp.runs.done.receipts import Receipt, require_sealed
from vnp.runs.done.reduce import reduce_run
from vnp.runs.done.status import run_status
from vnp.runs.making import blocks as sealing
from vnp.runs.making import pipeline
from vnp.runs.making.encoders import Embedding, RunEncoders, to_store
from vnp.runs.request import Run, RunPaths
from vnp.sequences.chunks import Chunking
from vnp.sequences.samplesheet import InputFile

SAMPLE = Path(__file__).resolve().parent.parent.parent / "vnp/sample"


def records(seed: int = 0) -> list[tuple[str, str]]:
    """Long and short records, some without a row, two that cannot be used."""
    made = [(f"c{i}", coding(150 + 211 * i, seed + i)) for i in range(8)]
    made += [(f"d{i}", dna(900, seed + 50 + i)) for i in range(4)]
    made += [
        ("empty", ""),
        ("n", "N" * 700),
        ("gap", "ACGT-ACGTACGTACGTACGTACGTAC"),
        ("tiny", "AC"),
        ("amb", coding(600, 3)[:-150] + "N" * 150),
    ]
    return [*made, ("last", coding(400, 9))]


def features(run: Run, kind: str = "1664") -> dict[str, bytes | list[bytes]]:
    return column_bytes(reduce_run(run, kind, force=True).path)


@pytest.fixture
def files(tmp_path: Path) -> list[InputFile]:
    return [
        InputFile(write_fasta(tmp_path / "a.fa", records()), 1, "g"),
        InputFile(write_fasta(tmp_path / "b.fa.gz", [(f"z{n}", s) for n, s in records(70)]), 0),
        InputFile(write_fastq(tmp_path / "c.fq", [(f"q{i}", coding(150, i)) for i in range(30)])),
    ]


@pytest.fixture
def run(tmp_path: Path, files: list[InputFile]) -> Run:
    return small_blocks(plan_run(tmp_path / "run", files), 10)


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


class TestGoingOn:
    def stop_after(self, count: int) -> dict[str, Any]:
        done: list[int] = []
        return {"stop": lambda: len(done) >= count, "block_done": lambda _shard, done_, _all: done.append(done_)}

    def test_stopping_after_every_block_gives_the_same_bytes(
        self, tmp_path: Path, run: Run, files: list[InputFile]
    ) -> None:
        make_all(run)
        other = small_blocks(plan_run(tmp_path / "other", files), 10)
        assert other.request.digest == run.request.digest
        stops = 0
        for number in range(other.request.shards):
            while (outcome := make_one(other, number, **self.stop_after(2))).state == "stopped":
                stops += 1
                assert outcome.rows == 0
                state = run_status(other).shards[number]
                assert state.state == "stopped"
                assert 0 < state.blocks[0] < state.blocks[1]
        assert stops > 4
        for number in range(other.request.shards):
            assert other.paths.shard(number).read_bytes() == run.paths.shard(number).read_bytes()
        assert run_status(other).complete
        assert not list(other.paths.parts.iterdir())

    def test_finished_blocks_are_not_embedded_again(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        make_one(run, 0, **self.stop_after(2))
        kept = {path: path.stat().st_ino for path in run.paths.blocks(0).glob("block-*.h5")}
        embedded = []
        embed = RunEncoders.embed

        def note(self: RunEncoders, *args: Any) -> Any:
            embedded.append(1)
            return embed(self, *args)

        monkeypatch.setattr(RunEncoders, "embed", note)
        outcome = make_one(run, 0)
        blocks = -(-run_status(run).shards[0].shard.units // 10)
        assert outcome.state == "done"
        # The second was being written when the stop was asked for.
        assert len(kept) == 2
        assert len(embedded) == blocks - len(kept)

    def test_encoders_are_not_loaded_for_nothing(self, run: Run) -> None:
        def never() -> RunEncoders:
            raise AssertionError("the encoders were loaded")

        def keep(run: Run, kept: Path) -> None:
            shutil.copytree(run.paths.blocks(0), RunPaths(kept).blocks(0), dirs_exist_ok=True)

        # Only the seal is missing.
        kept = run.paths.root / "kept"
        shutil.copytree(run.paths.root, kept)
        assert make_one(run, 0, block_done=lambda *_: keep(run, kept)).state == "done"
        assert make_one(run, 0, never).state == "already"
        assert make_one(Run.open(kept), 0, never).state == "done"
        assert RunPaths(kept).shard(0).read_bytes() == run.paths.shard(0).read_bytes()

    @pytest.mark.parametrize("damage", ["other run", "bit", "cut", "empty", "junk"])
    def test_damaged_blocks_are_made_again(self, run: Run, damage: str) -> None:
        reference = small_blocks(run, 10)
        make_one(reference, 0, **self.stop_after(2))
        block = sorted(run.paths.blocks(0).glob("block-*.h5"))[0]
        content = bytearray(block.read_bytes())
        if damage == "other run":
            with h5py.File(block, "r+") as file:
                file.attrs["run"] = "0" * 64
        elif damage == "bit":
            content[len(content) // 2] ^= 4
            block.write_bytes(content)
        else:
            block.write_bytes({"cut": bytes(content[: len(content) // 2]), "empty": b"", "junk": b"x" * 5000}[damage])
        assert make_one(run, 0).state == "done"
        made = run.paths.shard(0).read_bytes()
        run.paths.receipt(0).unlink()
        assert make_one(run, 0).state == "done"
        assert run.paths.shard(0).read_bytes() == made

    def test_blocks_of_other_encoders_are_made_again(self, run: Run) -> None:
        class Bf16(RunEncoders):
            def identities(self) -> dict[str, dict[str, Any]]:
                return {name: {**found, "precision": "bf16"} for name, found in super().identities().items()}

        other = Bf16(pair().dna, pair().protein, 0.0)
        assert make_one(run, 0, lambda: other, **self.stop_after(2)).state == "stopped"
        assert make_one(run, 0).state == "done"
        receipt = require_sealed(run, 0)
        assert receipt is not None
        assert {found["precision"] for found in receipt.encoders.values()} == {"fp32"}

    def test_two_precisions_are_never_sealed_together(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        class Bf16(RunEncoders):
            def identities(self) -> dict[str, dict[str, Any]]:
                return {name: {**found, "precision": "bf16"} for name, found in super().identities().items()}

        def meddle(_shard: int, done: int, blocks: int) -> None:
            # Another task, on another kind of machine, begins when half is done and finishes the next block.
            if done == blocks // 2 and not meddled:
                meddled.append(done)
                monkeypatch.setattr(pipeline, "_drop_others", lambda *_: None)
                make_one(run, 0, lambda: Bf16(pair().dna, pair().protein, 0.0), **self.stop_after(1))
                monkeypatch.undo()

        meddled: list[int] = []
        with pytest.raises(RunError, match="different precision"):
            make_one(run, 0, block_done=meddle)
        assert meddled
        assert not run.paths.receipt(0).exists()
        assert not run.paths.shard(0).exists()
        assert make_one(run, 0).state == "done"

    def test_a_damaged_receipt_is_replaced(self, run: Run) -> None:
        make_one(run, 0)
        made = run.paths.shard(0).read_bytes()
        run.paths.receipt(0).write_text("{}")
        assert make_one(run, 0).state == "done"
        assert run.paths.shard(0).read_bytes() == made


class TestTwoWriters:
    def check(self, run: Run, expected: bytes) -> None:
        assert run.paths.shard(0).read_bytes() == expected
        assert require_sealed(run, 0, full=True) is not None
        assert [path.name for path in run.paths.receipts.iterdir()] == ["shard-00000.json"]
        assert [path.name for path in run.paths.shards.iterdir()] == ["shard-00000.h5"]
        assert not list(run.paths.parts.glob("*/*"))

    @pytest.fixture
    def expected(self, tmp_path: Path, files: list[InputFile]) -> bytes:
        other = small_blocks(plan_run(tmp_path / "other", files), 10)
        make_one(other, 0)
        return other.paths.shard(0).read_bytes()

    def test_threads_at_once(self, run: Run, expected: bytes) -> None:
        barrier = threading.Barrier(4)
        states: list[str] = []
        errors: list[BaseException] = []

        def write() -> None:
            barrier.wait()
            try:
                states.append(make_one(run, 0).state)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert states.count("done") == 1
        assert set(states) <= {"done", "left", "already"}
        self.check(run, expected)

    def test_processes_at_once(self, run: Run, expected: bytes) -> None:
        code = (
            "import sys; from pathlib import Path; from tests.runs.making import make_one\n"
            "from vnp.runs.request import Run\n"
            "print(make_one(Run.open(Path(sys.argv[1])), 0).state)"
        )
        root = Path(__file__).resolve().parent.parent.parent
        tasks = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(run.paths.root)],
                cwd=root,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(2)
        ]
        said = [task.communicate() for task in tasks]
        assert [task.returncode for task in tasks] == [0, 0], said
        states = sorted(out.decode().strip() for out, _ in said)
        assert "done" in states
        assert set(states) - {"done"} <= {"left", "already"}
        assert states != ["done", "done"]
        self.check(run, expected)

    @pytest.mark.parametrize(
        "where", ["after a block", "before the blocks are merged", "before the seal", "before the receipt"]
    )
    def test_one_is_held_up_while_another_does_it_all(
        self, run: Run, expected: bytes, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other: list[str] = []

        def do_it_all() -> None:
            if not other:
                other.append("begun")
                other.append(make_one(run, 0).state)

        def ahead(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **more: Any) -> Any:
                do_it_all()
                return function(*args, **more)

            return call

        watch: dict[str, Any] = {}
        if where == "after a block":
            watch = {"block_done": lambda _shard, done, _all: do_it_all() if done == 2 else None}
        elif where == "before the blocks are merged":
            monkeypatch.setattr(sealing, "merge", ahead(merge))
        elif where == "before the seal":
            monkeypatch.setattr(sealing, "file_sha256", ahead(file_sha256))
        else:
            monkeypatch.setattr(Receipt, "write", ahead(Receipt.write))
        assert make_one(run, 0, **watch).state == "left"
        assert other == ["begun", "done"]
        self.check(run, expected)


class TestFaults:
    def test_an_error_is_noted_and_the_blocks_stay(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        embed = RunEncoders.embed
        calls = []

        def fails(self: RunEncoders, *args: Any) -> Embedding:
            calls.append(1)
            if len(calls) == 3:
                raise EncoderError("the GPU fell off the bus")
            return embed(self, *args)

        monkeypatch.setattr(RunEncoders, "embed", fails)
        with pytest.raises(EncoderError):
            make_one(run, 0)
        state = run_status(run).shards[0]
        assert (state.state, state.blocks[0]) == ("failed", 2)
        assert state.error == "EncoderError: the GPU fell off the bus"
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
