"""A run's state with what Slurm knows about its jobs laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from jobs._squeue import Element, ended, live

if TYPE_CHECKING:
    from vnp.runs.request import Run
    from vnp.runs.state import RunState, ShardState

_EXPLAINED = 200


def without_live(run: Run, shards: Sequence[int]) -> list[int]:
    """Leave out shards that a job in the queue is going to make, and say so."""
    queue = live(run.paths.root)
    if queue is None:
        click.echo("Slurm's queue could not be read; submitting without a look at it", err=True)
        return list(shards)
    busy = {element.shard for element in queue if element.shard is not None} & set(shards)
    if busy:
        click.echo(
            f"{len(busy)} shards are in the queue already: left to their jobs (rerun --force submits them again)"
        )
    return [number for number in shards if number not in busy]


def explain(run: Run, state: RunState) -> RunState:
    """Tell waiting from running from vanished tasks, where Slurm answers; what is done stays done.

    Args:
        run: the run.
        state: from its files.
    """
    queue = live(run.paths.root)
    if not queue and not _asked(state):
        return state
    by_shard = {element.shard: element for element in queue or [] if element.shard is not None}
    shards = [_overlay(found, by_shard.get(found.shard.number), queue is not None) for found in state.shards]
    return replace(state, shards=_with_reasons(shards))


def _asked(state: RunState) -> bool:
    return any(found.job and found.state != "done" for found in state.shards)


def _overlay(found: ShardState, element: Element | None, answered: bool) -> ShardState:
    if found.state in ("done", "damaged"):
        return found
    if element is not None:
        if element.waiting:
            return replace(found, state="queued", error=f"waits: {element.reason}", job=element.id)
        return replace(found, state="running", job=element.id)
    if found.state == "running" and answered and found.job and not found.here:
        # Its last sign of life is recent, but the queue no longer has it: the node took it along.
        return replace(found, state="failed", error=found.error or "the task vanished")
    return found


def _with_reasons(shards: list[ShardState]) -> list[ShardState]:
    """Add how Slurm says that failed tasks ended."""
    failed = [found.job for found in shards if found.state == "failed" and found.job][:_EXPLAINED]
    words = ended(failed)
    return [
        replace(found, error=f"{found.error or 'the task vanished'} (Slurm: {words[found.job]})")
        if found.state == "failed" and found.job in words
        else found
        for found in shards
    ]
