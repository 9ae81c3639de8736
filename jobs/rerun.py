"""Makes what is missing of a run."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from jobs._cli import options
from jobs._cli.command import command, counted, echo
from jobs._cli.progress import duration
from jobs._cluster import chain
from jobs._cluster.executor import Job, choose_executor
from jobs._cluster.planning import look, need_disk
from jobs.predict import finish_here, predict_binds
from vnp.errors import UsageError
from vnp.prediction.options import OutputPaths, PredictOptions
from vnp.runs.request import Run, default_layout


@command("python -m jobs.rerun RUN")
@options.run_argument
@options.same_cluster
@options.slurm
@options.more_tasks
@click.option(
    "--then",
    type=click.Choice(["pipeline", "predict"]),
    help="Go on with what comes behind the shards: the merging, then training and benchmark where inputs are labelled, "
    "or with predict the calling.",
)
@options.layout
@click.option("--accept-code", is_flag=True, help="Go on though vnp's code has changed since the run was planned.")
@options.disk
@click.option("--force", is_flag=True, help="On a scheduler: submit shards again that are in the queue.")
def main(
    run: Path,
    cluster: str | None,
    profile: str | None,
    parallelism: int | None,
    retries: int | None,
    tasks: int | None,
    then: str | None,
    layout: str | None,
    accept_code: bool,
    force: bool,
) -> None:
    """Make exactly the shards of RUN without a valid receipt; finished blocks are used."""
    opened = Run.open(run)
    root = opened.paths.root
    settings = _settings(opened) if then == "predict" else None
    executor = choose_executor(cluster or opened.request.cluster, profile, parallelism, retries)
    if accept_code:
        opened = opened.accept_code()
    state = look(opened, executor.profile)
    need_disk(opened, state)
    todo = state.unfinished
    if not todo:
        echo(f"nothing to do: all {opened.request.shards} shards are done")
    behind: tuple[Job, ...] = ()
    if settings is not None:
        binds = predict_binds(opened, settings)
        behind = (chain.predict(root, binds, lambda: finish_here(run)),)
    elif then:
        trained = chain.train_and_measure(root) if chain.can_train(opened.request.inputs) else ()
        behind = (chain.reduce(root, layout or default_layout(opened.request.protein), last=not trained), *trained)
    made = f"made {counted(len(todo), 'shard')}"
    shards = chain.shards(opened, todo, tasks, lambda seconds: f"{made} in {duration(seconds)}")
    ids = chain.start((shards, *behind), executor, force=force)
    if ids:
        echo(f"next: python -m jobs.status {quote(str(root))}")
    elif not then:
        echo(f"next: {chain.after_shards(opened, run if executor.waits else root)}")


def _settings(run: Run) -> PredictOptions:
    """What was asked of the prediction in this run."""
    settings = PredictOptions.read(OutputPaths(run.paths.root).settings)
    if settings is None:
        raise UsageError(f"{run.paths.root} was not made by predict: leave out --then predict")
    return settings


if __name__ == "__main__":
    main()
