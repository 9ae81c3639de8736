"""Makes a training set: from a sheet of annotated genomes to labelled chunks, a table and a data card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnp.datasets._workers import Tell, work_through
from vnp.datasets.choosing._part import Part, has_part, read_part, writing_part
from vnp.datasets.choosing._prophages import ViralIndex, read_regions
from vnp.datasets.choosing._sample import choose
from vnp.datasets.choosing._split import describe_units, find_units, genomes_to_compare, split_units
from vnp.datasets.choosing.candidates import Search, find_candidates
from vnp.datasets.recipe import Recipe, Request, make_request
from vnp.datasets.sheet import read_sheet
from vnp.datasets.writing._gather import Gathered, gather, summarise
from vnp.datasets.writing.card import render_card
from vnp.datasets.writing.write import (
    KEY,
    REQUEST,
    SUMMARY,
    Folder,
    describe,
    require_pyarrow,
    write_fasta,
    write_table,
)
from vnp.errors import ChangedInputError, InputError
from vnp.files.durable import replacing

Advance = Callable[[int], None]
Step = Callable[[str, float | None, str, float], AbstractContextManager[Advance]]
"""Begins a step: what it does, its total if that is known, the unit, and how many make one; gives what to tell."""


def _silent(_what: str, _total: float | None, _unit: str, _scale: float, /) -> AbstractContextManager[Advance]:
    return nullcontext(lambda _amount: None)


@dataclass(frozen=True, slots=True)
class Built:
    """A training set that was made: where, what it consists of, and whether it was there already."""

    folder: Path
    summary: dict[str, Any]
    again: bool


def build_dataset(
    sheet: Path, folder: Path, recipe: Recipe, *, workers: int = 1, force: bool = False, step: Step = _silent
) -> Built:
    """Make a training set.

    A run that was killed goes on where it was when it is started again: finished files are kept in ``folder/parts``
    until the end. Equal files, recipe and seed give equal bytes, whatever the number of workers.

    Args:
        sheet: the sheet; see ``vnp.datasets.sheet.read_sheet``.
        folder: for the result, made if need be.
        recipe: what the set is to be like.
        workers: processes at a time.
        force: write over another set.
        step: shows progress.

    Raises:
        UsageError: the recipe is impossible, a library is missing, or another process makes a set in the folder.
        RunExistsError: another set is in the folder.
        InputError: the sheet or a file cannot be used, or there is nothing to choose from.
        ChangedInputError: a file changed meanwhile.
        StorageError: the disk is full or cannot be written.
    """
    recipe.check()
    require_pyarrow()
    sources = read_sheet(sheet)
    for label, name in ((1, "viral"), (0, "host")):
        if not any(source.label == label for source in sources):
            raise InputError(f"none of the files is labelled {name}; a training set needs both", path=sheet)
    request = make_request(sheet, sources, recipe, workers=workers)
    place = Folder(folder)
    with place.alone():
        if (summary := place.begin(request.digest(), force=force)) is not None:
            return Built(folder, summary, again=True)
        _survey(request, place, workers, step)
        parts = [read_part(place.parts, request.part_key(number)) for number in range(len(request.sources))]
        summary = _write(request, parts, place, step)
        place.finish()
        return Built(folder, summary, again=False)


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
            work_through(names, work, workers=workers, progress=advance)


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


def _viral_genomes(request: Request, place: Folder, numbers: Sequence[int], advance: Advance) -> Iterator[bytes]:
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
    with replacing(place.card) as temporary:
        temporary.write_text(render_card(summary), encoding="utf-8")
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
