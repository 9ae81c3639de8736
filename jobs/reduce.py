"""Shards to one file of features."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from jobs import _options
from jobs._command import command
from jobs._progress import Progress, duration


@command("python -m jobs.reduce RUN")
@_options.run_argument
@click.option(
    "--layout",
    type=click.Choice(["1664", "full"]),
    default="1664",
    help="1664 projects the DNA half from 768 to 384 numbers; full keeps all (2048 with the default encoders).",
)
@_options.force
@_options.as_json
def main(run: Path, layout: str, force: bool, as_json: bool) -> None:
    """Check every shard of RUN and merge them, in input order, into RUN/features.h5.

    Also writes RUN/skipped.tsv: every record, chunk or frame that has no row, with its reason.
    """
    from vnp.runs.reduce import reduce_run
    from vnp.runs.request import Run

    begun = time.monotonic()
    opened = Run.open(run)
    with Progress("merging", opened.request.totals.rows, "rows") as progress:
        reduced = reduce_run(opened, layout, force=force, progress=progress.advance)
    if as_json:
        result = {
            "features": str(reduced.path),
            "rows": reduced.rows,
            "width": reduced.layout.width,
            "layout": json.loads(reduced.layout.to_json()),
            "skipped": reduced.skipped,
            "written": reduced.fresh,
        }
        click.echo(json.dumps(result, indent=2))
        return
    spent = f"merged in {duration(time.monotonic() - begun)}" if reduced.fresh else "was there already"
    click.echo(f"{reduced.path}: {reduced.rows:,} rows of {reduced.layout.width} ({spent})")
    click.echo(f"  {reduced.layout}")
    if reduced.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reduced.skipped.items()))
        click.echo(f"without a row: {reasons} ({opened.paths.skipped})")
    click.echo(f"next: python -m jobs.export {run} --format npz, or read it with h5py")


if __name__ == "__main__":
    main()
