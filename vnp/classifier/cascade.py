"""Which records the native network may settle in place of a checkpoint: measured in training, chosen when it is used.

Of held-out records it is kept how the checkpoint scores them and what the native network says. From these a cut-off
follows for each class of lengths and each side, by conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster,
"Conformal risk control", ICLR 2024, arXiv:2208.02814, theorem 1): with the losses of n exchangeable units, each in
[0, 1] and falling as the cut-off rises, the least cut-off with (sum of losses + 1) / (n + 1) <= risk keeps the expected
loss of a new unit at or under the risk. The loss of a unit is the share of its records that would be settled against
the checkpoint's own call. It is taken among records that the checkpoint calls host and among those that it calls viral
apart, so that it holds whatever the share of viruses is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from vnp.classifier.scored import Scored
from vnp.classifier.split import record_sequences
from vnp.errors import FeatureError
from vnp.features.read import Features
from vnp.metrics.rules import aggregate, chunk_keys
from vnp.runs.request import Cut
from vnp.sequences.chunks import Chunking, Chunks
from vnp.sequences.frames import whole_chunks

MOST_WINDOWS = 32
"""Windows of a record that the native network looks at; of longer ones so many, spread evenly."""
_PIECES = 2
_FEW_CHUNKS = 16
_BASES_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """What the native network reads of some sequences."""

    owner: Int64[np.ndarray, "w"]  # place of the sequence, never falling
    number: Int32[np.ndarray, "w"]  # of the first chunk that the window covers, from 1
    start: Int64[np.ndarray, "w"]  # on the sequence
    end: Int64[np.ndarray, "w"]
    dna: list[str]


def cut_windows(sequences: Sequence[bytes], chunk: int, window: int, shortest: int) -> Windows:
    """Cut upper-case nucleotides into windows of whole chunks; each window begins with another chunk.

    A window has about ``window`` bases, and a chunk at least; those under ``shortest`` or without a known base are left
    out.
    """
    lengths = np.array([len(one) for one in sequences], np.int64)
    chunking, together = Chunking(chunk), max(1, window // chunk)
    count = chunking.count(lengths)
    short = np.flatnonzero((count > 0) & (count <= together))
    parts = [(short, np.ones(len(short), np.int64), np.zeros(len(short), np.int64), lengths[short])]
    for at in np.flatnonzero(count > together).tolist():
        some = min(-(-int(count[at]) // together), MOST_WINDOWS)
        first = np.round(np.linspace(0, count[at] - together, some)).astype(np.int64)
        table = chunking.cut(lengths[at : at + 1])
        parts.append((np.full(some, at), first + 1, table.start[first], table.end[first + together - 1]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    owner, number, start, end = (column[order] for column in columns)
    places = zip(owner.tolist(), start.tolist(), end.tolist(), strict=True)
    pieces = [sequences[at][low:high] for at, low, high in places]
    each = np.arange(len(pieces))
    whole = whole_chunks(pieces, Chunks(each, np.ones(len(each), np.int32), 0 * each, end - start), shortest)
    kept = whole.chunk
    return Windows(owner[kept], number[kept].astype(np.int32), start[kept], end[kept], whole.nucleotides())


def means(
    margin: Float64[np.ndarray, "w"], owner: Int64[np.ndarray, "w"]
) -> tuple[Int64[np.ndarray, "s"], Float64[np.ndarray, "s"]]:
    """The sequences that windows are of, rising, and the mean log-odds of each."""
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    if not len(first):
        return owner, margin
    return owner[first], np.add.reduceat(margin, first) / np.diff(np.r_[first, len(owner)])


@dataclass(frozen=True, slots=True)
class Other:
    """The native network, as training needs it."""

    digest: str  # of its weights, calibration and presets
    window: int  # bases that it reads at once
    shortest: int  # bases of the shortest window
    margins: Callable[[Sequence[str]], Float64[np.ndarray, "w"]]  # log-odds of windows


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """What both classifiers say of n held-out records, or pieces of them."""

    margin: Float32[np.ndarray, "n"]  # mean log-odds by the native network
    length: Int64[np.ndarray, "n"]  # bases
    probability: Float64[np.ndarray, "n"]  # of viral by the checkpoint, calibrated, of the surest frame
    unit: Int64[np.ndarray, "n"]  # number of what the split keeps together
    native: str  # digest of the native network
    part: str  # which part of the split they are of

    def to_tensors(self) -> dict[str, Any]:
        """As a file of tensors holds it."""
        import torch

        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value if isinstance(value, str) else torch.from_numpy(value) for name, value in values.items()}

    @classmethod
    def from_tensors(cls, stored: Any) -> Agreement:
        """Read what ``to_tensors`` gave; TypeError or ValueError where it is something else."""
        values: dict[str, Any] = {
            name: value if isinstance(value, str) else value.numpy() for name, value in stored.items()
        }
        found = cls(**values)
        if len({getattr(found, name).shape for name in ("margin", "length", "probability", "unit")}) != 1:
            raise ValueError("the columns of its cascade do not fit")
        return found

    def cuts(
        self, risk: float, chunk: int, own_viral: Bool[np.ndarray, "n"], native_viral: Bool[np.ndarray, "n"]
    ) -> tuple[Cut, ...]:
        """Choose from which log-odds on records may be settled, for each doubling of length.

        Args:
            risk: share of calls that may differ.
            chunk: bases of a chunk, where one class of lengths begins.
            own_viral: what the checkpoint alone calls viral.
            native_viral: what the native network calls viral by itself; it settles nothing against its own call.
        """
        level = np.floor(np.log2(self.length / chunk) + 1e-9).astype(np.int64)
        found = []
        for one in np.unique(level).tolist():
            some = level == one
            least, units = [], []
            for side in (True, False):
                # What the checkpoint calls otherwise: each of them that is settled on this side is a call changed.
                against = some & (own_viral != side)
                wrong = np.where(native_viral == side, self.margin if side else -self.margin, -np.inf)[against]
                least.append(_least(wrong.astype(np.float64), self.unit[against], risk))
                units.append(len(np.unique(self.unit[against])))
            low, high = (round(chunk * 2.0 ** (one + more)) for more in (0, 1))
            found.append(Cut(low, high, least[0], least[1], units[0], units[1]))
        return tuple(found)


def _least(margin: Float64[np.ndarray, "m"], unit: Int64[np.ndarray, "m"], risk: float) -> float | None:
    """The least cut-off, from 0 on, that conformal risk control allows; None where there are too few units."""
    _, number, size = np.unique(unit, return_inverse=True, return_counts=True)
    room = risk * (len(size) + 1) - 1
    if not len(size) or room < 0:
        return None
    order = np.argsort(-margin, kind="stable")
    falling, loss = margin[order], np.cumsum(1 / size[number[order]])
    # With the cut-off at one of them, it and all above are lost; those that share its log-odds go together.
    last = np.r_[falling[1:] != falling[:-1], True]
    allowed = falling[last & (loss > room + 1e-12)]
    least = 0.0 if not len(allowed) else float(np.nextafter(np.float32(allowed[0]), np.float32(np.inf)))
    return max(0.0, least)


def needed_units(risk: float) -> int:
    """Units without which no cut-off can be chosen."""
    return int(np.ceil(1 / risk - 1e-9)) - 1


def measure_agreement(features: Features, part: Scored, other: Other, seed: int, name: str) -> Agreement:
    """Let the native network read pieces of the records of one part, of one chunk, of two, of four and so on.

    Up to two pieces of each size are taken of every unit, one where it has 16 chunks or more, whose ends are those of
    chunks: so the checkpoint's own score is that of the rows inside. The sequences are read anew from the inputs that
    the features' provenance names; the seed is of where pieces lie, and ``name`` is that of the part.

    Raises:
        ChangedInputError: an input is gone or has changed.
        FeatureError: no record of the part has a row.
    """
    records = features.records()
    keys = chunk_keys(part.record, part.chunk)
    unit_of = dict(zip(part.record.tolist(), part.group.tolist(), strict=True))
    pieces = _pieces(part.records.key, records.chunks[part.place], unit_of, seed)
    ordinal, first, count = (np.array(column, np.int64) for column in zip(*pieces, strict=True))
    low, high = (np.searchsorted(keys, chunk_keys(ordinal, at)) for at in (first, first + count))
    kept = np.flatnonzero(high > low)
    ordinal, first, count, low, high = (column[kept] for column in (ordinal, first, count, low, high))
    sizes = high - low
    inside = np.arange(sizes.sum()) + np.repeat(low - (np.cumsum(sizes) - sizes), sizes)
    own = aggregate(part.probability[inside], np.repeat(np.arange(len(sizes)), sizes)).probability
    margin, length = np.full(len(sizes), np.nan, np.float32), np.zeros(len(sizes), np.int64)
    of: dict[int, list[int]] = defaultdict(list)
    for at, number in enumerate(np.searchsorted(records.ordinal, ordinal).tolist()):
        of[number].append(at)
    places: list[int] = []
    sequences: list[bytes] = []

    def listen() -> None:
        windows = cut_windows(sequences, features.chunk, other.window, other.shortest)
        at, mean = means(other.margins(windows.dna), windows.owner)
        margin[np.array(places, np.int64)[at]] = mean
        places.clear()
        sequences.clear()

    for number, sequence in record_sequences(features, records):
        if number not in of:
            continue
        table = Chunking(features.chunk).cut(np.array([len(sequence)]))
        for at in of[number]:
            piece = sequence[table.start[first[at] - 1] : table.end[first[at] + count[at] - 2]]
            length[at] = len(piece)
            places.append(at)
            sequences.append(piece)
            if sum(map(len, sequences)) > _BASES_AT_ONCE:
                listen()
    if sequences:
        listen()
    heard = np.flatnonzero(np.isfinite(margin))
    if not len(heard):
        raise FeatureError(f"no record of the {name} part can be read by the native network: train without --cascade")
    unit = np.array([unit_of[one] for one in ordinal[heard].tolist()], np.int64)
    return Agreement(margin[heard], length[heard], own[heard], unit, other.digest, name)


def _pieces(
    ordinal: Int64[np.ndarray, "r"], chunks: Int32[np.ndarray, "r"], unit_of: dict[int, int], seed: int
) -> list[tuple[int, int, int]]:
    """Pieces of records: its ordinal, the number of the first chunk, and how many chunks; each once."""
    draw = np.random.default_rng(seed)
    of: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for one, count in zip(ordinal.tolist(), chunks.tolist(), strict=True):
        of[unit_of[one]].append((one, count))
    found: dict[tuple[int, int, int], None] = {}
    for unit in sorted(of):
        size = 1
        while some := [entry for entry in of[unit] if entry[1] >= size]:
            weight = np.array([count for _, count in some], np.float64)
            for _ in range(_PIECES if size < _FEW_CHUNKS else 1):
                one, count = some[int(draw.choice(len(some), p=weight / weight.sum()))]
                taken = min(int(draw.integers(size, 2 * size + 1)), count)
                found[one, int(draw.integers(0, count - taken + 1)) + 1, taken] = None
            size *= 2
    return list(found)
