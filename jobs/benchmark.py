"""Time the parts of the suite on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs._cli import options
from jobs._cli.command import command, echo, group
from jobs._cli.progress import Progress
from jobs._cli.speed import SpeedOptions, measure_speed, speed_options, speed_out
from jobs._cli.speed_runs import END_TO_END, end_to_end_options, measure_runs
from vnp.classifier.recipe import RECIPES
from vnp.errors import InputError, RunExistsError, UsageError
from vnp.files.claims import alone, make_folder, require_free
from vnp.files.durable import write_text
from vnp.metrics.rules import BEST_FRAME

if TYPE_CHECKING:
    from vnp.comparison.contestants import Contestant


_FASTA, _CALLS = "windows.fna", "calls"


@group("python -m jobs.benchmark speed --out SPEED")
def main() -> None:
    """Compare classifiers on held-out records, count false calls, and time encoders on this machine."""


@command("python -m jobs.benchmark accuracy RUN_A RUN_B --part protein --out AB", group=main)
@click.argument("contestant", nargs=-1, required=True)
@click.option("--out", type=options.FOLDER, required=True, help="Folder for the results.")
@click.option(
    "--part",
    "parts",
    type=click.Choice(["dna", "protein"]),
    multiple=True,
    help="Let the columns of this half alone take part too, of each run that is trained on.",
)
@click.option(
    "--checkpoint",
    type=options.FILE,
    help="Score the runs that name no checkpoint with this one, instead of training.",
)
@click.option("--all", "everything", is_flag=True, help="Compare checkpoints on every labelled row, seen or not.")
@options.groups
@options.units
@click.option(
    "--leave-out",
    help="Train without each group of this column in turn too, such as organism_group or family, and test on it: of "
    "the dataset that the run was extracted from, or of --groups with a heading; organism_group may come from "
    "--organisms.",
)
@click.option(
    "--distance",
    is_flag=True,
    help="Also say how much is called right by the distance to the nearest genome that was trained on (skani's average "
    "nucleotide identity; needs pyskani, and the run's input files).",
)
@click.option("--speed", is_flag=True, help="Also say how fast the rows of each run were embedded.")
@options.organisms("the name of the input file")
@click.option(
    "--split",
    default="auto",
    help="auto is the split that came with the data, as that of a dataset, whose test part checkpoints are compared on "
    "too; else group, which keeps the rows of a group together; random deals out single rows, and leaks; or a file "
    "with the columns group (or id) and part, such as the one beside a checkpoint.",
)
@click.option("--validation", type=float, default=0.1, help="Share of the groups to watch while training.")
@click.option("--test", type=float, default=0.2, help="Share of the groups to compare on.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the split, the trainings and the intervals.")
@options.rule("a chunk or record", default=BEST_FRAME)
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="virnucpro", help="How to train.")
@click.option(
    "--replicates", type=click.IntRange(20, 1_000_000), default=1000, help="Draws of groups for the intervals."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train and score.")
@options.force
@options.as_json
def accuracy(
    contestant: tuple[str, ...],
    out: Path,
    checkpoint: Path | None,
    groups: Path | None,
    units: str | None,
    organisms: Path | None,
    distance: bool,
    speed: bool,
    force: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Compare feature sets and classifiers on the same held-out records.

    CONTESTANT is [NAME=]FEATURES[@MODEL.pth]. FEATURES is a run or its features.h5; without a checkpoint a classifier
    is trained on it. All are trained with one split and compared on rows that nobody was trained on, with intervals
    over groups. Writes accuracy.tsv, accuracy.json, accuracy.html and disagreements.tsv.
    """
    # cuBLAS gives the same bytes every time only if it is told so before it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from vnp.classifier.split import split_named
    from vnp.comparison.contest import contest
    from vnp.comparison.contestants import CompareOptions, claimed, require_new
    from vnp.comparison.distance import distance_section, measure_distance
    from vnp.comparison.left_out import leave_out, left_out_section, write_left_out
    from vnp.comparison.writing import summary, write_results
    from vnp.encoders.device import choose_device
    from vnp.features.columns import ORGANISMS, column_of, organisms_of
    from vnp.features.split import read_groups
    from vnp.files.tables import columns

    if not force:
        require_new(out)
    comparing = CompareOptions(
        parts=tuple(dict.fromkeys(chosen.pop("parts"))),
        split=split_named(chosen.pop("split")),
        recipe=RECIPES[chosen.pop("recipe")],
        device=choose_device(chosen.pop("device")),
        organisms=None if organisms is None else read_groups(organisms),
        **chosen,
    )
    if units is not None and comparing.split == "auto":
        # The split that came with the data keeps together something else.
        comparing = replace(comparing, split="group")
    contestants = _contestants(contestant, checkpoint, groups, units, heading=comparing.leave_out is not None)
    left = None
    if comparing.leave_out is not None:
        first = contestants[0].features
        if comparing.leave_out == ORGANISMS and comparing.organisms is not None:
            found = organisms_of(first, comparing.organisms)
        else:
            found = column_of(first, comparing.leave_out, groups)
        left = dict(zip((name.decode() for name in first.records().name), found, strict=True))
    if distance:
        from vnp.files.extras import require_extra

        require_extra("dedupe", "--distance")
    with claimed(out, contestants, comparing, force=force):
        results = contest(contestants, comparing, out, Progress)
        paths = write_results(results, out)
        if distance:
            measured = measure_distance(contestants[0].features, results, out, Progress)
            results = replace(results, sections=[distance_section(measured)])
        if speed:
            from vnp.speed.embedded import speed_section

            runs = [(one.name, one.features.path.parent) for one in contestants]
            results = replace(results, sections=[*results.sections, speed_section(runs)])
        if left is not None:
            rows, notes = leave_out(contestants, left, comparing, out, Progress)
            results = replace(
                results, sections=[*results.sections, left_out_section(rows)], notes=[*results.notes, *notes]
            )
        if results.sections:
            paths = write_results(results, out)
        if left is not None:
            paths.append(write_left_out(rows, out))
    if as_json:
        echo(json.dumps(results.to_json(), indent=2))
        return
    echo(summary(results))
    for section in results.sections:
        echo("\n".join(["", section.heading, *columns([section.header, *section.rows])]))
    for note in results.notes:
        echo(f"note: {note}")
    if len(results.compared[0].measured) > 1:
        echo(f"calls differ on {len(results.disagreements):,} of {results.records:,} records: {paths[3]}")
    echo(f"wrote {', '.join(path.name for path in paths)} in {out}")
    echo(f"look at: {paths[2]}")


def _contestants(
    words: Sequence[str], checkpoint: Path | None, groups: Path | None, units: str | None, *, heading: bool
) -> list[Contestant]:
    """Who takes part; with units or a ``heading`` the table of groups is one of columns."""
    from vnp.comparison.contestants import Contestant
    from vnp.features.columns import in_units_of
    from vnp.features.read import open_features
    from vnp.features.split import read_groups

    group_of = None if groups is None or units is not None or heading else read_groups(groups)
    found = []
    for word in words:
        name, path, own = _parse(word)
        features = open_features(path)
        if units is not None:
            features = in_units_of(features, units, groups)
        elif group_of is not None:
            features = features.regrouped(group_of)
        model = own or checkpoint
        if model is not None and not model.is_file():
            raise InputError("there is no such checkpoint", path=model)
        found.append(Contestant(name or _name(features.path, own), features, model))
    return found


def _parse(word: str) -> tuple[str | None, Path, Path | None]:
    """``[NAME=]FEATURES[@MODEL]``; a path that exists is never taken apart."""
    if Path(word).exists():
        return None, Path(word), None
    name, equals, rest = word.partition("=")
    if not equals or not name:
        name, rest = "", word
    if Path(rest).exists():
        return name or None, Path(rest), None
    features, at, model = rest.rpartition("@")
    if at and not model:
        raise UsageError(f"{word} ends in @: a checkpoint goes behind it")
    return (name or None, Path(features), Path(model)) if at else (name or None, Path(rest), None)


def _name(path: Path, own: Path | None) -> str:
    """A run is called by its folder, and a checkpoint by its file."""
    if own is not None:
        return own.stem
    return path.resolve().parent.name if path.name == "features.h5" else path.stem


@command("python -m jobs.benchmark reads sheet.csv --split M.split.tsv --out READS", group=main)
@options.input_argument
@click.option("--out", type=options.FOLDER, required=True, help="Folder for the reads.")
@click.option("--length", type=click.IntRange(min=3), default=150, help="Bases of a read.")
@click.option("--most", type=click.IntRange(min=1), default=20, help="Reads of one record, at most.")
@options.groups
@click.option(
    "--split",
    type=options.FILE,
    help="Cut only from the groups of the test part of this split, such as the one beside a checkpoint.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the places.")
@options.force
def reads(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    out: Path,
    groups: Path | None,
    split: Path | None,
    force: bool,
    **chosen: Any,
) -> None:
    """Cut reads from held-out sequences, to see how a classifier does on pieces that short.

    INPUT is FASTA, FASTQ or a samplesheet with labels. Writes samplesheet.csv, groups.tsv and the reads; extract the
    samplesheet with the chunk of the checkpoint, then compare with: benchmark accuracy RUN --checkpoint M --groups
    groups.tsv
    """
    from vnp.comparison.reads import cut_reads
    from vnp.features.split import TEST, read_groups
    from vnp.sequences.samplesheet import read_inputs

    sheet = out / "samplesheet.csv"
    if sheet.exists() and not force:
        raise RunExistsError(f"{out} holds reads; --force writes over them")
    only = None
    if split is not None:
        from vnp.classifier.split import read_split

        key, stored = read_split(split)
        if key != "group":
            raise UsageError(f"{split} deals out single rows; reads are cut from whole groups that were held out")
        only = {name for name, part in stored.items() if part == TEST}
    group_of = None if groups is None else read_groups(groups)
    entries = read_inputs(input)
    datasets = [str(entry.path) for entry in entries if entry.dataset is not None]
    if datasets:
        raise UsageError(
            f"{', '.join(datasets)}: a dataset holds chunks already. Make one with --lengths {chosen['length']} from "
            "the same sheet and seed, and compare on its test part"
        )
    out.mkdir(parents=True, exist_ok=True)
    count, records = cut_reads(entries, out, groups=group_of, only=only, **chosen)
    echo(f"cut {count:,} reads from {records:,} records: {sheet}")
    echo(f"next: python -m jobs.extract {sheet} --out RUN, with the --chunk and encoders of the checkpoint")


@command("python -m jobs.benchmark controls genomes.csv --out CONTROLS", group=main)
@click.argument("sheet", type=options.FILE)
@click.option(
    "--checkpoint", default="native", help="What calls: native, a .pth of jobs.train, or a folder of jobs.finetune."
)
@click.option("--out", type=options.FOLDER, required=True, help="Folder for the results.")
@click.option("--lengths", default="500,1000,3000,10000", help="Bases of windows, with commas between.")
@click.option("--windows", type=click.IntRange(1, 100_000), default=200, help="Of each control and length, at most.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of places, shuffles and made-up sequences.")
@options.embedding
@options.force
@options.as_json
def controls(
    sheet: Path,
    out: Path,
    checkpoint: str,
    lengths: str,
    windows: int,
    seed: int,
    force: bool,
    as_json: bool,
    **embedding: Any,
) -> None:
    """Count how often what is no virus is called one.

    SHEET has the columns path and label (viral or host). What records of hosts are is read from GenBank, from the GFF3
    in a column annotation or beside a FASTA file, or from the words behind a FASTA record's name; a column control
    says it of a whole file. A column seen says yes of files that the classifier was trained on. Writes controls.tsv,
    controls.json, controls.md (a section for a model's card), windows.fna and the calls.
    """
    sizes = lengths_of(lengths)
    from vnp.controls.material import cut, gather, read_sheet
    from vnp.controls.rates import FILES, missing, rates, terminal_lines, thresholds_of, write_rates
    from vnp.prediction.classifiers import find_classifier

    classifier, sha256 = find_classifier(checkpoint)
    made = [out / name for name in (*FILES, _FASTA, _CALLS)]
    require_free(made, force=force)
    default, thresholds = thresholds_of(classifier)
    files = read_sheet(sheet)
    make_folder(out)
    with alone(out, "measurement"):
        require_free(made, force=force)
        shutil.rmtree(out / _CALLS, ignore_errors=True)
        cuts = list(cut(gather(files), sizes, windows, seed))
        if not cuts:
            raise InputError(f"holds no sequence of {sizes[0]:,} bases or more", path=sheet)
        echo(f"{len(cuts):,} windows, {sum(one.length for one in cuts) / 1e6:,.1f} Mbp", err=True)
        write_text(out / _FASTA, "".join(f">{one.name}\n{one.bases.decode()}\n" for one in cuts))
        lines = rates(cuts, call_windows(out / _FASTA, checkpoint, out / _CALLS, embedding), sizes, thresholds)
        about = {
            "checkpoint": checkpoint, "checkpoint_sha256": sha256, "default": default, "seed": seed,
            "windows": windows, "lengths": sizes, "sheet": str(sheet),
        }  # fmt: skip
        paths = write_rates(lines, about, default, out)
    if as_json:
        echo(paths[1].read_text(encoding="utf-8"))
        return
    for line in terminal_lines(lines, default):
        echo(line)
    for note in missing(lines):
        echo(f"note: {note}")
    echo(f"wrote {', '.join(path.name for path in paths)} in {out}")


def call_windows(fasta: Path, checkpoint: str, out: Path, embedding: Mapping[str, Any]) -> dict[str, float]:
    """Call the records of a FASTA file by ``predict``, with these of its options, and give probabilities by name."""
    from jobs.predict import main as predict
    from vnp.controls.rates import read_probabilities

    words = [str(fasta), "--out", str(out), "--checkpoint", checkpoint, "--cluster", "inline", "--no-fasta"]
    for name, value in embedding.items():
        if value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with contextlib.redirect_stdout(sys.stderr):
        code = predict.main(words, prog_name="vnp predict", standalone_mode=False)
    if code:
        # It has said why.
        raise SystemExit(code)
    return read_probabilities(out / "predictions.tsv")


def lengths_of(text: str) -> list[int]:
    """Bases of windows from a list with commas; ``UsageError`` where it is none."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 100 <= int(word) <= 1_000_000 for word in words):
        raise UsageError(f"--lengths {text}: whole numbers from 100 to 1,000,000 with commas between, such as 500,3000")
    return sorted({int(word) for word in words})


@command("python -m jobs.benchmark speed --out SPEED", group=main)
@speed_options
@end_to_end_options
@speed_out
@options.as_json
def speed(encoder_only: bool, **given: Any) -> None:
    """Time encoders beside their matrix products alone.

    Each row says sequences and tokens a second, the share of the products' rate, peak memory, and the smallest cosine
    of pooled embeddings to float32. A precision that cannot run says why. With --end-to-end, extract itself is timed,
    or predict where the model is sixframe.
    """
    own = {name: given.pop(name) for name in END_TO_END}
    if not encoder_only:
        measure_runs(SpeedOptions(**given), **own)
        return
    for name, value in own.items():
        if name != "read_length" and value not in (None, False, "1"):
            raise UsageError(f"--{'folder' if name == 'scratch' else name} goes with --end-to-end")
    measure_speed(SpeedOptions(**given))


if __name__ == "__main__":
    main()
