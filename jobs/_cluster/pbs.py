"""PBS Professional and OpenPBS.

Only an operator can queue a running job again there, so the script tries a task again itself, in what is left of the
job's time; a task that was told to stop is left to ``rerun``. Answers are read in PBS's own long format: in JSON some
versions leave jobs out, and variables with line breaks in them break it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from subprocess import SubprocessError

from jobs._cluster.executor import Job
from jobs._cluster.plain import Plain
from jobs._cluster.profile import Resources
from jobs._cluster.scripts import AT_ONCE, Queued
from vnp.errors import VnpError

_DEFAULT_MAX_ARRAY = 10_000
_SECONDS_TO_ANSWER = 60
_WAITING = "QHWT"


class Pbs(Plain):
    """Jobs are PBS's; the id of an array is written ``12[]``, as PBS does."""

    name = "pbs"
    title = "PBS"
    tools = ("qstat", "qdel")
    submits, beside = "qsub", "pbsnodes"
    settings = ("$PBS_CONF_FILE", "/etc/pbs.conf")
    probe = ("qstat", "-B")
    changing = ("PBS_",)
    needed = frozenset({"PBS_DEFAULT", "PBS_SERVER", "PBS_PRIMARY", "PBS_SECONDARY", "PBS_EXEC", "PBS_CONF_FILE"})
    foreign = ("PBS_DPREFIX",)
    called = "PBS_JOBNAME"
    has_ended = re.compile("Unknown Job Id|has finished|Request invalid for state", re.IGNORECASE)
    marker = "#PBS"
    pattern = "{job}[{index}]"
    number = '"${PBS_JOBID%%[!0-9]*}"'
    counter = "PBS_ARRAY_INDEX"
    again = ""
    lacks = ("qos", "exclude")

    @classmethod
    def own_job(cls) -> str | None:
        found = re.match(r"(\d+)(\[)?", os.environ.get("PBS_JOBID", ""))
        return found[1] + ("[]" if found[2] else "") if found else None

    def job_of(self, task: str) -> str:
        return re.sub(r"\[\d+\]", "[]", task)

    def options(self, job: Job, wanted: Resources, count: int | None) -> list[str]:
        parts = ["select=1", f"ncpus={wanted.cpus}", f"mem={wanted.megabytes}mb"]
        parts += [f"ngpus={wanted.gpus}"] if wanted.gpus else []
        parts += [value for value in (wanted.gres, wanted.constraint) if value]
        hours, minutes = divmod(wanted.minutes, 60)
        options = [
            f"-N {job.name}", "-S /bin/bash", "-o /dev/null", "-e /dev/null", "-r y",
            f"-l {':'.join(parts)}", f"-l walltime={hours}:{minutes:02d}:00",
        ]  # fmt: skip
        options += [f"-q {wanted.partition}"] if wanted.partition else []
        options += [f"-A {wanted.account}"] if wanted.account else []
        if count:
            # Versions before 2020 know no limit.
            limit = f"%{wanted.parallelism}" if wanted.parallelism < count else ""
            options.append(f"-J 1-{count}{limit}")
        if job.after:
            options.append(f"-W depend={'afterany' if job.anyhow else 'afterok'}:{':'.join(job.after)}")
        return options

    def max_array_size(self) -> int:
        found = re.search(r"^\s*max_array_size = (\d+)", self.ask(["qstat", "-B", "-f"]) or "", re.MULTILINE)
        return int(found[1]) if found else _DEFAULT_MAX_ARRAY

    def taken(self, said: str) -> str | None:
        found = re.search(r"^(\d+(?:\[\])?)(?:\.|$)", said.strip(), re.MULTILINE)
        return found and found[1]

    def plain_words(self, said: str) -> str:
        return "; ".join(line.removeprefix("qsub:").strip() for line in said.splitlines() if line.strip())

    def queue(self, users: Sequence[str], jobs: Sequence[str]) -> list[Queued] | None:  # noqa: ARG002
        answer = self._jobs(["-t"], jobs)
        if answer is None:
            return None
        found = []
        for task, said in answer.items():
            state, number = said.get("job_state", ""), re.search(r"\[(\d+)\]", task)
            # The array itself, and what has ended.
            if task.endswith("[]") or state in ("F", "X", "M"):
                continue
            reason = said.get("comment", "Dependency" if state == "H" else state)
            job, name, index = self.job_of(task), said.get("Job_Name", ""), int(number[1]) if number else None
            found.append(Queued(job, name, index, state, reason, state in _WAITING, state == "E"))
        return found

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        """Words such as ``exit status 271``, more than 256 for a signal; PBS may remember nothing."""
        found = self._jobs(["-x"], jobs) or {}
        codes = {task: said.get("Exit_status", "0") for task, said in found.items() if task in jobs}
        return {task: f"exit status {code}" for task, code in codes.items() if code != "0"}

    def _jobs(self, options: Sequence[str], ids: Sequence[str]) -> dict[str, dict[str, str]] | None:
        """What ``qstat -f`` says of jobs, by id without the server; None if it does not answer."""
        found: dict[str, dict[str, str]] = {}
        for first in range(0, len(ids), AT_ONCE):
            try:
                done = self.call(["qstat", *options, "-f", *ids[first : first + AT_ONCE]], _SECONDS_TO_ANSWER)
            except (VnpError, SubprocessError):
                return None
            # It fails for an id that it has forgotten, and answers for the others.
            if done.returncode and not all(map(self.has_ended.search, done.stderr.splitlines() or ["no word"])):
                return None
            for part in re.split(r"^Job Id: ", done.stdout.replace("\n\t", ""), flags=re.MULTILINE)[1:]:
                name, _, rest = part.partition("\n")
                found[name.strip().partition(".")[0]] = dict(re.findall(r"^ {4}(\w+) = (.*)$", rest, re.MULTILINE))
        return found
