"""What training makes small, on a packed batch, and what it comes to on validation units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from vnp.encoders.packing import collate, to_device
from vnp.features.split import TRAIN
from vnp.finetune.language.batches import Order, masked, pieces
from vnp.finetune.language.examples import Examples
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.measure import roc_auc

_BLOCK = 4096  # tokens whose frozen rows are computed together


@dataclass(frozen=True, eq=False)
class Piece:
    """Proteins that go through the network at once."""

    rows: Int64[np.ndarray, " k"]  # their numbers in the set
    shown: Sequence[np.ndarray]  # their tokens as the network sees them
    places: Sequence[np.ndarray] | None = None  # where residues are to be guessed, in each; for ``mlm`` alone

    @property
    def tokens(self) -> int:
        """Of all proteins."""
        return sum(map(len, self.shown))


class Objective:
    """One of the three, over one set.

    Where it is ``frozen``, the head alone is trained on pooled rows, which are kept and never computed twice.
    """

    def __init__(self, network: TunedEsm2, examples: Examples) -> None:
        self.network, self.examples, self.recipe = network, examples, network.recipe
        label = examples.label[examples.rows(TRAIN)]
        counts = np.maximum(np.bincount(label, minlength=2), 1)
        # Each label weighs one half.
        self._weight = torch.from_numpy(len(label) / (2.0 * counts)).float().to(network.device)
        self.frozen = self.recipe.train == "head" and self.recipe.objective != "mlm"
        self._known: dict[int, Tensor] = {}
        if self.frozen:
            # Rows are computed in the company that they have in the first epoch, whenever it is: a product may round
            # otherwise in another, and a killed training has to come to the same rows.
            train = examples.rows(TRAIN)
            first = Order(train, examples.lengths, self.recipe.tokens, self.recipe.seed).order
            everyone = np.concatenate([first, np.flatnonzero(examples.part != TRAIN)])
            block = np.cumsum(examples.lengths[everyone]) // _BLOCK
            self._blocks = np.split(everyone, np.flatnonzero(np.diff(block)) + 1)
            self._block = np.empty(len(examples), np.int64)
            self._block[everyone] = np.repeat(np.arange(len(self._blocks)), [len(one) for one in self._blocks])

    def cut(self, rows: Int64[np.ndarray, " k"], budget: int, step: int) -> list[Piece]:
        """The proteins of a step, with its masks, in pieces of at most so many tokens."""
        examples, recipe = self.examples, self.recipe
        places: list[np.ndarray] | None = None
        if recipe.objective == "mlm":
            shown, places = masked(examples, rows, recipe.masked, recipe.seed, step)
        else:
            shown = [examples.ids(row) for row in rows.tolist()]
        return [
            Piece(rows[one], shown[one], None if places is None else places[one])
            for one in pieces(examples.lengths[rows], budget)
        ]

    def weight(self, found: Sequence[Piece]) -> float:
        """What the losses of a step's pieces are divided by, so that it does not matter how the step was cut."""
        if self.recipe.objective == "mlm":
            return float(sum(len(one) for piece in found for one in piece.places or ()))
        if self.recipe.objective == "contrastive":
            return float(sum(len(piece.rows) for piece in found))
        label = np.concatenate([self.examples.label[piece.rows] for piece in found])
        return float(self._weight.cpu().numpy()[label].sum())

    def loss(self, piece: Piece) -> Tensor:
        """The sum of the losses of its residues or proteins."""
        each, weight, _ = self.each(piece)
        return (each * weight).sum()

    def each(self, piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each masked residue or each protein, what it weighs, and what the head gave."""
        if self.recipe.objective == "mlm":
            loss, logits = self._guessed(piece)
            return loss, torch.ones_like(loss), logits
        out = self.network.projected(self._rows(piece))
        label = to_device(self.examples.label[piece.rows].astype(np.int64), out.device)
        if self.recipe.objective == "labels":
            loss = F.binary_cross_entropy_with_logits(out[:, 0], label.float(), reduction="none")
            return loss, self._weight[label], out
        loss = supervised_contrast(out, label, self.recipe.temperature)
        return loss, torch.ones_like(loss), out

    def _batch(self, piece: Piece) -> Any:
        network = self.network
        return collate(piece.shown, np.arange(len(piece.shown)), network.attention, network.device, None)

    def _guessed(self, piece: Piece) -> tuple[Tensor, Tensor]:
        assert piece.places is not None
        batch = self._batch(piece)
        owner = np.repeat(np.arange(len(piece.places)), [len(one) for one in piece.places])
        at = batch.borders.starts[owner] + np.concatenate(piece.places)
        truth = np.concatenate(
            [self.examples.ids(row)[one] for row, one in zip(piece.rows.tolist(), piece.places, strict=True)]
        )
        device = self.network.device
        logits = self.network.guesses(self.network.hidden(batch)[to_device(at, device)])
        return F.cross_entropy(logits, to_device(truth.astype(np.int64), device), reduction="none"), logits

    def _rows(self, piece: Piece) -> Float[Tensor, "k width"]:
        """Pooled rows; those of a frozen encoder are computed once."""
        if not self.frozen:
            return self.network.pooled(self._batch(piece))
        missing = [row for row in piece.rows.tolist() if row not in self._known]
        for block in np.unique(self._block[missing]).tolist():
            whole = self._blocks[block]
            with torch.no_grad():
                found = self.network.pooled(self._batch(Piece(whole, [self.examples.ids(row) for row in whole]))).cpu()
            self._known.update(zip(whole.tolist(), found, strict=True))
        return torch.stack([self._known[row] for row in piece.rows.tolist()]).to(self.network.device)

    @torch.no_grad()
    def look(self, rows: Int64[np.ndarray, " m"], budget: int) -> dict[str, float]:
        """Measure on proteins that are not trained on, each unit counting alike.

        Returns:
            ``loss``: the mean over units of their mean loss, of ``labels`` with half the weight on each label;
            for ``labels`` also ``roc_auc`` of proteins and ``unit_roc_auc`` of the units' mean log-odds; for ``mlm``
            ``perplexity``.
        """
        network, examples = self.network, self.examples
        network.training = False
        try:
            losses, owners, logits = [], [], []
            for piece in self.cut(rows, budget, step=0):
                each, _, out = self.each(piece)
                losses.append(each.double().cpu().numpy())
                if piece.places is None:
                    owners.append(piece.rows)
                else:
                    owners.append(np.repeat(piece.rows, [len(one) for one in piece.places]))
                if self.recipe.objective == "labels":
                    logits.append(out[:, 0].double().cpu().numpy())
        finally:
            network.training = True
        unit = examples.unit[np.concatenate(owners)]
        by_unit, _ = _means(np.concatenate(losses), unit)
        found = {"loss": float(by_unit.mean())}
        if self.recipe.objective == "mlm":
            found["perplexity"] = float(np.exp(by_unit.mean()))
        if self.recipe.objective == "labels":
            score = np.concatenate(logits)
            label = examples.label[np.concatenate(owners)]
            mean, first = _means(score, unit)
            kind = label[first]
            halves = [by_unit[kind == one].mean() for one in (0, 1) if (kind == one).any()]
            found["loss"] = float(np.mean(halves))
            found["roc_auc"] = float(roc_auc(label == 1, score))
            found["unit_roc_auc"] = float(roc_auc(kind == 1, mean))
        return found


def supervised_contrast(projected: Float[Tensor, "n out"], label: Tensor, temperature: float) -> Float[Tensor, " n"]:
    """The supervised contrastive loss of each row (L_out of Khosla et al., NeurIPS 2020); 0 for one alone of its label.

    The directions of rows are compared, by cosines that are divided by the temperature.
    """
    direction = F.normalize(projected, dim=1)
    cosine = direction @ direction.T / temperature
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    log = cosine - cosine.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    same = (label[:, None] == label[None, :]) & ~itself
    count = same.sum(1)
    loss = -(log.masked_fill(~same, 0.0).sum(1)) / count.clamp(min=1)
    return loss.masked_fill(count == 0, 0.0)


def _means(
    values: Float64[np.ndarray, " n"], unit: np.ndarray
) -> tuple[Float64[np.ndarray, " units"], Int64[np.ndarray, " units"]]:
    """The mean of each unit, and where it comes first."""
    _, first, number = np.unique(unit, return_index=True, return_inverse=True)
    sums = np.bincount(number, weights=values)
    means: Float64[np.ndarray, " units"] = sums / np.bincount(number)
    return means, first
