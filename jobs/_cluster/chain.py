"""The jobs that a run becomes on Slurm, and how they wait for each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs._cluster.image import check_profile
from jobs._cluster.live import require_idle, without_live
from jobs._cluster.profile import Profile, Resources
from jobs._cluster.slurm import Job, script, submit
from jobs._cluster.squeue import Element, cancel, live
from jobs._cluster.task import plan_task, predict_task, reduce_task, run_task
from vnp.encoders.weights.folders import weights_root
from vnp.runs.request import RunPaths

if TYPE_CHECKING:
    from vnp.runs.planning.options import RunOptions
    from vnp.runs.request import Run

_REDUCE = "reduce"


def extract_job(run: Run, shards: Sequence[int], profile: Profile) -> Job:
    """The array that makes shards; it asks for GPUs only if an encoder is a transformer."""
    request = run.request
    weights = _weights(None if request.weights is None else Path(request.weights)) if request.needs_weights else []
    return Job(
        root=run.paths.root,
        name=_name(run.paths.root, f"{min(shards)}-{max(shards)}"),
        function=run_task,
        resources=profile.gpu if request.needs_weights and request.device != "cpu" else profile.cpu,
        elements=tuple(shards),
        binds=(*(Path(entry.path) for entry in request.inputs), *weights),
    )


def planned_extract_job(root: Path, ask: RunOptions, profile: Profile, plan: str) -> Job:
    """The array of a run that job ``plan`` is going to plan; it never starts if that fails."""
    shards = range(ask.shards)
    return Job(
        root=root,
        name=_name(root, f"{min(shards)}-{max(shards)}"),
        function=run_task,
        resources=profile.gpu if ask.needs_gpu else profile.cpu,
        elements=tuple(shards),
        dependency=f"afterok:{plan}",
        binds=_ask_binds(ask),
    )


def plan_job(root: Path, ask: RunOptions, profile: Profile) -> Job:
    """The job that reads the inputs and cuts them."""
    return Job(root, _name(root, "plan"), plan_task, profile.cpu, binds=_ask_binds(ask))


def reduce_job(root: Path, profile: Profile, layout: str, after: Sequence[str]) -> Job:
    """The merging: it starts when the arrays have ended, however they ended, and says what is missing."""
    return Job(
        root,
        _name(root, _REDUCE),
        reduce_task,
        profile.reduce,
        arguments=(layout,),
        dependency="afterany:" + ":".join(after) if after else None,
    )


def predict_job(root: Path, profile: Profile, binds: Sequence[Path], after: str) -> Job:
    """The calling of records: it starts when the merging has ended well, and never if it has not."""
    return Job(
        root,
        _name(root, "predict"),
        predict_task,
        profile.reduce,
        dependency=f"afterok:{after}",
        binds=tuple(binds),
    )


def submit_extract(run: Run, shards: Sequence[int], profile: Profile, *, force: bool = False) -> list[str]:
    """Submit those of a planned run's shards that no job in the queue is going to make, and say so.

    Args:
        run: a planned run.
        shards: numbers of shards that are not done.
        profile: what the site wants.
        force: submit those in the queue too.

    Returns:
        Ids of all jobs that make shards, those that were in the queue before included.
    """
    todo = list(shards) if force else without_live(run, shards)
    before = [element.job for element in live(run.paths.root) or [] if element.shard is not None]
    ids = []
    if todo:
        job = extract_job(run, todo, profile)
        ids = submit(job)
        _say_submitted(job, ids)
    return sorted({*before, *ids}, key=int)


def submit_planned(root: Path, ask: RunOptions, profile: Profile, *, force: bool = False) -> list[str]:
    """Submit the planning and the array that waits for it.

    Args:
        root: the run directory.
        ask: what is wanted.
        profile: what the site wants.
        force: begin anew where another run stands.

    Returns:
        Ids of the array.

    Raises:
        RunExistsError: a run stands there, or its jobs are in the queue.
        VnpError: Slurm refused a job.
    """
    from vnp.runs.planning.options import clear

    require_idle(root)
    check_profile(profile)
    paths = RunPaths(root)
    clear(paths, force=force)
    paths.logs.mkdir(parents=True, exist_ok=True)
    ask.write(paths.options)
    planning = plan_job(root, ask, profile)
    (plan,) = submit(planning)
    _say_submitted(planning, [plan])
    job = planned_extract_job(root, ask, profile, plan)
    ids = submit(job)
    _say_submitted(job, ids)
    return ids


def submit_reduce(root: Path, profile: Profile, layout: str, after: Sequence[str]) -> str:
    """Submit the merging behind jobs that make shards, in place of one that waits already; returns its id."""
    stale = [element for element in live(root) or [] if element.waiting and _is_reduce(element)]
    job = reduce_job(root, profile, layout, after)
    ids = submit(job)
    _say_submitted(job, ids)
    if stale:
        # It would start too early, and say that shards are missing which are being made.
        cancel([element.id for element in stale])
    return ids[0]


def submit_predict(root: Path, profile: Profile, binds: Sequence[Path], after: str) -> None:
    """Submit the calling of records behind the merging."""
    job = predict_job(root, profile, binds, after)
    _say_submitted(job, submit(job))


def submit_behind(root: Path, what: str, function: Callable[..., str], resources: Resources, after: str) -> str:
    """Submit a job that starts when another has ended well, and never if it has not; returns its id."""
    job = Job(root, _name(root, what), function, resources, dependency=f"afterok:{after}")
    ids = submit(job)
    _say_submitted(job, ids)
    return ids[0]


def _is_reduce(element: Element) -> bool:
    return element.shard is None and element.name.endswith(f"-{_REDUCE}")


def show_scripts(jobs: Sequence[Job]) -> None:
    """Print what ``sbatch`` would get."""
    for job in jobs:
        click.echo(f"\n----- {job.name}")
        click.echo(script(job))


def _say_submitted(job: Job, ids: Sequence[str]) -> None:
    tasks = "1 task" if job.elements is None else f"{len(job.elements)} tasks"
    click.echo(f"submitted {job.name}: job {', '.join(ids)}, {tasks}")


def _name(root: Path, what: str) -> str:
    """What ``squeue`` shows: the run and the shards, without what its columns or a shell could stumble over."""
    return f"vnp-{re.sub(r'[^A-Za-z0-9_.+-]+', '_', root.name)[:60]}-{what}"


def _ask_binds(ask: RunOptions) -> tuple[Path, ...]:
    files = (path for file in ask.files for path in (file.path, file.dataset) if path is not None)
    return (*files, *(_weights(ask.weights) if ask.needs_weights else []))


def _weights(given: Path | None) -> list[Path]:
    """The folder of weights, and the files in it that are links to somewhere else, as in a cache of the hub."""
    root = weights_root(given).absolute()
    return [root, *(path for path in sorted(root.rglob("*")) if path.is_symlink())]
