"""Made-up reads: pieces of the bundled genomes with substitutions, so that frames are as in real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vnp.errors import UsageError
from vnp.files.durable import replacing
from vnp.sequences.record import COMPLEMENT
from vnp.speed.workloads import sample_genomes

_BLOCK = 50_000
_BASES = np.frombuffer(b"ACGT", np.uint8)
_COMPLEMENT = np.frombuffer(COMPLEMENT, np.uint8)


def write_reads(path: Path, count: int, *, length: int = 150, substitutions: float = 0.01, seed: int = 0) -> None:
    """Write reads as FASTA.

    Every place of the bundled genomes is as likely as any other, and so is each strand.

    Args:
        path: of the file.
        count: of reads.
        length: bases of a read.
        substitutions: share of bases that are replaced by another one.
        seed: of places and substitutions; the same seed gives the same bytes.

    Raises:
        UsageError: no genome is that long.
        StorageError: the disk is full or cannot be written.
    """
    genomes = [np.frombuffer(each, np.uint8) for each in sample_genomes() if len(each) >= length]
    if not genomes:
        raise UsageError(f"no genome of the bundled sample has {length:,} bases")
    text = np.concatenate(genomes)
    room = np.array([len(each) - length + 1 for each in genomes])
    firsts = np.cumsum([0, *map(len, genomes)])[:-1]
    rng = np.random.default_rng(seed)
    with replacing(path) as temporary, temporary.open("wb") as file:
        for begun in range(0, count, _BLOCK):
            places = rng.integers(0, int(room.sum()), min(_BLOCK, count - begun))
            owner = np.searchsorted(np.cumsum(room), places, side="right")
            start = firsts[owner] + places - (np.cumsum(room) - room)[owner]
            reads = text[start[:, None] + np.arange(length)]
            reads = _mutated(_either_strand(reads, rng), substitutions, rng)
            lines = [b">read%d\n%s\n" % (begun + number, row.tobytes()) for number, row in enumerate(reads)]
            file.write(b"".join(lines))


def _either_strand(
    reads: UInt8[np.ndarray, "reads length"], rng: np.random.Generator
) -> UInt8[np.ndarray, "reads length"]:
    turned = rng.random(len(reads)) < 0.5
    reads[turned] = _COMPLEMENT[reads[turned, ::-1]]
    return reads


def _mutated(
    reads: UInt8[np.ndarray, "reads length"], share: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "reads length"]:
    rows, columns = np.nonzero(rng.random(reads.shape, dtype=np.float32) < share)
    # The next, second or third base after the one that is there, so that it is always another one.
    codes = np.searchsorted(_BASES, reads[rows, columns]) + rng.integers(1, 4, len(rows))
    reads[rows, columns] = _BASES[codes % 4]
    return reads
