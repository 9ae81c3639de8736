"""Slurm: what it says of a run's jobs, and submission to it through submitit.

What it says only explains: a shard is done by its receipt, whatever is said here. An array element is one shard, and
its index is the shard's number, so that ``squeue`` and the logs speak of shards. Where numbers pass the site's
MaxArraySize, there are several arrays, each with its first shard's number to add.

Requeueing is done by the batch script, outside of any container: a task that was told to stop ends with ``STOPPED``,
and the script, where ``scontrol`` is, queues it again. A job that somebody cancelled, or that Slurm has ended or queued
again itself, is left as it is.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Any

from jobs._cluster.executor import Element, Executor, Job, note, submitted
from jobs._cluster.image import check_place, python_command
from jobs._cluster.profile import KINDS, Profile, Resources, load_profile
from jobs._cluster.task import CRASHED, STOPPED
from vnp.errors import UsageError, VnpError

_SECONDS_TO_ANSWER = 20
_SECONDS_TO_CONFIGURE = 30
_DEFAULT_MAX_ARRAY = 1001
_PATHS = {"PATH", "LD_LIBRARY_PATH"}
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
        if "%" in str(job.root):
            raise UsageError(f"{job.root}: Slurm takes % in a path for a placeholder; choose another --out")
        resources = self._profile.of(job.kind)
        check_place(resources, [job.root, *job.binds])
        return _submit(job, resources)

    def script(self, job: Job) -> str:
        return _script(job, self._profile.of(job.kind))

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


@cache
def _submitit() -> Any:
    """Submitit's executor; in a function, because submitit takes longer to load than Slurm to say how a run is."""
    import submitit
    from submitit.core import utils

    class Arrays(submitit.SlurmExecutor):
        """submitit's executor, with arrays of chosen indexes; one element is an array too."""

        indexes: Sequence[int] | None = None
        submitted: Callable[[str], None] = staticmethod(lambda _job: None)

        def _submit_command(self, command: str) -> Any:
            # submitit prints what Slurm said, besides raising it.
            with redirect_stderr(io.StringIO()):
                job = super()._submit_command(command)
            self.submitted(job.job_id)
            return job

        def _internal_process_submissions(self, delayed_submissions: list[Any]) -> list[Any]:
            if self.indexes is None:
                return super()._internal_process_submissions(delayed_submissions)
            folder = utils.JobPaths.get_first_id_independent_folder(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            pickles = []
            for delayed in delayed_submissions:
                path = folder / f"{uuid.uuid4().hex}.pkl"
                delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
                delayed.dump(path)
                pickles.append(path)
            self.parameters["map_count"] = len(self.indexes)
            first = self._submit_command(self._submitit_command_str)
            jobs: list[Any] = [
                submitit.SlurmJob(folder=self.folder, job_id=f"{first.job_id}_{index}", tasks=[0])
                for index in self.indexes
            ]
            for job, path in zip(jobs, pickles, strict=True):
                job.paths.move_temporary_file(path, "submitted_pickle")
            return jobs

    return Arrays


def _submit(job: Job, resources: Resources) -> list[str]:
    """Submit a job and note it in the run; one id, or one an array where shards pass the site's MaxArraySize.

    Raises:
        VnpError: Slurm refused it, in Slurm's words.
    """
    from submitit.core import utils

    ids: list[str] = []
    for base, indexes in _arrays(job):
        numbers = [None] if indexes is None else [base + index for index in indexes]
        executor = _make_executor(job, resources, indexes)
        executor.submitted = _noter(job, base, numbers, ids)
        try:
            with _outside_of_jobs(), executor.batch():
                for number in numbers:
                    chosen = [] if number is None else [[number]]
                    executor.submit(job.function, str(job.root / "run.json"), *chosen, *job.arguments)
        except (utils.FailedJobError, utils.FailedSubmissionError, subprocess.CalledProcessError) as error:
            raise VnpError(_refusal(job, error, ids)) from error
    return ids


def _noter(job: Job, base: int, numbers: Sequence[int | None], ids: list[str]) -> Callable[[str], None]:
    """Notes a submission the moment that Slurm has taken it: an id that nobody knows could not be cancelled."""

    def submitted(found: str) -> None:
        ids.append(found)
        note(job.root, found, job.name, base, [number for number in numbers if number is not None])

    return submitted


def _refusal(job: Job, error: Exception, ids: Sequence[str]) -> str:
    text = f"Slurm refused the job {job.name}: {_slurm_words(error)}"
    if ids:
        text += (
            f"\nThe jobs {', '.join(ids)} before it were submitted. The rest, once the cause is mended: "
            f"python -m jobs.rerun {quote(str(job.root))}"
        )
    return text


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the job that this process is in, if any: sbatch would hand them on to the new one."""
    inherited = (
        {name for name in os.environ if name.startswith(("SLURM_", "SRUN_", "SLURMD_"))} - {"SLURM_CONF"}
        if "SLURM_JOB_ID" in os.environ
        else set()
    )
    hidden = {name: os.environ.pop(name) for name in inherited}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _script(job: Job, resources: Resources) -> str:
    """The text that ``sbatch`` would get, of the first array."""
    _, indexes = _arrays(job)[0]
    executor = _make_executor(job, resources, indexes)
    if indexes is not None:
        executor.parameters["map_count"] = len(indexes)
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def _make_executor(job: Job, wanted: Resources, indexes: Sequence[int] | None) -> Any:
    """An executor for one job or array."""
    python = python_command(wanted, [job.root, *job.binds]) if wanted.image else quote(sys.executable)
    executor = _submitit()(folder=job.root / "logs", python=python)
    executor.indexes = indexes
    additional: dict[str, Any] = {"requeue": True, **_extra(wanted.extra)}
    if indexes is not None:
        additional["array"] = f"{_ranges(indexes)}%{min(len(indexes), wanted.parallelism)}"
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
        # From Slurm 22.05 on, srun no longer takes this from sbatch.
        srun_args=[f"--cpus-per-task={wanted.cpus}"],
        wckey=None,
        mem=wanted.mem,
        signal_delay_s=wanted.grace,
        array_parallelism=wanted.parallelism,
        setup=_setup(wanted),
        teardown=_requeue_lines(wanted.retries),
        additional_parameters=additional,
    )
    return executor


def max_array_size() -> int:
    """How many elements an array may have here, counted from index 0: MaxArraySize or less."""
    try:
        answer = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, check=True, timeout=_SECONDS_TO_CONFIGURE
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return _DEFAULT_MAX_ARRAY
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


def _setup(wanted: Resources) -> list[str]:
    variables = dict(sorted(wanted.environment.items()))
    if wanted.image:
        # What an image sets itself wins over the plain variable, as it must for the paths of programs.
        variables |= {f"APPTAINERENV_{name}": value for name, value in variables.items() if name not in _PATHS}
    exports = [f"export {name}={quote(value)}" for name, value in variables.items()]
    # Libraries would count the cores of the whole node, where Slurm does not hide the others.
    threads = 'export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"'
    # Without a handler the shell dies of a TERM before it can queue the task again; with one it waits for the task.
    return ["trap : TERM USR2", *exports, *wanted.setup, threads]


def _requeue_lines(retries: int) -> list[str]:
    """Queue a task again that was told to stop or was killed, unless somebody cancelled it or it ran too often."""
    return [
        "code=$?",
        # One element of an array has the array's own id in SLURM_JOB_ID: that would mean all of them.
        'me="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"',
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


def _slurm_words(error: Exception) -> str:
    lines = [line.removeprefix("sbatch: ").strip() for line in str(error).splitlines() if line.strip()]
    said = [line.partition(": ")[2] for line in lines if line.startswith(("error: ", "fatal: "))]
    return "; ".join(said or lines[-1:]) or "it gave no reason"
