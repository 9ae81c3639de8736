"""Slurm: what it says of a run's jobs, and submission to it with scripts that submitit writes.

What it says only explains: a shard is done by its receipt, whatever is said here. An array element is one shard, and
its index is the shard's number, so that ``squeue`` and the logs speak of shards. Where numbers pass the site's
MaxArraySize, there are several arrays, each with its first shard's number to add.

Requeueing is done by the batch script, outside of any container: a task that was told to stop ends with ``STOPPED``,
and the script, where ``scontrol`` is, queues it again. A job that somebody cancelled, or that Slurm has ended or queued
again itself, is left as it is.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from shlex import quote
from tempfile import NamedTemporaryFile
from typing import Any

from jobs._cli.command import echo
from jobs._cluster.executor import Element, Executor, Job, note, submitted
from jobs._cluster.image import check_place, python_command
from jobs._cluster.profile import CONTROL, KINDS, Profile, Resources, load_profile
from jobs._cluster.task import CRASHED, STOPPED
from jobs._cluster.worker import search_path, task_words
from vnp.errors import UsageError, VnpError

_SECONDS_TO_ANSWER = 30
_DEFAULT_MAX_ARRAY = 1001
_PATHS = {"PATH", "LD_LIBRARY_PATH"}
# Options of Slurm's programs as variables, but for those that say which Slurm it is and who asks.
_CHANGING = ("SBATCH_", "SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_")
_NEEDED = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"}
_HANDED_ON = re.compile("VNP_(?!LOG$|JOB$)|XDG_(CACHE|CONFIG)_HOME$")
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
        resources = self._profile.of(job.kind)
        check_place(resources, [job.root, *job.binds])
        return _submit(job, resources)

    def script(self, job: Job) -> str:
        return _batch_script(job, self._profile.of(job.kind), *_arrays(job)[0])

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
            done = _call(words, None)
            said = [line for line in done.stderr.splitlines() if not _HAS_ENDED.search(line)]
            if done.returncode and said:
                raise VnpError("\n".join(said))

    @classmethod
    def own_job(cls) -> str | None:
        return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")

    def note_own_job(self, root: Path) -> None:
        job = self.own_job()
        if job and all(entry.job != job for entry in submitted(root)):
            note(root, job, os.environ.get("SLURM_JOB_NAME", ""), 0, [])


def _ask(words: list[str]) -> str | None:
    try:
        done = _call(words, _SECONDS_TO_ANSWER)
    except (VnpError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def _call(words: list[str], seconds: float | None) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's programs without the variables that change what it does, or come from a job around us.

    Raises:
        VnpError: it cannot be run.
        SubprocessError: it takes longer than it may.
    """
    kept = {name: value for name, value in os.environ.items() if name in _NEEDED or not name.startswith(_CHANGING)}
    try:
        return subprocess.run(words, env=kept, capture_output=True, text=True, errors="replace", timeout=seconds)
    except OSError as error:
        raise VnpError(f"{words[0]} cannot be run: {error.strerror}") from error


def _submit(job: Job, resources: Resources) -> list[str]:
    """Submit a job and note it in the run; one id, or one an array where shards pass the site's MaxArraySize.

    Raises:
        VnpError: Slurm refused it, in Slurm's words.
    """
    ids: list[str] = []
    (job.root / "logs").mkdir(parents=True, exist_ok=True)
    _name_foreign()
    for base, indexes in _arrays(job):
        text = _batch_script(job, resources, base, indexes)
        # Not in the run, where others may write.
        with NamedTemporaryFile("w", prefix="vnp-", suffix=".sh", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            done = _call(["sbatch", file.name], None)
        found = re.search(r"\bjob (\d+)", done.stdout)
        if done.returncode or found is None:
            raise VnpError(_refusal(job, done.stderr or done.stdout, ids))
        ids.append(found[1])
        # At once: an id that nobody knows could not be cancelled.
        note(job.root, found[1], job.name, base, [base + index for index in indexes or []])
    return ids


def _refusal(job: Job, said: str, ids: Sequence[str]) -> str:
    text = f"Slurm refused the job {job.name}: {_slurm_words(said)}"
    if ids:
        text += (
            f"\nThe jobs {', '.join(ids)} before it were submitted. The rest, once the cause is mended: "
            f"python -m jobs.rerun {quote(str(job.root))}"
        )
    else:
        text += "\nWithout Slurm, on this machine alone: --cluster local"
    return text


@cache
def _name_foreign() -> None:
    """Say which variables would have changed what is submitted."""
    foreign = sorted(name for name in os.environ if name.startswith("SBATCH_"))
    if foreign:
        echo(f"{', '.join(foreign)} of your environment left aside: what a job asks for is in the profile", err=True)


def _batch_script(job: Job, wanted: Resources, base: int, indexes: Sequence[int] | None) -> str:
    """The text that ``sbatch`` gets for a job or one array.

    Raises:
        UsageError: a path or a value cannot stand in it.
    """
    # Here, because it takes longer to load than Slurm to say how a run is.
    import submitit

    python = python_command(wanted, [job.root, *job.binds]) if wanted.image else quote(sys.executable)
    words = task_words(job.function, [str(job.root / "run.json"), *job.arguments])
    command = " ".join([python, *map(quote, words)])
    exports = _exports(wanted)
    _require_plain(job.root, [job.name, command, *exports])
    executor = submitit.SlurmExecutor(folder=job.root / "logs", python=python)
    additional: dict[str, Any] = {"requeue": True, **_extra(wanted.extra)}
    if indexes is not None:
        additional["array"] = f"{_ranges(indexes)}%{min(len(indexes), wanted.parallelism)}"
        command += f' "$(({base} + SLURM_ARRAY_TASK_ID))"'
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
        setup=_setup(wanted, exports, job.root / "logs"),
        teardown=_requeue_lines(wanted.retries),
        additional_parameters=additional,
    )
    if indexes is not None:
        executor.parameters["map_count"] = len(indexes)
    text: str = executor._make_submission_file_text(command, "")
    return text


def _require_plain(root: Path, strings: Iterable[str]) -> None:
    """Refuse what Slurm or a script would take for something else; a profile has looked at its own values."""
    if mark := next((mark for mark in "%\\" if mark in str(root)), None):
        raise UsageError(f"{root}: Slurm takes {mark} in a path for a placeholder; choose another --out")
    for text in (str(root), *strings):
        if CONTROL.search(text):
            raise UsageError(f"{text!r} has a control character, such as a line break, which no batch script may hold")


def max_array_size() -> int:
    """How many elements an array may have here, counted from index 0: MaxArraySize or less."""
    answer = _ask(["scontrol", "show", "config"]) or ""
    found = re.findall(r"^MaxArraySize\s*=\s*(\d+)|\bmax_array_tasks=(\d+)", answer, re.MULTILINE)
    # 0 is written where a site allows no arrays at all; sbatch then says so.
    sizes = [int(size or tasks) for size, tasks in found]
    return max(1, min(sizes)) if sizes else _DEFAULT_MAX_ARRAY


def _arrays(job: Job) -> list[tuple[int, list[int] | None]]:
    """Each array's first number and its indexes."""
    if job.shards is None:
        return [(0, None)]
    size = max_array_size()
    groups = itertools.groupby(sorted(job.shards), lambda number: number // size)
    return [(which * size, [number % size for number in numbers]) for which, numbers in groups]


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    pieces = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        pieces.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(pieces)


def _exports(wanted: Resources) -> list[str]:
    """Shell lines that set what a task needs to find in its environment."""
    variables = dict(sorted(wanted.environment.items()))
    if wanted.image:
        # What an image sets itself wins over the plain variable, as it must for the paths of programs.
        variables |= {f"APPTAINERENV_{name}": value for name, value in variables.items() if name not in _PATHS}
    # Some sites hand nothing on to a job.
    handed = {name: os.environ[name] for name in sorted(os.environ) if _HANDED_ON.match(name)}
    safe = {"PYTHONPATH": search_path(variables.get("PYTHONPATH")), "PYTHONSAFEPATH": "1"}
    return [f"export {name}={quote(value)}" for name, value in {**handed, **variables, **safe}.items()]


def _setup(wanted: Resources, exports: Sequence[str], logs: Path) -> list[str]:
    # Libraries would count the cores of the whole node, where Slurm does not hide the others.
    threads = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"'
    # Without a handler the shell dies of a TERM before it can queue the task again; with one it waits for the task.
    # One element of an array has the array's own id in SLURM_JOB_ID: that would mean all of them.
    me = 'me="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    log = f'export VNP_LOG={quote(str(logs))}/"$me"_0_log.err'
    return ["trap : TERM USR2", me, log, *exports, *wanted.setup, threads]


def _requeue_lines(retries: int) -> list[str]:
    """Queue a task again that was told to stop or was killed, unless somebody cancelled it or it ran too often."""
    return [
        "code=$?",
        f'if [ "$code" -eq {STOPPED} ] || [ "$code" -eq {CRASHED} ] || [ "$code" -ge 128 ]; then',
        f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {retries} ]; then',
        '    echo "ended with $code after being queued again ${SLURM_RESTART_COUNT:-0} times: given up" >&2',
        '  elif scontrol show job "$me" | grep -q "JobState=RUNNING"; then',
        f'    echo "ended with $code ({STOPPED}: asked to stop, {CRASHED}: a fault, 128 and more: killed): '
        'queued again" >&2',
        '    scontrol requeue "$me"',
        "  fi",
        "fi",
        'exit "$code"',
    ]


def _extra(options: Sequence[str]) -> dict[str, Any]:
    """``--mail-type=FAIL`` as submitit takes it."""
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.removeprefix("--").partition("=")
        found[name] = value if equals else True
    return found


def _slurm_words(text: str) -> str:
    lines = [line.removeprefix("sbatch: ").strip() for line in text.splitlines() if line.strip()]
    said = [line.partition(": ")[2] for line in lines if line.startswith(("error: ", "fatal: "))]
    return "; ".join(said or lines[-1:]) or "it gave no reason"
