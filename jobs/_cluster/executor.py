"""Where the jobs of a run are done: what every such place can do, which there are, and what a run notes of its jobs.

Another scheduler is one new module with an ``Executor``, and a line for it in ``EXECUTORS``.
"""

from __future__ import annotations

import getpass
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, ClassVar

from jobs._cli.command import echo
from vnp.errors import RunExistsError, UsageError
from vnp.files.records import from_json, parse_json, read_regular

if TYPE_CHECKING:
    from jobs._cluster.profile import JobKind, Profile, Resources
    from vnp.runs.planning.options import RunOptions

EXECUTORS = {
    "slurm": "jobs._cluster.slurm.Slurm",
    "sge": "jobs._cluster.grid_engine.GridEngine",
    "pbs": "jobs._cluster.pbs.Pbs",
    "lsf": "jobs._cluster.lsf.Lsf",
    "local": "jobs._cluster.local.Local",
    "inline": "jobs._cluster.inline.Inline",
}
"""Each by the name that --cluster has for it; auto takes the first one that is here."""
CLUSTERS = ("auto", *EXECUTORS)
SCRIPTS = {**{name: EXECUTORS[name] for name in ("slurm", "sge", "pbs", "lsf")}, "shell": "jobs._cluster.plain.Shell"}
"""What a script can be printed for; shell is any other scheduler, or none."""
_FIRST = next(iter(EXECUTORS))


@dataclass(frozen=True, slots=True)
class Job:
    """A step of a run: a job where there is a scheduler, else done by this process or processes of this machine."""

    root: Path
    name: str  # what the scheduler's list of jobs shows
    function: Callable[..., str]  # what a task of it runs: importable, takes the path of ``run.json`` first
    kind: JobKind = "cpu"  # which of a profile's resources it asks for
    arguments: tuple[Any, ...] = ()  # more arguments, the same for all tasks
    # which are to be made; None for a plain job
    shards: tuple[int, ...] | None = None
    tasks: int | None = None  # so many tasks share them, each taking what nobody works on; None: one task for each
    binds: tuple[Path, ...] = ()  # paths that must be seen inside an image
    # does the same in this process, if it makes no shards; None where nothing is to be done
    here: Callable[[], object] | None = None
    # what to say once shards are made on this machine, from the seconds that it took
    report: Callable[[float], str] | None = None
    wanted: Resources | None = None  # what it asks for; None is what the profile has for its kind
    after: tuple[str, ...] = ()  # ids of the jobs that it waits for
    anyhow: bool = False  # start when those have ended, however they ended, not only if all went well

    @property
    def elements(self) -> tuple[int, ...] | None:
        """The number of each task, which it gets as a list of one after the path: its shard's, or its own."""
        if self.shards is None or self.tasks is None:
            return self.shards
        return tuple(range(min(self.tasks, len(self.shards))))


@dataclass(frozen=True, slots=True)
class Element:
    """A job, or an element of an array, that the scheduler has not finished with."""

    id: str  # as the scheduler's commands take it, such as ``41_7``; ``job`` is that of the whole array
    name: str
    state: str  # the scheduler's word for it, such as ``PENDING``
    reason: str  # why it waits
    shard: int | None  # the shard it makes, or None for another job
    log: str  # name of its log of errors in the run's ``logs``
    job: str
    waiting: bool = False
    ending: bool = False  # its task has ended, or is being ended by the scheduler
    shares: bool = False  # it takes shards that nobody works on, together with others


class Executor(ABC):
    """A place where jobs are done; what is said of schedulers alone has defaults for this machine."""

    name: ClassVar[str]  # as in ``EXECUTORS``
    title: ClassVar[str] = ""  # of a scheduler, as messages have it
    tools: ClassVar[tuple[str, str]] = ("", "")  # a scheduler's programs that list and cancel jobs
    called: ClassVar[str] = ""  # variable of a scheduler's job that has its name
    told_to_end: bool = False  # TERM came while shards were made, and they are done all the same
    waits: ClassVar[bool] = True  # ``submit`` returns when the job is done; a scheduler takes it and returns at once
    asked: str = "auto"  # what --cluster was, for the run to remember

    def __init__(self, profile: Profile | None = None) -> None:
        self.profile = profile

    @classmethod
    def missing(cls) -> str | None:
        """What keeps it from being used here, and what to do about it; None if nothing does."""
        return None

    @classmethod
    def is_set_up(cls) -> bool:
        """Whether there is a cluster behind its programs, as far as this machine knows; it need not answer."""
        return True

    @classmethod
    def own_job(cls) -> str | None:
        """The scheduler's job that this process is in, if any."""
        return None

    @abstractmethod
    def submit(self, job: Job) -> list[str]:
        """Do a job, or hand it to the scheduler and note it in the run.

        Returns:
            Ids of the jobs that it became: none where it is done already.

        Raises:
            VnpError: it cannot be done, or the scheduler refused it.
        """

    @contextmanager
    def expecting(self, options: RunOptions, root: Path, tasks: int | None) -> Iterator[None]:  # noqa: ARG002
        """What is done while a run is planned: nothing, or tasks are started that will be wanted when it is."""
        yield

    def state(self, root: Path) -> list[Element] | None:  # noqa: ARG002 - of a scheduler
        """What of a run is in the queue; None if the scheduler does not answer, which is not the same as nothing."""
        return []

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:  # noqa: ARG002 - of a scheduler
        """How jobs or elements ended, in the scheduler's words, by id; ids of which it tells nothing are left out."""
        return {}

    def node_count(self, wanted: Resources) -> int | None:  # noqa: ARG002 - of a scheduler
        """How many nodes jobs that ask for this can come to, 0 where none can be left out; None if nobody knows."""
        return None

    def cancel(self, jobs: Sequence[str]) -> None:  # noqa: ARG002 - of a scheduler
        """Cancel jobs or elements, or those that have not ended; ``VnpError`` where the scheduler refuses."""
        return

    def task_id(self, job: str, index: int | None) -> str:
        """The id of an array's element, or of a plain job (None)."""
        return job if index is None else f"{job}_{index}"

    def job_of(self, task: str) -> str:
        """The job that a task's id is of."""
        return task.partition("_")[0]

    def shard(self, entry: Submitted, index: int | None) -> int | None:
        """What an array's element, or a plain job (None), makes."""
        return None if index is None else entry.base + index

    def index(self, entry: Submitted, shard: int) -> int | None:
        """The index of the element that makes a shard; None where it is a plain job."""
        return shard - entry.base

    def log(self, job: str, index: int | None) -> str:
        """Name of the file in the run's ``logs`` that such a task writes errors to."""
        return "_".join([*re.findall(r"\d+", self.task_id(job, index)), "0_log.err"])

    def check(self) -> None:
        """Make sure that tasks would find what they need, before time is spent on planning; else ``UsageError``."""
        return

    def script(self, job: Job, *, whole: bool = False) -> str:  # noqa: ARG002 - of a scheduler
        """The text that the scheduler would get; empty without one.

        Raises:
            UsageError: ``whole``, and one text is not enough for all shards.
        """
        return ""


def choose_executor(
    cluster: str, profile: str | None = None, parallelism: int | None = None, retries: int | None = None
) -> Executor:
    """The place that the command line asks for; ``parallelism`` and ``retries`` go before the profile's.

    Raises:
        UsageError: it is not here, there is no such profile, or something in that is wrong.
    """
    # Only here, for every command reads this module to name the places.
    from jobs._cluster.profile import load_profile

    here = _here()
    kind = next(here) if cluster == "auto" else _load(cluster)
    missing, job = kind.missing(), kind.own_job()
    if missing is not None:
        raise UsageError(f"--cluster {cluster}: {missing}")
    if cluster == "auto" and job is not None:
        echo(f"inside {kind.title}'s job {job}: done in it; --cluster {kind.name} submits new jobs", err=True)
        kind = _load("local")
    site = None
    if not kind.waits:
        for option, value, least in (("--parallelism", parallelism, 1), ("--retries", retries, 0)):
            if value is not None and value < least:
                raise UsageError(f"{option} must be at least {least}, not {value}")
        site = load_profile(profile).changed(parallelism=parallelism, retries=retries)
        while site.scheduler not in (None, kind.name) and not kind.waits:
            if cluster != "auto":
                raise UsageError(
                    f"--cluster {cluster}: the profile is for {site.scheduler}; name another with --profile"
                )
            # The one that the profile is for, or this machine.
            kind = next(here)
    made = kind(None if kind.waits else site)
    made.asked = cluster
    return made


def choose_script(name: str, profile: str | None, parallelism: int | None, retries: int | None) -> Executor:
    """The one that writes scripts for a scheduler, which need not be here."""
    from jobs._cluster.profile import load_profile

    return _load(name, SCRIPTS)(load_profile(profile).changed(parallelism=parallelism, retries=retries))


def _here() -> Iterator[type[Executor]]:
    """The places that are here, in the order in which they are taken."""
    for kind in map(_load, EXECUTORS):
        if kind.missing() is not None:
            continue
        if kind.is_set_up():
            yield kind
        else:
            echo(f"{kind.title}'s programs are here, and no cluster is set up for them: passed over", err=True)


def scheduler(root: Path) -> Executor:
    """The one that has the jobs of a run: that of the last submission."""
    jobs = submitted(root)
    return _load(jobs[-1].cluster if jobs and jobs[-1].cluster in EXECUTORS else _FIRST)()


def note_own_job(root: Path) -> None:
    """Note the job that this process runs in, if it is one that no command of vnp submitted."""
    for kind in map(_load, EXECUTORS):
        job = kind.own_job()
        if job and all(entry.job != job for entry in submitted(root)):
            note(root, job, os.environ.get(kind.called, ""), 0, [], kind.name)


def _load(name: str, among: Mapping[str, str] = EXECUTORS) -> type[Executor]:
    module, _, kind = among[name].rpartition(".")
    found: type[Executor] = getattr(import_module(module), kind)
    return found


@dataclass(frozen=True, slots=True)
class Submitted:
    """One submission: a line of JSON in the run's ``logs/jobs.jsonl``."""

    job: str  # the scheduler's id, of the array where it is one
    name: str
    user: str
    base: int  # number to add to an array index to get the shard
    shards: list[int]  # one a task of an array; empty for others, and for arrays that were submitted by hand
    at: str  # UTC, ISO 8601
    cluster: str = _FIRST  # the scheduler by its name in ``EXECUTORS``; not written where it is Slurm
    tasks: int = 0  # so many share the shards; not written where there are none


def jobs_file(root: Path) -> Path:
    return root / "logs" / "jobs.jsonl"


def note(
    root: Path, job: str, name: str, base: int, shards: Sequence[int], cluster: str = _FIRST, tasks: int = 0
) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = asdict(Submitted(job, name, getpass.getuser(), base, list(shards), now, cluster, tasks))
    for field, default in (("cluster", _FIRST), ("tasks", 0)):
        if entry[field] == default:
            del entry[field]
    path = jobs_file(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In one write, so that two writers do not mix their lines, and on a line of its own even after a torn one.
    line = json.dumps(entry) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def submitted(root: Path) -> list[Submitted]:
    """All submissions, oldest first; a line that was cut off by a full disk is passed over.

    A job that was submitted by hand is given once, though several of its tasks may have noted it at the same time.
    """
    found: list[Submitted] = []
    try:
        lines = read_regular(jobs_file(root)).decode(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            entry = from_json(Submitted, parse_json(line))
        except (ValueError, TypeError):
            continue
        if entry.shards or all(entry.job != other.job for other in found):
            found.append(entry)
    return found


def require_idle(executor: Executor, root: Path) -> None:
    """Make sure that no job of a run is in the queue; else ``RunExistsError``."""
    queue = [element.job for element in executor.state(root) or [] if not element.ending]
    if queue:
        jobs = ", ".join(in_order(root, queue))
        raise RunExistsError(
            f"{root} has jobs in the queue ({jobs}): end them first with python -m jobs.cancel {quote(str(root))}, "
            "or wait for them"
        )


def in_order(root: Path, jobs: Sequence[str]) -> list[str]:
    """Ids of a run's jobs, each once, in the order of their submission."""
    order = {entry.job: place for place, entry in enumerate(submitted(root))}
    return sorted(dict.fromkeys(jobs), key=lambda job: order.get(job, len(order)))


def log_path() -> str | None:
    """The file that this process's errors go to, where it was started as a task."""
    log = os.environ.get("VNP_LOG")
    return None if log is None else str(Path(log).absolute())
