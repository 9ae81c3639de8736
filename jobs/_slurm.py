"""Submission to Slurm through submitit.

An array element is one shard, and its index is the shard's number, so that ``squeue`` and the logs speak of shards.
Where numbers pass the site's MaxArraySize, there are several arrays, each with its first shard's number to add.

Requeueing is done by the batch script, outside of any container: a task that was told to stop ends with ``STOPPED``,
and the script, where ``scontrol`` is, queues it again.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core import utils

from jobs import _jobs_file
from jobs._image import python_command
from jobs._profile import Resources
from jobs._task import CRASHED, STOPPED
from vnp.errors import UsageError, VnpError

_DEFAULT_MAX_ARRAY = 1001
_SECONDS_TO_ANSWER = 30


@dataclass(frozen=True, slots=True)
class Job:
    """What to submit.

    Args:
        root: the run directory.
        name: what ``squeue`` shows.
        function: importable, takes the path of ``run.json`` first.
        arguments: more arguments, the same for all elements.
        elements: numbers of an array's elements, passed as a list of one after the path; None for a plain job.
        resources: what to ask for.
        dependency: as ``sbatch --dependency`` takes it.
        binds: paths that must be seen inside an image.
    """

    root: Path
    name: str
    function: Callable[..., Any]
    resources: Resources
    arguments: tuple[Any, ...] = ()
    elements: tuple[int, ...] | None = None
    dependency: str | None = None
    binds: tuple[Path, ...] = ()


class _Executor(submitit.SlurmExecutor):
    """submitit's executor, with arrays of chosen indexes; one element is an array too."""

    indexes: Sequence[int] | None = None

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
            submitit.SlurmJob(folder=self.folder, job_id=f"{first.job_id}_{index}", tasks=[0]) for index in self.indexes
        ]
        for job, path in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(path, "submitted_pickle")
        return jobs


def submit(job: Job) -> list[str]:
    """Submit a job and note it in the run.

    Returns:
        Ids: one, or one an array where elements pass the site's MaxArraySize.

    Raises:
        VnpError: Slurm refused it, in Slurm's words.
    """
    ids = []
    for base, indexes in _arrays(job):
        executor = make_executor(job, indexes)
        numbers = [None] if indexes is None else [base + index for index in indexes]
        try:
            with executor.batch():
                submitted = [
                    executor.submit(
                        job.function,
                        str(job.root / "run.json"),
                        *([] if number is None else [[number]]),
                        *job.arguments,
                    )
                    for number in numbers
                ]
        except (utils.FailedJobError, subprocess.CalledProcessError) as error:
            raise VnpError(f"Slurm refused the job {job.name}: {_slurm_words(error)}") from error
        found = submitted[0].job_id.partition("_")[0]
        _jobs_file.note(job.root, found, job.name, base, [n for n in numbers if n is not None])
        ids.append(found)
    return ids


def script(job: Job) -> str:
    """The text that ``sbatch`` would get, of the first array."""
    _, indexes = next(iter(_arrays(job)))
    executor = make_executor(job, indexes)
    if indexes is not None:
        executor.parameters["map_count"] = len(indexes)
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def make_executor(job: Job, indexes: Sequence[int] | None) -> _Executor:
    """An executor for one job or array."""
    wanted = job.resources
    logs = job.root / "logs"
    python = python_command(wanted, [job.root, *job.binds]) if wanted.image else shlex.quote(sys.executable)
    executor = _Executor(folder=logs, python=python)
    executor.indexes = indexes
    additional: dict[str, Any] = {"requeue": True, **_extra(wanted.extra)}
    if indexes is not None:
        additional["array"] = f"{_ranges(indexes)}%{min(len(indexes), wanted.parallelism)}"
    if job.dependency:
        additional["kill-on-invalid-dep"] = "yes"
    given = {
        "job_name": job.name,
        "partition": wanted.partition,
        "account": wanted.account,
        "qos": wanted.qos,
        "constraint": wanted.constraint,
        "gpus_per_node": wanted.gpus or None,
        "gres": wanted.gres,
        "dependency": job.dependency,
    }
    executor.update_parameters(
        **{name: value for name, value in given.items() if value is not None},
        time=wanted.minutes,
        cpus_per_task=wanted.cpus,
        mem=wanted.mem,
        signal_delay_s=wanted.grace,
        array_parallelism=wanted.parallelism,
        setup=_setup(wanted),
        teardown=_requeue_lines(wanted.retries),
        additional_parameters=additional,
    )
    return executor


def max_array_size() -> int:
    """The site's MaxArraySize; one more than the largest index an array may have."""
    try:
        answer = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, check=True, timeout=_SECONDS_TO_ANSWER
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return _DEFAULT_MAX_ARRAY
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    return int(found.group(1)) if found else _DEFAULT_MAX_ARRAY


def _arrays(job: Job) -> list[tuple[int, list[int] | None]]:
    """Each array's first number and its indexes."""
    if job.elements is None:
        return [(0, None)]
    size = max(1, max_array_size())
    groups = itertools.groupby(sorted(job.elements), lambda number: number // size)
    return [(which * size, [number % size for number in numbers]) for which, numbers in groups]


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3, 7."""
    pieces = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        pieces.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(pieces)


def _setup(wanted: Resources) -> list[str]:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(wanted.environment.items())]
    # Without a handler the shell dies of a TERM before it can queue the task again; with one it waits for the task.
    return ["trap : TERM USR2", *exports, *wanted.setup]


def _requeue_lines(retries: int) -> list[str]:
    """Queue a task again that was told to stop or was killed, unless somebody cancelled it or it ran too often."""
    return [
        "code=$?",
        f'if [ "$code" -eq {STOPPED} ] || [ "$code" -eq {CRASHED} ] || [ "$code" -ge 128 ]; then',
        f'  if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {retries} ]; then',
        f'    echo "ended with $code and was queued again {retries} times: given up" >&2',
        '  elif scontrol show job "$SLURM_JOB_ID" 2>/dev/null | grep -q "JobState=RUNNING"; then',
        f'    echo "ended with $code (asked to stop: {STOPPED}, crashed: {CRASHED}): queued again" >&2',
        '    scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"',
        "  fi",
        "fi",
        'exit "$code"',
    ]


def _extra(options: Sequence[str]) -> dict[str, Any]:
    """``--mail-type=FAIL`` as submitit takes it."""
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.removeprefix("--").partition("=")
        if not option.startswith("--") or not name:
            raise UsageError(f"extra: options of sbatch are written --name=value or --name, not {option!r}")
        found[name] = value if equals else True
    return found


def _slurm_words(error: Exception) -> str:
    words = [line.removeprefix("sbatch: ").strip() for line in str(error).splitlines()]
    said = [line for line in words if "error" in line.lower()]
    return "; ".join(said or words[-1:])
