"""Joins records into units, and deals these out to training, validation and test.

Units are genera, families or orders, nearly identical genomes, genomes, or single records, and are never cut. Every
organism group has its share of each part, or the oldest units are trained on and the newest tested on. A group that the
sheet gives is a unit as it is, and its records take no part in comparisons.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vnp.datasets.lineage import RANKS, unit_of
from vnp.datasets.sheet import LABEL_NAMES
from vnp.errors import InputError
from vnp.features.split import PARTS, TRAIN, deal, shares_of_parts
from vnp.sequences.identity import clusters_of_genomes


@dataclass(frozen=True, slots=True)
class Unit:
    """What is dealt out as a whole: its label, organism group, the bases in all its records, and the first date."""

    label: int
    organism_group: str
    bases: int
    date: str = ""


def split_units(
    units: Mapping[str, Unit], *, validation: float = 0.1, test: float = 0.2, seed: int = 0
) -> dict[str, int]:
    """Split units, by name, stratified over organism groups; gives the number of each unit's part.

    The units of each organism group are dealt out on their own, each part its share of them and at least one. A unit
    that holds more than half of the bases goes to training, for the others could not make up for it. Organism groups
    with fewer units than there are parts are dealt out together, one pile for each label; if even that is too small, it
    all goes to training.

    Raises:
        UsageError: the shares leave nothing to train on.
        InputError: a label has fewer units than there are parts.
    """
    shares = shares_of_parts(validation, test)
    found: dict[str, int] = {}
    for label in (1, 0):
        own = {name: unit for name, unit in sorted(units.items()) if unit.label == label}
        if len(own) < len(shares):
            raise InputError(
                f"{LABEL_NAMES[label]} units: {len(own)}, too few to give one to each of "
                f"{', '.join(PARTS[part] for part in shares)}: add genomes, name smaller units (--units genome or "
                "record, or the sheet's column group), or leave out the test part (--test 0)"
            )
        for number, pile in enumerate(_piles(own, len(shares))):
            if len(pile) < len(shares):
                found |= dict.fromkeys(pile, TRAIN)
                continue
            shuffled = [pile[place] for place in np.random.default_rng([seed, label, number]).permutation(len(pile))]
            largest = max(pile, key=lambda name: own[name].bases)
            if 2 * own[largest].bases > sum(own[name].bases for name in pile):
                # Training has the end of the row.
                shuffled.remove(largest)
                shuffled.append(largest)
            found |= dict(zip(shuffled, deal(len(pile), shares).tolist(), strict=True))
    return found


def split_by_date(units: Mapping[str, Unit], *, validation: float = 0.1, test: float = 0.2) -> dict[str, int]:
    """Split units of each label by when they were first known: the oldest to training, the newest to the test part.

    Units of one day stay together, and those without a date go to training; the shares are those of the others. Gives
    the number of each unit's part.

    Raises:
        UsageError: the shares leave nothing to train on.
        InputError: a label has fewer dates than there are parts.
    """
    shares = shares_of_parts(validation, test)
    found = dict.fromkeys(units, TRAIN)
    for label in (1, 0):
        dated = sorted((unit.date, name) for name, unit in units.items() if unit.label == label and unit.date)
        # The newest first, as parts are dealt out: validation, test, then training.
        order = sorted((part for part in shares if part != TRAIN), reverse=True)
        days = [day for day, _ in dated]
        end = len(dated)
        for place, part in enumerate(order):
            least = len(order) - place
            first = max(0, end - max(1, round(shares[part] * len(dated))))
            if end:
                # From the first unit of that day on or, where that leaves too little, from the next day on.
                day = days[first]
                first = bisect_left(days, day)
                first = first if first >= least else bisect_right(days, day)
            if not least <= first < end:
                raise InputError(
                    f"{len(dated):,} {LABEL_NAMES[label]} units have a date, on {len(set(days)):,} different days, too "
                    f"few to give some to each of {', '.join(PARTS[one] for one in shares)}: name dates in a column "
                    "date of the sheet, or split by chance (--split-by chance)"
                )
            found |= {name: part for _, name in dated[first:end]}
            end = first
    return found


def _piles(units: Mapping[str, Unit], least: int) -> list[Sequence[str]]:
    """Units by organism group, those of small groups together at the end."""
    by_group: dict[str, list[str]] = {}
    for name, unit in units.items():
        by_group.setdefault(unit.organism_group, []).append(name)
    large = [pile for _, pile in sorted(by_group.items()) if len(pile) >= least]
    small = [name for _, pile in sorted(by_group.items()) if len(pile) < least for name in pile]
    return [*large, small]


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """What a record's unit depends on: ``genome`` is what records of one organism share, ``group`` the sheet's unit.

    The path of its file is for messages.
    """

    name: str
    genome: str
    label: int
    organism_group: str
    bases: int
    group: str | None = None
    file: str = ""
    lineage: tuple[str, ...] = ()
    date: str = ""


def find_units(
    records: Sequence[UnitRecord],
    kind: str,
    sequence: Callable[[int], bytes],
    *,
    progress: Callable[[int], None] = lambda _genomes: None,
) -> list[str]:
    """Name the unit of each record; neither the order of records nor that of files changes one.

    It is the sheet's group, the record's name, or the genome's, of several joined the first by name. ``ani`` joins
    genomes of one label of at least 95 % average nucleotide identity, ``genome`` the records of a genome only,
    ``record`` nothing, and a rank of ``RANKS`` the genomes of one genus, family or order, or of the narrower rank that
    their lineage tells; without any, the genome is the unit, as it is where ``kind`` is a column of the sheet. A genome
    too short to be compared stays its own unit. Bases are asked for with ``ani`` only.

    Raises:
        UsageError: pyskani is not installed.
        InputError: a unit has both labels, or a rank is asked for and no record without a group has a lineage.
    """
    if kind in RANKS:
        _require_lineage(records, kind)
    joined: dict[tuple[int, str], str] = {}
    if kind == "ani":
        for label in (1, 0):
            names = _clusters(records, label, sequence, progress)
            joined |= {(label, genome): name for genome, name in names.items()}
    units = []
    for record in records:
        if record.group is not None:
            units.append(record.group)
        elif kind == "record":
            units.append(record.name)
        elif kind in RANKS:
            units.append(unit_of(record.lineage, record.genome, kind) or record.genome)
        else:
            units.append(joined.get((record.label, record.genome), record.genome))
    _require_one_label(records, units)
    return units


def _require_lineage(records: Sequence[UnitRecord], kind: str) -> None:
    asked = [record for record in records if record.group is None]
    if asked and not any(unit_of(record.lineage, record.genome, kind) for record in asked):
        raise InputError(
            f"none of the {len(asked):,} records without a group, such as {asked[0].name}, has a lineage that tells "
            f"its {kind}; FASTA with GFF3 has none. Take --units ani or genome, or name a column of the sheet"
        )


def describe_units(records: Sequence[UnitRecord], units: Sequence[str]) -> dict[str, Unit]:
    """Label, organism group, bases and first date of each unit; the organism group is that of most of its bases."""
    labels: dict[str, int] = {}
    bases: dict[str, Counter[str]] = {}
    dates: dict[str, str] = {}
    for record, unit in zip(records, units, strict=True):
        labels[unit] = record.label
        bases.setdefault(unit, Counter())[record.organism_group] += record.bases
        if record.date:
            dates[unit] = min(record.date, dates.get(unit, record.date))
    return {
        unit: Unit(
            labels[unit], min(counts, key=lambda group: (-counts[group], group)), counts.total(), dates.get(unit, "")
        )
        for unit, counts in bases.items()
    }


def genomes_to_compare(records: Sequence[UnitRecord], label: int) -> dict[str, list[int]]:
    """The numbers of the records of each genome whose unit is to be found, by genome, in the order of their names."""
    genomes: dict[str, list[int]] = {}
    for number in sorted(range(len(records)), key=lambda number: records[number].name):
        record = records[number]
        if record.group is None and record.label == label:
            genomes.setdefault(record.genome, []).append(number)
    return dict(sorted(genomes.items()))


def _clusters(
    records: Sequence[UnitRecord], label: int, sequence: Callable[[int], bytes], progress: Callable[[int], None]
) -> Mapping[str, str]:
    genomes = genomes_to_compare(records, label)
    sizes = {name: sum(records[number].bases for number in numbers) for name, numbers in genomes.items()}
    clusters = clusters_of_genomes(
        sizes, lambda name: [sequence(number) for number in genomes[name]], asked_by="--units ani", progress=progress
    )
    first: dict[int, str] = {}
    return {name: first.setdefault(clusters[name], name) for name in genomes}


def _require_one_label(records: Sequence[UnitRecord], units: Sequence[str]) -> None:
    seen: dict[str, UnitRecord] = {}
    for record, unit in zip(records, units, strict=True):
        other = seen.setdefault(unit, record)
        if other.label != record.label:
            raise InputError(
                f"the unit {unit!r} is {LABEL_NAMES[other.label]} in {other.file} (record {other.name}) and "
                f"{LABEL_NAMES[record.label]} in {record.file} (record {record.name}). Correct the label of one of the "
                "files, or name their units apart in the sheet's column group"
            )
