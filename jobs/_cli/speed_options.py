"""Options of ``benchmark speed``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vnp.runs.planning.options import MOST_SHARDS, MOST_TOKENS

_Function = TypeVar("_Function", bound=Callable[..., Any])

_FOLDER = click.Path(path_type=Path, file_okay=False)
_OPTIONS = (
    click.option(
        "--model",
        type=click.Choice(["fastesm2_650", "esm2_650m", "esm2_3b", "dnabert_s"]),
        multiple=True,
        help="What to measure; may be given again.  [default: fastesm2_650 and dnabert_s]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp16", "bf16", "fp32", "fp8"]),
        multiple=True,
        help="Of our encoders, the most important first; may be given again.  [default: fp16, bf16; on a CPU fp32]",
    ),
    click.option(
        "--lengths",
        type=click.Path(path_type=Path, dir_okay=False),
        help="FASTA file to take lengths from: proteins, or DNA with --model dnabert_s.  [default: the bundled sample]",
    ),
    click.option(
        "--tokens",
        type=click.IntRange(1, MOST_TOKENS),
        help="Of each set of lengths, about.  [default: by device and model]",
    ),
    click.option(
        "--token-budget",
        type=click.IntRange(1, MOST_TOKENS),
        help="Tokens of one of our batches.  [default: the encoder's]",
    ),
    click.option(
        "--weights",
        type=_FOLDER,
        help="Folder of encoder weights.  [default: where jobs.fetch puts them, else random ones]",
        envvar="VNP_WEIGHTS",
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to measure."),
    click.option(
        "--repeats", type=click.IntRange(min=1), help="Rounds; the median counts.  [default: 5; 3 with --quick]"
    ),
    click.option(
        "--time",
        type=click.FloatRange(min=1),
        help="Seconds to keep within, about.  [default: 240; 60 with --quick]",
    ),
    click.option("--quick", is_flag=True, help="Fewer lengths, rounds and precisions."),
    click.option("--full", is_flag=True, help="The published sizes on a CPU too, where small ones are the default."),
    click.option("--tune", is_flag=True, help="Keep the best token budget of each precision, for encoders to use."),
    click.option(
        "--encoder-only/--end-to-end", default=True, help="Encoders alone, or extract from FASTA to sealed shards."
    ),
    click.option(
        "--reads",
        type=click.IntRange(1, 1_000_000_000),
        help="--end-to-end: reads of 150 bases.  [default: 1,000,000 on a GPU, 300 on a CPU]",
    ),
    click.option("--gpus", default="1", help="--end-to-end: numbers of GPUs, one run each, such as 1,2."),
    click.option(
        "--shards",
        type=click.IntRange(1, MOST_SHARDS),
        help="--end-to-end: shards.  [default: four for each GPU; 1 on a CPU]",
    ),
    click.option("--cold", is_flag=True, help="--end-to-end: a short run with empty kernel caches first."),
    click.option(
        "--folder",
        "--scratch",
        "scratch",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="--end-to-end: where to put reads, weights and runs, which are removed again.  [default: temporary]",
    ),
    click.option("--out", type=_FOLDER, help="Folder for speed.json, speed.tsv and speed.png."),
)


def speed_options(function: _Function) -> _Function:
    """Give a command the options of ``benchmark speed``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
