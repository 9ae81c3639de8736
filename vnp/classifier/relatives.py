"""Finds groups that are nearly the same genome, so that a split can keep them on one side.

Average nucleotide identity (ANI) is estimated by skani (Shaw and Yu, Nature Methods 2023, 20:1661) through pyskani.
95 % is where species are commonly drawn apart (Jain et al., Nature Communications 2018, 9:5114).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from vnp.errors import ChangedInputError, UsageError
from vnp.features.read import Features
from vnp.features.table import Records
from vnp.runs.inputs import check_inputs
from vnp.runs.request import PlannedInput
from vnp.sequences.reading import read_records

IDENTITY = 0.95
_SHORTEST = 500
# What skani's authors advise for viruses and other small genomes, whose sketches would hold too little otherwise.
_COMPRESSION = 30
_MARKERS = 200


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
    try:
        import pyskani
    except ImportError as error:
        raise UsageError("--dedupe needs pyskani; install it with: pip install 'vnp[dedupe]'") from error
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    genomes = _genomes(features)
    names = list(genomes)
    places = {name: place for place, name in enumerate(names)}
    database = pyskani.Database(compression=_COMPRESSION, marker_compression=_MARKERS)
    for name, contigs in genomes.items():
        database.sketch(name, *contigs)
    pairs = [(place, place) for place in range(len(names))]
    for name, contigs in genomes.items():
        hits = database.query(name, *contigs, learned_ani=False, cutoff=identity - 0.05)
        pairs += [(places[name], places[hit.reference_name]) for hit in hits if hit.identity >= identity]
        progress(1)
    edges = np.array(pairs)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(names), len(names)))
    _, number = connected_components(graph, directed=False)
    return dict(zip(names, number.tolist(), strict=True))


def _genomes(features: Features) -> dict[str, list[bytes]]:
    """The sequences of each group; those too short for a sketch are left out, the group stays."""
    records = features.records()
    genomes: dict[str, list[bytes]] = defaultdict(list)
    for group, sequence in _sequences(features, records):
        contigs = genomes[group]
        if len(sequence) >= _SHORTEST:
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
