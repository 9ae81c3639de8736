"""Slurm. What it says only explains: a shard is done by its receipt, whatever is said here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jobs._cluster.executor import Element, Executor, Job, note, submitted
from jobs._cluster.image import check_place
from jobs._cluster.profile import KINDS, Profile, load_profile
from vnp.errors import UsageError, VnpError

_SECONDS_TO_ANSWER = 20
_HAS_ENDED = re.compile("already complet|Invalid job id", re.IGNORECASE)
_AT_ONCE = 500
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "REQUEUE_FED"}
# In the order of squeue's columns; the name is last because it alone can hold the separator.
_COLUMNS = "%F|%K|%T|%r|%j"


class Slurm(Executor):
    """Jobs are Slurm's, and ``submit`` returns as soon as it has taken them."""

    name = "slurm"
    title = "Slurm"
    tools = ("squeue", "scancel")
    waits = False

    @property
    def _profile(self) -> Profile:
        return self.profile or load_profile(None)

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("sbatch"):
            return None
        return "there is no sbatch on PATH; submit from a login node, or use --cluster local"

    def check(self) -> None:
        for kind in KINDS:
            check_place(self._profile.of(kind))

    def submit(self, job: Job) -> list[str]:
        # Here, because submitit takes longer to load than Slurm to say how a run is.
        from jobs._cluster.sbatch import submit

        if "%" in str(job.root):
            raise UsageError(f"{job.root}: Slurm takes % in a path for a placeholder; choose another --out")
        resources = self._profile.of(job.kind)
        check_place(resources, [job.root, *job.binds])
        return submit(job, resources)

    def script(self, job: Job) -> str:
        from jobs._cluster.sbatch import script

        return script(job, self._profile.of(job.kind))

    def state(self, root: Path) -> list[Element] | None:
        known = {entry.job: entry for entry in submitted(root)}
        if not known:
            return []
        # Asked by user: a question for an id that Slurm has forgotten is answered with an error.
        users = ",".join(sorted({entry.user for entry in known.values()}))
        answer = _ask(["squeue", "--noheader", "--array", f"--user={users}", f"--format={_COLUMNS}"])
        if answer is None:
            return None
        found = []
        for line in answer.splitlines():
            job, column, state, reason, name = [*line.split("|", 4), *[""] * 4][:5]
            entry = known.get(job.strip())
            # Ids begin anew with a new Slurm: the name must fit too.
            if entry is None or name.strip() != entry.name.strip():
                continue
            index = int(column) if column.isdecimal() else None
            found.append(
                Element(
                    id=self.task_id(entry.job, index),
                    name=entry.name,
                    state=state,
                    reason=reason,
                    shard=None if index is None else entry.base + index,
                    log=self.log(entry.job, index),
                    job=entry.job,
                    waiting=state in _WAITING,
                    ending=state == "COMPLETING",
                )
            )
        return found

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        """Words such as ``OUT_OF_MEMORY, exit code 0:125``; ``sacct`` may be absent, late or wrong."""
        found = {}
        words = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,ExitCode"]
        for first in range(0, len(jobs), _AT_ONCE):
            answer = _ask([*words, "--jobs", ",".join(jobs[first : first + _AT_ONCE])])
            if answer is None:
                break
            for line in answer.splitlines():
                job, state, code = [*line.strip().split("|"), "", ""][:3]
                if job in jobs and state and not state.startswith(("RUNNING", "PENDING", "COMPLETED", "REQUEUED")):
                    found[job] = state if code in ("", "0:0") else f"{state}, exit code {code}"
        return found

    def cancel(self, jobs: Sequence[str]) -> None:
        for first in range(0, len(jobs), _AT_ONCE):
            words = ["scancel", *jobs[first : first + _AT_ONCE]]
            try:
                done = subprocess.run(words, capture_output=True, text=True, errors="replace")
            except OSError as error:
                raise VnpError(f"scancel cannot be run: {error.strerror}") from error
            said = [line for line in done.stderr.splitlines() if not _HAS_ENDED.search(line)]
            if done.returncode and said:
                raise VnpError("\n".join(said))

    def note_own_job(self, root: Path) -> None:
        job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
        if job and all(entry.job != job for entry in submitted(root)):
            note(root, job, os.environ.get("SLURM_JOB_NAME", ""), 0, [])


def _ask(words: list[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_SECONDS_TO_ANSWER)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
