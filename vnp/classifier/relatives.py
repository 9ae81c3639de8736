"""Finds groups that are nearly the same genome, so that a split can keep them on one side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from vnp.errors import ChangedInputError
from vnp.features.read import Features
from vnp.features.table import Records
from vnp.runs.planning.plan import check_inputs
from vnp.runs.request import PlannedInput
from vnp.sequences.identity import IDENTITY, SHORTEST, clusters_of_genomes
from vnp.sequences.reading import read_records


def clusters_of_groups(
    features: Features, identity: float = IDENTITY, *, progress: Callable[[int], None] = lambda _groups: None
) -> dict[str, int]:
    """Number the clusters that groups form when those of high identity are joined.

    Args:
        features: merged features; the sequences are read from the inputs that their provenance names.
        identity: ANI from which on two groups are joined; 15 % of one of them must align for skani to tell.
        progress: told how many groups were compared since the last call.

    Returns:
        The cluster of each group.

    Raises:
        UsageError: pyskani is not installed.
        ChangedInputError: an input is gone or is not the one that was embedded.
        InputError: an input cannot be read.
    """
    genomes = _genomes(features)
    sizes = {name: sum(map(len, contigs)) for name, contigs in genomes.items()}
    return clusters_of_genomes(sizes, genomes.__getitem__, identity, asked_by="--dedupe", progress=progress)


def _genomes(features: Features) -> dict[str, list[bytes]]:
    """The sequences of each group; those too short for a sketch are left out, the group stays."""
    records = features.records()
    genomes: dict[str, list[bytes]] = defaultdict(list)
    for group, sequence in _sequences(features, records):
        contigs = genomes[group]
        if len(sequence) >= SHORTEST:
            contigs.append(sequence)
    for group in features.groups():
        genomes.setdefault(group, [])
    return dict(genomes)


def _sequences(features: Features, records: Records) -> Iterator[tuple[str, bytes]]:
    """Group and bases of every record of the run, read anew from its inputs."""
    inputs = [PlannedInput(**entry) for entry in features.provenance["inputs"]]
    check_inputs(inputs)
    for number, entry in enumerate(inputs):
        own = np.flatnonzero(records.input == number)
        for place, record in zip(own.tolist(), read_records(entry.path), strict=True):
            stored = records.name[place].decode()
            if entry.record_name(record.name) != stored:
                raise ChangedInputError(
                    f"has this record where {stored!r} was embedded", path=entry.path, record=record.name
                )
            yield records.group[place].decode(), record.sequence
