"""Shards to one file of features."""

from __future__ import annotations

import json
from pathlib import Path

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cluster.chain import merge_run, reduce_here
from vnp.runs.request import Run, default_layout


@command("python -m jobs.reduce RUN")
@options.run_argument
@options.layout
@options.disk
@options.force
@options.as_json
def main(run: Path, layout: str | None, force: bool, as_json: bool) -> None:
    """Check every shard of RUN and merge them, in input order, into RUN/features.h5.

    Also writes RUN/skipped.tsv: every record, chunk or frame that has no row, with its reason.
    """
    opened = Run.open(run)
    layout = layout or default_layout(opened.request.protein)
    if not as_json:
        reduce_here(opened, layout, force=force)
        return
    reduced = merge_run(opened, layout, force=force)
    result = {
        "features": str(reduced.path),
        "rows": reduced.rows,
        "width": reduced.layout.width,
        "layout": json.loads(reduced.layout.to_json()),
        "skipped": reduced.skipped,
        "split": reduced.parts,
        "written": reduced.fresh,
    }
    echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
