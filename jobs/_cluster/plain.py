"""Schedulers whose batch scripts are written here, and a script for those that vnp does not know."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from shlex import quote
from typing import ClassVar

from jobs._cluster.executor import Job, Submitted
from jobs._cluster.profile import KINDS, Resources
from jobs._cluster.scripts import AGAIN, ENDED, PATHS, Batch, asked, exports, require_plain, task_command
from jobs._cluster.task import STOPPED
from vnp.errors import UsageError


class Plain(Batch):
    """A scheduler whose scripts are written here, with arrays that count from 1 on in the order of their shards.

    What it prints of a task itself is thrown away: the script writes the logs, so that they have the names that they
    have everywhere, whatever is in a path. One shard alone is a plain job.
    """

    marker: ClassVar[str]  # what a line of options in a script begins with
    pattern: ClassVar[str]  # the id of an array's element
    number: ClassVar[str]  # shell text: the digits of a job's id
    counter: ClassVar[str]  # variable that has the index of an array's element
    again: ClassVar[str]  # shell line that lets the scheduler queue the task again; without one it is tried again there
    lacks: ClassVar[tuple[str, ...]] = ()  # keys of a profile that it has nothing for

    def task_id(self, job: str, index: int | str | None) -> str:
        return job if index is None else self.pattern.format(job=job.removesuffix("[]"), index=index)

    def shard(self, entry: Submitted, index: int | None) -> int | None:
        if index is None:
            return entry.shards[0] if len(entry.shards) == 1 else None
        return entry.shards[index - 1] if 0 < index <= len(entry.shards) else None

    def index(self, entry: Submitted, shard: int) -> int | None:
        return entry.shards.index(shard) + 1 if len(entry.shards) > 1 else None

    def node_count(self, wanted: Resources) -> int | None:  # noqa: ARG002 - of some
        return 0 if "exclude" in self.lacks else None

    def arrays(self, job: Job) -> list[tuple[int, list[int] | None]]:
        if job.elements is None:
            return [(0, None)]
        size, shards = self.max_array_size(), sorted(job.elements)
        return [(0, shards[first : first + size]) for first in range(0, len(shards), size)]

    def check(self) -> None:
        super().check()
        for kind in KINDS:
            self._require_known(self._profile.of(kind))

    def _require_known(self, wanted: Resources) -> None:
        for key in self.lacks:
            if getattr(wanted, key):
                raise UsageError(f"{key} in the profile means nothing to {self.title}: use extra, or leave it out")

    def batch_script(self, job: Job, wanted: Resources, base: int, indexes: Sequence[int] | None) -> str:  # noqa: ARG002
        self._require_known(wanted)
        shards = list(indexes or [])
        count = len(shards) if len(shards) > 1 else None
        me = self.task_id("$number", f"${self.counter}" if count else None)
        log = f"${{number}}_${{{self.counter}}}_0_log" if count else "${number}_0_log"
        number = [f'"${{shards[{self.counter} - 1]}}"'] if count else map(str, shards)
        # Told by its own clock, since not every scheduler warns.
        told = 'timeout --foreground --preserve-status --signal=USR2 "$((warn > now ? warn - now : 1))"'
        command = " ".join(["now=$(date +%s);", told, task_command(job, wanted), *number])
        lines = [
            "#!/bin/bash",
            *(f"{self.marker} {option}" for option in [*self.options(job, wanted, count), *wanted.extra]),
            # The shell waits for its task and then says how it ended; without handlers it would die of the signal.
            "trap : TERM USR2",
            "cancelled=; trap 'cancelled=yes' INT",
            "trap '' USR1",
            f"number={self.number}",
            f'export VNP_JOB="{me}"',
            f'log={quote(str(job.root / "logs"))}/"{log}"',
            'export VNP_LOG="$log.err"',
            'exec >>"$log.out" 2>>"$log.err" </dev/null',
            *self.begin(job, wanted),
            *_surroundings(wanted),
            f"warn=$(($(date +%s) + {max(1, 60 * wanted.minutes - wanted.grace)}))",
            f'export VNP_END_TIME="$((warn + {wanted.grace}))"',
            asked(wanted),
            *([f"shards=({' '.join(map(str, shards))})"] if count else []),
            *([command, "code=$?", *_queue_again(self.again, wanted.retries)] if self.again else
              _retry_here(command, wanted.retries)),
            # A plain job writes how it ended, for the jobs behind it.
            *([] if shards else ['echo "$code" >"$log.code"']),
            'exit "$code"',
        ]  # fmt: skip
        return _text(lines, wanted)

    @abstractmethod
    def options(self, job: Job, wanted: Resources, count: int | None) -> list[str]:
        """What stands behind the marker, an option a line; ``count`` elements of an array, or None for a plain job."""

    def begin(self, job: Job, wanted: Resources) -> list[str]:  # noqa: ARG002 - of some
        """Shell lines before all else, with the logs open."""
        return []

    def after(self, job: Job) -> list[str]:
        """Shell lines that end a job whose predecessors did not succeed, where the scheduler cannot be told so."""
        if job.anyhow:
            return []
        logs = quote(str(job.root / "logs"))
        return [
            f"grep -qsx 0 {logs}/{self.log(other, None).removesuffix('.err')}.code || "
            f'{{ echo "error: job {other}, which this one waited for, did not succeed" >&2; exit 1; }}'
            for other in job.after
        ]


class Shell(Plain):
    """Anything else: a script that makes shards one after the other, or those whose numbers it is given."""

    name = title = submits = "shell"
    lacks = ("exclude",)
    again = ""

    def max_array_size(self) -> int:
        return sys.maxsize

    def batch_script(self, job: Job, wanted: Resources, base: int, indexes: Sequence[int] | None) -> str:  # noqa: ARG002
        lines = [
            "#!/bin/bash",
            "# Makes these shards, one after the other; or, for another scheduler, those that are named behind it.",
            f'[ "$#" -gt 0 ] || set -- {" ".join(map(str, indexes or []))}',
            "cancelled=; trap 'cancelled=yes' INT TERM",
            "worst=0",
            *_surroundings(wanted),
            'for shard in "$@"; do',
            *(f"  {line}" for line in _retry_here(f'{task_command(job, wanted)} "$shard"', wanted.retries)),
            '  [ "$code" -eq 0 ] || worst=$code',
            '  [ -z "$cancelled" ] || break',
            "done",
            'exit "$worst"',
        ]
        return _text(lines, wanted)

    def options(self, job: Job, wanted: Resources, count: int | None) -> list[str]:  # noqa: ARG002
        return []

    def submit(self, job: Job) -> list[str]:
        raise UsageError(f"{job.name}: a plain script is for a hand to start")

    def taken(self, said: str) -> str | None:  # noqa: ARG002
        return None


def _surroundings(wanted: Resources) -> list[str]:
    """What Slurm hands on by itself, the site's own lines, and how many threads there are."""
    threads = f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{wanted.cpus}}}"'
    return [*exports(wanted, *sorted(PATHS)), *"\n".join(wanted.setup).splitlines(), threads]


def _text(lines: Sequence[str], wanted: Resources) -> str:
    """Lines as a script, the site's own as they are."""
    own = set("\n".join(wanted.setup).splitlines())
    require_plain(line for line in lines if line.strip() not in own)
    return "\n".join([*lines, ""])


def _queue_again(line: str, retries: int) -> list[str]:
    """Queue a task again that was told to stop or was killed, unless it ran too often; the log counts."""
    return [
        f'if [ -z "$cancelled" ] && {{ {AGAIN}; }}; then',
        '  again=$(grep -c ": queued again" "$VNP_LOG")',
        f'  if [ "$again" -ge {retries} ]; then',
        '    echo "ended with $code after being queued again $again times: given up" >&2',
        "  else",
        f'    echo "{ENDED}: queued again, unless somebody cancelled it" >&2',
        f"    {line}",
        "  fi",
        "fi",
    ]


def _retry_here(command: str, retries: int) -> list[str]:
    """Try a task again that was killed or had a fault, but not one that was told to stop: there is no time for it."""
    return [
        "again=0",
        "while",
        f"  {command}",
        "  code=$?",
        f'  [ -z "$cancelled" ] && [ "$code" -ne {STOPPED} ] && {{ {AGAIN}; }} && [ "$again" -lt {retries} ]',
        "do",
        "  again=$((again + 1))",
        f'  echo "{ENDED}: tried again" >&2',
        "done",
        f'[ "$code" -ne {STOPPED} ] || echo "ended with $code (asked to stop): rerun goes on from there" >&2',
    ]
