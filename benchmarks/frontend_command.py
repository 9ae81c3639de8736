"""The body of ``benchmark frontend``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from jobs._cli import options
from vnp.errors import UsageError

_Function = TypeVar("_Function", bound=Callable[..., Any])


def frontend_options(function: _Function) -> _Function:
    """Options of ``benchmark frontend``."""
    for option in reversed(
        (
            click.argument("input", nargs=-1, type=click.Path(path_type=Path)),
            click.option("--reads", type=click.IntRange(1, 1_000_000_000), default=100_000, help="Reads to make."),
            click.option("--length", type=click.IntRange(3, 1_000_000_000), default=150, help="Bases of a read."),
            click.option("--chunk", type=click.IntRange(30, 1_000_000_000), default=300, help="Bases of a chunk."),
            click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes."),
            click.option(
                "--weights",
                type=click.Path(path_type=Path, file_okay=False),
                envvar="VNP_WEIGHTS",
                help="Folder of encoder weights, for the DNA encoder's tokenizer.json.  [default: as of extract]",
            ),
            click.option(
                "--tokenizer",
                type=click.Path(path_type=Path, dir_okay=False, exists=True),
                help="That tokenizer.json itself, in place of --weights.",
            ),
            click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the reads."),
            options.as_json,
        )
    ):
        function = option(function)
    return function


def time_frontend(
    genomes: tuple[Path, ...],
    *,
    reads: int,
    length: int,
    chunk: int,
    workers: int,
    weights: Path | None,
    tokenizer: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure, and show the table."""
    from benchmarks.frontend import STAGES, measure_front

    found = measure_front(
        reads,
        tokenizer=tokenizer or _tokenizer(weights),
        length=length,
        chunk=chunk,
        workers=workers,
        genomes=genomes,
        seed=seed,
        progress=lambda what: click.echo(what, err=True),
    )
    cpu = sum(part.cpu_seconds for part in found.parts)
    figures: dict[str, Any] = {
        "reads": found.reads,
        "bases of a read": found.length,
        "open frames": found.rows,
        "processes": len(found.parts),
        "seconds": round(found.seconds, 3),
        "reads/s": round(found.reads / found.seconds),
        "frames/s": round(found.rows / found.seconds),
        "million reads, s": round(found.seconds / found.reads * 1e6, 2),
        "processor seconds, all processes": round(cpu, 3),
        "frames per processor second": round(found.rows / cpu),
        **{f"{stage}, s, all processes": round(found.stage(stage), 3) for stage in STAGES},
        "DNA tokens": sum(part.dna_tokens for part in found.parts),
        "protein tokens": sum(part.protein_tokens for part in found.parts),
        "peak memory of a process, MB": round(max(part.peak_bytes for part in found.parts) / 1e6),
    }
    if as_json:
        click.echo(json.dumps({**figures, "parts": [asdict(part) for part in found.parts]}, indent=2))
        return
    widest = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name:<{widest}}  {value:>14,}")


def _tokenizer(weights: Path | None) -> Path:
    from vnp.encoders.spec import spec
    from vnp.encoders.weights.folders import find_folder

    path = find_folder(spec("dnabert_s"), weights) / "tokenizer.json"
    if not path.is_file():
        raise UsageError(
            f"{path} is missing: fetch it again (python -m jobs.fetch dnabert_s), or name --tokenizer FILE"
        )
    return path
