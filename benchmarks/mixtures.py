"""What predict promises of wrong calls, against what is seen, on mixtures of contigs of genomes kept for the test."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from jaxtyping import Bool, Float64

from benchmarks import MOST
from benchmarks._commands import command, options
from vnp.errors import FeatureError, UsageError
from vnp.files.records import parse_json
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.genomes import TEST, load_genomes
from vnp.finetune.measure import Windows, draw
from vnp.finetune.split import evidence_of

RATES = (0.01, 0.05, 0.1, 0.2)
_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_VIRUS, _HOST = "virus", "host"


@dataclass(frozen=True, slots=True)
class AtRate:
    """The records whose ``fdr`` is at most a rate."""

    rate: float  # promised
    records: int  # how many there are
    wrong: float  # share of these that are hosts; 0 where there are none


@dataclass(frozen=True, slots=True)
class Mixture:
    """What predict said of a mixture, and what is true."""

    share: float  # of viruses
    said: float | None  # share that predict went by, or None
    low: float | None  # end of its interval, or None
    high: float | None  # the other end
    hosts: int
    viruses: int
    calls: int  # records called viral
    wrong: int  # of these, hosts
    expected: float  # how many it expected to be wrong
    found: float  # share of the viruses that are called
    rates: list[AtRate]


def measure_mixtures(
    genomes: Path,
    folder: Path,
    *,
    shares: Sequence[float] = (0.05, 0.2, 0.5),
    hosts: int = 1000,
    shortest: int = 500,
    longest: int = 5000,
    seed: int = 99,
    more: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _what: None,
) -> list[Mixture]:
    """Draw contigs of the units kept for the test, mix them, and call each mixture by ``jobs.predict``.

    Args:
        genomes: the packed set that the classifier was trained from: it knows which units were kept.
        shares: of viruses, one mixture each; all have the same hosts.
        shortest: bases of a contig, to ``longest``; the logarithm of the length is uniform.
        more: options of predict.

    Raises:
        UsageError: there are too few contigs for a share.
        FeatureError: the packed set is damaged, or predict failed.
    """
    held = DeviceGenomes(load_genomes(genomes), torch.device("cpu"))
    most = max(hosts, *(_viruses(hosts, share) for share in shares))
    kept = (held.genomes.part == TEST) & ~evidence_of(held.genomes)
    pieces = draw(held, kept, shortest, longest, most, seed)
    viral = held.genomes.viral[pieces.record]
    found = []
    for share in shares:
        chosen = np.r_[np.flatnonzero(~viral)[:hosts], np.flatnonzero(viral)[: _viruses(hosts, share)]]
        if len(chosen) < hosts + _viruses(hosts, share):
            raise UsageError(f"the units kept for the test have too few contigs of {shortest:,} bases: fewer --hosts")
        np.random.default_rng(seed).shuffle(chosen)
        mixture = folder / f"mixture-{share:g}.fna"
        _write(mixture, held, Windows(*(column[chosen] for column in pieces)), viral[chosen])
        progress(f"{share:.0%} viruses: calling {len(chosen):,} contigs")
        found.append(look_at(_predict(mixture, folder / f"calls-{share:g}", more), share))
    return found


def look_at(calls: Path, share: float) -> Mixture:
    """Compare the calls of a mixture with the truth, which the records' names tell."""
    with (calls / "predictions.tsv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    viral: Bool[np.ndarray, "r"] = np.array([row["name"].startswith(_VIRUS) for row in rows])
    called: Bool[np.ndarray, "r"] = np.array([row["call"] == "viral" for row in rows])
    fdr: Float64[np.ndarray, "r"] = np.array([float(row["fdr"] or "nan") for row in rows])
    summary: dict[str, Any] = parse_json((calls / "predictions.json").read_text("utf-8"))
    known = summary.get("prevalence") or {}
    rates = [AtRate(rate, int((fdr <= rate).sum()), _share(~viral & (fdr <= rate), fdr <= rate)) for rate in RATES]
    return Mixture(
        share=share,
        said=summary["viral_share"],
        low=known.get("low"),
        high=known.get("high"),
        hosts=int((~viral).sum()),
        viruses=int(viral.sum()),
        calls=int(called.sum()),
        wrong=int((called & ~viral).sum()),
        expected=summary["expected_false_calls"],
        found=_share(called & viral, viral),
        rates=rates,
    )


def _viruses(hosts: int, share: float) -> int:
    return round(hosts * share / (1 - share))


def _share(some: Bool[np.ndarray, "n"], whole: Bool[np.ndarray, "n"]) -> float:
    return float(some.sum() / max(int(whole.sum()), 1))


def _write(path: Path, held: DeviceGenomes, pieces: Windows, viral: Bool[np.ndarray, "n"]) -> None:
    with path.open("wb") as file:
        for number, (start, length) in enumerate(zip(pieces.start.tolist(), pieces.length.tolist(), strict=True)):
            name = f"{_VIRUS if viral[number] else _HOST}_{number}".encode()
            file.write(b">%b\n%b\n" % (name, _LETTERS[held.genomes.codes[start : start + length]].tobytes()))


def _predict(mixture: Path, out: Path, more: Sequence[str]) -> Path:
    words = [sys.executable, "-m", "jobs.predict", str(mixture), "--out", str(out), "--cluster", "inline", *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FeatureError(f"predict ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return out


@command("python -m benchmarks mixtures SET/genomes.npz -- --checkpoint MODEL")
@click.argument("genomes", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--share", "shares", type=click.FloatRange(0.001, 0.9), multiple=True, help="Of viruses; may be repeated."
)
@click.option("--hosts", type=click.IntRange(10, MOST), default=1000, help="In each mixture.")
@click.option("--shortest", type=click.IntRange(100, MOST), default=500, help="Bases of a contig.")
@click.option("--longest", type=click.IntRange(100, MOST), default=5000, help="Bases of a contig.")
@click.option("--seed", type=click.IntRange(min=0), default=99, help="Of the contigs.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new folder for mixtures and calls.  [default: they are removed]",
)
@options.as_json
def main(
    genomes: Path,
    more: tuple[str, ...],
    shares: tuple[float, ...],
    hosts: int,
    shortest: int,
    longest: int,
    seed: int,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Compare what predict expects to be wrong with what is, on mixtures of contigs that it was not trained on.

    GENOMES is the genomes.npz that finetune packed for the classifier. MORE, behind --, are options of predict, such
    as --checkpoint, --preset or --device. Contigs are drawn from units kept for the test that the calibration was not
    fitted on: hosts evenly by group.
    """
    if shortest > longest:
        raise UsageError(f"--shortest {shortest:,} is above --longest {longest:,}")
    with tempfile.TemporaryDirectory(prefix="vnp-mixtures-") as place:
        if keep is not None:
            keep.mkdir(parents=True)
        found = measure_mixtures(
            genomes,
            keep or Path(place),
            shares=shares or (0.05, 0.2, 0.5),
            hosts=hosts,
            shortest=shortest,
            longest=longest,
            seed=seed,
            more=more,
            progress=lambda what: click.echo(what, err=True),
        )
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    click.echo("| viruses | share found | interval | calls | wrong | expected | viruses found | " + _rates_header())
    click.echo("|--:" * (7 + len(RATES)) + "|")
    for one in found:
        said = "" if one.said is None else f"{one.said:.1%}"
        cells = [
            f"{one.share:.0%}",
            said,
            "" if one.low is None or one.high is None else f"{one.low:.1%} to {one.high:.1%}",
            f"{one.calls:,}",
            f"{one.wrong:,}",
            f"{one.expected:.1f}",
            f"{one.found:.2f}",
        ]
        cells += [f"{rate.wrong:.3f} of {rate.records:,}" for rate in one.rates]
        click.echo("| " + " | ".join(cells) + " |")


def _rates_header() -> str:
    return " | ".join(f"wrong at fdr <= {rate:g}" for rate in RATES) + " |"
