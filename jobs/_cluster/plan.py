"""Planning on behalf of the commands that start a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from jobs._cli.progress import Progress
from vnp.errors import UsageError
from vnp.sequences.samplesheet import DATASET_TABLE

if TYPE_CHECKING:
    from jobs._cluster.profile import Profile
    from vnp.runs.done.status import RunStatus
    from vnp.runs.planning.options import RunOptions
    from vnp.runs.request import Request, Run, Shard
    from vnp.sequences.samplesheet import InputFile

_SHOWN = 20


def make_ask(
    paths: tuple[Path, ...], shards: int, encoding: dict[str, Any], where: str, *, every_frame: bool = False
) -> RunOptions:
    """What the command line asks for.

    Args:
        paths: inputs, datasets and samplesheets.
        shards: how many pieces.
        encoding: the options of ``_options.encoding``.
        where: the cluster. What runs on this machine is asked for on the device that is here, since small blocks suit a
            CPU; what runs elsewhere finds out there.
        every_frame: take datasets as the FASTA that they are, without what their tables say.

    Raises:
        UsageError: something impossible.
        InputError: an input does not exist.
    """
    from vnp.runs.planning.options import RunOptions
    from vnp.sequences.samplesheet import read_inputs

    files = read_inputs(paths)
    if every_frame:
        files = [replace(file, dataset=None) for file in files]
    else:
        warn_of_lost_tables(files)
    ask = RunOptions(files=tuple(files), shards=shards, **encoding)
    ask.check()
    if where != "slurm" and ask.device == "auto" and ask.needs_gpu and not _has_gpu():
        return replace(ask, device="cpu")
    return ask


def warn_of_lost_tables(files: Iterable[InputFile]) -> None:
    """Say which inputs look like a dataset without its table, and what that means."""
    for file in files:
        if file.lacks_table:
            click.echo(
                f"warning: {file.path} has no {DATASET_TABLE} beside it, so it is taken as plain FASTA: every open "
                "frame becomes a row, and none has a label, unit or part of a split",
                err=True,
            )


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def make_plan(ask: RunOptions, out: Path, force: bool, site: Profile | None = None) -> tuple[Run, list[Shard]]:
    """Plan a run, or find the one that is there, and say so.

    Args:
        ask: what is wanted.
        out: the run directory.
        force: begin anew where another run stands.
        site: what the cluster wants, if the shards are for one; its image plans where this Python lacks the libraries.
    """
    from jobs._cluster import inside as _inside

    if site is not None:
        from jobs._cluster.image import check_profile

        check_profile(site)
    run, before, shards = _inside.plan(ask, out, site, force=force)
    totals = run.request.totals
    click.echo(
        f"{'found' if before else 'planned'} {run.paths.root}: {totals.records:,} records, {totals.bases:,} bases, "
        f"{totals.rows:,} rows in {len(shards)} shards"
    )
    for entry in run.request.inputs:
        if entry.dataset is not None:
            click.echo(
                f"{entry.path}: a dataset of {entry.records:,} chunks, with its own labels, groups and split "
                f"(chunk {run.request.chunk})"
            )
    if len(shards) < ask.shards:
        click.echo(f"{ask.shards} shards were asked for; there are only {totals.units} chunks to share out")
    return run, shards


def plan_here(ask: RunOptions, out: Path, force: bool) -> tuple[Run, bool, list[Shard]]:
    """Plan a run in this process; returns it, whether it was there before, and its shards."""
    from vnp.runs.planning.plan import read_plan
    from vnp.runs.planning.start import start_run

    with _reading(ask) as progress:
        run, before = start_run(ask, out, force=force, progress=progress.advance)
    return run, before, read_plan(run.paths.plan, run.request.plan_sha256)


def unfinished(run: Run, site: Profile | None = None) -> list[int]:
    """Numbers of the shards without a valid receipt.

    Args:
        run: a planned run.
        site: its image reads the plan where this Python lacks the libraries.
    """
    return look(run, site).unfinished


def look(run: Run, site: Profile | None = None) -> RunStatus:
    """How far a run is; ``site`` as for ``unfinished``."""
    from jobs._cluster.inside import shard_table
    from vnp.runs.done.status import run_status

    return run_status(run, shard_table(run, site))


def show_plan(ask: RunOptions, out: Path, cluster: str, site: Profile | None) -> None:
    """Print what would be done, and for Slurm what would be submitted; write nothing."""
    from vnp.runs.request import Run, RunPaths

    request, shards = _rehearse(ask, site)
    tokens = [shard.tokens for shard in shards]
    balance = max(tokens) / max(min(tokens), 1)
    totals = request.totals
    click.echo(f"{totals.records:,} records, {totals.bases:,} bases, {totals.rows:,} rows")
    click.echo(f"{len(shards)} shards of {min(tokens):,} to {max(tokens):,} expected tokens (ratio {balance:.3f})")
    for shard in shards[:_SHOWN]:
        click.echo(
            f"  shard {shard.number:5d}  {shard.units:10,} chunks  {shard.rows:10,} rows  {shard.tokens:12,} tokens"
        )
    if len(shards) > _SHOWN:
        click.echo(f"  … and {len(shards) - _SHOWN} more")
    if site is not None:
        from jobs._cluster.chain import extract_job, show_scripts

        run = Run(RunPaths(out.absolute()), request)
        show_scripts([extract_job(run, range(len(shards)), site)])
    click.echo(f"would run on: {cluster}; nothing was written to {out}")


def _rehearse(ask: RunOptions, site: Profile | None) -> tuple[Request, list[Shard]]:
    """What planning would write."""
    from jobs._cluster import inside as _inside
    from jobs._cluster.image import libraries_here

    if not libraries_here():
        # The image can only plan, so it does that in a folder that is thrown away.
        with TemporaryDirectory(prefix="vnp-") as folder:
            run, _, shards = _inside.plan(ask, Path(folder) / "run", site, force=False)
            return run.request, shards
    from vnp.runs.planning.start import cut_shards, make_request
    from vnp.runs.planning.survey import survey

    with _reading(ask) as progress:
        found = survey(ask.files, ask.chunk, prefix_ids=ask.prefix_ids, progress=progress.advance)
    shards = cut_shards(found, ask.shards)
    return make_request(ask, found, len(shards), plan_sha256=""), shards


def _reading(ask: RunOptions) -> Progress:
    size = sum(file.path.stat().st_size for file in ask.files)
    return Progress("planning", size, "MB", scale=1e6)


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
        numbers.update(range(int(first), min(int(last or first), count) + 1))
    beyond = [number for number in sorted(numbers) if number >= count]
    if beyond or not numbers:
        raise UsageError(f"--only: there are the shards 0 to {count - 1}, not {text!r}")
    return sorted(numbers)
