"""Sequences to calls: viral or host, with probabilities and a report."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs._cli import options
from jobs._cli.command import command, counted, echo
from jobs._cli.progress import Progress, duration
from jobs._cluster import chain
from jobs._cluster.executor import Executor, choose_executor
from jobs._cluster.inline import require_complete
from jobs._cluster.planning import plan_run, run_options
from vnp.errors import UsageError
from vnp.metrics.presets import SPECIFICITIES
from vnp.metrics.prevalence import given_prevalence
from vnp.prediction.options import CHOICES, OutputPaths, PredictOptions, check_numbers
from vnp.runs.done.status import run_status
from vnp.runs.planning.options import RunOptions
from vnp.runs.request import NATIVE, Run

if TYPE_CHECKING:
    from vnp.prediction.predict import Predicted

_FEW = 0.1


@command("python -m jobs.predict contigs.fna.gz --out CALLS")
@options.input_argument
@click.option(
    "--checkpoint",
    help="The classifier: native, which comes with vnp, a .pth of jobs.train or jobs.convert, or a folder of "
    "jobs.finetune. It decides encoders, chunk and layout.  [default: native]",
)
@click.option("--out", type=options.PATH, help="Folder of the run and its results.")
@click.option(
    "--from",
    "source",
    type=options.FOLDER,
    help="Call the records of this run, whose shards are made, without embedding again. What is not said is as it "
    "was; without --out, results go into the run.",
)
@options.rule("a record")
@click.option("--threshold", type=float, help="Probability from which on a record is viral, in place of a preset.")
@click.option(
    "--preset",
    type=click.Choice(list(SPECIFICITIES)),
    help="The threshold, by the record's length, that "
    + ", ".join(f"{share:.1%} ({name})" for name, share in SPECIFICITIES.items())
    + " of held-out hosts stay under.  [default: default, where the checkpoint has it]",
)
@click.option(
    "--prevalence",
    help="Share of the records that are viral, for which probabilities, rates and calls are told: a number, auto for "
    "what the records show, or none for what --from was called with no more.",
    metavar="auto|SHARE|none",
)
@click.option("--window", type=int, help="Bases that native reads at once, from 100 on.  [default: those it learnt on]")
@click.option("--max-fdr", type=float, help="Largest false discovery rate of a viral call.")
@click.option("--min-length", type=int, help="Bases below which a record is not called.  [default: 0]")
@click.option(
    "--columns",
    metavar="NAMES",
    help="Columns of predictions.tsv, separated by commas, in this order; name is always there.  [default: all]",
)
@click.option(
    "--by-sample/--no-by-sample",
    default=None,
    help="Write samples/SAMPLE/ with the tables and sequences of each sample of the samplesheet too, and samples.tsv.  "
    "[default: no-by-sample]",
)
@click.option("--parquet", is_flag=True, default=None, help="Write the tables as Parquet too.")
@click.option(
    "--virnucpro-output",
    "virnucpro",
    is_flag=True,
    default=None,
    help="Write prediction_results.txt and prediction_results_highestscore.csv too, as VirNucPro does.",
)
@click.option("--fasta/--no-fasta", default=None, help="Write the called sequences to viral.fna.  [default: fasta]")
@click.option(
    "--regions/--no-regions",
    default=None,
    help="Find viral stretches in records of 10,000 bases and more: regions.tsv, .bed and .fna.  [default: no-regions]",
)
@click.option(
    "--native/--no-native",
    default=True,
    help="With a checkpoint that reads open frames: let native score chunks that have none.",
)
@click.option(
    "--cascade",
    type=click.Choice([NATIVE]),
    help="Do not embed records that native is sure about, as far as the checkpoint was trained with --cascade.",
)
@click.option(
    "--cascade-risk",
    type=float,
    default=0.01,
    help="Share of calls that may differ by that from what the checkpoint alone would call.",
)
@click.option("--shards", type=int, default=1, help="Number of shards.")
@options.tasks
@click.option(
    "--pairs",
    is_flag=True,
    help="Reads are pairs, and both mates make one call: of files called alike but for _R1 and _R2, of path and path2 "
    "of a samplesheet, or of one file where mates follow each other.",
)
@click.option("--keep-embeddings", is_flag=True, help="Keep rows beside scores, for other checkpoints and for reduce.")
@options.encoder_folders
@options.embedding
@options.cluster
@options.slurm
@options.disk
@click.option("--force", is_flag=True, help="Write over what is there; with INPUT, embed anew too.")
@options.as_json
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    checkpoint: str | None,
    out: Path | None,
    source: Path | None,
    window: int | None,
    native: bool,
    cascade: str | None,
    cascade_risk: float,
    shards: int,
    tasks: int | None,
    pairs: bool,
    keep_embeddings: bool,
    dna: str | None,
    protein: str | None,
    cluster: str,
    profile: str | None,
    parallelism: int | None,
    retries: int | None,
    force: bool,
    as_json: bool,
    **embedding: Any,
) -> None:
    """Call the records of INPUT viral or host.

    INPUT is as for extract, and so is the folder: what is done of the same run is kept, and status, rerun and cancel
    work on it. Writes predictions.tsv (every record), chunks.tsv, frames.tsv, viral.fna, report.html, summary.json,
    vnp_mqc.json (for MultiQC) and predictions.json. Tasks keep scores, and of embeddings nothing unless asked. On
    Slurm, the shards and the calling are jobs, one behind the other.
    """
    given = {name: embedding.pop(name) for name in CHOICES if name in embedding}
    given["cascade"] = None if cascade is None else cascade_risk
    check_numbers(given["threshold"], given["max_fdr"], given["min_length"])
    if given["prevalence"] is not None:
        given_prevalence(given["prevalence"])
    # With JSON on standard output, what is said on the way goes to standard error.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        if source is not None:
            if input:
                raise UsageError("--from takes a run that is embedded already, and no INPUT")
            if pairs:
                raise UsageError("--from calls pairs where the run holds them: leave --pairs out")
            if cascade is not None:
                raise UsageError("--from calls records that are embedded or settled already: leave --cascade out")
            _say(found := _from(source, checkpoint, out, given, force, embedding["device"]), source, out or source)
        else:
            if out is None or not input:
                raise UsageError("predict needs INPUT and --out; or --from a run that is embedded")
            executor = choose_executor(cluster, profile, parallelism, retries)
            from vnp.prediction.predict import choose_options, encoding_for, require_fit, require_inputs

            loaded, calling = choose_options(checkpoint or NATIVE, given, native=native)
            folders = {name: folder for name, folder in (("dna", dna), ("protein", protein)) if folder}
            decided = encoding_for(loaded, calling, window, folders, embedding["weights"])
            if cascade is not None and keep_embeddings:
                raise UsageError(
                    "--cascade embeds some of the records, and --keep-embeddings keeps rows of all of them"
                )
            encoding = {**embedding, **decided, "keep_embeddings": keep_embeddings, "pairs": pairs}
            planned = run_options(input, shards, encoding, executor, out=out, every_frame=True)
            require_inputs(planned.files, pairs=pairs, options=calling)
            require_fit(planned, loaded, calling)
            run, todo = _plan(planned, out, calling, executor, tasks, force)
            binds = predict_binds(run, calling)
            called: list[Predicted] = []
            shards_job = chain.shards(
                run, todo, tasks, lambda seconds: f"made {counted(len(todo), 'shard')} in {duration(seconds)}"
            )
            calls_job = chain.predict(run.paths.root, binds, lambda: called.append(_finish(run, calling, out, False)))
            chain.start((shards_job, calls_job), executor)
            if not executor.waits:
                folder = shlex.quote(str(out))
                echo(f"next: python -m jobs.status {folder}")
                echo(f"if shards fail: python -m jobs.rerun {folder} --then predict")
                return
            _say(found := called[0], out, out)
    if as_json:
        echo(json.dumps(found.summary, indent=2))


def _plan(
    planned: RunOptions, out: Path, calling: PredictOptions, executor: Executor, tasks: int | None, force: bool
) -> tuple[Run, list[int]]:
    """Plan the run, and put beside it how to call, for what comes after the shards, which are still to be made."""
    from vnp.prediction.predict import claim, left_by_others, require_free

    paths = OutputPaths(out.absolute())
    # Before the run is planned, whatever its digest will be, what is nobody's prediction is refused.
    require_free(paths, calling, force=force, spared=left_by_others(paths, ""))
    run, status = plan_run(planned, out, executor, tasks, force=force)
    other = f"--from {shlex.quote(str(out))} with another --out"
    claim(paths, calling, run.request.digest, force=force, other=other)
    return run, status.unfinished


def predict_binds(run: Run, calling: PredictOptions) -> list[Path]:
    """What the calling reads besides the run."""
    classifier = calling.classifier.path
    return [*(() if classifier is None else (classifier,)), *(Path(entry.path) for entry in run.request.inputs)]


def _from(
    source: Path, checkpoint: str | None, out: Path | None, given: dict[str, Any], force: bool, device: str
) -> Predicted:
    from vnp.prediction.predict import choose_options

    run = Run.open(source)
    before = PredictOptions.read(OutputPaths(run.paths.root).settings)
    name = checkpoint or (before.checkpoint if before else None)
    if name is None:
        raise UsageError(f"{source} was not made by predict: name a classifier with --checkpoint")
    _, calling = choose_options(name, given, before)
    return _finish(run, calling, out or source, force, device)


def finish_here(root: Path) -> None:
    """Call records in this process, as the settings in the run say; ``UsageError`` without any."""
    _say(_from(root, None, None, {}, False, "auto"), root, root)


def _finish(run: Run, calling: PredictOptions, out: Path, force: bool, device: str = "auto") -> Predicted:
    """Call the records of a run whose shards are done."""
    from vnp.prediction.predict import predict

    require_complete(run, run_status(run).unfinished)
    chosen = run.request.device if device == "auto" else device
    bars: dict[str, Progress] = {}
    with contextlib.ExitStack() as stack:

        def progress(what: str, records: int) -> None:
            if what not in bars:
                bars[what] = stack.enter_context(Progress(what, run.request.totals.records, "records"))
            bars[what].advance(records)

        return predict(run, calling, out.absolute(), force=force, device=chosen, progress=progress)


def _viral_from(summary: dict[str, Any]) -> str:
    settings, prevalence = summary["settings"], summary["prevalence"]
    if settings["threshold"] is not None:
        return f"{settings['threshold']:g}"
    if settings["preset"] is not None:
        return f"preset {settings['preset']}"
    # Where a share was asked for and refused, it is as if it had not been.
    return (
        f"{summary['threshold']:.3g}" if prevalence and prevalence["refused"] else "one half, at the share of viruses"
    )


def _again(source: Path, settings: dict[str, Any]) -> str:
    """The command that calls the same records anew, for which a run that extract made needs the classifier."""
    before = PredictOptions.read(OutputPaths(source.absolute()).settings)
    words = ["python", "-m", "jobs.predict", "--from", str(source)]
    if before is None or before.checkpoint_sha256 != settings["checkpoint_sha256"]:
        words += ["--checkpoint", settings["checkpoint"]]
    return shlex.join(words)


def _say(found: Predicted, source: Path, out: Path) -> None:
    """Say what was found and written; the folders are named as the user does."""
    counts, settings = found.summary["counts"], found.summary["settings"]
    what = "pairs" if found.summary.get("pairs") else "records"
    echo(
        f"{counts['viral']:,} of {counts['records']:,} {what} are called viral, {counts['host']:,} host, "
        f"{counts['no_call']:,} have no call"
    )
    for reason, number in found.summary["no_call_reasons"].items():
        echo(f"  no call of {number:,}: {reason}")
    if "regions" in counts:
        echo(f"  {counts['regions']:,} viral regions inside longer records, {counts['region_bases']:,} bases")
    if counts["viral"]:
        wrong = found.summary["expected_false_calls"]
        shown = f"{wrong:,.1f}" if wrong >= _FEW else f"fewer than {_FEW}"
        echo(f"  {shown} of the viral calls are expected to be wrong")
    if settings["prevalence"] is not None:
        from vnp.report.predicted import prevalence_in_words

        echo(f"  {prevalence_in_words(found.summary)}")
    if "cascade" in found.summary:
        from vnp.report.predicted import cascade_in_words

        echo(f"  {cascade_in_words(found.summary)}")
    if lacks := found.summary["classifier"]["lacks"]:
        echo(f"  the checkpoint does not keep {lacks}; the columns say what can be said without")
    files = found.summary["files"]
    folders = {name.rpartition("/")[0] for name in files if "/" in name}
    if folders:
        echo(f"  {found.paths.samples}/  {len(folders):,} samples")
    made = "wrote" if found.fresh else "these predictions were there already:"
    echo(f"{made} {', '.join(name for name in files if '/' not in name)} in {out}")
    echo(f"report: {out / found.paths.report.name}")
    if "cascade" in found.summary:
        echo("next: look at the report")
        return
    echo(f"next: look at the report, or call again otherwise (now {_viral_from(found.summary)}):")
    echo(f"  {_again(source, settings)} --out OTHER --threshold 0.9 --max-fdr 0.05")


if __name__ == "__main__":
    main()
