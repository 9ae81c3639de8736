"""The jobs that a run becomes on Slurm, and how they wait for each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs._profile import Profile
from jobs._slurm import Job, script, submit
from jobs._task import plan_task, reduce_task, run_task
from vnp.runs.paths import RunPaths

if TYPE_CHECKING:
    from vnp.runs.ask import Ask
    from vnp.runs.request import Run


def extract_job(run: Run, shards: Sequence[int], profile: Profile) -> Job:
    """The array that makes shards; it asks for GPUs only if an encoder is a transformer."""
    request = run.request
    needs_gpu = request.device != "cpu" and any(
        choice.identity.get("weights") for choice in (request.dna, request.protein)
    )
    weights = [] if request.weights is None else [Path(request.weights)]
    return Job(
        root=run.paths.root,
        name=_name(run.paths.root, shards),
        function=run_task,
        resources=profile.gpu if needs_gpu else profile.cpu,
        elements=tuple(shards),
        binds=(*(Path(entry.path) for entry in request.inputs), *weights),
    )


def planned_extract_job(root: Path, ask: Ask, profile: Profile, plan: str) -> Job:
    """The array of a run that job ``plan`` is going to plan; it never starts if that fails."""
    shards = range(ask.shards)
    return Job(
        root=root,
        name=_name(root, shards),
        function=run_task,
        resources=profile.gpu if ask.needs_gpu else profile.cpu,
        elements=tuple(shards),
        dependency=f"afterok:{plan}",
        binds=_ask_binds(ask),
    )


def plan_job(root: Path, ask: Ask, profile: Profile) -> Job:
    """The job that reads the inputs and cuts them."""
    return Job(root, f"vnp-{root.name}-plan", plan_task, profile.cpu, binds=_ask_binds(ask))


def reduce_job(root: Path, profile: Profile, layout: str, after: Sequence[str]) -> Job:
    """The merging: it starts when the arrays have ended, however they ended, and says what is missing."""
    return Job(
        root,
        f"vnp-{root.name}-reduce",
        reduce_task,
        profile.reduce,
        arguments=(layout,),
        dependency="afterany:" + ":".join(after) if after else None,
    )


def submit_extract(run: Run, shards: Sequence[int], profile: Profile) -> list[str]:
    """Submit the array of a planned run and say how to follow it; returns the ids."""
    job = extract_job(run, shards, profile)
    ids = submit(job)
    _say_submitted(job, ids)
    return ids


def submit_planned(root: Path, ask: Ask, profile: Profile) -> list[str]:
    """Submit the planning and the array that waits for it; returns the array's ids."""
    (root / "logs").mkdir(parents=True, exist_ok=True)
    ask.write(RunPaths(root).ask)
    planning = plan_job(root, ask, profile)
    (plan,) = submit(planning)
    _say_submitted(planning, [plan])
    job = planned_extract_job(root, ask, profile, plan)
    ids = submit(job)
    _say_submitted(job, ids)
    return ids


def submit_reduce(root: Path, profile: Profile, layout: str, after: Sequence[str]) -> str:
    """Submit the merging behind the arrays; returns its id."""
    job = reduce_job(root, profile, layout, after)
    (found,) = submit(job)
    _say_submitted(job, [found])
    return found


def show_scripts(jobs: Sequence[Job]) -> None:
    """Print what ``sbatch`` would get."""
    for job in jobs:
        click.echo(f"\n----- {job.name}")
        click.echo(script(job))


def _say_submitted(job: Job, ids: Sequence[str]) -> None:
    tasks = "1 task" if job.elements is None else f"{len(job.elements)} tasks"
    click.echo(f"submitted {job.name}: job {', '.join(ids)}, {tasks}")


def _name(root: Path, shards: Sequence[int]) -> str:
    return f"vnp-{root.name}-{min(shards)}-{max(shards)}"


def _ask_binds(ask: Ask) -> tuple[Path, ...]:
    return (*(file.path for file in ask.files), *([] if ask.weights is None else [ask.weights]))
