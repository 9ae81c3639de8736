"""Everything from sequences to a measured classifier, one step behind the other."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from jobs._cli import options
from jobs._cli.command import command
from jobs._cluster.after import can_train, submit_after, train_and_measure
from jobs._cluster.plan import make_ask, make_plan, unfinished
from jobs._cluster.submit import choose_cluster, load_profile, make_here, reduce_here
from vnp.errors import UsageError

if TYPE_CHECKING:
    from jobs._cluster.profile import Profile
    from vnp.runs.planning.options import RunOptions


@command("python -m jobs.pipeline genomes.csv --out RUN --shards 32")
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", "run", type=click.Path(path_type=Path), required=True, help="The run directory.")
@click.option("--shards", type=int, default=1, help="Number of shards, each one task.")
@options.encoding
@options.layout
@options.cluster
@options.slurm
@click.option("--plan-job", is_flag=True, help="Slurm: read and cut the input in a job too, not on this node.")
@click.option(
    "--train/--no-train",
    default=True,
    help="Where viral and host inputs are labelled, go on to train a classifier and to measure it.",
)
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
    train: bool,
    force: bool,
    **encoding: Any,
) -> None:
    """Embed INPUT as shards of a run, merge them into RUN/features.h5, and train on them where they are labelled.

    With viral and host inputs (a samplesheet's column label, or a dataset), a classifier is trained,
    RUN/model/model.pth, and measured on what was held out, in RUN/accuracy.

    On Slurm the steps are jobs that wait for each other, and this command returns at once. The chain holds: the
    planning (with --plan-job only), an array of one task a shard, the merging, which starts when all tasks have
    ended, however they ended, and behind it training and benchmark. If shards are missing then, the merging says
    which and ends with 3; nothing is left waiting in the queue, and rerun RUN --then pipeline goes on from there.
    """
    where = choose_cluster(cluster)
    site = load_profile(profile, parallelism, retries) if where == "slurm" else None
    ask = make_ask(input, shards, encoding, where)
    behind = train and can_train(ask.files)
    if site is not None:
        _on_slurm(ask, run, site, layout, plan_job, behind, force)
        return
    if plan_job:
        raise UsageError("--plan-job needs Slurm: there is no sbatch here, or --cluster says otherwise")
    planned, _ = make_plan(ask, run, force)
    todo = unfinished(planned)
    if todo:
        make_here(planned, todo, where)
    reduce_here(planned, layout)
    if behind:
        train_and_measure(planned.paths.root)


def _on_slurm(
    ask: RunOptions, run: Path, site: Profile, layout: str, plan_job: bool, behind: bool, force: bool
) -> None:
    from jobs._cluster.chain import submit_extract, submit_planned, submit_reduce
    from jobs._cluster.live import require_idle

    root = run.absolute()
    if force:
        require_idle(root)
    if plan_job and (force or not (root / "run.json").exists()):
        ids = submit_planned(root, ask, site, force=force)
    else:
        planned, _ = make_plan(ask, run, force, site)
        ids = submit_extract(planned, unfinished(planned, site), site)
    merging = submit_reduce(root, site, layout, ids)
    if behind:
        submit_after(root, site, merging)
    click.echo(f"next: python -m jobs.status {quote(str(run))}")
    click.echo(f"if shards fail: python -m jobs.rerun {quote(str(run))} --then pipeline")


if __name__ == "__main__":
    main()
