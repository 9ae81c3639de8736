"""Records that the native network settles in place of a checkpoint: from which log-odds on, and which they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from vnp.classifier.cascade import cut_windows, means, needed_units
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.classifier import Classifier, margins
from vnp.errors import UsageError
from vnp.features.scores import SETTLED, Scores
from vnp.metrics.presets import Preset
from vnp.metrics.rules import chunk_keys
from vnp.native.classifier import NativeClassifier, WindowScorer, digest_of
from vnp.runs.request import Cascade, PlannedInput
from vnp.runs.units import Settled, UnitBatch


def choose_cascade(
    classifier: Classifier, name: str, risk: float, threshold: float | None, preset: str | None
) -> Cascade:
    """Choose what the native network settles, by the held-out records that a checkpoint, called ``name``, keeps.

    The risk is the share of the calls that may differ from those of the checkpoint alone; a record is called viral from
    the threshold on or, where that is None, by the preset.

    Raises:
        UsageError: the checkpoint does not keep such records, or too few; or the risk is no share.
    """
    if not 0 < risk < 1:
        raise UsageError(f"--cascade-risk is the share of calls that may differ, between 0 and 1, not {risk:g}")
    if not isinstance(classifier, Checkpoint) or classifier.layout.rows != "frames":
        raise UsageError(
            f"--cascade goes with checkpoints of train that read open frames, not with {name}: leave it out"
        )
    held = classifier.agreement
    anew = "train it anew with python -m jobs.train RUN --cascade"
    if held is None:
        raise UsageError(f"--cascade needs to know how {name} and native agree on held-out records: {anew}")
    if held.native != digest_of(None):
        raise UsageError(f"{name} was compared with the native model of another vnp: {anew}")
    native = NativeClassifier()
    own = held.probability >= _least(classifier.presets, held.length, threshold, preset)
    other = native.probability(held.margin.astype(np.float64), held.length)
    says = other >= _least(native.presets, held.length, threshold, preset)
    cuts = held.cuts(risk, classifier.chunk, own, says)
    kept = tuple(cut for cut in cuts if cut.viral is not None or cut.host is not None)
    if not kept:
        most = max(max(cut.viral_units, cut.host_units) for cut in cuts)
        raise UsageError(
            f"--cascade-risk {risk:g} takes {needed_units(risk):,} held-out units of a length, and {name} keeps "
            f"{most:,}: give a larger risk, from {1 / (most + 1):.3g} on, or train with more units in the test part"
        )
    return Cascade(risk, threshold, preset, held.part, kept)


def _least(
    presets: Mapping[str, Preset], length: Int64[np.ndarray, "n"], threshold: float | None, preset: str | None
) -> Float64[np.ndarray, "n"]:
    """The probability from which on records of some lengths are viral."""
    if preset is None:
        return np.full(len(length), threshold, np.float64)
    found: Float64[np.ndarray, "n"] = presets[preset].of(length)
    return found


class Settling:
    """Finds the records of a block that the native network settles."""

    def __init__(
        self, cascade: Cascade, native: NativeClassifier, scorer: WindowScorer, chunk: int, shortest: int
    ) -> None:
        self._cascade, self._native, self._scorer = cascade, native, scorer
        self._chunk, self._shortest = chunk, shortest
        never = np.inf
        self._low, self._high = (np.array([getattr(cut, name) for cut in cascade.cuts]) for name in ("low", "high"))
        self._from = {
            side: np.array([never if getattr(cut, side) is None else getattr(cut, side) for cut in cascade.cuts])
            for side in ("viral", "host")
        }
        # The last record that was looked at, which can go on in the next block, and its windows if it is settled.
        self._last, self._windows = -1, _no_scores(len(native.kinds))

    def settle(self, units: Sequence[UnitBatch], inputs: Sequence[PlannedInput]) -> Settled:
        """Let the native network read the whole records of a block, and keep those that it is sure about."""
        sequences: dict[int, bytes] = {}
        keys = []
        for batch in units:
            ordinals = batch.ordinals + inputs[batch.input].first_record
            each = zip(ordinals.tolist(), batch.records, strict=True)
            sequences |= {ordinal: record.sequence for ordinal, record in each if not record.problem}
            keys.append(chunk_keys(ordinals[batch.chunks.sequence], batch.chunks.number))
        sequences.pop(self._last, None)
        windows = self._windows.followed_by(self._sure(list(sequences), list(sequences.values())))
        if sequences:
            self._last = max(sequences)
            self._windows = windows.some(windows.record == self._last)
        here = np.isin(chunk_keys(windows.record, windows.chunk), np.concatenate(keys))
        return Settled(np.unique(windows.record), windows.some(here))

    def _sure(self, ordinals: list[int], sequences: list[bytes]) -> Scores:
        """The windows of those records that are settled."""
        length = np.array([len(one) for one in sequences], np.int64)
        place = np.searchsorted(self._low, length, side="right") - 1
        known = (place >= 0) & (length < self._high[place])
        asked = np.flatnonzero(known).tolist()
        windows = cut_windows([sequences[at] for at in asked], self._chunk, self._native.chunk, self._shortest)
        if not windows.dna:
            return _no_scores(len(self._native.kinds))
        logits, novelty = self._scorer.score(windows.dna)
        of, mean = means(margins(logits, self._native.kinds, self._native.viral), windows.owner)
        at = np.array(asked)[of]
        bases, cut, heard = length[at], place[at], mean.astype(np.float32)
        chance = self._native.probability(mean, bases)
        says = chance >= _least(self._native.presets, bases, self._cascade.threshold, self._cascade.preset)
        sure = np.where(says, heard >= self._from["viral"][cut], -heard >= self._from["host"][cut])
        record = np.array(ordinals)[np.array(asked)[windows.owner]]
        frame = np.full(len(record), SETTLED, np.int8)
        every = Scores(record, windows.number, frame, windows.start, windows.end, logits, novelty)
        return every.some(np.isin(windows.owner, of[sure]))


def _no_scores(kinds: int) -> Scores:
    none = np.zeros(0, np.int64)
    return Scores(
        none, none.astype(np.int32), none.astype(np.int8), none, none, np.zeros((0, kinds), np.float32),
        np.zeros(0, np.float16),
    )  # fmt: skip
