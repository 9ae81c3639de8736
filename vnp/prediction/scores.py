"""What is called: the sealed shards of a run, read in order, with the scores of their rows.

A shard of a prediction holds scores; of one that holds rows, the rows are scored as they are read. Nothing is merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from jaxtyping import Float16, Float32, Int64

from vnp.classifier.classifier import Classifier
from vnp.errors import DamagedShardError, FeatureError, UsageError
from vnp.features.layout import FeatureLayout, make_layout
from vnp.features.scores import GROUP, NOT_COUNTED, Facts, Named, Scores, read_facts, read_named, read_scores
from vnp.features.table import Skipped, read_skipped, windows
from vnp.prediction.classifiers import join_parts, native_of
from vnp.runs.done.receipts import Receipt, require_all_sealed, require_same_encoders, require_sealed, withdraw
from vnp.runs.planning.plan import read_plan
from vnp.runs.request import ClassifierChoice, PlannedInput, Run
from vnp.sequences.mates import fragment_name

_NAMED_REASONS = 3
_ROWS_AT_ONCE = 1 << 18
_RECORDS_AT_ONCE = 1 << 16
_SCORED_AT_ONCE = 1 << 13


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive records, each of them whole, and the scores of their rows."""

    records: Named
    rows: Scores
    mates: int = 1  # consecutive records that are called as one

    @property
    def called(self) -> Named:
        """What is called: the records, or the fragments that they are mates of, numbered from 0 too."""
        return _fragments(self.records) if self.mates > 1 else self.records

    @property
    def first(self) -> int:
        """Ordinal of the first record."""
        return int(self.records.ordinal[0])

    @property
    def owner(self) -> Int64[np.ndarray, "n"]:
        """For each row, the place of its record."""
        owner: Int64[np.ndarray, "n"] = self.rows.record - self.first
        return owner

    def part(self, low: int, high: int) -> Batch:
        """Records ``low`` up to, not including, ``high``, by their places."""
        first, last = np.searchsorted(self.owner, (low, high))
        return Batch(_part(self.records, low, high), _part(self.rows, int(first), int(last)), self.mates)

    def followed_by(self, other: Batch) -> Batch:
        """These records and those behind them, of which the first may be this one's last."""
        again = _again(self.records, other.records)
        return Batch(_joined(self.records, other.records, again), _joined(self.rows, other.rows), self.mates)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Consecutive records and what tables tell of them."""

    records: Named
    facts: Facts
    skipped: Skipped  # of these records

    def of_fragments(self) -> Told:
        """The same of the fragments that the records are mates of: sums, and the description of the first mate."""
        facts, unknown = self.facts, Facts.unknown(len(self.records) // 2)
        gc, ambiguous = (
            np.where((pairs < 0).all(axis=1), NOT_COUNTED, np.maximum(pairs, 0).sum(axis=1))
            for pairs in (facts.gc.reshape(-1, 2), facts.ambiguous.reshape(-1, 2))
        )
        skipped = replace(self.skipped, record=self.skipped.record // 2)
        return Told(_fragments(self.records), Facts(unknown.repeat, gc, ambiguous, facts.description[::2]), skipped)

    def part(self, low: int, high: int) -> Told:
        """Records ``low`` up to, not including, ``high``, by their places."""
        first, last = np.searchsorted(self.skipped.record, self.records.ordinal[[low, high - 1]] + (0, 1))
        skipped = _part(self.skipped, int(first), int(last))
        return Told(_part(self.records, low, high), _part(self.facts, low, high), skipped)

    def followed_by(self, other: Told) -> Told:
        """These records and those behind them, of which the first may be this one's last."""
        again = _again(self.records, other.records)
        return Told(
            _joined(self.records, other.records, again),
            _joined(self.facts, other.facts, again),
            _joined(self.skipped, other.skipped),
        )


_Table = TypeVar("_Table", Named, Facts, Scores, Skipped)


def _joined(one: _Table, other: _Table, again: int = 0) -> _Table:
    """Rows of a table, and those behind them but the first so many."""
    columns: list[Any] = []
    for column in fields(one):
        before, behind = getattr(one, column.name), getattr(other, column.name)[again:]
        columns.append(before + behind if isinstance(before, list) else np.concatenate([before, behind]))
    return type(one)(*columns)


def _fragments(mates: Named) -> Named:
    """Pairs as one record each; of both mates, lengths and chunks are added up."""
    both = mates.length.reshape(-1, 2), mates.chunks.reshape(-1, 2)
    names = [fragment_name(name) for name in mates.name[::2]]
    return Named(mates.ordinal[::2] // 2, names, both[0].sum(axis=1), both[1].sum(axis=1).astype(np.int32))


def _again(one: Named, other: Named) -> int:
    """How many of the records behind others are among these already: one that a border cuts, or none."""
    return int(one.ordinal[-1] == other.ordinal[0])


def _part(table: _Table, low: int, high: int) -> _Table:
    return type(table)(*(getattr(table, one.name)[low:high] for one in fields(table)))


def reasons_of(names: Named, skipped: Skipped, asked: Int64[np.ndarray, "u"]) -> list[str]:
    """Why the records at these places have no row: each one's own reason, or those of its chunks, each once."""
    entries = np.flatnonzero(skipped.frame < 0)
    of_entry, ordinals = skipped.record[entries], names.ordinal[asked]
    low, high = (np.searchsorted(of_entry, ordinals, side=side) for side in ("left", "right"))
    found = []
    for first, last in zip(low.tolist(), high.tolist(), strict=True):
        texts = dict.fromkeys(skipped.reason[place] for place in entries[first:last].tolist())
        named = [text.decode() for text in list(texts)[:_NAMED_REASONS]]
        found.append("; ".join(named) or "no open frame")
    return found


class Source:
    """The shards of a run, whose rows a classifier has scored or will score on ``device``.

    Raises:
        IncompleteRunError: shards are missing.
        DamagedShardError: receipts are damaged.
        FeatureError: the classifier does not fit the rows, or these are not of one precision.
        UsageError: the run keeps the scores of another classifier, and no rows.
    """

    def __init__(self, run: Run, classifier: Classifier, choice: ClassifierChoice, device: str = "auto") -> None:
        self.run = run
        self.classifier = classifier
        self._receipts = require_all_sealed(run, read_plan(run.paths.plan, run.request.plan_sha256))
        require_same_encoders(run, self._receipts)
        own = run.request.classifier
        self.stored = own is not None and own.sha256 == choice.sha256
        """Whether shards hold the scores of this classifier."""
        self.native: Classifier | None = None
        """The native one, where shards hold its scores behind those."""
        if self.stored:
            if own is not None and own.native is not None:
                self.native = native_of(own)
            return
        if not run.request.keeps_rows:
            raise UsageError(
                f"{run.paths.root} keeps the scores of {Path(own.name).name if own else 'another'} and no rows "
                "that another checkpoint could score: predict its inputs anew, or with --keep-embeddings the next time"
            )
        identities = self._receipts[0].encoders
        layout = layout_of(choice.layout, identities, classifier.layout)
        classifier.require(layout, identities, run.request.chunk, str(run.paths.root))
        self._scorer = classifier.scorer(device)

    @property
    def inputs(self) -> Sequence[PlannedInput]:
        """The files that the run was made of."""
        return self.run.request.inputs

    @property
    def mates(self) -> int:
        """Consecutive records that are called as one."""
        return self.run.request.mates

    @property
    def calls(self) -> int:
        """How many calls there are: of records, or of fragments."""
        return self.run.request.totals.records // self.mates

    def window(self, entry: PlannedInput) -> slice:
        """The calls of a file."""
        return slice(entry.first_record // self.mates, (entry.first_record + entry.records) // self.mates)

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(receipt.rows for receipt in self._receipts)

    def batches(self) -> Iterator[Batch]:
        """All records with the scores of their rows, in order, some ten thousand at a time.

        Raises:
            DamagedShardError: a shard is not the file that its receipt names; it counts as missing from now on.
        """
        held: Batch | None = None
        for receipt in self._receipts:
            self._require_whole(receipt)
            with self._opened(receipt) as file:
                for found in self._pieces(file):
                    batch = found if held is None else held.followed_by(found)
                    # The last record can go on in what comes next, and so can a fragment.
                    whole = self._whole(batch.records)
                    if whole:
                        yield batch.part(0, whole)
                    held = batch.part(whole, len(batch.records))
        if held is not None:
            yield held

    def named(self) -> Iterator[Told]:
        """All that is called, each once, with what is told of it, some ten thousand at a time."""
        held: Told | None = None
        for receipt in self._receipts:
            with self._opened(receipt) as file:
                of_entry = file["skipped/record"][:]
                for window in windows(len(file["records/ordinal"])):
                    names = read_named(file, window)
                    first, last = np.searchsorted(of_entry, (names.ordinal[0], names.ordinal[-1] + 1))
                    told = Told(names, read_facts(file, window), read_skipped(file, slice(int(first), int(last))))
                    told = told if held is None else held.followed_by(told)
                    # The last record can go on in the next shard, and so can a fragment.
                    whole = self._whole(told.records)
                    if whole:
                        yield self._called(told.part(0, whole))
                    held = told.part(whole, len(told.records))
        if held is not None:
            yield self._called(held)

    def _called(self, told: Told) -> Told:
        return told.of_fragments() if self.mates > 1 else told

    def _whole(self, records: Named) -> int:
        """How many of the first records are sure to be whole, with their mates."""
        last = len(records) - 1
        return last - int(records.ordinal[last]) % self.mates

    def _pieces(self, file: h5py.File) -> Iterator[Batch]:
        """The records of a shard with their rows, so many at a time that they fit into memory."""
        group = f"{GROUP}/" if self.stored else ""
        ordinals = file["records/ordinal"]
        if not len(ordinals):
            return
        first, count = int(ordinals[0]), len(ordinals)
        starts = np.searchsorted(file[f"{group}record"][:], np.arange(first, first + count + 1))
        low = 0
        while low < count:
            room = int(np.searchsorted(starts, starts[low] + _ROWS_AT_ONCE, side="right")) - 1
            high = max(low + 1, min(low + _RECORDS_AT_ONCE, room))
            window = slice(int(starts[low]), int(starts[high]))
            rows = read_scores(file, window) if self.stored else self._score(file, window)
            yield Batch(read_named(file, slice(low, high)), rows, self.mates)
            low = high

    def _score(self, file: h5py.File, window: slice) -> Scores:
        scored = ("logits", "novelty")
        columns = {one.name: file[one.name][window] for one in fields(Scores) if one.name not in scored}
        parts = self.classifier.layout.parts
        logits: list[Float32[np.ndarray, "n k"]] = []
        novelty: list[Float16[np.ndarray, "n"]] = []
        for low in range(window.start, max(window.stop, window.start + 1), _SCORED_AT_ONCE):
            some = slice(low, min(low + _SCORED_AT_ONCE, window.stop))
            arrays = {part.source: file[part.source][some] for part in parts}
            rows = join_parts(self.classifier.layout, arrays)
            logits.append(self._scorer.logits(rows))
            novelty.append(self._scorer.novelty(rows))
        return Scores(**columns, logits=np.concatenate(logits), novelty=np.concatenate(novelty))

    def _require_whole(self, receipt: Receipt) -> None:
        try:
            require_sealed(self.run, receipt.shard, full=True)
        except DamagedShardError as error:
            withdraw(self.run, receipt.shard)
            raise DamagedShardError(f"{error}\nMake it with: {self.run.rerun_command}") from error

    @contextmanager
    def _opened(self, receipt: Receipt) -> Iterator[h5py.File]:
        path = self.run.paths.shard(receipt.shard)
        try:
            with h5py.File(path, "r", locking=False) as file:
                yield file
        except (OSError, KeyError, RuntimeError) as error:
            raise FeatureError(f"cannot be read ({error})", path=path) from error


def layout_of(kind: str, identities: dict[str, dict[str, object]], read: FeatureLayout) -> FeatureLayout:
    """The layout of rows by some encoders, as far as a classifier of another layout reads it."""
    native = {name: (str(identity["name"]), int(str(identity["width"]))) for name, identity in identities.items()}
    layout = make_layout(kind, dna=native["dna"], protein=native.get("protein"))
    return layout.only(read.parts[0].name) if len(read.parts) == 1 else layout
