"""Makes a training set: from a sheet of annotated genomes to labelled chunks, a table and a data card.

Files are worked through in processes of their own, so many at a time, and what is found in each is kept in the folder
until the set is finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnp.datasets.choosing._part import Part, has_part, read_part, writing_part
from vnp.datasets.choosing._prophages import ViralIndex, read_regions
from vnp.datasets.choosing._sample import choose
from vnp.datasets.choosing._split import describe_units, find_units, genomes_to_compare, split_by_date, split_units
from vnp.datasets.choosing.candidates import Search, find_candidates
from vnp.datasets.recipe import UNITS, Recipe, Request, make_request
from vnp.datasets.sheet import read_sheet
from vnp.datasets.writing.card import render_card, summarise
from vnp.datasets.writing.write import (
    CARD,
    FASTA,
    KEY,
    RECORD,
    REQUEST,
    SUMMARY,
    TABLE,
    Gathered,
    describe,
    gather,
    read_metadata,
    write_fasta,
    write_table,
)  # fmt: skip
from vnp.errors import ChangedInputError, InputError, RunError, RunExistsError, storage_error
from vnp.files.claims import alone, make_folder, require_free
from vnp.files.durable import final_path, remove_temporaries, sync_folder, write_text
from vnp.files.extras import require_extra
from vnp.files.machine import require_room
from vnp.files.manifest import changed_file, write_manifest
from vnp.files.processes import work_through
from vnp.files.records import read_record, write_record
from vnp.sequences.reading import input_digest

Tell = Callable[[int], None]
"""Told how much was done since the last call."""
Step = Callable[[str, float | None, str, float], AbstractContextManager[Tell]]
"""Begins a step: what it does, its total if that is known, the unit, and how many make one; gives what to tell."""
_REQUEST_FILE = "request.json"
_DONE = ".parts-done"
_RUN_FILE = "run.json"
_PACKED = 4  # times that compressed files are larger, about


def _silent(_what: str, _total: float | None, _unit: str, _scale: float, /) -> AbstractContextManager[Tell]:
    return nullcontext(lambda _amount: None)


@dataclass(frozen=True, slots=True)
class Built:
    """A training set that was made: where, what it consists of, and whether it was there already."""

    folder: Path
    summary: dict[str, Any]
    again: bool


def build_dataset(
    sheet: Path,
    folder: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    force: bool = False,
    step: Step = _silent,
    say: Callable[[str], None] = lambda _: None,
) -> Built:
    """Make a training set.

    A run that was killed goes on where it was when it is started again: finished files are kept in ``folder/parts``
    until the end. Equal files, recipe and seed give equal bytes, whatever the number of workers.

    ``workers`` are processes at a time; ``say`` is told what disk is needed.

    Raises:
        UsageError: the recipe is impossible, a library is missing, or another process makes a set in the folder.
        RunExistsError: another set is in the folder.
        InputError: the sheet or a file cannot be used, or there is nothing to choose from.
        ChangedInputError: a file changed meanwhile.
        StorageError: the disk is full or cannot be written.
    """
    recipe.check()
    require_extra("dataset", "a training set", needs=("pyarrow.parquet",))
    sources = read_sheet(sheet, None if recipe.units in UNITS else recipe.units)
    for label, name in ((1, "viral"), (0, "host")):
        if not any(source.label == label for source in sources):
            raise InputError(f"none of the files is labelled {name}; a training set needs both", path=sheet)
    request = make_request(sheet, sources, recipe, workers=workers)
    place = Folder(folder)
    with place.alone():
        if (summary := place.begin(request.digest(), force=force)) is not None:
            return Built(folder, summary, again=True)
        say(require_room(folder, sum(_unpacked(source.path) for source in sources)))
        _survey(request, place, workers, step)
        parts = [read_part(place.parts, request.part_key(number)) for number in range(len(request.sources))]
        summary = _write(request, parts, place, step)
        place.finish()
        return Built(folder, summary, again=False)


def _unpacked(path: Path) -> int:
    """Bytes of a file without its compression, about."""
    return path.stat().st_size * (_PACKED if path.suffix in (".gz", ".bz2", ".xz", ".zst") else 1)


def _survey(request: Request, place: Folder, workers: int, step: Step) -> None:
    """Work through the files that have no part yet: viral ones first, for hosts are compared with them."""
    recipe = request.recipe
    regions = None if recipe.prophages is None else read_regions(recipe.prophages)
    viral = [number for number, source in enumerate(request.sources) if source.label]
    hosts = [number for number, source in enumerate(request.sources) if not source.label]
    for numbers, what in ((viral, "viral files"), (hosts, "host files")):
        missing = [number for number in numbers if not has_part(place.parts, request.part_key(number))]
        if not missing:
            continue
        # The largest first, so that no large one is left for the end.
        missing.sort(key=lambda number: (-request.sources[number].path.stat().st_size, number))
        index = None
        if numbers is hosts and not recipe.keep_prophages and viral:
            with step("viral genomes", None, "records", 1) as advance:
                index = ViralIndex.from_genomes(_viral_genomes(request, place, viral, advance))

        def work(
            place_in_row: int, tell: Tell, *, missing: list[int] = missing, index: ViralIndex | None = index
        ) -> None:
            number = missing[place_in_row]
            search = Search(
                recipe.lengths, recipe.frames, recipe.seed, recipe.per_group, request.needs_sequences(number), regions,
                index,
            )  # fmt: skip
            _survey_file(request, number, search, place.parts, tell)

        with step(what, None, "Mbp", 1e6) as advance:
            names = [request.sources[number].name for number in missing]
            remedy = "if memory ran out, take fewer --workers. What is finished is kept: run the same command again"
            work_through(names, work, workers=workers, remedy=remedy, progress=advance)


def _survey_file(request: Request, number: int, search: Search, folder: Path, tell: Tell) -> None:
    source = request.sources[number]
    paths = [path for path in (source.path, source.annotation) if path is not None]
    before = [_state(path) for path in paths]
    with writing_part(folder, request.part_key(number), len(search.lengths.names), search.limit) as writer:
        find_candidates(source, search, writer, progress=tell)
        if [_state(path) for path in paths] != before:
            raise ChangedInputError("changed while it was read; run the same command again", path=source.path)


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _viral_genomes(request: Request, place: Folder, numbers: Sequence[int], advance: Tell) -> Iterator[bytes]:
    for number in numbers:
        part = read_part(place.parts, request.part_key(number))
        for record, about in enumerate(part.records):
            if about.problem is None:
                yield part.sequence(record)
                advance(1)


def _write(request: Request, parts: Sequence[Part], place: Folder, step: Step) -> dict[str, Any]:
    """Choose, and write the two files and the card."""
    recipe, sources = request.recipe, request.sources
    found = gather(sources, parts)
    _require_regions(request, found)
    compared = sum(len(genomes_to_compare(found.records, label)) for label in (1, 0))
    with step("units", compared if recipe.units == "ani" else None, "genomes", 1) as advance:
        units = find_units(found.records, recipe.units, found.sequence, progress=advance)
    described = describe_units(found.records, units)
    if recipe.split_by == "date":
        split = split_by_date(described, validation=recipe.validation, test=recipe.test)
    else:
        split = split_units(described, validation=recipe.validation, test=recipe.test, seed=recipe.seed)
    rows = choose(found.pool(), per_group=recipe.per_group, balance=recipe.balance, seed=recipe.seed)
    if not len(rows):
        raise InputError(
            "there is no chunk to choose: its files have no coding sequence with a translation that fits. See that "
            "they are the right ones, or take --frames all",
            path=request.sheet,
        )
    records = found.table(units, split)
    chosen = found.chosen(rows)
    with step("chunks", len(chosen), "chunks", 1) as advance:
        digest = write_fasta(place.fasta, records, chosen, found.bases(rows), progress=advance)
    summary = summarise(request, found, records, described, rows, digest)
    about = describe(
        sources, request.digests, chosen, digest, frames=recipe.frames, lengths=str(recipe.lengths), seed=recipe.seed
    )
    metadata: dict[str, Mapping[str, object]] = {KEY: about, REQUEST: {"sha256": request.digest()}, SUMMARY: summary}
    with step("table", chosen.rows, "rows", 1) as advance:
        write_table(place.table, sources, records, chosen, metadata, progress=advance)
    write_text(place.card, render_card(summary))
    write_manifest(place.record, place.files, {place.fasta.name: digest})
    return summary


def _require_regions(request: Request, found: Gathered) -> None:
    """Refuse a BED file that speaks of other records: it would drop nothing, silently."""
    if request.recipe.prophages is None:
        return
    regions = read_regions(request.recipe.prophages)
    hosts = {record.name for record in found.records if not record.label}
    if regions.spans and not hosts & regions.spans.keys():
        raise InputError(
            f"none of its {len(regions.spans):,} records, such as {next(iter(regions.spans))}, is a host record of the "
            f"set, such as {min(hosts, default='none')}: the names must be the same",
            path=request.recipe.prophages,
        )


class Folder:
    """The folder of a training set.

    While a set is made there is a folder ``parts`` in it, whose ``request.json`` says which set that is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.parts = folder / "parts"
        self.fasta = folder / FASTA
        self.table = folder / TABLE
        self.card = folder / CARD
        self.record = folder / RECORD  # of the three files before it; written last
        self.files = (self.fasta, self.table, self.card)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and keep others that make a set in it out meanwhile: UsageError for them."""
        make_folder(self._folder)
        with alone(self._folder, "dataset"):
            yield

    def begin(self, request: str, *, force: bool) -> dict[str, Any] | None:
        """Make ready for the set of a digest, or give the summary where it is finished already.

        Raises:
            RunExistsError: another set, or a part of one, is there, or a run, or a folder ``parts`` of something else.
            StorageError: the folder cannot be made or written.
        """
        stopped_here = self._stored_request() == request
        if not force and not stopped_here and (summary := self._finished(request)) is not None:
            self._sweep()
            return summary
        require_free(
            (*self.files, self.record),
            force=force,
            ours=stopped_here,
            why="already there, and not made from these files with these options",
            remedy="Choose another --out, or --force to write over it",
        )
        self._require_own_parts()
        make_folder(self.parts)
        self._sweep()
        write_record(self.parts / _REQUEST_FILE, {"sha256": request})
        self.record.unlink(missing_ok=True)
        return None

    def finish(self) -> None:
        """Remove what was kept to go on from; in one step, so that it is there whole or not at all."""
        self._remove_done()
        try:
            self.parts.rename(self._folder / _DONE)
            sync_folder(self._folder)
        except OSError as error:
            raise storage_error(error, f"removing {self.parts}") from error
        self._remove_done()

    def _require_own_parts(self) -> None:
        """Refuse a folder whose ``parts`` is not that of a set, for it is deleted in the end; with force too."""
        try:
            if (self._folder / _RUN_FILE).exists():
                raise RunExistsError(f"{self._folder} is the folder of a run: choose another --out")
            if self.parts.is_dir():
                # A run that was stopped at its first step has left its request's temporary file, or nothing.
                others = any(final_path(path).name != _REQUEST_FILE for path in self.parts.iterdir())
                foreign = others and self._stored_request() is None
            else:
                foreign = self.parts.exists()
        except OSError as error:
            raise storage_error(error, f"looking into {self._folder}") from error
        if foreign:
            raise RunExistsError(
                f"{self.parts} is there and is not of a training set that was begun. Choose another --out, or move "
                "it away"
            )

    def _stored_request(self) -> str | None:
        """Digest of the set that was begun here, if one was."""
        try:
            return (read_record(self.parts / _REQUEST_FILE, dict[str, str]) or {}).get("sha256")
        except RunError:
            return None

    def _finished(self, request: str) -> dict[str, Any] | None:
        """The summary, where the files are those that the request would make; RunExistsError where one was changed."""
        if not all(path.exists() for path in self.files):
            return None
        try:
            metadata = read_metadata(self.table)
            changed = changed_file(self.record, self.files) if self.record.exists() else None
        except (OSError, ValueError, RunError):
            return None
        if metadata.get(REQUEST) != {"sha256": request} or KEY not in metadata:
            return None
        if changed is not None:
            raise RunExistsError(f"{changed} is not as it was written: it is damaged. To make the set anew use --force")
        summary = metadata.get(SUMMARY)
        same = input_digest(self.fasta) == metadata[KEY].get("fasta_sha256")
        return summary if same and isinstance(summary, dict) else None

    def _sweep(self) -> None:
        """Remove what killed runs left behind."""
        self._remove_done()
        for folder in (self._folder, self.parts):
            if folder.is_dir():
                remove_temporaries(folder)

    def _remove_done(self) -> None:
        shutil.rmtree(self._folder / _DONE, ignore_errors=True)
