"""SIGKILL or a full disk at any moment of calling, then once more: the same tables, and never half a set."""

from __future__ import annotations

import errno
import os
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import vnp.report.predicted  # noqa: F401 - loaded before anything is forked and counted
from jobs.predict import main as predict_command
from tests.crash._child import WRITING, Ended, Points, die, in_child
from tests.crash._run import files, sha256
from tests.prediction.tiny import SAMPLE
from vnp.prediction.options import OutputPaths, PredictOptions
from vnp.prediction.predict import finished, predict
from vnp.runs.done.crate import NAME as CRATE
from vnp.runs.request import Run

KILLS = 14
FAULTS = 8


@dataclass(frozen=True)
class Scored:
    """A run whose shards hold scores, what is asked of them, and the digests of what comes of it, by name."""

    run: Run
    options: PredictOptions
    expected: dict[str, str]
    calls: int  # into the operating system, that change files
    writes: int  # of these

    def call(self, out: Path) -> None:
        predict(self.run, self.options, out, device="cpu")


@pytest.fixture(scope="module")
def scored(memory: Path) -> Scored:
    sheet, root = memory / "samples.csv", memory / "scored"
    genomes = [SAMPLE / "viral" / f"{name}.fna.gz" for name in ("hiv_1", "influenza_a")]
    rows = [f"{path},viral,{path.stem},{sample}\n" for path, sample in zip(genomes, "ab", strict=True)]
    sheet.write_text("path,label,group,sample\n" + "".join(rows))
    asked = [str(sheet), "--out", str(root), "--cluster", "inline", "--shards", "2", "--device", "cpu"]
    done = CliRunner().invoke(predict_command, asked)
    assert done.exit_code == 0, done.output
    known = PredictOptions.read(OutputPaths(root).settings)
    assert known is not None
    options = replace(known, parquet=True, regions=True, by_sample=True)
    whole = Scored(Run.open(root), options, {}, 0, 0)
    points = Points()
    with points.watch():
        whole.call(memory / "called")
    expected = contents(memory / "called")
    writes = sum(name in WRITING - {"fsync", "fdatasync"} for name in points.names)
    return replace(whole, expected=expected, calls=len(points.names), writes=writes)


def contents(out: Path) -> dict[str, str]:
    """Digests of all files by name; not the crate, which says when, nor the lock of one killed after its summary."""
    return {name: sha256(out / name) for name in files(out) if name not in (CRATE, ".predictions.lock")}


def disturbed(scored: Scored, out: Path, scratch: Path, points: Points) -> Ended:
    def work() -> None:
        # The threads that the network had before the fork are not in the child, and would be waited for.
        torch.set_num_threads(1)
        with points.watch():
            scored.call(out)

    return in_child(work, scratch)


def require_proven(scored: Scored, out: Path) -> bool:
    """A summary stands only beside all that it names; whether there is one."""
    proven = finished(OutputPaths(out), scored.options, scored.run.request.digest)
    # What it did not come to tidy has a temporary name.
    found = {name: digest for name, digest in contents(out).items() if not name.endswith(".tmp")}
    assert proven is None or found == scored.expected
    return proven is not None


def test_killed_at_a_call_that_changes_files(scored: Scored, room: Path, scratch: Path) -> None:
    choose, killed, proven = random.Random("predict"), 0, 0
    for number in range(KILLS):
        at = choose.randrange(number * scored.calls // KILLS, (number + 1) * scored.calls // KILLS)
        out = room / f"calls{number}"
        killed += disturbed(scored, out, scratch, Points(at, die, after=choose.random() < 0.5)).signal == 9
        proven += require_proven(scored, out)
        scored.call(out)
        assert contents(out) == scored.expected
        shutil.rmtree(out)
    assert killed > KILLS * 0.9
    assert proven < KILLS / 2


def test_a_disk_that_is_full_from_there_on(scored: Scored, room: Path, scratch: Path) -> None:
    def fail(_name: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    only = WRITING - {"fsync", "fdatasync"}
    for number in range(FAULTS):
        out = room / f"calls{number}"
        points = Points(number * scored.writes // FAULTS, fail, lasting=True, only=only)
        ended = disturbed(scored, out, scratch, points)
        assert ended.code == 1, ended
        assert ended.error.startswith("StorageError: "), ended
        assert "no space left on the disk" in ended.error
        assert not require_proven(scored, out)
        scored.call(out)
        assert contents(out) == scored.expected
        shutil.rmtree(out)


def test_samples_of_a_killed_call_do_not_stay_beside_another(scored: Scored, room: Path, memory: Path) -> None:
    out = shutil.copytree(memory / "called", room / "calls")
    OutputPaths(out).summary.unlink()
    predict(scored.run, replace(scored.options, by_sample=False), out, force=True, device="cpu")
    assert not [name for name in files(out) if name.startswith("samples")]
