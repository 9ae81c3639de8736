"""Reads a GenBank file for its annotation alone, and checks that against the sequences of a FASTA file.

In RefSeq's releases, the GenBank records of large genomes say with CONTIG which others they are made of, and have no
bases; a FASTA file beside them has.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import zstandard

from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.beside import require_same_names
from vnp.datasets.annotations.flatfile import flat_records
from vnp.datasets.annotations.genbank import Entry, annotate, load_gb_io, read_entry
from vnp.errors import InputError
from vnp.sequences._record import Record

_LEVEL = 3


class _Held(NamedTuple):
    """A record that waits for its sequence; the text of its coding sequences is packed."""

    entry: Entry
    line: int
    own: int


class GenBankAnnotation:
    """The records of a GenBank file but for their sequences, by name.

    All of them are held in memory, each until its sequence comes: some hundred bytes, and the text of its coding
    sequences, packed, about one byte for each residue of their proteins.

    Args:
        blocks: its text with LF line ends.
        path: named in errors.

    Raises:
        InputError: the file is damaged, holds proteins, or has a name twice.
        UsageError: gb-io is not installed.
    """

    def __init__(self, blocks: Iterable[bytes], path: Path) -> None:
        self._path = path
        self._gb_io = load_gb_io()
        self._held: dict[str, _Held] = {}
        self._unknown: set[str] = set()
        packer = zstandard.ZstdCompressor(level=_LEVEL)
        # A draft genome has a million records of one organism.
        genomes: dict[str, str] = {}
        lineages: dict[tuple[str, ...], tuple[str, ...]] = {}
        for flat in flat_records(blocks, path):
            entry = read_entry(flat, self._gb_io, path)
            if entry.name in self._held:
                raise InputError(
                    f"the record of line {self._held[entry.name].line} has this name too; remove or rename one",
                    path=path,
                    line=flat.line,
                    record=entry.name,
                )
            entry = entry._replace(
                genome=genomes.setdefault(entry.genome, entry.genome),
                lineage=lineages.setdefault(entry.lineage, entry.lineage),
                coding=packer.compress(entry.coding) if entry.coding else b"",
            )
            self._held[entry.name] = _Held(entry, flat.line, len(flat.sequence))

    def annotate(self, record: Record) -> Annotated:
        """Check the proteins of a record against the bases that the FASTA file has of it, and let go of them."""
        held = self._held.pop(record.name, None)
        if held is None:
            self._unknown.add(record.name)
            return Annotated(record.name, record.sequence, record.name, problem=record.problem)
        entry = held.entry
        if entry.coding:
            entry = entry._replace(coding=zstandard.ZstdDecompressor().decompress(entry.coding))
        return annotate(entry, record.sequence, self._problem(record, held), self._gb_io)

    def finish(self, fasta: Path) -> None:
        """Compare the names when the last record has been annotated.

        Raises:
            InputError: there are names on both sides that the other does not have.
        """
        require_same_names(self._path, set(self._held), fasta, self._unknown)

    def _problem(self, record: Record, held: _Held) -> str | None:
        if record.problem is not None:
            return record.problem
        length = held.own or held.entry.length
        if length is None or length == len(record.sequence):
            return None
        return (
            f"has {len(record.sequence):,} bases, and in {self._path.name} {length:,}: give files of the same release"
        )
