"""Everything that ``jobs.predict`` writes, in one pass over the rows and one over the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vnp.features.table import Records
from vnp.files.durable import replacing
from vnp.prediction.calls import (
    CALL_NAMES,
    CALLED,
    HOST,
    NO_CALL,
    RELIABILITY_NAMES,
    SHORT,
    UNSCORED,
    VIRAL,
    Calls,
    Chunks,
    Tally,
    decide,
    score_chunks,
)
from vnp.prediction.fasta import write_called
from vnp.prediction.scores import batches
from vnp.prediction.settings import TABLES, OutputPaths, Settings
from vnp.prediction.source import Reasons, count_records, planned_inputs, record_lengths, record_windows
from vnp.prediction.tables import CHUNKS, FRAMES, PREDICTIONS, Column, Table
from vnp.prediction.virnucpro import VirNucProFiles
from vnp.report.calls import Report, best_records, write_report
from vnp.runs.request import versions
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import FRAME_NAMES

if TYPE_CHECKING:
    from vnp.classifier.checkpoint import Checkpoint
    from vnp.features.read import Features

SCHEMA = "vnp-predictions/1"
Progress = Callable[[str, int], None]
"""Told what is being done (``scoring`` or ``writing``) and how many rows were done since the last call."""


@dataclass(slots=True)
class _Found:
    """What one pass over the records gathers for the summary and the report."""

    names: dict[int, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


class Writing:
    """One prediction on its way to the disk.

    Args:
        features: of the run.
        settings: what to do.
        checkpoint: the classifier.
        paths: where to.
        progress: told how many rows were written since the last call.
    """

    def __init__(
        self, features: Features, settings: Settings, checkpoint: Checkpoint, paths: OutputPaths, progress: Progress
    ) -> None:
        self._features = features
        self._settings = settings
        self._checkpoint = checkpoint
        self._paths = paths
        self._progress = progress
        self._lengths = record_lengths(features)
        self._tally = Tally(count_records(features), settings.rule, settings.threshold)
        self._inputs = planned_inputs(features)

    def run(self, scores: np.ndarray) -> dict[str, Any]:
        """Write tables, sequences and the report; returns the summary, with the size of every file.

        Args:
            scores: of all rows, as ``read_scores`` gives them.

        Raises:
            InputError: an input has changed, so that called sequences cannot be written.
            StorageError: the disk is full or cannot be written.
        """
        paths, settings = self._paths, self._settings
        with ExitStack() as stack:
            self._write_rows(scores, stack)
            calls = decide(self._tally, self._lengths, self._features.chunk, settings)
            best = best_records(self._tally, calls, self._lengths)
            found = self._write_records(calls, set(best), stack)
            if settings.fasta:
                write_called(self._inputs, calls.call == VIRAL, stack.enter_context(replacing(paths.fasta)))
            about = self._about(calls, found)
            report = Report(about, self._tally, calls, self._lengths, [(at, found.names[at]) for at in best])
            write_report(report, stack.enter_context(replacing(paths.report)))
        written = [path for path in paths.results() if path != paths.summary and path in self._expected()]
        return {**about, "files": {path.name: path.stat().st_size for path in written if path.exists()}}

    def _expected(self) -> set[Path]:
        paths, settings = self._paths, self._settings
        expected = {paths.scores, paths.report, *map(paths.table, TABLES)}
        if settings.parquet:
            expected |= set(map(paths.parquet, TABLES))
        if settings.virnucpro:
            expected |= {paths.virnucpro_frames, paths.virnucpro_chunks}
        if settings.fasta:
            expected.add(paths.fasta)
        return expected

    def _table(self, name: str, columns: tuple[Column, ...]) -> Table:
        parquet = self._paths.parquet(name) if self._settings.parquet else None
        return Table(columns, self._paths.table(name), parquet)

    def _write_rows(self, scores: np.ndarray, stack: ExitStack) -> None:
        frames = stack.enter_context(self._table("frames", FRAMES))
        chunks = stack.enter_context(self._table("chunks", CHUNKS))
        virnucpro = None
        if self._settings.virnucpro:
            files = VirNucProFiles(self._paths.virnucpro_frames, self._paths.virnucpro_chunks)
            virnucpro = stack.enter_context(files)
        for batch in batches(self._features, scores):
            found = score_chunks(batch, self._settings.rule)
            self._tally.add(batch, found)
            ids = [name.decode() for name in batch.ids]
            records = [name.rpartition("_chunk_")[0] for name in ids]
            frames.add(
                {
                    "frame_id": ids,
                    "record": records,
                    "chunk": batch.chunk,
                    "frame": [FRAME_NAMES[frame] for frame in batch.frame.tolist()],
                    "start": batch.start,
                    "end": batch.end,
                    "score": batch.score,
                    "probability": batch.probability,
                }
            )
            chunks.add(self._chunk_values(found, [records[row] for row in found.first.tolist()]))
            if virnucpro is not None:
                virnucpro.add(batch, found.first)
            self._progress("writing", len(batch))

    def _chunk_values(self, found: Chunks, records: list[str]) -> dict[str, Any]:
        start, end = self._spans(found)
        viral = found.probability >= self._settings.threshold
        return {
            "record": records,
            "chunk": found.chunk,
            "start": start,
            "end": end,
            "n_frames": found.frames,
            "score": found.score,
            "probability": found.probability,
            "call": [CALL_NAMES[VIRAL if call else HOST] for call in viral.tolist()],
        }

    def _spans(self, found: Chunks) -> tuple[np.ndarray, np.ndarray]:
        """Where chunks start and end on their records."""
        low, high = int(found.record[0]), int(found.record[-1]) + 1
        lengths, chunking = self._lengths[low:high], Chunking(self._features.chunk)
        before = np.cumsum(counts := chunking.count(lengths)) - counts
        place = before[found.record - low] + found.chunk - 1
        table = chunking.cut(lengths, first=int(place[0]), last=int(place[-1]) + 1)
        at = place - place[0]
        return table.start[at], table.end[at]

    def _write_records(self, calls: Calls, best: set[int], stack: ExitStack) -> _Found:
        table = stack.enter_context(self._table("predictions", PREDICTIONS))
        reasons, found = Reasons(self._features), _Found()
        for records in record_windows(self._features):
            window = slice(int(records.ordinal[0]), int(records.ordinal[-1]) + 1)
            names = [name.decode() for name in records.name]
            why = self._reasons(calls, window, reasons, found)
            table.add(self._record_values(calls, window, records, names, why))
            found.names.update({at: names[at - window.start] for at in best if window.start <= at < window.stop})
        return found

    def _reasons(self, calls: Calls, window: slice, reasons: Reasons, found: _Found) -> list[str]:
        texts = []
        for record, why in enumerate(calls.why[window].tolist(), window.start):
            if why == CALLED:
                texts.append("")
                continue
            if why == UNSCORED:
                text = reasons.of(record)
            elif why == SHORT:
                text = f"shorter than {self._settings.min_length:,} bases"
            else:
                text = f"false discovery rate above {self._settings.max_fdr:g}"
            texts.append(text)
            # A message about a letter at a base is one of its kind; counted is what it is about.
            found.reasons[text.partition(" at ")[0]] += 1
        return texts

    def _record_values(
        self, calls: Calls, window: slice, records: Records, names: list[str], why: list[str]
    ) -> dict[str, Any]:
        tally = self._tally
        return {
            "name": names,
            "length": records.length,
            "n_chunks": records.chunks,
            "n_scored": tally.scored[window],
            "score": tally.score[window],
            "probability": tally.probability[window],
            "call": [CALL_NAMES[call] for call in calls.call[window].tolist()],
            "fdr": calls.fdr[window],
            "agreement": calls.agreement[window],
            "reliability": [RELIABILITY_NAMES[level] for level in calls.reliability[window].tolist()],
            "reason": why,
        }

    def _about(self, calls: Calls, found: _Found) -> dict[str, Any]:
        checkpoint, features = self._checkpoint, self._features
        viral = calls.call == VIRAL
        return {
            "schema": SCHEMA,
            "run": features.run,
            "settings": asdict(self._settings),
            "counts": {
                "records": len(calls.call),
                "bases": int(self._lengths.sum()),
                "viral": int(viral.sum()),
                "viral_bases": int(self._lengths[viral].sum()),
                "host": int((calls.call == HOST).sum()),
                "no_call": int((calls.call == NO_CALL).sum()),
                "scored": int((self._tally.scored > 0).sum()),
                "chunks": int(self._tally.scored.sum()),
                "frames": features.rows,
            },
            "expected_false_calls": round(float((1 - self._tally.probability[viral]).sum()), 3),
            "no_call_reasons": dict(found.reasons.most_common(20)),
            "inputs": [
                {"path": entry.path, "records": entry.records, "bases": entry.bases, "sha256": entry.sha256}
                for entry in self._inputs
            ],
            "classifier": {
                "digest": checkpoint.digest,
                "origin": checkpoint.origin,
                "layout": str(features.layout),
                "chunk": checkpoint.chunk,
                "calibration": checkpoint.calibration.kind,
                "encoders": {part: dict(identity) for part, identity in checkpoint.encoders.items()},
            },
            "versions": versions(),
        }
