"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jobs._cli.command import ignore_disk
from jobs._cluster.executor import CLUSTERS
from vnp.encoders.spec import DEFAULTS, MOLECULES, NO_ENCODER, Molecule, names
from vnp.metrics.rules import BEST_FRAME, RULES

_Function = Callable[..., Any]
Option = Callable[[_Function], _Function]
PATH = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def together(*options: Option) -> Option:
    """Several options as one, in this order."""

    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


input_argument = click.argument("input", nargs=-1, type=PATH)
run_argument = click.argument("run", type=FOLDER)
force = click.option("--force", is_flag=True, help="Write over what is there.")

disk = click.option(
    "--ignore-disk",
    is_flag=True,
    expose_value=False,
    callback=ignore_disk,
    help="Begin even where the disk seems too small for what will be written.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_PLACES = (
    "Where to run: auto is the scheduler that is here (sge is Grid Engine), but this machine without one or inside of "
    "a job; local is processes of this machine, one for each GPU or group of cores; inline is this process."
)
cluster = click.option("--cluster", type=click.Choice(CLUSTERS), default="auto", help=_PLACES)
same_cluster = click.option("--cluster", type=click.Choice(CLUSTERS), help=f"{_PLACES}  [default: as the run was made]")


groups = click.option(
    "--groups",
    type=FILE,
    help="Table of two columns, record and group, in place of the groups that the run was extracted with.",
)

units = click.option(
    "--units",
    help="Keep together what this column calls the same, such as genus, family or order: of the dataset that the run "
    "was extracted from, or of --groups, then a table with a heading that begins with record.",
)


def organisms(default: str) -> Option:
    """Which group of organisms each record is of."""
    said = f"Table of two columns, record or group, and group of organisms.  [default: {default}]"
    return click.option("--organisms", type=FILE, help=said)


def rule(of: str, default: str | None = None) -> Option:
    """How frames decide for what they are ``of``; the default is shown by Click, or else named here."""
    meanings = "; ".join(f"{each.name}, {each.meaning}" for each in RULES.values())
    said = "" if default else f"  [default: {BEST_FRAME}]"
    return click.option(
        "--rule",
        type=click.Choice(list(RULES)),
        default=default,
        help=f"How the frames of {of} decide: {meanings}.{said}",
    )


layout = click.option(
    "--layout",
    type=click.Choice(["1664", "full"]),
    help="1664 projects the DNA half from 768 to 384 numbers; full keeps all (2048 with the default encoders).  "
    "[default: 1664; full with --protein none]",
)


slurm = together(
    click.option(
        "--profile",
        help="What the site wants: the name of a profile, or a path.  [default: $VNP_PROFILE, else 'default' if "
        "you or the site have one]",
    ),
    click.option("--parallelism", type=int, help="Tasks of an array that may run at once."),
    click.option("--retries", type=int, help="How often a task that was stopped or killed is queued again."),
)
_TASKS = (
    "Share the shards among so many tasks: each takes one that nobody works on, until none is left or its time is "
    "nearly up, so that fast GPUs do more and short jobs fit in."
)
tasks = click.option("--tasks", type=int, help=f"{_TASKS}  [default: a task for each shard]")
more_tasks = click.option("--tasks", type=int, help=f"{_TASKS} They join those that work on RUN.")


new_run = together(
    input_argument,
    click.option("--out", "run", type=PATH, required=True, help="The run directory."),
    click.option("--shards", type=int, default=1, help="Number of shards."),
    tasks,
)
begin_anew = click.option("--force", is_flag=True, help="Begin anew where another run stands.")
plan_job = click.option(
    "--plan-job", is_flag=True, help="On a scheduler: read and cut the input in a job too, not on this node."
)


def _encoder(molecule: Molecule, title: str) -> Option:
    *others, last = names(molecule)
    there = f"{', '.join(others)} or {last}"
    more = "; none makes one row of each chunk, and not of each open frame" if molecule == "protein" else ""
    return click.option(
        f"--{molecule}",
        default=DEFAULTS[molecule],
        callback=lambda _context, _option, name: None if more and name == NO_ENCODER else name,
        help=f"{title} encoder: {there}, or the folder of a model{more}.",
    )


embedding = together(
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "bf16", "fp8", "int8"]),
        default="auto",
        help="Arithmetic of the encoders; auto is fp16 on CUDA (bf16 for sixframe) and fp32 on a CPU (int8 for "
        "sixframe where the CPU multiplies bytes; bf16 for others where it has units for that and the weights bear "
        "it). fp8 is for ESM2 on Hopper or newer, once doctor --fp8 has found that the weights bear it.",
    ),
    click.option(
        "--store",
        type=click.Choice(["float16", "float32"]),
        default="float16",
        help="Type of the stored numbers.",
    ),
    click.option(
        "--weights",
        type=FOLDER,
        help="Folder of encoder weights.  [default: $VNP_WEIGHTS, else where jobs.fetch puts them]",
        envvar="VNP_WEIGHTS",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where encoders run."),
    click.option(
        "--token-budget",
        type=int,
        help="Tokens of one batch.  [default: what suits the device; halved when memory runs out]",
    ),
    click.option(
        "--block-tokens",
        type=int,
        help="Expected tokens of a block, the piece of a shard that a killed task can lose.  "
        "[default: 1,048,576, 4,194,304 for sixframe; with --device cpu 32,768 and 262,144]",
    ),
    click.option(
        "--cache",
        type=FOLDER,
        help="Folder where rows are kept by sequence, between shards and runs: what is there is not embedded again.  "
        "[default: none]",
    ),
    click.option("--cache-size", type=float, default=100.0, help="GB that it may hold; what is used least goes."),
    click.option("--prefix-ids", is_flag=True, help="Put each input's name in front of its records' names."),
)
encoding = together(
    click.option(
        "--chunk",
        type=int,
        help="Bases of a chunk: 300 or 500, as VirNucPro's models have it, or any from 30 on.  [default: 300; for "
        "sixframe with --protein none its window; with a dataset the length of its longest record]",
    ),
    _encoder("dna", "DNA"),
    _encoder("protein", "Protein"),
    embedding,
)
encoder_folders = together(
    *(
        click.option(
            f"--{molecule}",
            metavar="FOLDER",
            help=f"Folder of the {molecule} encoder that the checkpoint was trained on, where vnp has none so called.",
        )
        for molecule in MOLECULES
    )
)
