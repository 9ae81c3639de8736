"""A cluster as a test uses it, and a run on it with faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import h5py
import numpy as np

from tests.conftest import REPOSITORY
from tests.slurm.configuration import Wishes

FAULTS = Path(__file__).parent / "faults"
# Small enough that a shard of the test's input has several blocks.
ENCODING = ["--chunk", "60", "--dna", "kmer", "--protein", "kmer", "--block-tokens", "1"]
_LIMIT = 240.0


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something is so; the limit is generous, since all that it decides is when a test has failed."""
    deadline = time.monotonic() + _LIMIT
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.2)


@dataclass
class Site:
    """A running cluster.

    Args:
        wishes: how it is.
        environment: of the commands that use it.
    """

    wishes: Wishes
    environment: dict[str, str]
    keeper: subprocess.Popen[str]
    cluster: ClassVar[str] = "slurm"
    module: ClassVar[str] = "tests.slurm.keeper"

    @classmethod
    def start(cls, wishes: Wishes) -> Self:
        """Start it and wait until it takes jobs."""
        keeper = subprocess.Popen(
            [sys.executable, "-m", cls.module, json.dumps(asdict(wishes))],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert keeper.stdout is not None
        problem = json.loads(keeper.stdout.readline() or '{"problem": "its keeper ended"}')["problem"]
        if problem:
            keeper.communicate()
            raise AssertionError(f"the test cluster does not start: {problem}")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        environment.pop("VNP_PROFILE", None)
        return cls(wishes, {**environment, **cls.variables(Path(wishes.root))}, keeper)

    @classmethod
    def variables(cls, root: Path) -> dict[str, str]:
        """What tells the scheduler's programs which cluster."""
        return {"SLURM_CONF": str(root / "slurm.conf")}

    def inside(self, words: Sequence[str]) -> list[str]:
        """A command line from which the cluster can be reached."""
        return list(words)

    def stop(self) -> None:
        """End it; its keeper does so too if this process dies."""
        self.keeper.communicate()

    def say(self, *words: str) -> str:
        """The output of one of Slurm's commands."""
        done = subprocess.run(self.inside(words), env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def queued(self, jobs: Sequence[str]) -> list[str]:
        """Elements of these jobs in the queue, with their states."""
        return [line for line in self.queue() if line.split("_")[0] in jobs]

    def queue(self, columns: str = "%F_%K %T") -> list[str]:
        """Lines of squeue, an element each."""
        return self.say("squeue", "-h", "-r", "-o", columns).splitlines()

    def vnp(self, command: str, *words: object, code: int = 0, **environment: str) -> str:
        """Run a command of vnp; its output, both streams.

        Args:
            command: such as ``extract``.
            words: its arguments.
            code: the exit code that it must have.
            environment: more variables.
        """
        return self.run([sys.executable, "-m", f"jobs.{command}", *map(str, words)], REPOSITORY, environment, code)

    def run(self, words: Sequence[str], folder: Path, environment: Mapping[str, str], code: int = 0) -> str:
        """Run a command line in a folder; otherwise as ``vnp``."""
        done = subprocess.run(
            self.inside(words),
            cwd=folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


@dataclass
class Case:
    """A run on a cluster, with a profile and a folder of faults of its own.

    Args:
        site: the cluster.
        folder: of the case; must not exist.
        input: FASTA.
        name: of the run directory.
        profile: values of the profile, as TOML.
    """

    site: Site
    folder: Path
    input: Path
    name: str = "run"
    profile: Sequence[str] = ()
    faults: Path = field(init=False)
    run: Path = field(init=False)

    def __post_init__(self) -> None:
        self.faults = self.folder / "faults"
        self.faults.mkdir(parents=True)
        self.run = self.folder / self.name
        (self.folder / "profile.toml").write_text(
            "\n".join(
                [
                    "cpus = 2",
                    'mem = "300M"',
                    "retries = 2",
                    *self.profile,
                    "[environment]",
                    f"PYTHONPATH = '{FAULTS}'",
                    f"FAULTS = '{self.faults}'",
                    # Tasks share few cores.
                    "OMP_NUM_THREADS = '1'",
                    "OPENBLAS_NUM_THREADS = '1'",
                ]
            )
        )

    @property
    def options(self) -> list[str]:
        """What tells a command about the cluster."""
        return ["--cluster", self.site.cluster, "--profile", str(self.folder / "profile.toml")]

    def fault(self, *places: str) -> None:
        """Lay out faults, such as ``3.1.kill``."""
        for place in places:
            (self.faults / place).touch()

    def release(self, *places: str) -> None:
        """Let tasks that hold go on."""
        for place in places:
            (self.faults / f"{place}.go").touch()

    def held(self, place: str) -> str:
        """Wait until a task holds; the GPUs that it sees."""
        path = self.faults / f"{place}.held"
        until(path.exists, f"a task holds at {place}")
        return path.read_text()

    def start(self, command: str, shards: int, *words: str, code: int = 0) -> str:
        """Start the run with ``extract`` or ``pipeline``."""
        asked = [self.input, "--out", self.run, "--shards", shards, *ENCODING]
        return self.site.vnp(command, *asked, *self.options, *words, code=code)

    def rerun(self, *words: str) -> str:
        """Make what is missing."""
        return self.site.vnp("rerun", self.run, *self.options, *words)

    def status(self, code: int, **environment: str) -> dict[str, Any]:
        """What ``status --json`` says."""
        found: dict[str, Any] = json.loads(self.site.vnp("status", self.run, "--json", code=code, **environment))
        return found

    def states(self, code: int = 3) -> list[str]:
        """The state of each shard."""
        return [shard["state"] for shard in self.status(code)["shards"]]

    def submissions(self) -> list[dict[str, Any]]:
        """What was submitted, oldest first."""
        return [json.loads(line) for line in (self.run / "logs" / "jobs.jsonl").read_text().splitlines()]

    @property
    def jobs(self) -> list[str]:
        """Ids of all jobs of the run."""
        return [entry["job"] for entry in self.submissions()]

    def queued(self) -> list[str]:
        """The run's elements in the queue, with their states."""
        return self.site.queued(self.jobs)

    def settle(self) -> None:
        """Wait until no job of the run is in the queue."""
        until(lambda: not self.queued(), f"the queue is empty of {self.jobs}")

    def attempts(self, shard: int) -> list[dict[str, Any]]:
        """The attempts on an unfinished shard."""
        folder = self.run / "parts" / f"shard-{shard:05d}"
        return [json.loads(path.read_bytes()) for path in sorted(folder.glob("attempt-*.json"))]

    def log(self, job: str) -> str:
        """What a job or element wrote to its log of errors."""
        return (self.run / "logs" / f"{job}_0_log.err").read_text()

    def receipt(self, shard: int) -> dict[str, Any]:
        """A shard's receipt."""
        found: dict[str, Any] = json.loads((self.run / "receipts" / f"shard-{shard:05d}.json").read_bytes())
        return found

    def require_same(self, reference: Path) -> None:
        """All rows are there, once, with the bytes of an undisturbed run; merges the run where it is not merged."""
        self.site.vnp("status", self.run)
        self.site.vnp("reduce", self.run)
        require_same_features(self.run / "features.h5", reference)
        assert not list((self.run / "parts").iterdir())


def require_same_features(path: Path, reference: Path) -> None:
    """Two merged files hold the same numbers, ids and columns."""
    with h5py.File(path) as one, h5py.File(reference) as other:
        assert set(one) == set(other)
        ids = one["ids"][:]
        assert len(set(ids.tolist())) == len(ids) > 0
        for name in other:
            if isinstance(other[name], h5py.Dataset):
                assert one[name].dtype == other[name].dtype
                assert np.array_equal(one[name][()], other[name][()]), name
