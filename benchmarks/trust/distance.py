"""How much is called right by the distance to the nearest genome that was trained on."""

from __future__ import annotations

import numpy as np

from vnp.comparison.distance import EDGES, NEAREST
from vnp.finetune.genomes import TRAIN, Genomes
from vnp.finetune.measure import CLASSES
from vnp.finetune.trust import Contigs
from vnp.sequences.identity import Relatives

_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_SHOWN = CLASSES[2:5]


def distance_table(genomes: Genomes, contigs: Contigs) -> str:
    """Units, contigs and the share called right at one half, by label and identity (skani), as Markdown.

    Raises:
        UsageError: pyskani is not installed.
    """
    relatives = Relatives("--distance")
    for known in np.flatnonzero(genomes.part == TRAIN).tolist():
        relatives.add(_LETTERS[genomes.record(known)].tobytes())
    record, place = np.unique(contigs.pieces.record, return_inverse=True)
    identity = [relatives.identity(_LETTERS[genomes.record(one)].tobytes()) or 0.0 for one in record.tolist()]
    bins = np.searchsorted(-np.array(EDGES), -np.array(identity))[place]
    unit, length = genomes.unit[contigs.pieces.record], contigs.pieces.length
    header = ["label", "identity to the nearest", "units", "contigs", *(f"{low:,} to {high:,}" for low, high in _SHOWN)]
    rows = [header, ["---", "---", *["--:"] * (len(header) - 2)]]
    for viral, label in ((True, "viral"), (False, "host")):
        for number, name in enumerate(NEAREST):
            own = (contigs.viral == viral) & (bins == number)
            if not own.any():
                continue
            right = [~contigs.wrong[own & (length >= low) & (length < high)] for low, high in _SHOWN]
            cells = [f"{one.mean():.3f}" if len(one) else "-" for one in right]
            rows.append([label, name, f"{len(np.unique(unit[own])):,}", f"{int(own.sum()):,}", *cells])
    return "\n".join(["", *(f"| {' | '.join(row)} |" for row in rows)])
