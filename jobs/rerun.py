"""Makes what is missing of a run."""

from __future__ import annotations

import time
from pathlib import Path

import click

from jobs import _options
from jobs._command import command
from jobs._progress import duration
from jobs._submit import choose_cluster, make_here


@command("python -m jobs.rerun RUN")
@_options.run_argument
@_options.cluster
def main(run: Path, cluster: str) -> None:
    """Make exactly the shards of RUN without a valid receipt; finished blocks are used."""
    from vnp.runs.request import Run
    from vnp.runs.state import run_state

    opened = Run.open(run)
    todo = run_state(opened).unfinished
    if not todo:
        click.echo(f"nothing to do: all {opened.request.shards} shards are done")
    else:
        begun = time.monotonic()
        make_here(opened, todo, choose_cluster(cluster))
        click.echo(f"made {len(todo)} shards in {duration(time.monotonic() - begun)}")
    click.echo(f"next: python -m jobs.reduce {run}")


if __name__ == "__main__":
    main()
