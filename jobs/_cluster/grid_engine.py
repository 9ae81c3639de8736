"""Grid Engine: Sun's, Son of, Univa's and Altair's.

A task that is to be queued again ends with 99, which lets Grid Engine do it. It has no dependency on success: a job
that waits for another looks, when it starts, at how that one's script says it ended.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from jobs._cluster.executor import Job
from jobs._cluster.plain import Plain
from jobs._cluster.profile import Resources
from jobs._cluster.scripts import Queued
from vnp.errors import UsageError

_DEFAULT_MAX_ARRAY = 75_000
_RESCHEDULED = "25"


class GridEngine(Plain):
    """Jobs are Grid Engine's."""

    name = "sge"
    title = "Grid Engine"
    tools = ("qstat", "qdel")
    submits, beside = "qsub", "qconf"
    settings = ("$SGE_ROOT/$SGE_CELL/common/act_qmaster", "$SGE_ROOT/default/common/act_qmaster")
    probe = ("qconf", "-sh")
    changing = ("SGE_", "JOB_ID")
    needed = frozenset({"SGE_ROOT", "SGE_CELL", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT", "SGE_EXECD_PORT", "SGE_ARCH"})
    called = "JOB_NAME"
    has_ended = re.compile("does not exist|already in deletion|has registered|has deleted")
    marker = "#$"
    pattern = "{job}.{index}"
    number = '"$JOB_ID"'
    counter = "SGE_TASK_ID"
    again = "exit 99"
    lacks = ("qos",)

    @classmethod
    def own_job(cls) -> str | None:
        return os.environ.get("JOB_ID") if "SGE_TASK_ID" in os.environ else None

    def job_of(self, task: str) -> str:
        return task.partition(".")[0]

    def options(self, job: Job, wanted: Resources, count: int | None) -> list[str]:
        options = [
            "-S /bin/bash", f"-N {job.name}", "-wd /tmp", "-o /dev/null", "-e /dev/null", "-r y", "-notify",
            f"-l h_rt={60 * wanted.minutes}", *self._sizes(wanted),
        ]  # fmt: skip
        if wanted.cpus > 1:
            options.append(f"-pe {wanted.parallel_environment} {wanted.cpus}")
        options += [f"-l {value}" for value in (wanted.constraint, wanted.gres) if value]
        options += [f"-l hostname=!({'|'.join(wanted.exclude)})"] if wanted.exclude else []
        options += [f"-q {wanted.partition}"] if wanted.partition else []
        options += [f"-P {wanted.account}"] if wanted.account else []
        if count:
            options += [f"-t 1-{count}", f"-tc {min(count, wanted.parallelism)}"]
        return [*options, *([f"-hold_jid {','.join(job.after)}"] if job.after else [])]

    def _sizes(self, wanted: Resources) -> list[str]:
        """Memory and GPUs of a task, each as the site counts it: of the task, or of one of its slots."""
        # name, shortcut, type, relation, requestable, consumable, default, urgency
        lines = (self.ask(["qconf", "-sc"]) or "").splitlines()
        counted = {words[0]: words[5] for line in lines if len(words := line.split()) == 8}
        found = []
        name = wanted.memory_resource
        # Limits of the system are multiplied by the slots that a task has.
        limit = name.startswith(("h_", "s_"))
        if name:
            slots = wanted.cpus if counted.get(name) == "YES" or (limit and counted.get(name) != "JOB") else 1
            found.append(f"-l {name}={-(-wanted.megabytes // slots)}M")
        if not name or limit or counted.get(name) in ("YES", "JOB"):
            # What can never run is refused; with what nodes report by and by, such as free memory, all would be.
            found.append("-w e")
        if wanted.gpus:
            name, slots = wanted.gpu_resource, wanted.cpus if counted.get(wanted.gpu_resource) == "YES" else 1
            if wanted.gpus % slots:
                raise UsageError(
                    f"{name} is counted by slot here (qconf -sc): {wanted.cpus} cpus cannot share {wanted.gpus} GPUs; "
                    "make cpus in the profile as many, or name another gpu_resource"
                )
            found.append(f"-l {name}={wanted.gpus // slots}")
        return found

    def begin(self, job: Job, wanted: Resources) -> list[str]:
        # Where the site's GPUs have numbers, they are here.
        granted = f"SGE_HGR_{wanted.gpu_resource}"
        gpus = [f'[ -z "${granted}" ] || export CUDA_VISIBLE_DEVICES="${{{granted}// /,}}"'] if wanted.gpus else []
        return [*self.after(job), *gpus]

    def max_array_size(self) -> int:
        found = re.search(r"^max_aj_tasks\s+(\d+)", self.ask(["qconf", "-sconf"]) or "", re.MULTILINE)
        return int(found[1]) or _DEFAULT_MAX_ARRAY if found else _DEFAULT_MAX_ARRAY

    def hand_in(self, script: Path) -> subprocess.CompletedProcess[str]:
        # Elsewhere than here: it would read options from a file of the working directory.
        return self.call([self.submits, str(script)], None, folder="/")

    def taken(self, said: str) -> str | None:
        found = re.search(r"Your job(?:-array)? (\d+)", said)
        return found and found[1]

    def plain_words(self, said: str) -> str:
        lines = [line.removeprefix("Unable to run job:").strip() for line in said.splitlines()]
        return "; ".join(line for line in lines if line and line != "Exiting." and "warning:" not in line)

    def queue(self, users: Sequence[str], jobs: Sequence[str]) -> list[Queued] | None:
        answer = self.ask(["qstat", "-xml", "-g", "d", *(word for user in users for word in ("-u", user))])
        if answer is None:
            return None
        found = []
        try:
            for one in ElementTree.fromstring(answer).iter("job_list"):  # noqa: S314 - of the site
                tags = ("JB_job_number", "JB_name", "tasks", "state")
                job, name, task, state = (one.findtext(tag, "") for tag in tags)
                if job in jobs:
                    index, waiting = int(task) if task.isdecimal() else None, bool(set(state) & set("qwh"))
                    found.append(Queued(job, name, index, state, self._why(job, state), waiting, "d" in state))
        except ElementTree.ParseError:
            return None
        return found

    def _why(self, job: str, state: str) -> str:
        """Why a job waits."""
        if "E" in state:
            said = re.search(r"^error reason\s+\d+:\s*(.+)", self.ask(["qstat", "-j", job]) or "", re.MULTILINE)
            return f"in error, {said[1] if said else 'see qstat -j ' + job}"
        return "Dependency" if "h" in state else state

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        """Words such as ``exit status 137, failed 37 : qmaster enforced h_rt``; ``qacct`` may be absent or late."""
        found = {}
        for job in dict.fromkeys(map(self.job_of, jobs)):
            answer = self.ask(["qacct", "-j", job])
            for record in (answer or "").split("=" * 60)[1:]:
                said = dict(re.findall(r"^(\w+)\s+(.*?)\s*$", record, re.MULTILINE))
                task = said.get("taskid", "undefined")
                # A task that was queued again has a record a life: the last one counts.
                failed, code = said.get("failed", "0"), said.get("exit_status", "0")
                words = [f"exit status {code}"] if code != "0" else []
                words += [f"failed {failed}"] if failed != "0" else []
                found[job if task == "undefined" else f"{job}.{task}"] = (
                    "" if failed.startswith(_RESCHEDULED) else ", ".join(words)
                )
        return {task: words for task, words in found.items() if task in jobs and words}
