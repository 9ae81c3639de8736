"""IBM Spectrum LSF. A task that is to be queued again ends with a code that LSF was told to do it for."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess, SubprocessError

from jobs._cluster.executor import Job
from jobs._cluster.plain import Plain
from jobs._cluster.profile import Resources
from jobs._cluster.scripts import AT_ONCE, Queued
from jobs._cluster.task import STOPPED
from vnp.errors import VnpError

_DEFAULT_MAX_ARRAY = 1000
_SECONDS_TO_ANSWER = 60
_WAITING = {"PEND", "PSUSP", "WAIT", "PROV"}
_NONE_LEFT = re.compile("No (unfinished |matching )?job found|is not found")


class Lsf(Plain):
    """Jobs are LSF's."""

    name = "lsf"
    title = "LSF"
    tools = ("bjobs", "bkill")
    submits = "bsub"
    settings = ("$LSF_ENVDIR/lsf.conf", "/etc/lsf.conf")
    probe = ("bparams",)
    changing = ("LSB_", "BSUB_", "LS_")
    foreign = ("LSB_DEFAULT", "LSB_SUB", "BSUB_")
    called = "LSB_JOBNAME"
    has_ended = re.compile("already finished|No matching job|is being terminated|being signaled", re.IGNORECASE)
    marker = "#BSUB"
    pattern = "{job}[{index}]"
    number = '"$LSB_JOBID"'
    counter = "LSB_JOBINDEX"
    again = f"exit {STOPPED}"
    lacks = ("qos",)

    @classmethod
    def own_job(cls) -> str | None:
        return os.environ.get("LSB_JOBID")

    def job_of(self, task: str) -> str:
        return task.partition("[")[0]

    def options(self, job: Job, wanted: Resources, count: int | None) -> list[str]:
        name = f"{job.name}[1-{count}]%{min(count, wanted.parallelism)}" if count else job.name
        parameters = self.ask(["bparams", "-a"]) or ""
        each = re.search(r"RESOURCE_RESERVE_PER_(TASK|SLOT)\s*=\s*[Yy]", parameters)
        reserved = -(-wanted.megabytes // (wanted.cpus if each else 1))
        options = [
            f'-J "{name}"', "-cwd /tmp", "-o /dev/null", "-e /dev/null", "-r", f'-Q "{STOPPED}"',
            f"-n {wanted.cpus}", f'-R "span[hosts=1] rusage[mem={reserved}MB]"', f"-M {wanted.megabytes}MB",
            f"-W {wanted.minutes}",
        ]  # fmt: skip
        if wanted.gpus or wanted.gres:
            options.append(f'-gpu "{wanted.gres or f"num={wanted.gpus}"}"')
        chosen = [*([wanted.constraint] if wanted.constraint else []), *(f"hname!={node}" for node in wanted.exclude)]
        options += [f'-R "select[{" && ".join(chosen)}]"'] if chosen else []
        options += [f"-q {wanted.partition}"] if wanted.partition else []
        options += [f"-P {wanted.account}"] if wanted.account else []
        if job.after:
            # One that can never start is taken out of the queue.
            how = "ended" if job.anyhow else "done"
            options += [f'-w "{" && ".join(f"{how}({other})" for other in job.after)}"', "-ti"]
        return options

    def max_array_size(self) -> int:
        found = re.search(r"MAX_JOB_ARRAY_SIZE\s*=\s*(\d+)", self.ask(["bparams", "-a"]) or "")
        return int(found[1]) if found else _DEFAULT_MAX_ARRAY

    def hand_in(self, script: Path) -> CompletedProcess[str]:
        return self.call([self.submits], None, given=script.read_text(errors="surrogateescape"))

    def taken(self, said: str) -> str | None:
        found = re.search(r"Job <(\d+)> is submitted", said)
        return found and found[1]

    def queue(self, users: Sequence[str], jobs: Sequence[str]) -> list[Queued] | None:  # noqa: ARG002
        found = []
        for user in users:
            lines = self._lines(["-u", user], "jobid jobindex stat pend_reason job_name")
            if lines is None:
                return None
            for job, number, state, reason, name in lines:
                index = int(number) if number.isdecimal() and int(number) else None
                why = state if reason in ("", "-") else reason
                if state not in ("DONE", "EXIT"):
                    found.append(Queued(job, name.partition("[")[0], index, state, why, state in _WAITING))
        return found

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        """Words such as ``exit code 130, TERM_MEMLIMIT: job killed …``; LSF forgets jobs after an hour or so."""
        found = {}
        for first in range(0, len(jobs), AT_ONCE):
            asked = ["-a", *jobs[first : first + AT_ONCE]]
            for job, number, state, code, reason in (
                self._lines(asked, "jobid jobindex stat exit_code exit_reason") or []
            ):
                task = self.task_id(job, int(number) if number.isdecimal() and int(number) else None)
                if state == "EXIT" and task in jobs:
                    words = [f"exit code {code}", reason]
                    found[task] = ", ".join(word for word in words if word and not word.endswith("-"))
        return found

    def _lines(self, asked: Sequence[str], columns: str) -> list[list[str]] | None:
        """Lines of ``bjobs``, cut at five columns; None if it does not answer."""
        try:
            done = self.call(["bjobs", "-noheader", "-o", f"{columns} delimiter='|'", *asked], _SECONDS_TO_ANSWER)
        except (VnpError, SubprocessError):
            return None
        # It fails for an id that it has forgotten, and where nothing is left.
        if done.returncode and not all(map(_NONE_LEFT.search, done.stderr.splitlines() or ["no word"])):
            return None
        rows = [line.strip().split("|", 4) for line in done.stdout.splitlines()]
        return [row for row in rows if len(row) == 5]
