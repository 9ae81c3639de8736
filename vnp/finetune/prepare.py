"""From a sheet to genomes that can be trained on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from vnp.files.machine import require_room
from vnp.finetune.genomes import Genomes, load_genomes, read_genomes, save_genomes
from vnp.finetune.matches import ignore_matches
from vnp.finetune.proteins import ignore_resembling
from vnp.finetune.sheet import read_sheet
from vnp.finetune.split import leave_out, split

PACKED = ".npz"

_STATE_BYTES = 100_000_000  # of a training of the network: weights, their average, momenta, twice


def prepare(
    source: Path,
    packed: Path,
    *,
    validation: float,
    test: float,
    left_out: Collection[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Genomes:
    """Read, split and mask the genomes of a sheet and pack them, or read a packed set.

    Args:
        source: a sheet, or a packed set, whose split then stays as it is but for the groups to leave out.
        packed: where to pack the sheet's; what is there already is read instead.
        left_out: groups to keep for the test as a whole.

    Raises:
        UsageError: no group is called as one to leave out.
        InputError: the sheet or a file of it cannot be used.
        FeatureError: the packed set is damaged.
        StorageError: the disk is full or cannot be written.
    """
    if source.suffix == PACKED:
        return leave_out(load_genomes(source), left_out)
    if packed.exists():
        return leave_out(load_genomes(packed), left_out)
    genomes = read_genomes(read_sheet(source))
    say(require_room(packed.parent, len(genomes.codes) / 2 + _STATE_BYTES))
    say(f"{len(genomes.codes):,} bases, {len(genomes.unit):,} records, {len(genomes.units):,} units")
    genomes = ignore_resembling(ignore_matches(split(genomes, validation=validation, test=test, left_out=left_out)))
    say(f"{int(genomes.ignored[:, 1].sum()):,} bases of hosts resemble viruses and are left out")
    save_genomes(genomes, packed)
    return genomes
