"""Sequences to embeddings, in shards."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

import click

from jobs._cli import options
from jobs._cli.command import command, counted, echo, shown
from jobs._cli.progress import duration
from jobs._cluster import chain
from jobs._cluster.executor import SCRIPTS, Executor, choose_executor, choose_script, note_own_job
from jobs._cluster.inline import require_complete
from jobs._cluster.planning import make_plan, plan_run, run_options
from jobs._cluster.task import STOPPED, make, print_blocks, stop_signals
from vnp.errors import UsageError
from vnp.runs.planning.options import RunOptions
from vnp.runs.request import Run, RunPaths

_SHOWN = 20


@command("python -m jobs.extract viral.fna.gz host.fna.gz --out RUN --shards 32")
@options.new_run
@options.encoding
@options.cluster
@options.slurm
@options.plan_job
@click.option("--only", help="Make just these shards, such as 3,7 or 0-4, in this process: what an array task calls.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and what a scheduler would get; write nothing.")
@click.option(
    "--print-script",
    type=click.Choice(list(SCRIPTS)),
    help="Plan, and print a script that makes the shards, for you to submit; shell is for any other scheduler.",
)
@options.disk
@options.begin_anew
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    run: Path,
    shards: int,
    tasks: int | None,
    cluster: str,
    profile: str | None,
    parallelism: int | None,
    retries: int | None,
    plan_job: bool,
    only: str | None,
    dry_run: bool,
    print_script: str | None,
    force: bool,
    **encoding: Any,
) -> None:
    """Embed INPUT as shards of a run.

    INPUT is FASTA, FASTQ or BAM, plain or compressed (gz, bz2, xz, zst), a samplesheet (.csv or .tsv with the columns
    path, label, group), or a dataset, the folder that jobs.dataset wrote: its records keep their labels, units and
    parts of the split, and only the frames that it lists become rows. What is already done of the same run is kept.
    """
    if only is not None:
        if plan_job or dry_run or force or print_script or tasks is not None:
            others = "--plan-job, --dry-run, --print-script, --tasks and --force"
            raise UsageError(f"--only makes shards of a planned run: without {others}")
        _only(run, only, bool(input))
        return
    if print_script is not None:
        if plan_job or dry_run:
            raise UsageError("--print-script plans here, and prints: without --plan-job and --dry-run")
        writer = choose_script(print_script, profile, parallelism, retries)
        # The script is to be all of standard output.
        with redirect_stdout(sys.stderr):
            planned, status = plan_run(run_options(input, shards, encoding, writer, out=run), run, writer, force=force)
        # As it is, and not as text for people.
        sys.stdout.write(writer.script(chain.shards(planned, status.unfinished, tasks), whole=True))
        return
    executor = choose_executor(cluster, profile, parallelism, retries)
    asked = run_options(input, shards, encoding, executor, out=None if dry_run else run)
    if dry_run:
        _show_plan(asked, run, executor, tasks)
        return
    root = run.absolute()
    # What is planned already is not read again.
    if plan_job and (force or not (run / "run.json").exists()):
        chain.start(chain.plan_and_shards(asked, root, executor, tasks, force=force), executor)
        echo(f"next: python -m jobs.status {quote(str(run))}, once the planning is done")
        return
    planned, status = plan_run(asked, run, executor, tasks, force=force)
    todo, count = status.unfinished, len(status.shards)
    if not todo:
        echo(f"nothing to do: all {count} shards of {shown(planned.paths.root)} are done")
        echo(f"next: python -m jobs.reduce {quote(str(run))}")
        return
    if len(todo) < count:
        echo(f"{count - len(todo)} of {count} shards are done")
    rows = sum(status.shards[number].shard.rows for number in todo)
    made, where = f"made {counted(len(todo), 'shard')}, {counted(rows, 'row')}", shown(planned.paths.shards)
    job = chain.shards(planned, todo, tasks, lambda seconds: f"{made}, in {duration(seconds)}: {where}")
    chain.start((job,), executor)
    echo(f"next: python -m jobs.{'reduce' if executor.waits else 'status'} {quote(str(run))}")


def _show_plan(asked: RunOptions, out: Path, executor: Executor, tasks: int | None) -> None:
    """Print what would be done, and what the scheduler would get; write nothing but a plan that is thrown away."""
    with TemporaryDirectory(prefix="vnp-") as folder:
        planned, _, table = make_plan(asked, Path(folder) / "run", executor.profile)
    tokens = [shard.tokens for shard in table]
    totals = planned.request.totals
    echo(f"{totals.records:,} records, {totals.bases:,} bases, {totals.rows:,} rows")
    echo(
        f"{len(table)} shards of {min(tokens):,} to {max(tokens):,} expected tokens "
        f"(ratio {max(tokens) / max(min(tokens), 1):.3f})"
    )
    for shard in table[:_SHOWN]:
        echo(f"  shard {shard.number:5d}  {shard.units:10,} chunks  {shard.rows:10,} rows  {shard.tokens:12,} tokens")
    if len(table) > _SHOWN:
        echo(f"  … and {len(table) - _SHOWN} more")
    if not executor.waits:
        job = chain.shards(Run(RunPaths(out.absolute()), planned.request), range(len(table)), tasks)
        echo(f"\n----- {job.name}\n{executor.script(job)}")
    echo(f"would run on: {executor.name}; nothing was written to {out}")


def _only(root: Path, text: str, has_input: bool) -> None:
    """Make chosen shards of a planned run in this process."""
    if has_input and not RunPaths(root).request.exists():
        raise UsageError(f"{root} is not planned yet: run extract without --only first")
    run = Run.open(root)
    numbers = shard_numbers(text, run.request.shards)
    note_own_job(run.paths.root)
    with stop_signals() as stop:
        outcomes, failed = make(run, numbers, stop, print_blocks)
    for outcome in outcomes:
        echo(f"shard {outcome.shard}: {outcome.state}, {outcome.rows:,} rows")
    for number, error in failed:
        echo(f"shard {number}: {error}", err=True)
    if not failed and any(outcome.state == "stopped" for outcome in outcomes):
        raise SystemExit(STOPPED)
    require_complete(run, numbers)


def shard_numbers(text: str, count: int) -> list[int]:
    """Read shard numbers.

    Raises:
        UsageError: the text is no such list, or names a shard that is not there.
    """
    numbers: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--only takes numbers such as 3,7 or 0-4, not {text!r}")
        numbers.update(range(int(first), min(int(last or first), count) + 1))
    beyond = [number for number in sorted(numbers) if number >= count]
    if beyond or not numbers:
        raise UsageError(f"--only: there are the shards 0 to {count - 1}, not {text!r}")
    return sorted(numbers)


if __name__ == "__main__":
    main()
