"""Makes what is missing of a run."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from jobs._cli import options
from jobs._cli.command import command
from jobs._cli.progress import duration
from jobs._cluster.after import can_train, submit_after, train_and_measure
from jobs._cluster.plan import unfinished
from jobs._cluster.submit import after_shards, choose_cluster, load_profile, make_here, reduce_here
from vnp.errors import UsageError

if TYPE_CHECKING:
    from jobs._cluster.profile import Profile
    from vnp.prediction.options import PredictOptions
    from vnp.runs.request import Run


@command("python -m jobs.rerun RUN")
@options.run_argument
@options.cluster
@options.slurm
@click.option(
    "--then",
    type=click.Choice(["pipeline", "predict"]),
    help="Go on with what comes behind the shards: the merging, then training and benchmark where inputs are labelled, "
    "or with predict the calling.",
)
@options.layout
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
    settings = _settings(opened) if then == "predict" else None
    where = choose_cluster(cluster)
    site = load_profile(profile, parallelism, retries) if where == "slurm" else None
    todo = unfinished(opened, site)
    if not todo:
        click.echo(f"nothing to do: all {opened.request.shards} shards are done")
    if site is not None:
        _on_slurm(opened, todo, site, settings, then, layout, force)
        return
    if todo:
        begun = time.monotonic()
        make_here(opened, todo, where)
        click.echo(f"made {len(todo)} shards in {duration(time.monotonic() - begun)}")
    if settings is not None:
        from jobs.predict import finish_here

        finish_here(run)
    elif then:
        reduce_here(opened, layout)
        if can_train(opened.request.inputs):
            train_and_measure(opened.paths.root)
    else:
        click.echo(f"next: {after_shards(run)}")


def _settings(run: Run) -> PredictOptions:
    """What was asked of the prediction in this run."""
    from vnp.prediction.options import OutputPaths, PredictOptions

    settings = PredictOptions.read(OutputPaths(run.paths.root).settings)
    if settings is None:
        raise UsageError(f"{run.paths.root} was not made by predict: leave out --then predict")
    return settings


def _on_slurm(
    run: Run,
    todo: list[int],
    site: Profile,
    settings: PredictOptions | None,
    then: str | None,
    layout: str,
    force: bool,
) -> None:
    from jobs._cluster.chain import submit_extract, submit_predict, submit_reduce

    root = run.paths.root
    ids = submit_extract(run, todo, site, force=force)
    if then:
        merging = submit_reduce(root, site, layout if settings is None else settings.layout, ids)
        if settings is None and can_train(run.request.inputs):
            submit_after(root, site, merging)
        if settings is not None:
            from jobs.predict import predict_binds

            submit_predict(root, site, predict_binds(run, settings), merging)
    click.echo(f"next: python -m jobs.status {quote(str(root))}" if ids or then else f"next: {after_shards(root)}")


if __name__ == "__main__":
    main()
