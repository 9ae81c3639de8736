"""What is measured of how far the calls of a network can be trusted: what training looked like, and bins of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from vnp.encoders.models.sixframe import SixFrame
from vnp.finetune.calibration import LengthCalibration
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.genomes import TEST, TRAIN, VALIDATION, Genomes
from vnp.finetune.measure import CLASSES, Windows, draw, rows_of, viral_logits, windows_of
from vnp.finetune.split import evidence_of
from vnp.metrics.evidence import Evidence, fit_evidence
from vnp.metrics.novelty import Novelty, fit_novelty, mean_distances
from vnp.metrics.reliability import HIGH, LEVELS, Judgements, Measured, Reliability, fit_reliability, measure_levels
from vnp.metrics.trust import Trust

BALANCE = 0.5
"""Share of viruses that probabilities hold at: the labels weigh the same in calibration."""
_EDGES = (150, 300, 500, 1000, 2000, 5000)


@dataclass(frozen=True, slots=True, eq=False)
class Contigs:
    """n contigs of units that were kept apart, and what the network says of them."""

    pieces: Windows  # where they are
    viral: Bool[np.ndarray, "n"]  # what they are
    group: np.ndarray  # names of organism groups
    probability: Float64[np.ndarray, "n"]  # where half of all are viral
    agreement: Float64[np.ndarray, "n"]  # share of windows that say the same
    novelty: Float32[np.ndarray, "n"]  # percentile; NaN where that is not known yet
    distance: Float64[np.ndarray, "n"]  # mean over the windows

    @property
    def says_viral(self) -> Bool[np.ndarray, "n"]:
        """What a call at one half says."""
        said: Bool[np.ndarray, "n"] = self.probability >= 0.5
        return said

    @property
    def wrong(self) -> Bool[np.ndarray, "n"]:
        """Whether it is wrong."""
        mistaken: Bool[np.ndarray, "n"] = self.says_viral != self.viral
        return mistaken

    @property
    def calls(self) -> Judgements:
        """What calls at one half are told apart by."""
        sure = np.maximum(self.probability, 1 - self.probability)
        return Judgements(self.pieces.length, sure, self.agreement, self.novelty, self.says_viral)


def contigs_of(
    network: SixFrame,
    held: DeviceGenomes,
    pieces: Windows,
    calibration: LengthCalibration,
    novelty: Novelty | None,
    window: int,
) -> Contigs:
    """Score pieces of genomes as records are scored, by windows of so many bases."""
    owner, start, length = windows_of(pieces, window)
    count = len(pieces.length)
    odds, distance = np.empty(len(owner)), np.full(len(owner), np.nan, np.float16)
    # So many windows at a time that their rows fit into memory.
    for low in range(0, len(owner), 1 << 16):
        some = slice(low, low + (1 << 16))
        rows = rows_of(network, held, start[some], length[some])
        with torch.inference_mode():
            logits = network.head(torch.from_numpy(rows).to(held.device)).float().cpu().numpy()
        odds[some] = viral_logits(logits)
        if novelty is not None:
            distance[some] = novelty.distance(rows.astype(np.float16))
    windows = np.bincount(owner, minlength=count)
    probability = calibration.probability(np.bincount(owner, weights=odds, minlength=count) / windows, pieces.length)
    same = (calibration.probability(odds, length) >= 0.5) == (probability >= 0.5)[owner]
    far = mean_distances(distance, owner, count)
    genomes = held.genomes
    return Contigs(
        pieces=pieces,
        viral=genomes.viral[pieces.record],
        group=np.array(genomes.groups)[genomes.group[pieces.record]],
        probability=probability,
        agreement=np.bincount(owner, weights=same, minlength=count) / windows,
        novelty=np.full(count, np.nan, np.float32) if novelty is None else novelty.percentile(far, pieces.length),
        distance=far,
    )


def draw_contigs(held: DeviceGenomes, part: int, count: int, seed: int = 17) -> Windows:
    """Contigs of every class of lengths of one part's units, up to so many of each label."""
    return _contigs(held, held.genomes.part == part, count, seed)


def draw_test(held: DeviceGenomes, count: int) -> Windows:
    """Contigs of the test units, and as many of the groups that were left out as a whole."""
    test, unseen = held.genomes.part == TEST, _unseen(held.genomes)
    drawn = [_contigs(held, some, count, 17) for some in (test & ~unseen, unseen) if some.any()]
    return Windows(*(np.concatenate(columns) for columns in zip(*drawn, strict=True)))


def _unseen(genomes: Genomes) -> Bool[np.ndarray, "records"]:
    """Records of groups that were left out as a whole."""
    return ~np.isin(genomes.group, genomes.group[genomes.part == TRAIN])


def _contigs(held: DeviceGenomes, chosen: Bool[np.ndarray, "records"], count: int, seed: int) -> Windows:
    drawn = [
        draw(held, chosen, low, high - 1, max(1, count // max(1, high // 10000)), seed=seed)
        for low, high in CLASSES
        if (held.genomes.lengths[chosen] >= low).any()
    ]
    return Windows(*(np.concatenate(columns) for columns in zip(*drawn, strict=True)))


def measure_trust(
    network: SixFrame,
    held: DeviceGenomes,
    calibration: LengthCalibration,
    count: int,
    window: int,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Trust, Contigs | None]:
    """Keep what training looks like, choose bins of calls on the validation units, measure them on the test units.

    Args:
        network: folded, as it will be used.
        held: the genomes.
        calibration: from mean log-odds to probabilities.
        count: windows of each label and length to learn from; contigs to measure on.
        window: bases that the network reads at once.
        say: told what comes out.

    Returns:
        What is kept, and the contigs of the test units; None where a part has too few units of either label.
    """
    novelty = _novelty(network, held, count, window)
    parts = held.genomes.part
    both = [held.genomes.viral[parts == part] for part in (VALIDATION, TEST)]
    if novelty is None or not all(label.any() and not label.all() for label in both):
        say("too few units are kept apart to measure novelty and reliability")
        return Trust(BALANCE), None
    watched = contigs_of(network, held, draw_contigs(held, VALIDATION, count), calibration, novelty, window)
    novelty = novelty.measured(watched.distance, watched.pieces.length)
    watched = _told(watched, novelty)
    tested = contigs_of(network, held, draw_test(held, count), calibration, novelty, window)
    reliability = reliability_of(watched, tested, _unseen(held.genomes)[tested.pieces.record])
    for line in reliability.sentences():
        say(line)
    return Trust(BALANCE, novelty, reliability, _evidence(held.genomes, watched, tested)), tested


def _evidence(genomes: Genomes, *parts: Contigs) -> Evidence | None:
    """What probabilities of some of the contigs look like; the others tell if it holds."""
    record, length, chance = (
        np.concatenate(columns)
        for columns in zip(*((one.pieces.record, one.pieces.length, one.probability) for one in parts), strict=True)
    )
    some = evidence_of(genomes)[record]
    record = record[some]
    return fit_evidence(chance[some], length[some], genomes.viral[record], genomes.unit[record], genomes.group[record])


def reliability_of(watched: Contigs, tested: Contigs, unseen: Bool[np.ndarray, "n"]) -> Reliability:
    """Bins chosen on some contigs, measured on others; those of groups that were left out as a whole by themselves."""
    names = "contigs of 150 to 100,000 bases of the {} units, half of them viral"
    bins = fit_reliability(watched.calls, watched.wrong, watched.group)
    chosen = Reliability(*bins, {}, names.format("validation"), names.format("test"))
    level = chosen.levels(tested.calls)

    def measured(some: Bool[np.ndarray, "n"]) -> dict[str, Measured]:
        return measure_levels(level[some], tested.says_viral[some], tested.wrong[some])

    left_out = {name: measured(tested.group == name)[LEVELS[HIGH]] for name in np.unique(tested.group[unseen]).tolist()}
    return replace(chosen, measured=measured(~unseen), unseen=left_out)


def levels_by_group(reliability: Reliability, contigs: Contigs) -> dict[str, dict[str, Any]]:
    """For each organism group and level, how many calls there are and what share of them is wrong."""
    level = reliability.levels(contigs.calls)
    found: dict[str, dict[str, Any]] = {}
    for name in np.unique(contigs.group).tolist():
        for number, called in LEVELS.items():
            some = (contigs.group == name) & (level == number)
            wrong = float(contigs.wrong[some].mean()) if some.any() else None
            found.setdefault(name, {})[called] = {"calls": int(some.sum()), "wrong": wrong}
    return found


def _novelty(network: SixFrame, held: DeviceGenomes, count: int, window: int) -> Novelty | None:
    """What windows of the units to train on look like."""
    genomes = held.genomes
    chosen = genomes.part == TRAIN
    drawn = [
        draw(held, chosen, low, high, count, seed=19)
        for low, high in pairwise([*(edge for edge in _EDGES if edge < window), window])
        if (genomes.lengths[chosen] >= low).any()
    ]
    record, start, length = (np.concatenate(columns) for columns in zip(*drawn, strict=True))
    rows: Float32[np.ndarray, "n width"] = rows_of(network, held, start, length)
    group: Int64[np.ndarray, "n"] = genomes.group[record].astype(np.int64) * 2 + genomes.viral[record]
    return fit_novelty(rows, genomes.viral[record], group)


def _told(contigs: Contigs, novelty: Novelty) -> Contigs:
    values = {name: getattr(contigs, name) for name in Contigs.__slots__}
    return Contigs(**{**values, "novelty": novelty.percentile(contigs.distance, contigs.pieces.length)})
