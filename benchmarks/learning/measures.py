"""What a network knows of held-out units: the residues that it guesses, and what a classifier finds in its rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from vnp.classifier.model import MLPClassifier, margin
from vnp.encoders.models.kmer import KmerEncoder
from vnp.encoders.packing import collate
from vnp.features.split import TEST, TRAIN, VALIDATION
from vnp.finetune.language.batches import masked
from vnp.finetune.language.examples import Examples
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.recipe import TuningRecipe
from vnp.finetune.measure import roc_auc

_LETTERS = "LAGVSERTIDPKQNFYMHWC"
_FIRST_LETTER = 4
_BATCH, _EPOCHS, _RATE = 1024, 12, 1e-3
Rows = Float32[np.ndarray, "n width"]


def choose(examples: Examples, part: int, most: int, seed: int) -> Int64[np.ndarray, " m"]:
    """At most so many proteins of a part, at random."""
    rows = examples.rows(part)
    chosen: Int64[np.ndarray, " m"] = np.sort(np.random.default_rng([seed, part]).permutation(rows)[:most])
    return chosen


def unigram_perplexity(examples: Examples, rows: Int64[np.ndarray, " m"], recipe: TuningRecipe) -> float:
    """Of guessing by how common each token is in training units, where a look masks, each unit counting alike."""
    seen = np.concatenate([examples.ids(row)[1:-1] for row in examples.rows(TRAIN).tolist()])
    common = (np.bincount(seen, minlength=33) + 1) / (len(seen) + 33)
    _, places = masked(examples, rows, recipe.masked, recipe.seed, 0)
    loss = [-np.log(common[examples.ids(row)[at]]) for row, at in zip(rows.tolist(), places, strict=True)]
    unit = np.repeat(examples.unit[rows], [len(one) for one in places])
    sums, counts = np.bincount(unit, np.concatenate(loss)), np.bincount(unit)
    return float(np.exp(np.mean(sums[counts > 0] / counts[counts > 0])))


def network_rows(network: TunedEsm2, examples: Examples, rows: Int64[np.ndarray, " m"], budget: int) -> Rows:
    """The pooled row of each protein."""
    found = []
    network.training = False
    ends = np.cumsum(examples.lengths[rows])
    for piece in np.split(rows, np.searchsorted(ends, np.arange(budget, ends[-1], budget))):
        if len(piece):
            ids = [examples.ids(row).astype(np.int64) for row in piece.tolist()]
            with torch.no_grad():
                batch = collate(ids, np.arange(len(ids)), network.attention, network.device, None)
                found.append(network.pooled(batch).cpu().numpy())
    network.training = True
    return np.concatenate(found)


def kmer_rows(examples: Examples, rows: Int64[np.ndarray, " m"]) -> Rows:
    """Hashed counts of words of one and two residues."""
    letters = np.full(33, ord("X"), np.uint8)
    letters[_FIRST_LETTER : _FIRST_LETTER + len(_LETTERS)] = np.frombuffer(_LETTERS.encode(), np.uint8)
    return KmerEncoder("protein").embed([letters[examples.ids(row)[1:-1]].tobytes().decode() for row in rows.tolist()])


def classify(rows: Mapping[int, Rows], label: Mapping[int, np.ndarray], device: torch.device, seed: int) -> float:
    """ROC-AUC, on the test part, of VirNucPro's network on standardised rows; the best epoch by validation."""
    torch.manual_seed(seed)
    mean, spread = rows[TRAIN].mean(0), rows[TRAIN].std(0)
    # What hardly varies in training must not count for more than all else.
    spread = np.maximum(spread, 0.05 * spread.mean())
    x = {part: torch.from_numpy((one - mean) / spread).float().to(device) for part, one in rows.items()}
    truth = torch.from_numpy(label[TRAIN].astype(np.int64)).to(device)
    network = MLPClassifier(x[TRAIN].shape[1]).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.01)
    best = (-1.0, 0.0)
    for epoch in range(_EPOCHS):
        network.train()
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(truth))).to(device)
        for batch in torch.split(order, _BATCH):
            if len(batch) > 1:
                loss = torch.nn.functional.cross_entropy(network(x[TRAIN][batch]), truth[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        network.eval()
        found = [roc_auc(label[part] == 1, _scores(network, x[part])) for part in (VALIDATION, TEST)]
        if found[0] > best[0]:
            best = found[0], found[1]
    return best[1]


@torch.no_grad()
def _scores(network: MLPClassifier, x: Tensor) -> np.ndarray:
    return np.concatenate([margin(network(one)).double().cpu().numpy() for one in torch.split(x, 65_536)])
