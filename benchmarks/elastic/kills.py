"""Tasks that share a run and are killed, or suspended for longer than their leases, at random moments: what is lost?

Each is a fork that takes shards as a task of ``--tasks`` does, with leases of seconds instead of minutes. One that is
killed is replaced at once. When nobody is left, what was given up (three deaths at one block) is made by a task of
another submission, as ``rerun`` does. Then every shard must have its receipt and the bytes of an undisturbed run, and
no two living tasks may have worked on one, unless one of them was suspended until its lease was over.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from vnp.encoders import load
from vnp.runs.done import receipts
from vnp.runs.done.receipts import sealed
from vnp.runs.making import leases
from vnp.runs.making.encoders import RunEncoders
from vnp.runs.making.leases import Leases
from vnp.runs.making.pipeline import make_shards
from vnp.runs.planning.options import RunOptions
from vnp.runs.planning.start import start_run
from vnp.runs.request import Run
from vnp.sequences.samplesheet import InputFile

_SILENT = 6.0
_SHORTENED = (
    (receipts, "BEAT_SECONDS", 0.3), (leases, "SILENT_SECONDS", _SILENT), (leases, "_POLL_SECONDS", 0.2)
)  # fmt: skip
_COUNTS = (
    "runs", "tasks", "killed", "suspended", "shards", "attempts", "taken over", "made twice, lease over", "made twice",
    "lost", "different", "failed",
)  # fmt: skip
WRONG = ("made twice", "lost", "different", "failed")
"""What must not be: two living tasks worked on a shard, though no lease was over; and the rest."""


@dataclass
class Trial:
    """One run and the tasks that make it."""

    run: Run  # planned
    encoders: RunEncoders  # loaded once for all forks
    chance: random.Random  # when who is killed
    living: dict[int, float] = field(default_factory=dict)  # tasks by process, and until when each is suspended
    suspended: set[int] = field(default_factory=set)  # those that ever were
    found: Counter[str] = field(default_factory=Counter)

    def start(self, submission: str) -> None:
        """Fork a task."""
        number = self.found["tasks"]
        self.found["tasks"] += 1
        child = os.fork()
        if child:
            self.living[child] = 0.0
            return
        code = 70
        try:
            for module, constant, seconds in _SHORTENED:
                setattr(module, constant, seconds)
            sharing = Leases(self.run, submission, number)
            _, failed = make_shards(self.run, sharing, leases=sharing, load=lambda: self.encoders)
            code = 1 if failed else 0
        finally:
            os._exit(code)

    def work(self, tasks: int, kills: int, pause: float) -> None:
        """Start tasks, and kill or suspend them until so many were, or nothing is left to do."""
        for _ in range(tasks):
            self.start("first")
        while self.living:
            time.sleep(self.chance.uniform(0.2, 1.8) * pause)
            self._reap()
            awake = [child for child, until in self.living.items() if not until]
            if awake and self.found["killed"] + self.found["suspended"] < kills:
                child = self.chance.choice(awake)
                if self.chance.random() < 0.1:
                    self.found["suspended"] += 1
                    self.suspended.add(child)
                    self.living[child] = time.monotonic() + 2 * _SILENT
                    os.kill(child, signal.SIGSTOP)
                else:
                    self.found["killed"] += 1
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    del self.living[child]
                    self.start("first")
        if any(sealed(self.run, number) is None for number in range(self.run.request.shards)):
            self.start("again")
            while self.living:
                time.sleep(pause)
                self._reap()

    def _reap(self) -> None:
        for child, until in list(self.living.items()):
            if until and time.monotonic() > until:
                os.kill(child, signal.SIGCONT)
                self.living[child] = 0.0
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del self.living[child]
                self.found["failed"] += os.waitstatus_to_exitcode(status) != 0

    def judge(self, expected: list[bytes]) -> None:
        """Count what became of the shards."""
        for number, content in enumerate(expected):
            receipt = sealed(self.run, number, full=True)
            self.found["shards"] += 1
            if receipt is None:
                self.found["lost"] += 1
                continue
            self.found["different"] += self.run.paths.shard(number).read_bytes() != content
            attempts = receipt.attempts
            self.found["attempts"] += len(attempts)
            self.found["taken over"] += len(attempts) > 1
            # ``left`` is said of an attempt whose process lived when another one sealed the shard.
            twice = [one["pid"] for one in attempts if one["outcome"] == "left"]
            asleep = self.suspended.intersection(one["pid"] for one in attempts)
            if twice:
                self.found["made twice, lease over" if asleep else "made twice"] += 1


def _plan(folder: Path, name: str, shards: int) -> Run:
    wish = RunOptions(
        files=(InputFile(folder / "input.fna"),), shards=shards, dna="kmer", protein="kmer", block_tokens=1, chunk=60
    )
    return start_run(wish, folder / name)[0]


def kill_tasks(kills: int, tasks: int, shards: int, seed: int) -> dict[str, int]:
    """Kill or suspend tasks that share runs, one run after the other, until so many were; counts of what came of it."""
    chance = random.Random(seed)  # noqa: S311 - nobody is kept from guessing it
    total: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        with (folder / "input.fna").open("w") as file:
            for record in range(4 * shards):
                file.write(f">r{record}\n{''.join(chance.choices('CG', k=900))}\n")
        encoders = RunEncoders(load("kmer", molecule="dna"), load("kmer", molecule="protein"), 0.0)
        encoders.dna.embed(["ACGT"])
        # By a fork too, so that this process has no threads when it forks.
        alone = Trial(_plan(folder, "alone", shards), encoders, chance)
        began = time.monotonic()
        alone.work(1, 0, 0.05)
        pause = max(0.02, (time.monotonic() - began) / 20)
        expected = [alone.run.paths.shard(number).read_bytes() for number in range(shards)]
        while (done := total["killed"] + total["suspended"]) < kills:
            trial = Trial(_plan(folder, f"run{total['runs']}", shards), encoders, chance)
            trial.work(tasks, kills - done, pause)
            trial.judge(expected)
            total.update({**trial.found, "runs": 1})
            click.echo(f"run {total['runs']}: {dict(trial.found)}", err=True)
    return dict(total)
