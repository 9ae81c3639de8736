"""Annotated genomes to a labelled training set."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cli.progress import Progress, duration, size_text
from vnp.errors import UsageError

if TYPE_CHECKING:
    from vnp.datasets.build import Built


@command("python -m jobs.dataset genomes.csv --out DIR --units family")
@click.argument("sheet", type=options.FILE)
@click.option("--out", "folder", type=options.FOLDER, required=True, help="Folder for the set.")
@click.option(
    "--lengths",
    default="150,300,500",
    help="Bases of the chunks: one length, several with commas, or a range (150-500) of which every chunk has its own.",
)
@click.option(
    "--frames",
    type=click.Choice(["annotated", "all"]),
    default="annotated",
    help="annotated takes the open frames that lie in an annotated protein, as VirNucPro does; all takes every open "
    "frame, which is what prediction meets.",
)
@click.option("--per-group", type=int, help="Chunks to take of each organism group, at most.  [default: all]")
@click.option(
    "--balance",
    type=click.Choice(["none", "label", "group"]),
    default="none",
    help="label takes as many viral as host chunks, the latter from all host groups alike; group takes as many from "
    "each organism group.",
)
@click.option(
    "--units",
    default="ani",
    help="What the split never cuts, where the sheet has no group: ani, genomes of at least 95 % nucleotide identity; "
    "genome; record; genus, family or order, from GenBank's lineage; or a column of the sheet, in place of group.",
)
@click.option(
    "--split-by",
    type=click.Choice(["chance", "date"]),
    default="chance",
    help="date trains on what was known first and tests on what came last, by the first submission in each GenBank "
    "record, or the sheet's column date.",
)
@click.option("--validation", type=float, default=0.1, help="Share of the units to watch while training.")
@click.option("--test", type=float, default=0.2, help="Share of the units to keep apart for the metrics; 0 for none.")
@click.option(
    "--prophages",
    type=options.FILE,
    help="BED file of regions in host records, such as prophages: chunks that overlap them are dropped.",
)
@click.option(
    "--keep-prophages",
    is_flag=True,
    help="Keep host chunks that a viral genome of the set matches at 90 % identity or more over the chunk.",
)
@click.option("--seed", type=int, default=0, help="Of sampling, of the split, and of lengths drawn from a range.")
@click.option("--workers", type=int, help="Files to work on at a time.  [default: the cores]")
@options.disk
@options.force
@options.as_json
def main(
    sheet: Path, folder: Path, lengths: str, workers: int | None, force: bool, as_json: bool, **recipe: Any
) -> None:
    """Make a training set of the annotated genomes that SHEET lists.

    SHEET is a .csv or .tsv with the columns path, label (viral or host) and group (what the split must not cut; may be
    empty). organism_group (viral, vertebrate, protozoa, plant, invertebrate, fungi, bacteria, archaea, or any name) may
    be there too; where it says nothing, the lineage in each GenBank record does. A path is GenBank with sequences and
    coding sequences, or FASTA with a GFF3 file of the same name beside it, or with a GFF3 or GenBank file named in a
    column annotation; plain or compressed.

    Writes dataset.fna.gz with the chunks, dataset.parquet with a row for each frame, its label, unit and part of the
    split, and dataset.md, the data card. The same files, options and seed give the same bytes. A run that was stopped
    goes on where it was when the same command is given again.
    """
    # Here, because these are not needed to say --help.
    from vnp.datasets.build import build_dataset
    from vnp.datasets.choosing.candidates import read_lengths
    from vnp.datasets.recipe import Recipe

    begun = time.monotonic()
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    if workers < 1:
        raise UsageError(f"--workers {workers}: give 1 or more")
    built = build_dataset(
        sheet,
        folder,
        Recipe(read_lengths(lengths), **recipe),
        workers=workers,
        force=force,
        step=_step,
        say=lambda text: echo(text, err=True),
    )
    if as_json:
        echo(json.dumps({"folder": str(folder), **built.summary}, indent=2))
    else:
        _report(built, time.monotonic() - begun)


@contextmanager
def _step(what: str, total: float | None, unit: str, scale: float, /) -> Iterator[Callable[[int], None]]:
    with Progress(what, total, unit, scale) as progress:
        yield progress.advance


def _report(built: Built, seconds: float) -> None:
    from vnp.datasets.writing.card import chunk_lines

    summary = built.summary
    labels = ", ".join(f"{row['chunks']:,} {row['label']}" for row in summary["labels"])
    done = "already made" if built.again else f"wrote in {duration(seconds)}"
    echo(f"{done}: {summary['chunks']:,} chunks ({labels}), {summary['rows']:,} frames, in {built.folder}:")
    for name in ("dataset.fna.gz", "dataset.parquet", "dataset.md"):
        echo(f"  {name}  {size_text((built.folder / name).stat().st_size)}")
    for line in chunk_lines(summary):
        echo(line)
    for warning in summary["warnings"]:
        echo(f"warning: {warning}", err=True)
    if summary["problem_count"]:
        first = summary["problems"][0]
        echo(
            f"{summary['problem_count']:,} records could not be used, such as {first['record']} of {first['file']}: "
            f"{first['problem']}"
        )
    if mismatched := sum(file["mismatched"] for file in summary["files"]):
        echo(f"{mismatched:,} annotated proteins do not agree with their sequence and were left out")
    echo(f"next: python -m jobs.extract {shlex.quote(str(built.folder))} --out RUN, which embeds them")


if __name__ == "__main__":
    main(prog_name="python -m jobs.dataset")
