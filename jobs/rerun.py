"""Makes what is missing of a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs import _options
from jobs._command import command
from jobs._plan import unfinished
from jobs._progress import duration
from jobs._submit import choose_cluster, load_profile, make_here, reduce_here

if TYPE_CHECKING:
    from jobs._profile import Profile
    from vnp.runs.request import Run


@command("python -m jobs.rerun RUN")
@_options.run_argument
@_options.cluster
@_options.slurm
@click.option("--then", type=click.Choice(["pipeline"]), help="Go on with what comes behind the shards: the merging.")
@_options.layout
@click.option("--force", is_flag=True, help="Slurm: submit shards again that are in the queue.")
def main(
    run: Path,
    cluster: str,
    profile: str | None,
    parallelism: int | None,
    retries: int | None,
    then: str | None,
    layout: str,
    force: bool,
) -> None:
    """Make exactly the shards of RUN without a valid receipt; finished blocks are used."""
    from vnp.runs.request import Run

    opened = Run.open(run)
    where = choose_cluster(cluster)
    site = load_profile(profile, parallelism, retries) if where == "slurm" else None
    todo = unfinished(opened)
    if not todo:
        click.echo(f"nothing to do: all {opened.request.shards} shards are done")
    if site is not None:
        _on_slurm(opened, todo, site, then, layout, force)
        return
    if todo:
        begun = time.monotonic()
        make_here(opened, todo, where)
        click.echo(f"made {len(todo)} shards in {duration(time.monotonic() - begun)}")
    if then:
        reduce_here(opened, layout)
    else:
        click.echo(f"next: python -m jobs.reduce {run}")


def _on_slurm(run: Run, todo: list[int], site: Profile, then: str | None, layout: str, force: bool) -> None:
    from jobs._chain import submit_extract, submit_reduce

    ids = submit_extract(run, todo, site, force=force)
    if then:
        submit_reduce(run.paths.root, site, layout, ids)
    click.echo(f"next: python -m jobs.{'status' if ids or then else 'reduce'} {run.paths.root}")


if __name__ == "__main__":
    main()
