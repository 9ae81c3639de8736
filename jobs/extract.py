"""Sequences to embeddings, in shards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs import _options
from jobs._command import command
from jobs._progress import Progress, duration
from jobs._submit import choose_cluster, make_here, require_complete
from vnp.errors import UsageError

if TYPE_CHECKING:
    from vnp.runs.plan import Shard
    from vnp.runs.request import Run
    from vnp.runs.start import Ask


@command("python -m jobs.extract viral.fna.gz host.fna.gz --out RUN --shards 32")
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", "run", type=click.Path(path_type=Path), required=True, help="The run directory.")
@click.option("--shards", type=int, default=1, help="Number of shards, each one task.")
@_options.encoding
@_options.cluster
@click.option("--only", help="Make just these shards, such as 3,7 or 0-4, in this process: what an array task calls.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option("--force", is_flag=True, help="Begin anew where another run stands.")
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    run: Path,
    shards: int,
    cluster: str,
    only: str | None,
    dry_run: bool,
    force: bool,
    **encoding: Any,
) -> None:
    """Embed INPUT as shards of a run.

    INPUT is FASTA or FASTQ, plain or compressed (gz, bz2, xz, zst), or a samplesheet (.csv or .tsv with the columns
    path, label, group). What is already done of the same run is kept.
    """
    if only is not None:
        _only(run, only, bool(input))
        return
    where = choose_cluster(cluster)
    ask = _ask(input, shards, encoding)
    if dry_run:
        _show_plan(ask, run, where)
        return
    planned, shard_table = _plan(ask, run, force)
    todo = _unfinished(planned)
    if not todo:
        click.echo(f"nothing to do: all {planned.request.shards} shards of {planned.paths.root} are done")
    else:
        if len(todo) < len(shard_table):
            click.echo(f"{len(shard_table) - len(todo)} of {len(shard_table)} shards are done; making the others")
        begun = time.monotonic()
        make_here(planned, todo, where)
        rows = sum(shard_table[number].rows for number in todo)
        spent = time.monotonic() - begun
        click.echo(f"made {len(todo)} shards, {rows:,} rows, in {duration(spent)}: {planned.paths.shards}")
    click.echo(f"next: python -m jobs.reduce {run}")


def _ask(paths: tuple[Path, ...], shards: int, encoding: dict[str, Any]) -> Ask:
    from vnp.runs.start import Ask
    from vnp.sequences.samplesheet import read_inputs

    return Ask(files=tuple(read_inputs(paths)), shards=shards, **encoding)


def _plan(ask: Ask, out: Path, force: bool) -> tuple[Run, list[Shard]]:
    from vnp.runs.plan import read_plan
    from vnp.runs.start import start_run

    size = sum(file.path.stat().st_size for file in ask.files)
    with Progress("planning", size, "MB", scale=1e6) as progress:
        run, before = start_run(ask, out, force=force, progress=progress.advance)
    shards = read_plan(run.paths.plan, run.request.plan_sha256)
    totals = run.request.totals
    click.echo(
        f"{'found' if before else 'planned'} {run.paths.root}: {totals.records:,} records, {totals.bases:,} bases, "
        f"{totals.rows:,} rows in {len(shards)} shards"
    )
    if len(shards) < ask.shards:
        click.echo(f"{ask.shards} shards were asked for; there are only {totals.units} chunks to share out")
    return run, shards


def _unfinished(run: Run) -> list[int]:
    from vnp.runs.state import run_state

    return run_state(run).unfinished


def _show_plan(ask: Ask, out: Path, cluster: str) -> None:
    from vnp.runs.plan import survey
    from vnp.runs.start import cut_shards

    ask.check()
    for molecule in ("dna", "protein"):
        ask.encoder(molecule)
    size = sum(file.path.stat().st_size for file in ask.files)
    with Progress("planning", size, "MB", scale=1e6) as progress:
        found = survey(ask.files, ask.chunk, prefix_ids=ask.prefix_ids, progress=progress.advance)
    shards = cut_shards(found, ask.shards)
    tokens = [shard.tokens for shard in shards]
    balance = max(tokens) / max(min(tokens), 1)
    totals = found.totals
    click.echo(f"{totals.records:,} records, {totals.bases:,} bases, {totals.rows:,} rows")
    click.echo(f"{len(shards)} shards of {min(tokens):,} to {max(tokens):,} expected tokens (ratio {balance:.3f})")
    for shard in shards[:20]:
        click.echo(
            f"  shard {shard.number:5d}  {shard.units:10,} chunks  {shard.rows:10,} rows  {shard.tokens:12,} tokens"
        )
    if len(shards) > 20:
        click.echo(f"  … and {len(shards) - 20} more")
    click.echo(f"would run on: {cluster}; nothing was written to {out}")


def _only(root: Path, text: str, has_input: bool) -> None:
    """Make chosen shards of a planned run in this process."""
    from jobs._task import STOPPED, make_shards
    from vnp.runs.paths import RunPaths
    from vnp.runs.request import Run

    if has_input and not RunPaths(root).request.exists():
        raise UsageError(f"{root} is not planned yet: run extract without --only first")
    run = Run.open(root)
    numbers = parse_numbers(text, run.request.shards)
    outcomes, failed = make_shards(run, iter(numbers))
    for outcome in outcomes:
        click.echo(f"shard {outcome.shard}: {outcome.state}, {outcome.rows:,} rows")
    for number, error in failed:
        click.echo(f"shard {number}: {error}", err=True)
    if not failed and any(outcome.state == "stopped" for outcome in outcomes):
        raise SystemExit(STOPPED)
    require_complete(run, numbers)


def parse_numbers(text: str, count: int) -> list[int]:
    """Read shard numbers.

    Args:
        text: such as ``3,7`` or ``0-4,9``.
        count: how many shards there are.

    Raises:
        UsageError: the text is no such list, or names a shard that is not there.
    """
    numbers: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--only takes numbers such as 3,7 or 0-4, not {text!r}")
        numbers.update(range(int(first), int(last or first) + 1))
    beyond = [number for number in sorted(numbers) if number >= count]
    if beyond or not numbers:
        raise UsageError(f"--only: there are the shards 0 to {count - 1}, not {', '.join(map(str, beyond[:5]))}")
    return sorted(numbers)


if __name__ == "__main__":
    main()
