"""Who takes part: the engine in each precision, and other ways to run the same model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from vnp.encoders.engine import TransformerEncoder
from vnp.errors import EncoderError
from vnp.speed.measure import Pieces, Run
from vnp.speed.rivals import EsmModel, OneByOne, best_batch, in_batches, sorted_batches, token_batches
from vnp.speed.subject import Subject

Kind = Literal["ours", "rival", "loop"]

_GPU_BATCHES, _CPU_BATCHES = (64, 128, 256, 512), (1, 4, 8, 16, 32, 64)
_LOOP_BATCH = 16
_LOOP_TOKENS = 2048
_TRIAL_SHARE = 0.4  # of a rival's time goes into finding its best batch


@dataclass(frozen=True, eq=False)
class Entry:
    """A contestant that is ready for one workload.

    Attributes:
        run: embeds one piece.
        pieces: what it works through in turn.
        note: what was chosen, such as the kernel or the batch.
    """

    run: Run
    pieces: Pieces
    note: str


class Ready:
    """A contestant whose model is on its device.

    Args:
        prepare: makes it ready for a workload, given token ids and seconds that it may spend on choosing.
        encoder: the engine, if it is ours.
    """

    def __init__(
        self, prepare: Callable[[Sequence[np.ndarray], float], Entry], encoder: TransformerEncoder | None = None
    ) -> None:
        self.prepare = prepare
        self.encoder = encoder


@dataclass(frozen=True)
class Contestant:
    """One that takes part.

    Attributes:
        name: in words.
        kind: ``ours``; ``rival`` is another program at its best; ``loop`` is VirNucPro's way.
        precision: it runs in.
        build: puts the model on its device; raises what is wrong.
    """

    name: str
    kind: Kind
    precision: str
    build: Callable[[Subject], Ready]


def contestants(subject: Subject, precisions: Sequence[str], token_budget: int | None) -> list[Contestant]:
    """List who takes part for a model.

    Args:
        subject: the model.
        precisions: of ours; rivals run in the first that they know.
        token_budget: tokens of our batches; None for the default.

    Returns:
        Ours first.
    """
    ours = [_ours(precision, token_budget) for precision in precisions]
    if subject.reads_dna:
        return [*ours, Contestant("VirNucPro's way: one sequence at a time", "loop", "fp32", _one_by_one)]
    known = [each for each in precisions if each != "fp8"]
    precision = known[0] if known else ("fp16" if subject.device.type == "cuda" else "fp32")
    best = Contestant("transformers EsmModel, SDPA, sorted", "rival", precision, _transformers(precision))
    if subject.name == "esm2_3b":
        name = f"VirNucPro's way: sorted, {_LOOP_TOKENS:,} tokens a batch"
        return [*ours, best, Contestant(name, "loop", "fp32", _loop_of_tokens)]
    name = f"VirNucPro's way: unsorted, batch {_LOOP_BATCH}, a copy a sequence"
    return [*ours, best, Contestant(name, "loop", precision, _loop(precision))]


def _lengths(ids: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([len(each) for each in ids], np.int64)


def _ours(precision: str, token_budget: int | None) -> Contestant:
    def build(subject: Subject) -> Ready:
        encoder = subject.encoder(precision, token_budget=token_budget)

        def prepare(ids: Sequence[np.ndarray], _: float) -> Entry:
            note = f"{encoder.kernel}, {encoder.token_budget:,} tokens a batch"
            return Entry(encoder.embed_ids, [np.arange(len(ids))], note)

        return Ready(prepare, encoder)

    return Contestant("vnp", "ours", precision, build)


def _transformers(precision: str) -> Callable[[Subject], Ready]:
    def build(subject: Subject) -> Ready:
        model = EsmModel(subject, precision, copy_each=False)
        batches = _GPU_BATCHES if subject.device.type == "cuda" else _CPU_BATCHES

        def prepare(ids: Sequence[np.ndarray], seconds: float) -> Entry:
            batch, pieces = best_batch(model, ids, batches, seconds * _TRIAL_SHARE)
            return Entry(model.run, pieces, f"batch {batch}, the best of {batches[0]} to {batches[-1]}")

        return Ready(prepare)

    return build


def _loop(precision: str) -> Callable[[Subject], Ready]:
    def build(subject: Subject) -> Ready:
        model = EsmModel(subject, precision, copy_each=True)
        return Ready(
            lambda ids, _: Entry(model.run, in_batches(np.arange(len(ids)), _LOOP_BATCH), f"batch {_LOOP_BATCH}")
        )

    return build


def _loop_of_tokens(subject: Subject) -> Ready:
    model = EsmModel(subject, "fp32", copy_each=True)
    return Ready(lambda ids, _: Entry(model.run, token_batches(_lengths(ids), _LOOP_TOKENS), "sorted by length"))


def _one_by_one(subject: Subject) -> Ready:
    model = OneByOne(subject)
    return Ready(lambda ids, _: Entry(model.run, in_batches(np.arange(len(ids)), 1), "plain layers"))


def sample_pieces(entry: Entry, kind: Kind, ids: Sequence[np.ndarray]) -> Pieces:
    """How a contestant takes the sequences that numbers are compared on: ours all at once, others in small batches."""
    if kind == "ours":
        return [np.arange(len(ids))]
    size = max(1, min(32, len(entry.pieces[0])))
    return sorted_batches(_lengths(ids), size)


def reason(error: BaseException) -> str:
    """Why a contestant could not run, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if isinstance(error, EncoderError) else f"{type(error).__name__}: {first}"
