"""Everything from sequences to merged features, one step behind the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from jobs import _options
from jobs._command import command
from jobs._plan import make_ask, make_plan, unfinished
from jobs._submit import choose_cluster, load_profile, make_here, reduce_here


@command("python -m jobs.pipeline genomes.csv --out RUN --shards 32")
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", "run", type=click.Path(path_type=Path), required=True, help="The run directory.")
@click.option("--shards", type=int, default=1, help="Number of shards, each one task.")
@_options.encoding
@_options.layout
@_options.cluster
@_options.slurm
@click.option("--plan-job", is_flag=True, help="Slurm: read and cut the input in a job too, not on this node.")
@click.option("--force", is_flag=True, help="Begin anew where another run stands.")
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    run: Path,
    shards: int,
    layout: str,
    cluster: str,
    profile: str | None,
    parallelism: int | None,
    retries: int | None,
    plan_job: bool,
    force: bool,
    **encoding: Any,
) -> None:
    """Embed INPUT as shards of a run, then merge them into RUN/features.h5.

    On Slurm the steps are jobs that wait for each other, and this command returns at once. The merging starts when
    the shards' tasks have ended, however they ended; if shards are missing it says which and ends with 3.
    """
    where = choose_cluster(cluster)
    site = load_profile(profile, parallelism, retries) if where == "slurm" else None
    ask = make_ask(input, shards, encoding, where)
    if site is None:
        planned, _ = make_plan(ask, run, force)
        todo = unfinished(planned)
        if todo:
            make_here(planned, todo, where)
        reduce_here(planned, layout)
        return
    from jobs._chain import submit_extract, submit_planned, submit_reduce
    from jobs._live import without_live

    root = run.absolute()
    if plan_job:
        from vnp.runs.paths import RunPaths
        from vnp.runs.start import clear

        clear(RunPaths(root), force=force)
        ids = submit_planned(root, ask, site)
    else:
        planned, _ = make_plan(ask, run, force)
        todo = without_live(planned, unfinished(planned))
        ids = submit_extract(planned, todo, site) if todo else []
    submit_reduce(root, site, layout, ids)
    click.echo(f"next: python -m jobs.status {run}")
    click.echo(f"if shards fail: python -m jobs.rerun {run} --then pipeline")


if __name__ == "__main__":
    main()
