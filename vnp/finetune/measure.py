"""How good a network is on windows and contigs of units that it did not see."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from vnp.encoders.models.sixframe import KINDS, VIRAL_KINDS, SixFrame, codon_ids, padded_length, viral_logit
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.genomes import PROKARYOTES, TRAIN, VALIDATION, runs_of

LENGTHS = (150, 300, 500, 1000, 3000, 10000)
CLASSES = ((150, 300), (300, 500), (500, 1000), (1000, 3000), (3000, 10000), (10000, 30000), (30000, 100000))
"""Lengths of the contigs that calls of records are measured on: from, to."""
_MOST_IGNORED = 0.1
_BASES = 1 << 22
_CPU_BASES = 1 << 13
_SEARCHED = 2000  # bases of the windows that prophages are searched with
_RUN = 5  # of them that look viral one after the other
_LACKING = 0.5


class Windows(NamedTuple):
    """Pieces of records, half of them viral where there are enough.

    Attributes:
        record: that each is of.
        start: its first base among all bases.
        length: its bases.
    """

    record: Int64[np.ndarray, " n"]
    start: Int64[np.ndarray, " n"]
    length: Int64[np.ndarray, " n"]


def draw(
    held: DeviceGenomes, chosen: Bool[np.ndarray, " records"], shortest: int, longest: int, count: int, seed: int
) -> Windows:
    """Draw up to ``count`` pieces of each label: hosts evenly by group, units by the square root of their size.

    Pieces are of chosen records; the logarithm of their length is uniform.
    """
    genomes, random = held.genomes, np.random.default_rng(seed)
    lengths = genomes.lengths
    found = []
    for viral in (True, False):
        usable = chosen & (genomes.viral == viral) & (lengths >= shortest)
        weights = genomes.evened(usable)
        if not viral:
            for group in np.unique(genomes.group[usable]):
                weights[genomes.group == group] /= weights[genomes.group == group].sum()
        if not weights.any():
            continue
        record = random.choice(len(weights), size=2 * count, p=weights / weights.sum())
        drawn = np.exp(random.uniform(np.log(shortest), np.log(longest + 1), 2 * count)).astype(np.int64)
        length = np.minimum(np.clip(drawn, shortest, longest), lengths[record])
        start = genomes.starts[record] + (random.random(2 * count) * (lengths[record] - length + 1)).astype(np.int64)
        ignored = _ignored(held, start, length)
        good = np.flatnonzero(ignored <= _MOST_IGNORED * length)[:count]
        found.append(Windows(record[good], start[good], length[good]))
    return Windows(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _ignored(held: DeviceGenomes, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    before = held.ignored_before
    on = torch.from_numpy(start).to(held.device), torch.from_numpy(start + length).to(held.device)
    counted: np.ndarray = (before[on[1]] - before[on[0]]).cpu().numpy()
    return counted


def logits_of(
    network: SixFrame, held: DeviceGenomes, start: Int64[np.ndarray, " n"], length: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n 7"]:
    """The network's logits of windows of any lengths, as bf16 gives them on a GPU."""
    return _through(network, network, len(KINDS), held, start, length)


def rows_of(
    network: SixFrame, held: DeviceGenomes, start: Int64[np.ndarray, " n"], length: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n width"]:
    """The rows that the network's head reads, of windows of any lengths."""
    return _through(network, network.rows, network.config.width, held, start, length)


@torch.inference_mode()
def _through(
    network: SixFrame,
    function: Callable[..., Tensor],
    width: int,
    held: DeviceGenomes,
    start: Int64[np.ndarray, " n"],
    length: Int64[np.ndarray, " n"],
) -> Float32[np.ndarray, "n width"]:
    out = np.zeros((len(start), width), np.float32)
    sizes = np.array([padded_length(int(one)) for one in length])
    was_training = network.training
    network.eval()
    for size in np.unique(sizes).tolist():
        members = np.flatnonzero(sizes == size)
        batch = max(1, (_BASES if held.device.type == "cuda" else _CPU_BASES) // size)
        for at in range(0, len(members), batch):
            some = members[at : at + batch]
            out[some] = _of_size(function, held, start[some], length[some], size).cpu().numpy()
    network.train(was_training)
    return out


def _of_size(
    function: Callable[..., Tensor], held: DeviceGenomes, start: np.ndarray, length: np.ndarray, size: int
) -> Tensor:
    first = torch.from_numpy(start).to(held.device)
    places = (first[:, None] + torch.arange(size, device=held.device)).clamp(max=len(held.codes) - 1)
    bases = held.codes[places]
    with torch.autocast(held.device.type, dtype=torch.bfloat16, enabled=held.device.type == "cuda"):
        if (length == size).all():
            return function(codon_ids(bases)).float()
        lengths = torch.from_numpy(length).to(held.device)
        return function(codon_ids(bases, lengths), (lengths - 2) // 3).float()


def cut(length: int, window: int) -> Int64[np.ndarray, " windows"]:
    """Where the windows of a record begin: as few as cover it, all full, evenly spread."""
    count = max(1, -(-length // window))
    if count == 1:
        return np.zeros(1, np.int64)
    return np.arange(count, dtype=np.int64) * (length - window) // (count - 1)


def viral_logits(logits: Float32[np.ndarray, "n 7"]) -> Float64[np.ndarray, " n"]:
    """The log-odds of virus against host."""
    odds: Float64[np.ndarray, " n"] = viral_logit(torch.from_numpy(logits).double()).numpy()
    return odds


def mean_viral_logits(
    network: SixFrame, held: DeviceGenomes, pieces: Windows, window: int
) -> Float64[np.ndarray, " n"]:
    """The mean over its windows, of so many bases, of each piece's log-odds of virus against host."""
    owner, start, length = windows_of(pieces, window)
    odds = viral_logits(logits_of(network, held, start, length))
    return np.bincount(owner, weights=odds) / np.bincount(owner)


def windows_of(
    pieces: Windows, window: int
) -> tuple[Int64[np.ndarray, " w"], Int64[np.ndarray, " w"], Int64[np.ndarray, " w"]]:
    """The windows of all pieces: of which each is, where it begins among all bases, and how long it is."""
    begins = [cut(int(length), window) for length in pieces.length]
    owner = np.repeat(np.arange(len(begins)), [len(one) for one in begins])
    return owner, pieces.start[owner] + np.concatenate(begins), np.minimum(pieces.length, window)[owner]


def roc_auc(viral: Bool[np.ndarray, " n"], score: Float64[np.ndarray, " n"]) -> float:
    """The chance that a virus has the higher score; ties count half (Mann and Whitney, 1947)."""
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    viruses, hosts = int(viral.sum()), int((~viral).sum())
    if not viruses or not hosts:
        return float("nan")
    return float((rank[viral].sum() - viruses * (viruses + 1) / 2) / (viruses * hosts))


def recall_at(viral: Bool[np.ndarray, " n"], score: Float64[np.ndarray, " n"], specificity: float = 0.99) -> float:
    """The share of viruses above the score that so many hosts do not reach."""
    if not viral.any() or viral.all():
        return float("nan")
    return float((score[viral] > np.quantile(score[~viral], specificity)).mean())


def watch(network: SixFrame, held: DeviceGenomes, count: int, window: int) -> dict[str, float]:
    """ROC-AUC on windows of the validation units."""
    found = {}
    for length in LENGTHS:
        chosen = held.genomes.part == VALIDATION
        if (held.genomes.lengths[chosen] < length).all():
            continue
        pieces = draw(held, chosen, length, length, count, seed=7)
        found[str(length)] = roc_auc(
            held.genomes.viral[pieces.record], mean_viral_logits(network, held, pieces, window)
        )
    return found


def looks_viral(network: SixFrame, held: DeviceGenomes, logit: float) -> Int64[np.ndarray, "runs 2"]:
    """Pieces of the prokaryotes and plasmids to train on that look viral for 10 kb: likely prophages, or mislabelled.

    A mean log-odds of five windows of ``logit`` is enough. A record of fewer is judged as a whole, and needs a half
    more for each that it lacks.
    """
    genomes = held.genomes
    searched = (genomes.part == TRAIN) & (genomes.kinds & ~np.uint8(PROKARYOTES) == 0)
    records = np.flatnonzero(searched & (genomes.lengths >= _SEARCHED))
    counts = genomes.lengths[records] // _SEARCHED
    edges = np.concatenate(([0], np.cumsum(counts)))
    start = np.repeat(genomes.starts[records] - edges[:-1] * _SEARCHED, counts) + np.arange(edges[-1]) * _SEARCHED
    odds = viral_logits(logits_of(network, held, start, np.full(len(start), _SEARCHED)))
    found = [np.zeros((0, 2), np.int64)]
    for begin, end in pairwise(edges.tolist()):
        run = min(_RUN, end - begin)
        mean = np.convolve(odds[begin:end], np.ones(run) / run, mode="valid")
        marked = np.zeros(end - begin, np.bool_)
        for first in np.flatnonzero(mean > logit + (_RUN - run) * _LACKING).tolist():
            marked[first : first + run] = True
        found.append(runs_of(marked) * _SEARCHED + np.array([start[begin], 0]))
    return np.concatenate(found)


def kind_of(logits: Float32[np.ndarray, "n 7"], viral: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The likeliest kind of each, among those of its call."""
    hidden = np.where(viral[:, None] == (np.arange(len(KINDS)) < VIRAL_KINDS), logits, -np.inf)
    likeliest: Int64[np.ndarray, " n"] = np.argmax(hidden, axis=1)
    return likeliest
