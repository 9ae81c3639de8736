"""Brings shards to where they are made: this process, processes of this machine, or Slurm."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs._cli.progress import Progress, duration
from vnp.errors import IncompleteRunError, StorageError, UsageError

if TYPE_CHECKING:
    from jobs._cluster.profile import Profile
    from vnp.runs.done.reduce import Reduced
    from vnp.runs.done.status import RunStatus
    from vnp.runs.request import Run

CLUSTERS = ("auto", "slurm", "local", "inline")


def choose_cluster(name: str) -> str:
    """Resolve ``auto``: Slurm where ``sbatch`` is on PATH, else local processes.

    Raises:
        UsageError: Slurm was asked for and is not here.
    """
    has_slurm = shutil.which("sbatch") is not None
    if name == "auto":
        return "slurm" if has_slurm else "local"
    if name == "slurm" and not has_slurm:
        raise UsageError(
            "--cluster slurm: there is no sbatch on PATH; submit from a login node, or use --cluster local"
        )
    return name


def make_here(run: Run, shards: Sequence[int], cluster: str) -> None:
    """Make shards on this machine and wait for them.

    Args:
        run: a planned run.
        shards: numbers of the shards to make.
        cluster: ``local`` or ``inline``.

    Raises:
        IncompleteRunError: some could not be made, or the user interrupted; the message says how to go on.
    """
    try:
        if cluster == "inline":
            _inline(run, shards)
        else:
            _local(run, shards)
    except KeyboardInterrupt:
        raise IncompleteRunError(f"interrupted; what is finished is safe. Go on with: {rerun_command(run)}") from None
    require_complete(run, shards)


def merge_run(run: Run, layout: str, *, force: bool = False) -> Reduced:
    """Merge a run in this process, with progress."""
    from vnp.runs.done.reduce import reduce_run

    with Progress("merging", run.request.totals.rows, "rows") as progress:
        return reduce_run(run, layout, force=force, progress=progress.advance)


def reduce_here(run: Run, layout: str, *, force: bool = False) -> None:
    """Merge a run in this process and say what was made."""
    begun, root = time.monotonic(), shlex.quote(str(run.paths.root))
    reduced = merge_run(run, layout, force=force)
    spent = f"merged in {duration(time.monotonic() - begun)}" if reduced.fresh else "was there already"
    click.echo(f"{reduced.path}: {reduced.rows:,} rows of {reduced.layout.width} ({spent})")
    click.echo(f"  {reduced.layout}")
    if reduced.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reduced.skipped.items()))
        click.echo(f"without a row: {reasons} ({run.paths.skipped})")
    if reduced.parts:
        parts = ", ".join(f"{count:,} {name}" for name, count in reduced.parts.items())
        click.echo(f"rows by the split that came with the data: {parts}")
        click.echo(f"next: python -m jobs.train {root} --out model.pth")
        return
    click.echo(f"next: python -m jobs.export {root} --format npz, or read it with h5py")


def load_profile(name: str | None, parallelism: int | None, retries: int | None) -> Profile:
    """The site's profile with what the command line says otherwise.

    Raises:
        UsageError: there is no such profile, or something in it is wrong.
    """
    from jobs._cluster import profile as _profile

    for option, value, least in (("--parallelism", parallelism, 1), ("--retries", retries, 0)):
        if value is not None and value < least:
            raise UsageError(f"{option} must be at least {least}, not {value}")
    return _profile.load_profile(name).changed(parallelism=parallelism, retries=retries)


def rerun_command(run: Run) -> str:
    """The command that makes what is missing."""
    return f"python -m jobs.rerun {shlex.quote(str(run.paths.root))}"


def after_shards(root: Path) -> str:
    """The command that comes behind the shards: the calling where a prediction was asked for, else the merging."""
    command = "predict --from" if (root / "predict.json").exists() else "reduce"
    return f"python -m jobs.{command} {shlex.quote(str(root))}"


def require_complete(run: Run, shards: Sequence[int]) -> None:
    """Make sure that shards are done.

    Raises:
        IncompleteRunError: some are not; the message has their errors and logs.
    """
    from vnp.runs.done.status import run_status
    from vnp.runs.request import shard_name

    wanted = set(shards)
    bad = [found for found in run_status(run).shards if found.shard.number in wanted and found.state != "done"]
    if not bad:
        return
    lines = []
    for found in bad[:10]:
        log = f" (log: {found.log})" if found.log else ""
        lines.append(f"  {shard_name(found.shard.number)} {found.state}: {found.error or 'no error was noted'}{log}")
    if len(bad) > 10:
        lines.append(f"  and {len(bad) - 10} more")
    raise IncompleteRunError(
        f"{len(bad)} of {len(wanted)} shards are not done:\n" + "\n".join(lines) + f"\nGo on with: {rerun_command(run)}"
    )


def _inline(run: Run, shards: Sequence[int]) -> None:
    from jobs._cluster.task import make_shards
    from vnp.runs.planning.plan import read_plan

    plan = read_plan(run.paths.plan, run.request.plan_sha256)
    weights = {number: plan[number].rows for number in shards}
    finished = 0.0
    with Progress("embedding", sum(weights.values()), "rows") as progress:

        def block_done(number: int, done: int, blocks: int) -> None:
            nonlocal finished
            progress.to(finished + weights[number] * done / blocks)
            finished += weights[number] if done == blocks else 0

        _, failed = make_shards(run, iter(shards), block_done)
    for number, error in failed:
        click.echo(f"shard {number}: {error}", err=True)


def _local(run: Run, shards: Sequence[int]) -> None:
    from jobs._cluster.local import run_local
    from vnp.runs.done.status import run_status

    state = run_status(run)
    with Progress("embedding", state.rows_planned, "rows") as progress:

        def poll() -> None:
            # A look that fails must not end tasks that work; what is wrong shows in the end.
            with contextlib.suppress(StorageError):
                found = run_status(run)
                progress.to(_rows_done(found), f", {_shards_done(found)} of {len(found.shards)} shards")

        run_local(run, shards, poll)
        poll()


def _rows_done(state: RunStatus) -> float:
    return sum(found.shard.rows * found.blocks[0] / max(found.blocks[1], 1) for found in state.shards)


def _shards_done(state: RunStatus) -> int:
    return sum(found.state == "done" for found in state.shards)
