"""This process does all itself, one thing behind the other."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from jobs._cli.command import again, echo, running
from jobs._cli.progress import Progress
from jobs._cluster.executor import Executor, Job
from jobs._cluster.task import leases_of, make, stop_signals
from vnp.errors import IncompleteRunError, UsageError
from vnp.runs.done.status import log_tails, run_status
from vnp.runs.request import Run, shard_name

_THEN = ("pipeline", "predict")


class Inline(Executor):
    """Jobs are done when ``submit`` returns."""

    name = "inline"

    def submit(self, job: Job) -> list[str]:
        if job.shards:
            begun = time.monotonic()
            run = Run.open(job.root)
            try:
                self.make(run, job)
            except KeyboardInterrupt:
                raise IncompleteRunError(f"interrupted. What is finished is safe. Go on with: {_go_on(run)}") from None
            require_complete(run, job.shards, with_others=job.tasks is not None)
            if job.report is not None:
                echo(job.report(time.monotonic() - begun))
        elif job.here is not None:
            job.here()
        return []

    def make(self, run: Run, job: Job) -> None:
        """What went wrong with one shard is said, and the others are made."""
        from vnp.runs.planning.plan import read_plan

        if job.tasks not in (None, 1):
            raise UsageError(f"--tasks {job.tasks}: --cluster inline is one task; give local, or the command again")
        plan = read_plan(run.paths.plan, run.request.plan_sha256)
        weights = {number: plan[number].rows for number in job.shards or ()}
        finished = 0.0
        with Progress("embedding", sum(weights.values()), "rows") as progress, stop_signals() as stop:

            def block_done(number: int, done: int, blocks: int) -> None:
                nonlocal finished
                progress.to(finished + weights[number] * done / blocks)
                finished += weights[number] if done == blocks else 0

            leases = None if job.tasks is None else leases_of(run, secrets.token_hex(4), stop)
            _, failed = make(run, leases or job.shards or (), stop, block_done, leases)
            self.told_to_end = stop()
        for number, error in failed:
            echo(f"shard {number}: {error}", err=True)


def require_complete(run: Run, shards: Sequence[int], *, with_others: bool = False) -> None:
    """Make sure that shards are done.

    ``with_others`` leaves those that tasks work on to them, and says so.

    Raises:
        IncompleteRunError: some are not; the message has their errors and logs.
    """
    wanted = set(shards)
    bad = [found for found in run_status(run).shards if found.shard.number in wanted and found.state != "done"]
    if with_others and (left := sum(found.state == "running" for found in bad)):
        echo(f"{left} shards are left to other tasks, which work on them")
        bad = [found for found in bad if found.state != "running"]
    if not bad:
        return
    lines, tails = [], log_tails(bad)
    for found in bad[:10]:
        log = f" (log: {found.log})" if found.log else ""
        lines.append(f"  {shard_name(found.shard.number)} {found.state}: {found.error or 'no error was noted'}{log}")
        lines += tails.get(found.shard.number, [])
    if len(bad) > 10:
        lines.append(f"  and {len(bad) - 10} more")
    raise IncompleteRunError(
        f"{len(bad)} of {len(wanted)} shards are not done:\n" + "\n".join(lines) + f"\nGo on with: {run.rerun_command}"
    )


def _go_on(run: Run) -> str:
    """The command that makes what is missing, and then what was asked for behind it."""
    name = running()
    return again() if name in ("rerun", "demo") else run.rerun_command + (f" --then {name}" if name in _THEN else "")
