"""What computing in bytes changes: sixframe in int8 beside float32, on windows of units that it was not trained on."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from jaxtyping import Float64

from benchmarks._commands import command, options
from vnp.encoders.windows import SixFrameEncoder
from vnp.errors import FeatureError
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.folder import read_folder
from vnp.finetune.genomes import TEST, load_genomes
from vnp.finetune.measure import draw, recall_at, roc_auc, viral_logits
from vnp.native.model import FOLDER

LENGTHS = (150, 300, 500, 1000, 2000)
_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True, slots=True)
class Change:
    """Windows of one length in both precisions; of pairs, float32 comes first."""

    length: int
    windows: int
    roc_auc: tuple[float, ...]
    recall: tuple[float, ...]  # at a specificity of 99 %
    mean: float  # change of the calibrated probability
    most: float  # the largest
    calls: int  # windows on another side of one half
    rate: tuple[float, ...]  # million bases a minute of a core's time


def measure_change(genomes: Path, folder: Path, bases: int, seed: int = 0) -> list[Change]:
    """Compare the precisions on windows of each length, half of them viral, of units kept for the test.

    ``genomes`` are what finetune packed, and ``bases`` those of the windows of one length, about.

    Raises:
        EncoderError: this CPU has no products of bytes.
        FeatureError: no unit was kept for the test.
    """
    held = DeviceGenomes(load_genomes(genomes), torch.device("cpu"))
    chosen = held.genomes.part == TEST
    if not chosen.any():
        raise FeatureError(f"{genomes}: no unit was kept for the test")
    trained = read_folder(folder)
    calibration = trained.calibration
    encoders = [SixFrameEncoder(read_folder(folder).network, precision=one) for one in _PRECISIONS]
    found = []
    for length in sorted({*LENGTHS, trained.window}):
        pieces = draw(held, chosen, length, length, max(20, bases // length // 2), seed)
        same = pieces.length == length
        texts = [
            _LETTERS[held.genomes.codes[start : start + length]].tobytes().decode() for start in pieces.start[same]
        ]
        viral = held.genomes.viral[pieces.record[same]]
        margins: list[Float64[np.ndarray, " n"]] = []
        rates = []
        for encoder in encoders:
            began = time.process_time()
            margins.append(viral_logits(encoder.logits(texts)))
            rates.append(length * len(texts) * 60 / 1e6 / (time.process_time() - began))
        before, after = (calibration.probability(one, pieces.length[same]) for one in margins)
        change = np.abs(before - after)
        found.append(
            Change(
                length,
                len(texts),
                tuple(roc_auc(viral, one) for one in margins),
                tuple(recall_at(viral, one) for one in margins),
                float(change.mean()),
                float(change.max()),
                int(((before >= 0.5) != (after >= 0.5)).sum()),
                tuple(rates),
            )
        )
    return found


@command(example="benchmarks.eight_bits SET/genomes.npz")
@click.argument("genomes", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of finetune.  [default: the bundled network]",
)
@click.option("--bases", type=click.IntRange(min=1000), default=600_000, help="Of the windows of a length, about.")
@options.as_json
def main(genomes: Path, checkpoint: Path | None, bases: int, as_json: bool) -> None:
    """Compare sixframe in int8 with float32: accuracy, probabilities and speed.

    GENOMES is the genomes.npz that finetune packed for the network; windows are of units kept for the test.
    """
    torch.set_num_threads(1)
    found = measure_change(genomes, checkpoint or FOLDER, bases)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    click.echo("| bases | windows | ROC-AUC | recall | mean change | largest | other calls | Mbp/min |")
    click.echo("|--:|--:|---|---|--:|--:|--:|---|")
    for one in found:
        auc, recall = (", ".join(f"{value:.4f}" for value in pair) for pair in (one.roc_auc, one.recall))
        rate = ", ".join(f"{value:.2f}" for value in one.rate)
        click.echo(
            f"| {one.length:,} | {one.windows:,} | {auc} | {recall} | {one.mean:.4f} | {one.most:.3f} | {one.calls} "
            f"| {rate} |"
        )
