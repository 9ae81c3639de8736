from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vnp.errors import RunError
from vnp.runs.done.receipts import Receipt
from vnp.runs.request import RunPaths
from vnp.speed.runs import read_figures

START = 1_800_000_000.0


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(START + seconds, UTC).isoformat(timespec="seconds")


def receipt(shard: int, job: str, begun: float, ended: float, **seconds: float) -> Receipt:
    return Receipt(
        run="0" * 64, shard=shard, file=f"shard-{shard:05d}.h5", size=1, sha256="0" * 64, rows=100, records=50,
        units=50, skipped={}, ids_sha256="0" * 64, start={}, widths={}, dtype="float16", projections={},
        encoders={}, attempt=1, host="node", job=job, devices=["NVIDIA H100"], kernels={}, seconds=seconds,
        tokens={"dna": 3_000, "protein": 5_000},
        events=["dna: less memory"] if shard == 3 else [], started=stamp(begun), finished=stamp(ended), versions={},
    )  # fmt: skip


def write_run(root: Path, receipts: list[Receipt]) -> Path:
    paths = RunPaths(root)
    paths.receipts.mkdir(parents=True)
    paths.request.write_text("{}")
    os.utime(paths.request, (START + 4, START + 4))
    for each in receipts:
        each.write(paths.receipt(each.shard))
    return root


RECEIPTS = [
    receipt(0, "7", 10, 40, load=5.0, dna=5.0, protein=15.0, gpu=18.0),
    receipt(1, "7", 40, 65, load=0.0, dna=5.0, protein=15.0, gpu=20.0),
    receipt(2, "8", 11, 44, load=7.0, dna=5.0, protein=15.0, gpu=20.0),
    receipt(3, "8", 44, 66, load=0.0, dna=5.0, protein=15.0, gpu=22.0, seal=1.5),
]


def test_figures(tmp_path: Path) -> None:
    found = read_figures(write_run(tmp_path, RECEIPTS), gpus=2, begun=START, ended=START + 70)
    assert (found.gpus, found.tasks, found.shards, found.rows) == (2, 2, 4, 400)
    assert found.tokens == {"dna": 12_000, "protein": 20_000}
    assert found.wall == 70
    assert found.planning == 4
    assert found.starting == 6
    assert found.loading == 7
    assert found.first_batch == 11
    # From 15 to 65, and from 18 to 66.
    assert found.working == 98
    assert found.gpu_busy == pytest.approx(80 / 98)
    assert found.least_busy == pytest.approx(38 / 50)
    assert (found.written, found.processors, found.memory) == (4, None, None)
    assert found.rows_per_second == pytest.approx(400 / 70)
    assert found.working_rows_per_second == pytest.approx(400 / 51)
    assert found.tokens_per_second == pytest.approx(32_000 / 70)
    assert found.embedding == {"dna": 20.0, "protein": 60.0}
    assert found.sealing == 1.5
    assert found.weights is None
    assert found.events == ("dna: less memory",)


def test_what_receipts_do_not_say_is_unknown(tmp_path: Path) -> None:
    silent = [replace(each, seconds={k: v for k, v in each.seconds.items() if k != "gpu"}) for each in RECEIPTS[:1]]
    root = write_run(tmp_path / "a", [*silent, *RECEIPTS[1:]])
    assert read_figures(root, gpus=2, begun=START, ended=START + 70).gpu_busy is None
    told = [replace(each, seconds={**each.seconds, "weights": 1.5}) for each in RECEIPTS]
    root = write_run(tmp_path / "b", told)
    assert read_figures(root, gpus=2, begun=START, ended=START + 70).weights == 3.0


def test_a_run_that_made_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no receipts"):
        read_figures(tmp_path, gpus=1, begun=0, ended=1)
