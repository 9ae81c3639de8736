"""What a run used: numbers, names and advice from attempts that are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.status import usage_page
from vnp.files.records import to_json, write_json
from vnp.runs.done.efficiency import Efficiency, efficiency, size_text
from vnp.runs.done.history import bad_nodes, cause
from vnp.runs.done.receipts import Attempt, Receipt
from vnp.runs.done.status import RunStatus, ShardStatus
from vnp.runs.request import Position, RunPaths, Shard

BEGAN = 1_700_000_000.0
GIB = 2**30
GIVEN = {"mem": 48.0 * GIB, "cpus": 8.0, "gpus": 1.0, "grace": 120.0, "seconds": 14_400.0}


def at(seconds: float) -> str:
    return datetime.fromtimestamp(BEGAN + seconds, UTC).isoformat(timespec="milliseconds")


def tried(node: str = "n1", outcome: str = "done", ended: float = 1000.0, **more: Any) -> Attempt:
    """A task of 1,000 seconds and ten blocks, of which the GPU had work for 900 seconds."""
    given: dict[str, Any] = {
        "pid": 7, "boot": "1", "job": f"41_{more.get('pid', 0)}", "log": None,
        "begun": at(ended - 1000), "started": at(ended - 995),
        "asked": GIVEN, "blocks": 10, "tokens": 500_000, "busy": 900.0, "gpu": "H100", "cpu": 5000.0,
        "memory": 40 * GIB, "gpu_memory": 60 * GIB, "gpu_size": 80 * GIB,
    }  # fmt: skip
    return Attempt(1, host=node, node=node, ended=at(ended), outcome=outcome, **{**given, **more})


def receipt(shard: int, tries: Sequence[Attempt], load: float = 5.0) -> Receipt:
    return Receipt(
        run="", shard=shard, file="", size=0, sha256="", rows=1, records=1, units=1, skipped={}, ids_sha256="",
        start={}, widths={}, dtype="", projections={}, encoders={}, attempt=len(tries) or 1, host="old", job="41_9",
        devices=["A100"], kernels={}, seconds={"load": load, "gpu": 300.0}, tokens={"dna": 1, "protein": 2}, events=[],
        started=at(0), finished=at(600), versions={}, attempts=[to_json(one) for one in tries],
    )  # fmt: skip


def looked(root: Path, *shards: Sequence[Attempt] | Receipt, **submitted: float) -> Efficiency:
    """Shards, each by its attempts; one whose last attempt is not done is unfinished."""
    states = []
    for number, tries in enumerate(shards):
        shard = Shard(number, Position(0, 0, 0, -1, -1), 10, 10, 10, 10)
        if isinstance(tries, Receipt):
            states.append(ShardStatus(shard, "done", (10, 10), receipt=tries))
        elif tries[-1].outcome == "done":
            states.append(ShardStatus(shard, "done", (10, 10), receipt=receipt(number, tries)))
        else:
            folder = RunPaths(root).blocks(number)
            folder.mkdir(parents=True)
            for place, one in enumerate(tries):
                write_json(folder / f"attempt-{place:05d}.json", to_json(one))
            states.append(ShardStatus(shard, "failed", (tries[-1].blocks, 10)))
    run: Any = SimpleNamespace(paths=RunPaths(root))
    return efficiency(run, RunStatus(states, 0, 0, None, None), submitted)


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        ({}, "", ""),
        ({"outcome": "running"}, "", ""),
        ({"outcome": "stopped"}, "", "told"),
        ({"outcome": "stopped", "begun": at(0), "ended": at(14_300), "blocks": 0}, "", "time"),
        ({"outcome": "stopped", "begun": at(0), "ended": at(14_300), "blocks": 1}, "", "told"),
        ({"outcome": "failed", "error": "killed by SIGKILL: out of memory"}, "", "memory"),
        ({"outcome": "failed", "error": "MachineError: not enough memory: free some"}, "", "memory"),
        ({"outcome": "failed", "error": "OutOfMemoryError: CUDA out of memory"}, "", "node"),
        ({"outcome": "vanished"}, "OUT_OF_MEMORY, exit code 0:125", "memory"),
        ({"outcome": "vanished", "blocks": 0}, "TIMEOUT", "time"),
        ({"outcome": "vanished"}, "PREEMPTED", "told"),
        ({"outcome": "vanished"}, "NODE_FAIL", "node"),
        ({"outcome": "vanished"}, "", "told"),
        ({"outcome": "failed", "error": "EncoderError: there is no GPU"}, "", "node"),
        ({"outcome": "failed", "error": "killed by SIGSEGV"}, "", "node"),
        ({"outcome": "failed", "error": "ChangedInputError: shard-00000 has 3 rows"}, "", "shard"),
    ],
)
def test_why_an_attempt_ended(change: dict[str, Any], words: str, why: str) -> None:
    assert cause(replace(tried(), **change), words) == why


FAULT: dict[str, Any] = {"outcome": "failed", "error": "RuntimeError: CUDA error; asked again"}


@pytest.mark.parametrize(
    ("attempts", "bad"),
    [
        ([[tried(**FAULT)]], {}),
        ([[tried(**FAULT), tried(**FAULT)]], {"n1": "2 tasks died there"}),
        ([[tried(**FAULT)], [tried(**FAULT)]], {"n1": "2 tasks died there"}),
        ([[tried(**FAULT), tried("n2", ended=2000)]], {"n1": "what died there was finished on n2"}),
        # What was finished there since clears it.
        ([[tried(**FAULT)], [tried(**FAULT)], [tried(ended=3000)]], {}),
        ([[tried(**FAULT), tried(ended=2000)]], {}),
        # The shard is to blame, not all nodes in turn.
        ([[tried(**FAULT), tried("n2", **FAULT), tried("n2", **FAULT)]], {}),
        ([[tried(outcome="stopped"), tried(outcome="vanished"), tried("n2")]], {}),
    ],
)
def test_bad_nodes(attempts: list[list[Attempt]], bad: dict[str, str]) -> None:
    found = bad_nodes(dict(enumerate(attempts)))
    assert found.keys() == bad.keys()
    for node, words in bad.items():
        assert found[node].startswith(words)
        assert found[node].endswith("(RuntimeError: CUDA error)")


def test_numbers_of_run_node_and_gpu(tmp_path: Path) -> None:
    second = tried("n2", ended=2500, job="41_1", gpu="A100", busy=300.0, memory=44 * GIB)
    found = looked(tmp_path, [tried()], [second], **{"41": BEGAN - 60})
    assert [(one.name, one.tasks, one.shards) for one in (found.run, *found.nodes, *found.gpus)] == [
        ("run", 2, 2), ("n1", 1, 1), ("n2", 1, 1), ("A100", 1, 1), ("H100", 1, 1),
    ]  # fmt: skip
    run = found.run
    assert run.gpu_hours == pytest.approx(2000 / 3600)
    assert run.busy == pytest.approx(0.6)
    assert run.tokens_per_second == pytest.approx(500)
    assert (run.memory, run.memory_asked, run.gpu_memory, run.gpu_size) == (44 * GIB, 48 * GIB, 60 * GIB, 80 * GIB)
    assert run.cores == pytest.approx(5)
    assert [run.waited, run.waited_most] == pytest.approx([810, 1560])
    assert {one.name: one.busy for one in found.gpus} == {"H100": pytest.approx(0.9), "A100": pytest.approx(0.3)}
    json.dumps(to_json(found))


def test_shards_of_one_process_are_one_task(tmp_path: Path) -> None:
    later = tried(ended=2000, begun=at(0), started=at(990), cpu=9000.0)
    found = looked(tmp_path, [tried()], [later])
    assert (found.run.tasks, found.run.shards) == (1, 2)
    assert found.run.hours == pytest.approx(2000 / 3600)
    assert found.run.cores == pytest.approx(4.5)


def test_what_waits_again_waits_from_the_end_of_the_try_before(tmp_path: Path) -> None:
    again = tried(ended=3000, pid=8, job="41_0")
    found = looked(tmp_path, [tried(outcome="stopped"), again], **{"41": BEGAN - 100})
    assert (found.run.tasks, found.run.failed) == (2, 0)
    assert [found.run.waited, found.run.waited_most] == pytest.approx([550, 1000])


def test_earlier_receipts_say_what_they_can(tmp_path: Path) -> None:
    found = looked(tmp_path, receipt(0, []), receipt(1, []))
    assert (found.earlier, found.run.shards, found.run.tokens_per_second) == (2, 2, 0.01)
    assert (found.run.memory, found.run.memory_asked, found.run.cores, found.run.waited) == (None, None, None, None)
    assert found.run.busy == pytest.approx(1.0)
    assert "2 shards were made by an earlier version" in usage_page(found, "RUN", 2)


def test_stragglers(tmp_path: Path) -> None:
    shards = [[tried(pid=pid)] for pid in range(4)]
    slow = [tried("n5", blocks=4, pid=9)]
    other_kind = [tried("n6", blocks=2, pid=10, gpu="T4")]
    found = looked(tmp_path, *shards, slow, other_kind)
    assert [(one.shard, one.node, one.rate, one.median) for one in found.stragglers] == [(4, "n5", 0.24, 0.61)]


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({}, []),
        ({"memory": 9 * GIB}, ["ask for 12G of memory, not 48G: the most that a task held is 9G"]),
        ({"memory": 47 * GIB}, ["ask for 59G of memory, not 48G: a task held 47G, which leaves little room"]),
        ({"cpu": 1500.0}, ["ask for 2 cores, not 8: tasks kept 1.5 busy"]),
        ({"asked": {**GIVEN, "seconds": 1800.0}, "busy": 800.0}, []),
        ({"busy": 400.0, "gpu_memory": 9 * GIB}, ["9G of 80G in use: 2 tasks fit on one"]),
        ({"busy": 400.0}, ["had work for 40% of the time"]),
        (
            {"outcome": "failed", "error": "killed: out of memory"},
            ["ask for 50G of memory: 1 task ran out of it, and the most that one held is 40G"],
        ),
    ],
)
def test_advice(tmp_path: Path, change: dict[str, Any], advice: list[str]) -> None:
    one = tried(**{"asked": {**GIVEN, "seconds": 2400.0}, **change})
    found = looked(tmp_path, [one]).advice
    assert len(found) == len(advice), found
    for sentence, words in zip(found, advice, strict=True):
        assert words in sentence


def test_advice_on_time_and_on_shards_a_task(tmp_path: Path) -> None:
    shards = [[tried(pid=pid, started=at(200), asked={**GIVEN, "seconds": 14_400.0})] for pid in range(8)]
    time, start = looked(tmp_path, *shards).advice
    assert time.startswith("ask for 30 min, not 240: the longest task took 17 min")
    # 205 s of 1,000 are the start: with five shards it is one in twenty.
    assert start.startswith("5 shards a task: starting took 20% of the tasks' time (205 s each); say --tasks 2")


def test_page_fits_a_terminal(tmp_path: Path) -> None:
    tries = [tried("gpu-node-with-a-long-name-1", **FAULT, pid=1, memory=9 * GIB)] * 2
    shards = [[tried(pid=pid, memory=9 * GIB, tokens=123_456_789)] for pid in range(10, 14)]
    found = looked(tmp_path, tries, *shards, [tried("n3", blocks=1, pid=20, memory=GIB)], **{"41": BEGAN - 86_400})
    page = usage_page(found, "/a/long/path/of/a/run", 6)
    assert max(map(len, page.splitlines())) <= 80, page
    for words in (
        "bad node gpu-node-with-a-long-name-1",
        "shard 5 on n3",
        "advice: ask for 12G",
        "9G/48G",
        "24.0 h",
        "failed tasks: 1 of 1 on",
    ):
        assert words in page


@pytest.mark.parametrize(("size", "text"), [(48 * GIB, "48G"), (9.1 * GIB, "10G"), (200 * 2**20, "200M")])
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text
