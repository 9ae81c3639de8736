"""Cancels a run's jobs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from jobs import _options
from jobs._command import command
from vnp.errors import VnpError

_AT_ONCE = 500


@command("python -m jobs.cancel RUN")
@_options.run_argument
def main(run: Path) -> None:
    """Cancel the Slurm jobs of RUN: all of them, and no others. What is finished stays, and rerun goes on from it."""
    from jobs._squeue import live
    from vnp.runs.request import Run

    root = Run.open(run).paths.root
    found = live(root)
    if found is None:
        raise VnpError(
            "Slurm does not answer (squeue failed): try again, or use scancel with the ids in logs/jobs.jsonl"
        )
    if not found:
        click.echo("nothing to cancel: no job of this run is in the queue")
        return
    # Whole arrays first: one word to Slurm ends thousands of waiting elements.
    jobs = sorted({element.id.partition("_")[0] for element in found})
    for first in range(0, len(jobs), _AT_ONCE):
        done = subprocess.run(["scancel", *jobs[first : first + _AT_ONCE]], capture_output=True, text=True)
        if done.returncode:
            raise VnpError(f"scancel: {done.stderr.strip()}")
    running = sum(not element.waiting for element in found)
    click.echo(f"cancelled {len(found)} tasks of {len(jobs)} jobs ({running} were running, and end with their block)")
    click.echo(f"next: python -m jobs.status {run}, or python -m jobs.rerun {run}")


if __name__ == "__main__":
    main()
