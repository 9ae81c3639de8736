"""Everything from sequences to a measured classifier, one step behind the other."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cluster import chain
from jobs._cluster.executor import Job, choose_executor
from jobs._cluster.planning import plan_run, run_options
from vnp.classifier.recipe import DEFAULT_RECIPE, RECIPES
from vnp.errors import UsageError
from vnp.files.claims import make_folder, require_free
from vnp.runs.request import default_layout


@command("python -m jobs.pipeline genomes.csv --out RUN --shards 32")
@options.new_run
@options.encoding
@options.layout
@options.cluster
@options.slurm
@options.plan_job
@click.option(
    "--train/--no-train",
    default=True,
    help="Where viral and host inputs are labelled, go on to train a classifier and to measure it.",
)
@click.option("--recipe", type=click.Choice(list(RECIPES)), default=DEFAULT_RECIPE, help="How to train, as for train.")
@click.option(
    "--out-model",
    type=options.FILE,
    help="The checkpoint to write.  [default: RUN/model/model_fastesm650.pth of the default encoders, else RUN/model/"
    "model.pth]",
)
@options.disk
@options.begin_anew
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    run: Path,
    shards: int,
    tasks: int | None,
    layout: str | None,
    cluster: str,
    profile: str | None,
    parallelism: int | None,
    retries: int | None,
    plan_job: bool,
    train: bool,
    recipe: str,
    out_model: Path | None,
    force: bool,
    **encoding: Any,
) -> None:
    """Embed INPUT as shards of a run, merge them into RUN/features.h5, and train on them where they are labelled.

    With viral and host inputs (a samplesheet's column label, or a dataset), a classifier is trained,
    RUN/model/model_fastesm650.pth, and measured on what was held out, in RUN/accuracy.

    On a scheduler the steps are jobs that wait for each other, and this command returns at once. The chain holds: the
    planning (with --plan-job only), an array that makes the shards, the merging, which starts when all tasks have
    ended, however they ended, and behind it training and benchmark. If shards are missing then, the merging says
    which and ends with 3; nothing is left waiting in the queue, and rerun RUN --then pipeline goes on from there.
    """
    executor = choose_executor(cluster, profile, parallelism, retries)
    asked = run_options(input, shards, encoding, executor, out=run)
    if plan_job:
        chain.require_scheduler(executor)
    trains = train and chain.can_train(asked.files)
    model = None if out_model is None else str(out_model.absolute())
    if out_model is not None:
        if not trains:
            raise UsageError("--out-model is for viral and host inputs, of which a classifier is trained: leave it out")
        # One that this run is asked for already is gone on with.
        require_free([out_model], force=force, ours=chain.makes(run.absolute(), out_model.absolute()))
        # Within the run it is made by the training: planning takes no folder in which something stands.
        if run.absolute() not in out_model.absolute().parents:
            make_folder(out_model.absolute().parent)
    root, merged = run.absolute(), layout or default_layout(asked.protein)
    first: tuple[Job, ...]
    if plan_job and (force or not (root / "run.json").exists()):
        first = chain.plan_and_shards(asked, root, executor, tasks, force=force)
    else:
        planned, status = plan_run(asked, run, executor, tasks, force=force, layout=merged)
        first = (chain.shards(planned, status.unfinished, tasks),)
    behind = chain.train_and_measure(root, chain.Classifier(recipe, model)) if trains else ()
    chain.start((*first, chain.reduce(root, merged, last=not behind), *behind), executor)
    if not executor.waits:
        echo(f"next: python -m jobs.status {quote(str(run))}")
        echo(f"if shards fail: python -m jobs.rerun {quote(str(run))} --then pipeline")


if __name__ == "__main__":
    main()
