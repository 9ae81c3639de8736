"""Batch scripts: what every scheduler that takes them needs, whatever its own words are.

What a scheduler says only explains: a shard is done by its receipt, whatever is said here.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from shlex import quote
from tempfile import NamedTemporaryFile
from typing import ClassVar

from jobs._cli.command import echo
from jobs._cluster.executor import Element, Executor, Job, Submitted, note, submitted
from jobs._cluster.image import check_place, python_command
from jobs._cluster.mending import FIELDS, mend_task
from jobs._cluster.profile import CONTROL, KINDS, Profile, Resources, load_profile
from jobs._cluster.task import CRASHED, STOPPED
from jobs._cluster.worker import search_path, task_words
from vnp.errors import UsageError, VnpError
from vnp.files.records import to_json

AT_ONCE = 500
"""Most ids in one command."""
AGAIN = f'[ "$code" -eq {STOPPED} ] || [ "$code" -eq {CRASHED} ] || [ "$code" -ge 128 ]'
"""Shell text: whether another try may help a task that ended with ``$code``; ``ENDED`` says how it ended."""
ENDED = f"ended with $code ({STOPPED}: asked to stop, {CRASHED}: a fault, 128 and more: killed)"
_SECONDS_TO_ANSWER = 30
PATHS = {"PATH", "LD_LIBRARY_PATH"}
_HANDED_ON = re.compile("VNP_(?!(LOG|JOB|ASKED|END_TIME|CODE|LASTED|RESTARTS|NODES|SHARD)$)|XDG_(CACHE|CONFIG)_HOME$")


@dataclass(frozen=True, slots=True)
class Queued:
    """A job, or an element of an array, as the scheduler tells of it."""

    job: str  # its id, of the array where it is one
    name: str
    index: int | None  # that the scheduler counts with; None for a plain job
    state: str  # the scheduler's word for it
    reason: str
    waiting: bool
    ending: bool = False


class Batch(Executor):
    """A scheduler that takes scripts: ``submit`` returns as soon as it has taken them."""

    waits = False
    submits: ClassVar[str]  # its program that takes a script
    beside: ClassVar[str] = ""  # another one, where other schedulers have a program of that name too
    settings: ClassVar[tuple[str, ...]]  # files of which a cluster's machines have one, with variables
    probe: ClassVar[tuple[str, ...]]  # a question that any cluster answers
    changing: ClassVar[tuple[str, ...]] = ()  # beginnings of variables that change what its programs do
    needed: ClassVar[frozenset[str]] = frozenset()  # but these of them say which scheduler it is, and who asks
    foreign: ClassVar[tuple[str, ...]] = ()  # beginnings of those that would change what is submitted

    has_ended: ClassVar[re.Pattern[str]]  # what is said of a job that was cancelled, or cannot be because it has ended

    @property
    def _profile(self) -> Profile:
        return self.profile or load_profile(None)

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which(cls.submits) and (not cls.beside or shutil.which(cls.beside)):
            return None
        program = f"{cls.submits} of {cls.title}" if cls.beside else cls.submits
        return f"there is no {program} on PATH; submit from a login node, or use --cluster local"

    @classmethod
    def is_set_up(cls) -> bool:
        paths = [os.path.expandvars(path) for path in cls.settings]
        return any("$" not in path and Path(path).exists() for path in paths) or cls.ask(cls.probe) is not None

    def check(self) -> None:
        for kind in KINDS:
            check_place(self._profile.of(kind))

    def submit(self, job: Job) -> list[str]:
        """Submit a job and note it in the run; one id, or one an array where tasks pass the site's limit.

        Raises:
            VnpError: the scheduler refused it, in its words.
        """
        wanted = job.wanted or self._profile.of(job.kind)
        check_place(wanted, [job.root, *job.binds])
        ids: list[str] = []
        (job.root / "logs").mkdir(parents=True, exist_ok=True)
        name_foreign(self.foreign)
        for base, indexes in self.arrays(job):
            text = self.batch_script(job, wanted, base, indexes)
            # Not in the run, where others may write.
            with NamedTemporaryFile("w", prefix="vnp-", suffix=".sh", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                done = self.hand_in(Path(file.name))
            taken = self.taken(done.stdout)
            if done.returncode or taken is None:
                raise VnpError(self._refusal(job, done.stderr or done.stdout, ids))
            ids.append(taken)
            # At once: an id that nobody knows could not be cancelled.
            numbers = [base + index for index in indexes or []]
            shards, tasks = (numbers, 0) if job.tasks is None else ([], len(numbers))
            note(job.root, taken, job.name, base, shards, self.name, tasks)
        return ids

    def script(self, job: Job, *, whole: bool = False) -> str:
        arrays = self.arrays(job)
        if whole and len(arrays) > 1:
            raise UsageError(
                f"{len(job.elements or ())} tasks are more than an array of {self.title} may have here "
                f"({self.max_array_size()}): take fewer, or print the script for shell"
            )
        return self.batch_script(job, self._profile.of(job.kind), *arrays[0])

    def arrays(self, job: Job) -> list[tuple[int, list[int] | None]]:
        """Each array's first number and its indexes."""
        if job.elements is None:
            return [(0, None)]
        size = self.max_array_size()
        groups = itertools.groupby(sorted(job.elements), lambda number: number // size)
        return [(which * size, [number % size for number in numbers]) for which, numbers in groups]

    def cancel(self, jobs: Sequence[str]) -> None:
        for first in range(0, len(jobs), AT_ONCE):
            done = self.call([self.tools[1], *jobs[first : first + AT_ONCE]], None)
            lines = (done.stdout + done.stderr).splitlines()
            said = [line for line in lines if line.strip() and not self.has_ended.search(line)]
            if done.returncode and said:
                raise VnpError("\n".join(said))

    def state(self, root: Path) -> list[Element] | None:
        known = {entry.job: entry for entry in submitted(root)}
        queue = self.queue(sorted({entry.user for entry in known.values()}), list(known)) if known else []
        if queue is None:
            return None
        # Ids begin anew with a new scheduler: the name must fit too.
        pairs = ((known.get(one.job), one) for one in queue)
        return [self._element(entry, one) for entry, one in pairs if entry and entry.name.strip() == one.name.strip()]

    def _element(self, entry: Submitted, one: Queued) -> Element:
        return Element(
            id=self.task_id(entry.job, one.index),
            name=entry.name,
            state=one.state,
            reason=one.reason,
            shard=None if entry.tasks else self.shard(entry, one.index),
            log=self.log(entry.job, one.index),
            job=entry.job,
            waiting=one.waiting,
            ending=one.ending,
            shares=bool(entry.tasks),
        )

    def _refusal(self, job: Job, said: str, ids: Sequence[str]) -> str:
        text = f"{self.title} refused the job {job.name}: {self.plain_words(said) or 'it gave no reason'}"
        if ids:
            return text + (
                f"\nThe jobs {', '.join(ids)} before it were submitted. The rest, once the cause is mended: "
                f"python -m jobs.rerun {quote(str(job.root))}"
            )
        return text + f"\nWithout {self.title}, on this machine alone: --cluster local"

    @classmethod
    def call(
        cls, words: Sequence[str], seconds: float | None, given: str | None = None, folder: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its programs without the variables that change what it does, or come from a job around us.

        Raises:
            VnpError: it cannot be run.
            SubprocessError: it takes longer than it may.
        """
        kept = {
            name: value for name, value in os.environ.items() if name in cls.needed or not name.startswith(cls.changing)
        }
        try:
            return subprocess.run(
                words, env=kept, input=given, cwd=folder, capture_output=True, text=True, errors="replace",
                timeout=seconds,
            )  # fmt: skip
        except OSError as error:
            raise VnpError(f"{words[0]} cannot be run: {error.strerror}") from error

    @classmethod
    def ask(cls, words: Sequence[str]) -> str | None:
        """What one of its programs prints; None if it fails or does not answer in time."""
        try:
            done = cls.call(words, _SECONDS_TO_ANSWER)
        except (VnpError, subprocess.SubprocessError):
            return None
        return done.stdout if done.returncode == 0 else None

    # What each scheduler has its own words for.

    @abstractmethod
    def max_array_size(self) -> int:
        """How many elements an array may have here."""

    @abstractmethod
    def batch_script(self, job: Job, wanted: Resources, base: int, indexes: Sequence[int] | None) -> str:
        """The text that the scheduler gets for a job or one array.

        Raises:
            UsageError: a path or a value cannot stand in it.
        """

    def queue(self, users: Sequence[str], jobs: Sequence[str]) -> list[Queued] | None:  # noqa: ARG002 - of those that have one
        """What is in the queue of these users, or at least of these jobs; None if the scheduler does not answer."""
        return []

    def hand_in(self, script: Path) -> subprocess.CompletedProcess[str]:
        """Give a script to the scheduler."""
        return self.call([self.submits, str(script)], None)

    @abstractmethod
    def taken(self, said: str) -> str | None:
        """The id in the answer to a script that was taken; None if there is none."""

    def plain_words(self, said: str) -> str:
        """The scheduler's reason for a refusal, in one line; empty if it gave none."""
        return "; ".join(line.strip() for line in said.splitlines() if line.strip())


@cache
def name_foreign(beginnings: tuple[str, ...]) -> None:
    """Say which variables would have changed what is submitted."""
    foreign = sorted(name for name in os.environ if name.startswith(beginnings)) if beginnings else []
    if foreign:
        echo(f"{', '.join(foreign)} of your environment left aside: what a job asks for is in the profile", err=True)


def task_command(job: Job, wanted: Resources) -> str:
    """Shell text that starts a task; the number of a shard may follow."""
    python = python_command(wanted, [job.root, *job.binds]) if wanted.image else quote(sys.executable)
    words = task_words(job.function, [str(job.root / "run.json"), *job.arguments])
    return " ".join([python, *map(quote, words)])


def mending_command(job: Job, wanted: Resources, words: Sequence[str]) -> str:
    """Shell text that prints what to do with a task of shards that failed; see ``mend_task`` on ``words``."""
    known = to_json(wanted)
    asker = replace(job, function=mend_task, arguments=({name: known[name] for name in FIELDS}, list(words)))
    return f"{task_command(asker, wanted)} | tail -n 1"


def exports(wanted: Resources, *more: str) -> list[str]:
    """Shell lines that set what a task needs to find in its environment; ``more`` names variables to hand on."""
    variables = dict(sorted(wanted.environment.items()))
    if wanted.image:
        # What an image sets itself wins over the plain variable, as it must for the paths of programs.
        variables |= {f"APPTAINERENV_{name}": value for name, value in variables.items() if name not in PATHS}
    # Some sites hand nothing on to a job.
    handed = {name: os.environ[name] for name in sorted(os.environ) if name in more or _HANDED_ON.match(name)}
    safe = {"PYTHONPATH": search_path(variables.get("PYTHONPATH")), "PYTHONSAFEPATH": "1"}
    return [f"export {name}={quote(value)}" for name, value in {**handed, **variables, **safe}.items()]


def asked(wanted: Resources, own: str = "") -> str:
    """A shell line that tells a task what it was given; ``own`` is such words of the scheduler, which count."""
    gpus = wanted.gpus or (int(found[1]) if (found := re.search(r":(\d+)$", wanted.gres or "")) else 0)
    words = f"mem={wanted.mem} cpus={wanted.cpus} gpus={gpus} grace={wanted.grace}"
    return f'export VNP_ASKED={quote(words)}" {own}"'


def require_plain(strings: Iterable[str]) -> None:
    """Refuse what would end a line of a script; a profile has looked at its own values."""
    for text in strings:
        if CONTROL.search(text):
            raise UsageError(f"{text!r} has a control character, such as a line break, which no batch script may hold")


def ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    pieces = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        pieces.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(pieces)
