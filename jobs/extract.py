"""Sequences to embeddings, in shards."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from jobs._cli import options
from jobs._cli.command import command
from jobs._cli.progress import duration
from jobs._cluster.plan import make_ask, make_plan, parse_numbers, show_plan, unfinished
from jobs._cluster.submit import choose_cluster, load_profile, make_here, require_complete
from vnp.errors import UsageError

if TYPE_CHECKING:
    from jobs._cluster.profile import Profile
    from vnp.runs.planning.options import RunOptions


@command("python -m jobs.extract viral.fna.gz host.fna.gz --out RUN --shards 32")
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", "run", type=click.Path(path_type=Path), required=True, help="The run directory.")
@click.option("--shards", type=int, default=1, help="Number of shards, each one task.")
@options.encoding
@options.cluster
@options.slurm
@click.option("--plan-job", is_flag=True, help="Slurm: read and cut the input in a job too, not on this node.")
@click.option("--only", help="Make just these shards, such as 3,7 or 0-4, in this process: what an array task calls.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and for Slurm the sbatch text; write nothing.")
@click.option("--force", is_flag=True, help="Begin anew where another run stands.")
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    run: Path,
    shards: int,
    cluster: str,
    profile: str | None,
    parallelism: int | None,
    retries: int | None,
    plan_job: bool,
    only: str | None,
    dry_run: bool,
    force: bool,
    **encoding: Any,
) -> None:
    """Embed INPUT as shards of a run.

    INPUT is FASTA or FASTQ, plain or compressed (gz, bz2, xz, zst), a samplesheet (.csv or .tsv with the columns
    path, label, group), or a dataset, the folder that jobs.dataset wrote: its records keep their labels, units and
    parts of the split, and only the frames that it lists become rows. What is already done of the same run is kept.
    """
    if only is not None:
        if plan_job or dry_run or force:
            raise UsageError("--only makes shards of a planned run: without --plan-job, --dry-run and --force")
        _only(run, only, bool(input))
        return
    where = choose_cluster(cluster)
    site = load_profile(profile, parallelism, retries) if where == "slurm" else None
    ask = make_ask(input, shards, encoding, where)
    if dry_run:
        show_plan(ask, run, where, site)
        return
    if site is not None and force:
        from jobs._cluster.live import require_idle

        require_idle(run.absolute())
    # What is planned already is not read again.
    if plan_job and (force or not (run / "run.json").exists()):
        _plan_on_slurm(ask, run, site, force)
    else:
        _extract(ask, run, where, site, force)


def _extract(ask: RunOptions, root: Path, where: str, site: Profile | None, force: bool) -> None:
    run, table = make_plan(ask, root, force, site)
    todo = unfinished(run, site)
    if not todo:
        click.echo(f"nothing to do: all {len(table)} shards of {run.paths.root} are done")
        click.echo(f"next: python -m jobs.reduce {quote(str(root))}")
        return
    if len(todo) < len(table):
        click.echo(f"{len(table) - len(todo)} of {len(table)} shards are done")
    if site is not None:
        from jobs._cluster.chain import submit_extract

        submit_extract(run, todo, site)
        click.echo(f"next: python -m jobs.status {quote(str(root))}")
        return
    begun = time.monotonic()
    make_here(run, todo, where)
    rows = sum(table[number].rows for number in todo)
    click.echo(f"made {len(todo)} shards, {rows:,} rows, in {duration(time.monotonic() - begun)}: {run.paths.shards}")
    click.echo(f"next: python -m jobs.reduce {quote(str(root))}")


def _plan_on_slurm(ask: RunOptions, root: Path, site: Profile | None, force: bool) -> None:
    if site is None:
        raise UsageError("--plan-job needs Slurm: there is no sbatch here, or --cluster says otherwise")
    from jobs._cluster.chain import submit_planned

    submit_planned(root.absolute(), ask, site, force=force)
    click.echo(f"next: python -m jobs.status {quote(str(root))}, once the planning is done")


def _only(root: Path, text: str, has_input: bool) -> None:
    """Make chosen shards of a planned run in this process."""
    from jobs._cluster.jobs_file import note_by_hand
    from jobs._cluster.task import STOPPED, make_shards
    from vnp.runs.request import Run, RunPaths

    if has_input and not RunPaths(root).request.exists():
        raise UsageError(f"{root} is not planned yet: run extract without --only first")
    run = Run.open(root)
    numbers = parse_numbers(text, run.request.shards)
    note_by_hand(run.paths.root)
    outcomes, failed = make_shards(run, iter(numbers))
    for outcome in outcomes:
        click.echo(f"shard {outcome.shard}: {outcome.state}, {outcome.rows:,} rows")
    for number, error in failed:
        click.echo(f"shard {number}: {error}", err=True)
    if not failed and any(outcome.state == "stopped" for outcome in outcomes):
        raise SystemExit(STOPPED)
    require_complete(run, numbers)


if __name__ == "__main__":
    main()
