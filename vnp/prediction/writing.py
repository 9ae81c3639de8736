"""Everything that ``jobs.predict`` writes, in one pass over the rows and one over the records."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64

from vnp.classifier.calibration import logistic
from vnp.features.scores import SETTLED
from vnp.files.durable import replacing
from vnp.files.hashing import file_sha256
from vnp.files.tables import table_lines
from vnp.metrics.presets import DEFAULT
from vnp.metrics.prevalence import AUTO, Prevalence
from vnp.metrics.rules import chunk_keys, find_rule
from vnp.native.classifier import NativeClassifier
from vnp.prediction.calls import (
    CALLED,
    NATIVE,
    SHORT,
    UNSCORED,
    UNSURE,
    Calls,
    Chunks,
    Found,
    Judged,
    Judges,
    decide,
    reliability_levels,
)
from vnp.prediction.options import REGIONS, OutputPaths, PredictOptions
from vnp.prediction.regions import Finder
from vnp.prediction.samples import write_samples
from vnp.prediction.scores import Batch, Source, reasons_of
from vnp.prediction.summary import SampleCounts, cascade_of, count_samples, multiqc_of, summary_of
from vnp.prediction.tables import (
    CHUNKS,
    FRAMES,
    REGION_COLUMNS,
    ChunkRows,
    Column,
    FrameRows,
    RecordRows,
    chosen_columns,
    looked_up,
    open_table,
    open_virnucpro_files,
)
from vnp.report.calls import HOST, NO_CALL, VIRAL
from vnp.report.listing import MOST_LISTED, NO_WINDOW, Listed, Regions, Samples, Tracks, percent_of
from vnp.report.predicted import Report, render
from vnp.runs.planning.plan import check_inputs, planned_records
from vnp.runs.request import PlannedInput, versions
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import FRAME_NAMES
from vnp.sequences.samplesheet import FIRST, SECOND

SCHEMA = "vnp-predictions/2"
Progress = Callable[[str, int], None]
"""Told what is being done (``scoring`` or ``writing``) and how many rows were done since the last call."""
_FASTA_LINE = 80
Rows = TypeVar("Rows")


@dataclass(frozen=True, slots=True)
class Writing:
    """One prediction on its way to the disk."""

    source: Source
    options: PredictOptions
    judges: Judges
    paths: OutputPaths
    progress: Progress
    device: str = "auto"

    def run(self) -> dict[str, Any]:
        """Write tables, sequences and the report; returns the summary, with size and SHA-256 of every file."""
        prevalence = self._prevalence()
        if prevalence is not None and not prevalence.refused:
            told = replace(self.judges, share=prevalence.share)
            return replace(self, judges=told)._write(prevalence)
        return self._write(prevalence)

    def _prevalence(self) -> Prevalence | None:
        """The share of viruses that is asked for; what the records show takes a look at all of them beforehand."""
        asked, judges = self.options.prevalence, self.judges
        if asked is None:
            return None
        if asked != AUTO:
            return Prevalence(float(asked), float(asked), float(asked), 0)
        found = Found(self.source.calls)
        chunking = Chunking(self.source.run.request.chunk)
        for batch in self.source.batches():
            found.add(batch, judges, self._threshold, partial(_spans, chunking=chunking))
            self.progress("estimating prevalence", len(batch.records))
        some = (found.scored > 0) & (found.length >= self.options.min_length)
        return judges.shares(found, some, found.probability).estimate()

    def _write(self, prevalence: Prevalence | None) -> dict[str, Any]:
        paths, options, run = self.paths, self.options, self.source.run
        with ExitStack() as stack:
            found, tracks = self._write_rows(stack)
            calls = decide(found, run.request.chunk, options, self.judges)
            regions = self._write_regions(stack) if options.regions else {}
            listed, reasons = self._write_records(calls, list(regions), stack)
            if options.fasta:
                viral = np.repeat(calls.call == VIRAL, self.source.mates)
                write_called(run.request.inputs, viral, stack.enter_context(replacing(paths.fasta)))
            levels = reliability_levels(self.judges, run.request.chunk)
            about = {**self._about(found, calls, reasons), "prevalence": prevalence and asdict(prevalence)}
            if options.regions:
                spans = [span for one in regions.values() for span in one]
                about["counts"] |= {"regions": len(spans), "region_bases": sum(end - start for start, end in spans)}
            report = Report(
                about, calls, listed, self._kinds, self._samples, tracks, regions,
                [(path.name, HOLDS[path.stem]) for path in self.written() if path.stem in HOLDS],
                find_rule(options.rule).sentence, levels,
            )  # fmt: skip
            stack.enter_context(replacing(paths.report)).write_text(render(report), encoding="utf-8")
            self._write_counts(about, calls, stack)
        files = self.written()
        if options.by_sample:
            files += write_samples(paths, files, self._counted(calls), self.source, calls, regions)
        named = {str(path.relative_to(paths.root)): path for path in files}
        sums = {name: {"size": path.stat().st_size, "sha256": file_sha256(path)} for name, path in named.items()}
        return {**about, "files": sums}

    def written(self) -> list[Path]:
        """The files that are written."""
        paths, options = self.paths, self.options
        names = (
            ["frames", "chunks", "predictions"]
            if self.judges.classifier.layout.rows == "frames"
            else ["chunks", "predictions"]
        )
        found = [*map(paths.table, names), *(map(paths.parquet, names) if options.parquet else ()), paths.report]
        found += [paths.counts, paths.multiqc]
        if options.regions:
            found += [*paths.regions, *((paths.parquet(REGIONS),) if options.parquet else ())]
        if options.fasta:
            found.append(paths.fasta)
        if options.virnucpro:
            found += [paths.virnucpro_frames, paths.virnucpro_chunks]
        return found

    def _table(self, name: str, columns: Sequence[Column[Rows]], stack: ExitStack) -> Callable[[Rows], None]:
        parquet = self.paths.parquet(name) if self.options.parquet else None
        return stack.enter_context(open_table(columns, self.paths.table(name), parquet))

    def _write_rows(self, stack: ExitStack) -> tuple[Found, Tracks]:
        judges, request = self.judges, self.source.run.request
        found, chunking = Found(self.source.calls), Chunking(request.chunk)
        add_chunks = self._table("chunks", CHUNKS, stack)
        add_frames = self._table("frames", FRAMES, stack) if judges.classifier.layout.rows == "frames" else None
        tracks = [Tracks(np.empty(0, np.uint8), np.empty(0, np.int64))]
        add_virnucpro = None
        if self.options.virnucpro:
            files = open_virnucpro_files(self.paths.virnucpro_frames, self.paths.virnucpro_chunks)
            add_virnucpro = stack.enter_context(files)
        for batch in self.source.batches():
            judged, chunks = found.add(batch, judges, self._threshold, partial(_spans, chunking=chunking))
            names = [name.decode() for name in batch.records.name]
            viral = chunks.probability >= self._threshold(chunks.end - chunks.start, chunks.by)
            records = [names[at] for at in (chunks.record - batch.first).tolist()]
            told = replace(chunks, probability=judges.told(chunks.probability, chunks.by))
            add_chunks(ChunkRows(told, records, viral))
            tracks.append(_track(batch, told, chunking))
            if add_frames is not None:
                frames = self._frames(batch, judged, names)
                add_frames(frames)
                if add_virnucpro is not None:
                    of_chunk = chunk_keys(frames.rows.record - batch.first, frames.rows.chunk)
                    add_virnucpro(frames.ids, logistic(frames.judged.margin), of_chunk)
            self.progress("calling", len(batch.records))
        joined = (np.concatenate([getattr(one, name) for one in tracks]) for name in ("percent", "windows"))
        return found, Tracks(*joined)

    def _frames(self, batch: Batch, judged: Judged, names: list[str]) -> FrameRows:
        """The rows that are frames, with their ids."""
        own = np.flatnonzero(batch.rows.frame >= 0)
        rows = batch.rows.some(own)
        told = self.judges.told(judged.probability[own], judged.by[own])
        kept = replace(judged, by=judged.by[own], margin=judged.margin[own], probability=told)
        records = [names[at] for at in (rows.record - batch.first).tolist()]
        each = zip(records, rows.chunk.tolist(), rows.frame.tolist(), strict=True)
        ids = [f"{record}_chunk_{chunk}{FRAME_NAMES[frame]}" for record, chunk, frame in each]
        return FrameRows(rows, kept, ids, records)

    def _threshold(self, length: Int64[np.ndarray, "m"], by: Int8[np.ndarray, "m"]) -> Float64[np.ndarray, "m"]:
        """The probability from which on records of these lengths, scored by whom, are viral."""
        judges, name, least_told = self.judges, self.options.preset, self.options.threshold
        native = judges.native
        if name is None and least_told is None:
            # A share is asked for. Where it cannot be told, what is viral is as if it were not.
            name = DEFAULT if judges.share is None and DEFAULT in judges.classifier.presets else None
            least_told = judges.classifier.threshold if judges.share is None else 0.5
        if name is None:
            # A preset says what share of hosts is left alone, whatever the share of viruses; a threshold is as told.
            return judges.untold(np.full(len(length), least_told), by)
        least = self.judges.classifier.presets[name].of(length)
        return least if native is None else np.where(by == NATIVE, native.presets[name].of(length), least)

    def _write_records(self, calls: Calls, marked: Sequence[int], stack: ExitStack) -> tuple[Listed, Counter[str]]:
        """Write the table of records; returns those that the page may list, and how often there is which reason.

        ``marked`` are places of records that come before others of their call; the stack closes the table.
        """
        add = self._table("predictions", chosen_columns(self.options.columns), stack)
        inputs = self.source.inputs
        first = np.array([self.source.window(entry).start for entry in inputs])
        samples, sources = [entry.sample or "" for entry in inputs], self._sources
        counts, ranked = Counter[str](), calls.ranked(MOST_LISTED, marked)
        chosen, names = np.zeros(len(calls.length), bool), dict[int, tuple[str, str]]()
        chosen[ranked] = True
        for told in self.source.named():
            records, skipped = told.records, told.skipped
            window = slice(int(records.ordinal[0]), int(records.ordinal[-1]) + 1)
            found = [name.decode() for name in records.name]
            why = calls.why[window]
            reasons = looked_up(self._whys, why)
            asked = np.flatnonzero(why == UNSCORED)
            for at, reason in zip(asked.tolist(), reasons_of(records, skipped, asked), strict=True):
                reasons[at] = reason
            # A message about a letter at a base is one of its kind; counted is what it is about.
            short = {reason: reason.partition(" at ")[0] for reason in set(reasons)}
            for reason, number in Counter(reasons).items():
                if reason:
                    counts[short[reason]] += number
            of = np.searchsorted(first, records.ordinal, side="right") - 1
            files = looked_up(samples, of), looked_up(sources, of)
            add(RecordRows(window, records, told.facts, found, *files, calls, self._kinds, reasons))
            names |= {
                window.start + at: (found[at], short[reasons[at]]) for at in np.flatnonzero(chosen[window]).tolist()
            }
        listed = [names[at] for at in ranked.tolist()]
        return Listed(ranked, [name for name, _ in listed], [reason for _, reason in listed]), counts

    @property
    def _kinds(self) -> tuple[str, ...]:
        """Names of the kinds that are told."""
        return tuple(self.judges.telling.kinds) if self.judges.telling is not None else ()

    @property
    def _sources(self) -> list[str]:
        """What tables call the inputs: their paths below the folder that all share; standard input is a dash."""
        spool = self.source.run.paths.inputs
        paths = [Path(entry.path) for entry in self.source.inputs]
        files = [path for path in paths if path.parent != spool]
        folder = os.path.commonpath([path.parent for path in files]) if files else ""
        return ["-" if path.parent == spool else str(path.relative_to(folder)) for path in paths]

    @property
    def _sample_names(self) -> list[str]:
        """The sample of each input, or where there is none, what tables call it."""
        names: list[str] = []
        for entry, source in zip(self.source.inputs, self._sources, strict=True):
            names.append(names[-1] if entry.mates == SECOND else entry.sample or source)
        return names

    @property
    def _samples(self) -> Samples:
        """The sample of each record."""
        number = {name: at for at, name in enumerate(dict.fromkeys(self._sample_names))}
        code = np.array([number[name] for name in self._sample_names], np.int32)
        return Samples(
            list(number), np.repeat(code, [entry.records // self.source.mates for entry in self.source.inputs])
        )

    def _counted(self, calls: Calls) -> list[SampleCounts]:
        """What came of each sample."""
        windows = list(map(self.source.window, self.source.inputs))
        return count_samples(self._sample_names, self._sources, windows, calls, self._kinds)

    def _write_counts(self, about: dict[str, Any], calls: Calls, stack: ExitStack) -> None:
        """Write counts of each sample for other programs."""
        samples = self._counted(calls)
        for path, found in ((self.paths.counts, summary_of(about, samples)), (self.paths.multiqc, multiqc_of(samples))):
            text = json.dumps(found, indent=2) + "\n"
            stack.enter_context(replacing(path)).write_text(text, encoding="utf-8")

    def _write_regions(self, stack: ExitStack) -> Regions:
        """Write viral stretches; returns where they are."""
        add = self._table(REGIONS, REGION_COLUMNS, stack)
        _, bed_path, fasta_path = self.paths.regions
        bed = stack.enter_context(stack.enter_context(replacing(bed_path)).open("xb"))
        fasta = stack.enter_context(stack.enter_context(replacing(fasta_path)).open("xb"))
        classifier = self.judges.classifier
        assert isinstance(classifier, NativeClassifier)
        found: dict[int, list[tuple[int, int]]] = {}
        for region in Finder(self.source, self.judges, classifier.windows(self.device)).regions():
            add([region])
            line = (region.record, region.start, region.end, region.name, round(1000 * region.probability), ".")
            bed.write(table_lines([[str(field)] for field in line]).encode())
            _write_fasta(fasta, f"{region.name} {region.record}:{region.start}-{region.end}", region.bases)
            found.setdefault(region.ordinal, []).append((region.start, region.end))
        return found

    @property
    def _whys(self) -> dict[int, str]:
        """Why a record has no call; empty where it has one."""
        return {
            CALLED: "",
            UNSCORED: "",
            SHORT: f"shorter than {self.options.min_length:,} bases",
            UNSURE: f"false discovery rate above {self.options.max_fdr or 0:g}",
        }

    def _middle_threshold(self, length: np.ndarray, by: np.ndarray, scored: np.ndarray) -> float:
        least = self.judges.told(self._threshold(length, by), by)
        return float(np.round(np.median(least[scored if scored.any() else ...]), 12))

    def _about(self, found: Found, calls: Calls, reasons: Counter[str]) -> dict[str, Any]:
        classifier, run = self.judges.classifier, self.source.run
        viral = calls.call == VIRAL
        scored = calls.scored > 0
        telling = self.judges.telling
        kinds = Counter(looked_up(telling.kinds, calls.kind[calls.kind >= 0])) if telling is not None else {}
        return {
            "run": run.request.digest,
            "settings": asdict(self.options),
            "pairs": self.source.mates > 1,
            "counts": {
                "records": len(calls.call),
                "bases": int(calls.length.sum()),
                "viral": int(viral.sum()),
                "viral_bases": int(calls.length[viral].sum()),
                "host": int((calls.call == HOST).sum()),
                "no_call": int((calls.call == NO_CALL).sum()),
                "scored": int(scored.sum()),
                "scored_by_native": int((calls.by == NATIVE).sum()),
                "chunks": int(calls.scored.sum()),
                "rows": found.rows,
            },
            **cascade_of(run.request, found.settled),
            "kinds": dict(kinds),
            # With a preset it depends on the length: that of the middle record.
            "threshold": self._middle_threshold(calls.length, calls.by, scored),
            "expected_false_calls": round(calls.wrong, 3),
            "viral_share": None if calls.share is None else round(calls.share, 6),
            "no_call_reasons": dict(reasons.most_common(20)),
            "inputs": [
                {"path": entry.path, "records": entry.records, "bases": entry.bases, "sha256": entry.sha256}
                for entry in run.request.inputs
            ],
            "classifier": {
                "digest": classifier.digest,
                "origin": classifier.origin,
                "layout": str(classifier.layout),
                "chunk": run.request.chunk,
                "rows": classifier.layout.rows,
                "calibration": classifier.calibrated,
                "lacks": classifier.trust.missing,
                "reliability": classifier.trust.reliability and classifier.trust.reliability.to_json(),
                "held_out": [asdict(one) for one in classifier.held_out],
                "presets": {name: asdict(preset) for name, preset in classifier.presets.items()},
                "encoders": {part: dict(identity) for part, identity in classifier.encoders.items()},
            },
            "versions": versions(),
        }


HOLDS = {
    "predictions": "every record",
    "chunks": "every window",
    "frames": "every open frame",
    "viral": "sequences called viral",
    "regions": "viral stretches inside longer records",
    "summary": "counts, for programs",
    "vnp_mqc": "counts, for MultiQC",
}
"""What files hold that a page links to, by the stem of their names."""


def _track(batch: Batch, chunks: Chunks, chunking: Chunking) -> Tracks:
    """The probabilities of all windows of what is called of some records."""
    count = chunking.count(batch.records.length)
    found = np.full(int(count.sum()), NO_WINDOW, np.uint8)
    before = np.cumsum(count) - count
    found[before[chunks.record - batch.first] + chunks.chunk - 1] = percent_of(chunks.probability)
    return Tracks(found, count.reshape(-1, batch.mates).sum(axis=1))


def _spans(
    batch: Batch, starts: Int64[np.ndarray, "m"], chunking: Chunking
) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    """Where the chunks of some rows start and end on their records."""
    if not len(starts):
        return starts, starts
    owner, number = batch.owner[starts], batch.rows.chunk[starts]
    low, high = int(owner[0]), int(owner[-1]) + 1
    lengths = batch.records.length[low:high]
    before = np.cumsum(counts := chunking.count(lengths)) - counts
    place = before[owner - low] + number - 1
    table = chunking.cut(lengths, first=int(place[0]), last=int(place[-1]) + 1)
    at = place - place[0]
    whole = batch.rows.frame[starts] == SETTLED
    return (
        np.where(whole, batch.rows.start[starts], table.start[at]),
        np.where(whole, batch.rows.end[starts], table.end[at]),
    )


def write_called(inputs: Sequence[PlannedInput], called: Bool[np.ndarray, "r"], path: Path) -> int:
    """Write the records that were called; the caller gives a temporary name.

    Names are those of the run, bases are upper case as vnp reads them, 80 a line.

    Raises:
        ChangedInputError: an input is gone or holds other bytes than when the run was planned.
    """
    mates = {at: inputs[at + 1] for at, entry in enumerate(inputs) if entry.mates == FIRST}
    wanted = {at: entry for at, entry in enumerate(inputs) if called[_records(entry)].any()}
    check_inputs([*wanted.values(), *(mates[at] for at in wanted if at in mates)])
    with path.open("xb") as file:
        return sum(_write_input(entry, mates.get(at), called[_records(entry)], file) for at, entry in wanted.items())


def _records(entry: PlannedInput) -> slice:
    return slice(entry.first_record, entry.first_record + entry.records)


def _write_input(entry: PlannedInput, mate: PlannedInput | None, called: Bool[np.ndarray, "r"], file: BinaryIO) -> int:
    bases = 0
    # To the end of the file, where its bytes are known to be those that were planned.
    for record, chosen in zip(planned_records(entry, mate), chain(called.tolist(), repeat(False)), strict=False):
        if not chosen:
            continue
        _write_fasta(file, entry.record_name(record.name), record.sequence)
        bases += len(record.sequence)
    return bases


def _write_fasta(file: BinaryIO, header: str, sequence: bytes) -> None:
    lines = [sequence[first : first + _FASTA_LINE] for first in range(0, len(sequence), _FASTA_LINE)]
    file.write(f">{header}\n".encode() + b"\n".join(lines) + b"\n")
