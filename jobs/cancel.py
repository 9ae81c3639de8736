"""Cancels a run's jobs."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cluster.executor import in_order, jobs_file, scheduler
from vnp.errors import UsageError, VnpError


@command("python -m jobs.cancel RUN")
@options.run_argument
def main(run: Path) -> None:
    """Cancel the jobs of RUN: all of them, and no others. What is finished stays, and rerun goes on from it."""
    # Not every run with jobs is planned: its planning may be what is to be cancelled.
    root = run.absolute()
    if not (root / "run.json").exists() and not jobs_file(root).exists():
        raise UsageError(f"{run} is not a run: it has neither run.json nor {jobs_file(root).relative_to(root)}")
    executor = scheduler(root)
    queue = executor.state(root)
    if queue is None:
        ask, end = executor.tools
        raise VnpError(
            f"{executor.title} does not answer ({ask} failed): try again, or use {end} with the ids in {jobs_file(run)}"
        )
    found = [element for element in queue if not element.ending]
    if not found:
        echo("nothing to cancel: no job of this run is in the queue")
        return
    # Whole arrays: one word to the scheduler ends thousands of waiting elements. The youngest first: those that wait
    # for others must be gone before they could start.
    jobs = in_order(root, [element.job for element in found])[::-1]
    executor.cancel(jobs)
    running = sum(not element.waiting for element in found)
    echo(
        f"cancelled {len(found)} task{'s' * (len(found) != 1)} of {len(jobs)} job{'s' * (len(jobs) != 1)} "
        f"({running} had started; their finished blocks are kept)"
    )
    echo(f"next: python -m jobs.status {quote(str(run))}, or python -m jobs.rerun {quote(str(run))}")


if __name__ == "__main__":
    main()
