"""Work that was stopped goes on to the same bytes, and so do tasks that work on one shard."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.runs.making import (
    make_all,
    make_one,
    pair,
    plan_run,
    small_blocks,
)
from tests.runs.piped import files, run
from vnp.errors import RunError
from vnp.features.merge import merge
from vnp.files.hashing import file_sha256
from vnp.runs.done.receipts import Receipt, require_sealed
from vnp.runs.done.status import run_status
from vnp.runs.making import blocks as sealing
from vnp.runs.making import pipeline
from vnp.runs.making.encoders import RunEncoders
from vnp.runs.request import Run, RunPaths
from vnp.sequences.samplesheet import InputFile

__all__ = ["files", "run"]


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
