"""Slurm: what it says of a run's jobs, and submission to it with scripts that submitit writes.

An array element is one shard, and its index is the shard's number, so that ``squeue`` and the logs speak of shards;
of tasks that share the shards it is only a number.
Where numbers pass the site's MaxArraySize, there are several arrays, each with its first shard's number to add.

Requeueing is done by the batch script, outside of any container: a task that was told to stop ends with ``STOPPED``,
and the script, where ``scontrol`` is, queues it again. A job that somebody cancelled, or that Slurm has ended or queued
again itself, is left as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from jobs._cluster.executor import Job
from jobs._cluster.profile import Resources
from jobs._cluster.scripts import (
    AGAIN,
    AT_ONCE,
    ENDED,
    Batch,
    Queued,
    asked,
    exports,
    mending_command,
    ranges,
    require_plain,
    task_command,
)  # fmt: skip
from vnp.errors import UsageError

_DEFAULT_MAX_ARRAY = 1001
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "REQUEUE_FED"}
# In the order of squeue's columns; the name is last because it alone can hold the separator.
_COLUMNS = "%F|%K|%T|%r|%j"


_CHANGES = ("MinMemoryNode={mem}", "TimeLimit={minutes}", "ExcNodeList={exclude}")
"""Words of ``scontrol update`` for what mending changes."""


class Slurm(Batch):
    """Jobs are Slurm's."""

    name = "slurm"
    title = "Slurm"
    tools = ("squeue", "scancel")
    submits = "sbatch"
    settings = ("$SLURM_CONF", "/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf")
    probe = ("scontrol", "ping")
    # Options of Slurm's programs as variables, but for those that say which Slurm it is and who asks.
    changing = ("SBATCH_", "SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_")
    needed = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"})
    foreign = ("SBATCH_",)
    called = "SLURM_JOB_NAME"
    has_ended = re.compile("already complet|Invalid job id", re.IGNORECASE)

    def queue(self, users: Sequence[str], jobs: Sequence[str]) -> list[Queued] | None:  # noqa: ARG002
        # Asked by user: a question for an id that Slurm has forgotten is answered with an error.
        answer = self.ask(["squeue", "--noheader", "--array", f"--user={','.join(users)}", f"--format={_COLUMNS}"])
        if answer is None:
            return None
        found = []
        for line in answer.splitlines():
            job, column, state, reason, name = [*line.split("|", 4), *[""] * 4][:5]
            index = int(column) if column.isdecimal() else None
            found.append(Queued(job.strip(), name, index, state, reason, state in _WAITING, state == "COMPLETING"))
        return found

    def ended(self, jobs: Sequence[str]) -> dict[str, str]:
        """Words such as ``OUT_OF_MEMORY, exit code 0:125``; ``sacct`` may be absent, late or wrong."""
        found = {}
        words = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State,ExitCode"]
        for first in range(0, len(jobs), AT_ONCE):
            answer = self.ask([*words, "--jobs", ",".join(jobs[first : first + AT_ONCE])])
            if answer is None:
                break
            for line in answer.splitlines():
                job, state, code = [*line.strip().split("|"), "", ""][:3]
                if job in jobs and state and not state.startswith(("RUNNING", "PENDING", "COMPLETED", "REQUEUED")):
                    found[job] = state if code in ("", "0:0") else f"{state}, exit code {code}"
        return found

    @classmethod
    def own_job(cls) -> str | None:
        return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")

    def batch_script(self, job: Job, wanted: Resources, base: int, indexes: Sequence[int] | None) -> str:
        # Here, because it takes longer to load than Slurm to say how a run is.
        import submitit

        if mark := next((mark for mark in "%\\" if mark in str(job.root)), None):
            raise UsageError(f"{job.root}: Slurm takes {mark} in a path for a placeholder; choose another --out")
        command, variables = task_command(job, wanted), exports(wanted)
        require_plain([str(job.root), job.name, command, *variables])
        executor = submitit.SlurmExecutor(folder=job.root / "logs")
        # ``--mail-type=FAIL`` as submitit takes it.
        extra = (option.removeprefix("--").partition("=") for option in wanted.extra)
        additional: dict[str, Any] = {
            "requeue": True,
            **{name: value if equals else True for name, equals, value in extra},
        }
        mending = shard = ""
        if indexes is not None:
            additional["array"] = f"{ranges(indexes)}%{min(len(indexes), wanted.parallelism)}"
            number = f'"$(({base} + SLURM_ARRAY_TASK_ID))"'
            command += f" {number}"
            # A task that shares shards has a number of its own.
            shard = number if job.tasks is None else ""
            mending = mending_command(job, wanted, _CHANGES)
            require_plain([mending])
        if job.after:
            additional["kill-on-invalid-dep"] = "yes"
        given = {
            "job_name": job.name,
            "partition": wanted.partition,
            "account": wanted.account,
            "qos": wanted.qos,
            "constraint": wanted.constraint,
            "gpus_per_node": wanted.gpus or None,
            "gres": wanted.gres,
            "exclude": ",".join(wanted.exclude) or None,
            "dependency": ":".join(["afterany" if job.anyhow else "afterok", *job.after]) if job.after else None,
        }
        executor.update_parameters(
            **{name: value for name, value in given.items() if value is not None},
            time=wanted.minutes,
            cpus_per_task=wanted.cpus,
            # From Slurm 22.05 on, srun no longer takes the first from sbatch; the second holds where a site, or
            # SLURM_EXPORT_ENV, has it that jobs begin with an empty environment.
            srun_args=[f"--cpus-per-task={wanted.cpus}", "--export=ALL"],
            wckey=None,
            mem=wanted.mem,
            signal_delay_s=wanted.grace,
            array_parallelism=wanted.parallelism,
            setup=_setup(wanted, variables, job.root / "logs"),
            teardown=_requeue_lines(wanted, mending, shard),
            additional_parameters=additional,
        )
        if indexes is not None:
            executor.parameters["map_count"] = len(indexes)
        text: str = executor._make_submission_file_text(command, "")
        return text

    def node_count(self, wanted: Resources) -> int | None:
        where = [f"--partition={wanted.partition}"] if wanted.partition else []
        answer = self.ask(["sinfo", "--noheader", "--format=%D", *where])
        return sum(int(word) for word in answer.split() if word.isdecimal()) if answer else None

    def max_array_size(self) -> int:
        """Counted from index 0: MaxArraySize or less."""
        answer = self.ask(["scontrol", "show", "config"]) or ""
        found = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", answer, re.MULTILINE)
        # 0 is written where a site allows no arrays at all; sbatch then says so.
        sizes = [int(size or tasks) for size, tasks in found]
        return max(1, min(sizes)) if sizes else _DEFAULT_MAX_ARRAY

    def taken(self, said: str) -> str | None:
        found = re.search(r"\bjob (\d+)", said)
        return found and found[1]

    def plain_words(self, said: str) -> str:
        lines = [line.removeprefix("sbatch: ").strip() for line in said.splitlines() if line.strip()]
        errors = [line.partition(": ")[2] for line in lines if line.startswith(("error: ", "fatal: "))]
        return "; ".join(errors or lines[-1:])


def _setup(wanted: Resources, variables: Sequence[str], logs: Path) -> list[str]:
    # Libraries would count the cores of the whole node, where Slurm does not hide the others.
    threads = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"'
    # Without a handler the shell dies of a TERM before it can queue the task again; with one it waits for the task.
    # One element of an array has the array's own id in SLURM_JOB_ID: that would mean all of them.
    me = 'me="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    log = f'export VNP_LOG={quote(str(logs))}/"$me"_0_log.err'
    # After a change of what a job asks for, only Slurm knows. Before 23, it does not tell a job when it ends.
    given = asked(
        wanted, "${SLURM_MEM_PER_NODE:+mem=${SLURM_MEM_PER_NODE}M} ${SLURM_GPUS_ON_NODE:+gpus=$SLURM_GPUS_ON_NODE}"
    )
    end = '$(squeue --noheader --jobs "$me" --format=%e | grep T | xargs -r date +%s -d)'
    ends = f'export VNP_END_TIME="${{SLURM_JOB_END_TIME:-{end}}}"'
    return ["trap : TERM USR2", me, log, *variables, given, ends, *wanted.setup, threads]


def _requeue_lines(wanted: Resources, mending: str = "", shard: str = "") -> list[str]:
    """Queue a task again that failed and may succeed, unless somebody cancelled it or it ran too often.

    What makes shards asks vnp whether, with what and where; what does not, and where that does not work, is queued
    again when it was told to stop, was killed, or ended by a fault.
    """
    asking = [
        f'  export VNP_CODE="$code" VNP_LASTED="$SECONDS" VNP_RESTARTS="${{SLURM_RESTART_COUNT:-0}}" VNP_SHARD={shard}',
        """  nodes=$(sinfo --noheader --partition="$SLURM_JOB_PARTITION" --format=%D | awk '{n+=$1} END {print n}')""",
        '  export VNP_NODES="$nodes"',
        f"  said=$({mending})",
        '  case "$said" in again*|"give up") ;; *) said= ;; esac',
    ]
    return [
        "code=$?",
        'if [ "$code" -ne 0 ] && scontrol show job "$me" | grep -q "JobState=RUNNING"; then',
        "  said=",
        *(asking if mending else []),
        f'  if [ -z "$said" ] && {{ {AGAIN}; }}; then',
        f'    [ "${{SLURM_RESTART_COUNT:-0}}" -ge {wanted.retries} ] && said="give up" || said=again',
        "  fi",
        '  if [ "$said" = "give up" ]; then',
        '    echo "ended with $code after being queued again ${SLURM_RESTART_COUNT:-0} times: given up" >&2',
        '  elif [ -n "$said" ]; then',
        f'    echo "{ENDED}: queued again${{said#again}}" >&2',
        # Slurm ends this script for that, and the change can be made only behind it.
        '    trap "" TERM',
        '    scontrol requeue "$me"',
        '    [ "$said" = again ] || scontrol update job="$me" ${said#again}',
        "  fi",
        "fi",
        'exit "$code"',
    ]
