"""Six-frame translation of many chunks at once.

Frames F1, F2 and F3 start at the first, second and third base of a chunk, R1, R2 and R3 at those of its reverse
complement. A frame is open if it holds at least one codon and no stop (TAA, TAG, TGA of the standard code). A codon
with an ambiguous base is the residue X; a frame of nothing but X is set aside, for it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise, product

import numpy as np
from jaxtyping import Bool, Int8, Int32, Int64, UInt8

from vnp.sequences.chunks import BLOCK_BASES, Chunks, Layout, lay_out
from vnp.sequences.record import CODONS, COMPLEMENT, STANDARD_CODE, reverse_complement

FRAME_NAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
# The same by the number of a row's frame: -1, which is the last, stands for the whole chunk.
FRAME_TEXTS = (*FRAME_NAMES, "")
CODON = 3
# Rows so uneven that copying all at the length of the longest would cost more than one by one.
_UNEVEN = 16
_Bytes = UInt8[np.ndarray, "n"]

# A base's code is bits 1 and 2 of its ASCII letter: A 0, C 1, T 2, G 3; its complement's is that xor 2. A codon's code
# is 16 x first + 4 x second + third, read on the forward strand.
_AMBIGUOUS = 64
_CODED = "ACTG"
_KNOWN = frozenset((b"A", b"C", b"G", b"T"))
_NONE = np.zeros(0, dtype=np.int64)


class Reason(IntEnum):
    """Why a chunk has no row."""

    HAS_ROWS = 0
    TOO_SHORT = 1
    ONLY_AMBIGUOUS = 2
    NO_OPEN_FRAME = 3

    def text(self, shortest: int = CODON) -> str:
        """The reason in words; ``shortest`` is how many bases a chunk needs."""
        return ("has rows", f"shorter than {shortest} bases", "only ambiguous bases", "no open frame")[self]


@dataclass(frozen=True, slots=True)
class Frames:
    """The open frames of a table of chunks, in order of chunk, then F1 F2 F3 R1 R2 R3; or chunks in their place."""

    chunk: Int64[np.ndarray, "rows"]  # row of the chunk in the table of chunks
    frame: Int8[np.ndarray, "rows"]  # index into ``FRAME_TEXTS``
    start: Int64[np.ndarray, "rows"]  # first base of the frame's DNA, 0-based, on the forward strand of the record
    end: Int64[np.ndarray, "rows"]  # one past its last base
    protein: UInt8[np.ndarray, "residues"]  # the residues of all frames, one after the other, ASCII
    # frame ``i`` has the residues ``protein_offsets[i]`` to ``protein_offsets[i + 1]``
    protein_offsets: Int64[np.ndarray, "rows+1"]
    nucleotide: UInt8[np.ndarray, "bases"]  # the bases of all frames, on the frame's own strand, ASCII
    nucleotide_offsets: Int64[np.ndarray, "rows+1"]  # the same for bases
    # pairs (chunk, frame) without a stop, but with nothing but X; they are not rows
    ambiguous: Int64[np.ndarray, "pairs 2"]
    reason: Int8[np.ndarray, "chunks"]  # a ``Reason`` for each chunk

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.chunk)

    def proteins(self) -> list[str]:
        """Write each row's protein as a string."""
        return _strings(self.protein, self.protein_offsets)

    def nucleotides(self) -> list[str]:
        """Write each row's DNA, on its own strand, as a string."""
        return _strings(self.nucleotide, self.nucleotide_offsets)


def _strings(letters: UInt8[np.ndarray, "n"], offsets: Int64[np.ndarray, "rows+1"]) -> list[str]:
    text = letters.tobytes().decode("ascii")
    edges = offsets.tolist()
    return [text[first:last] for first, last in pairwise(edges)]


def open_frames(sequences: Sequence[bytes], chunks: Chunks, only: UInt8[np.ndarray, "chunks"] | None = None) -> Frames:
    """Find and translate the open frames of a table of chunks.

    Args:
        sequences: upper-case IUPAC nucleotides, ASCII, with T for U.
        chunks: chunks of these sequences, in order of sequence, then position.
        only: for each chunk the frames to look at, bit k for frame k of ``FRAME_NAMES``; None looks at all.

    Returns:
        The open frames, in order.
    """
    layout = lay_out(chunks)
    opened = _find_open(sequences, layout, keep=True)
    if only is not None:
        opened = replace(opened, rows=opened.rows & only, unknown=opened.unknown & only)
    chunk, frame = _pairs(opened.rows)
    reverse = frame >= 3
    skip = frame - 3 * reverse
    length = (layout.end - layout.start)[chunk]
    codons = (length - skip) // 3
    bases = np.minimum(3 * codons + 1, length - skip)
    start = np.where(reverse, layout.end[chunk] - skip - bases, layout.start[chunk] + skip)
    protein, nucleotide = _letters(layout, opened, chunk, start, bases, reverse)
    start += layout.shift[chunk]
    return Frames(
        chunk=chunk,
        frame=frame.astype(np.int8),
        start=start,
        end=start + bases,
        protein=protein,
        protein_offsets=_offsets(codons),
        nucleotide=nucleotide,
        nucleotide_offsets=_offsets(bases),
        ambiguous=np.stack(_pairs(opened.unknown), axis=1),
        reason=_reasons(layout, opened),
    )


def count_open(
    sequences: Sequence[bytes], chunks: Chunks, only: UInt8[np.ndarray, "chunks"] | None = None
) -> tuple[Int8[np.ndarray, "chunks"], Int32[np.ndarray, "chunks"]]:
    """Count what ``open_frames`` would find, without translating it.

    Returns:
        Rows a chunk, and residues a chunk over all its rows.
    """
    layout = lay_out(chunks)
    opened = _find_open(sequences, layout, keep=False).rows
    if only is not None:
        opened = opened & only
    residues = np.zeros(len(chunks), dtype=np.int32)
    for skip in range(3):
        both_strands = np.bitwise_count(opened & (0b001001 << skip))
        residues += (both_strands * ((chunks.end - chunks.start - skip) // 3)).astype(np.int32)
    return np.bitwise_count(opened).astype(np.int8), residues


def whole_chunks(sequences: Sequence[bytes], chunks: Chunks, shortest: int) -> Frames:
    """Take chunks as they are, on the forward strand, as rows without a protein.

    ``shortest`` is the bases of the shortest chunk that becomes a row.

    Returns:
        A row for each chunk that is long enough and holds a base that is known.
    """
    pieces = _pieces(sequences, chunks)
    reason = _whole_reasons(pieces, chunks, shortest)
    chunk = np.flatnonzero(reason == Reason.HAS_ROWS)
    start, end = chunks.start[chunk], chunks.end[chunk]
    letters = b"".join(pieces if len(chunk) == len(pieces) else [pieces[row] for row in chunk.tolist()])
    return Frames(
        chunk=chunk,
        frame=np.full(len(chunk), -1, np.int8),
        start=start,
        end=end,
        protein=np.zeros(0, np.uint8),
        protein_offsets=np.zeros(len(chunk) + 1, np.int64),
        nucleotide=np.frombuffer(letters, np.uint8),
        nucleotide_offsets=_offsets(end - start),
        ambiguous=np.zeros((0, 2), np.int64),
        reason=reason,
    )


def count_whole(sequences: Sequence[bytes], chunks: Chunks, shortest: int) -> Int8[np.ndarray, "chunks"]:
    """Count the rows that ``whole_chunks`` would make of each chunk, 1 or 0."""
    rows: Int8[np.ndarray, "chunks"] = (
        _whole_reasons(_pieces(sequences, chunks), chunks, shortest) == Reason.HAS_ROWS
    ).astype(np.int8)
    return rows


def _pieces(sequences: Sequence[bytes], chunks: Chunks) -> list[bytes]:
    places = zip(chunks.sequence.tolist(), chunks.start.tolist(), chunks.end.tolist(), strict=True)
    return [sequences[index][start:end] for index, start, end in places]


def _whole_reasons(pieces: Sequence[bytes], chunks: Chunks, shortest: int) -> Int8[np.ndarray, "chunks"]:
    # Nearly all begin with a known base, which is soon seen.
    doubtful = [(row, piece) for row, piece in enumerate(pieces) if piece[:1] not in _KNOWN]
    unknown = [row for row, piece in doubtful if len(piece.translate(None, b"ACGT")) == len(piece)]
    reason = np.full(len(pieces), Reason.HAS_ROWS, dtype=np.int8)
    reason[unknown] = Reason.ONLY_AMBIGUOUS
    reason[chunks.end - chunks.start < shortest] = Reason.TOO_SHORT
    return reason


def frame_ids(names: Sequence[str], chunks: Chunks, frames: Frames) -> list[str]:
    """Name the rows as VirNucPro does: ``{record}_chunk_{n}{F|R}{k}``; a whole chunk ``{record}_chunk_{n}``."""
    sequence = chunks.sequence[frames.chunk].tolist()
    number = chunks.number[frames.chunk].tolist()
    return [
        f"{names[index]}_chunk_{chunk}{FRAME_TEXTS[frame]}"
        for index, chunk, frame in zip(sequence, number, frames.frame.tolist(), strict=True)
    ]


def _pairs(bits: UInt8[np.ndarray, "chunks"]) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "rows"]]:
    """List (chunk, frame) for every bit that is set, in order."""
    flat = np.flatnonzero(np.unpackbits(bits[:, None], axis=1, count=6, bitorder="little"))
    chunk, frame = np.divmod(flat, 6)
    return chunk, frame


def _reasons(layout: Layout, opened: _Open) -> Int8[np.ndarray, "chunks"]:
    reason = np.full(len(opened.rows), Reason.NO_OPEN_FRAME, dtype=np.int8)
    reason[opened.unknown > 0] = Reason.ONLY_AMBIGUOUS
    reason[layout.end - layout.start < 3] = Reason.TOO_SHORT
    reason[opened.rows > 0] = Reason.HAS_ROWS
    return reason


def _letters(
    layout: Layout,
    opened: _Open,
    chunk: Int64[np.ndarray, "rows"],
    start: Int64[np.ndarray, "rows"],
    bases: Int64[np.ndarray, "rows"],
    reverse: Bool[np.ndarray, "rows"],
) -> tuple[UInt8[np.ndarray, "residues"], UInt8[np.ndarray, "bases"]]:
    """Write out proteins and DNA; ``start`` is the leftmost base of each row's DNA in its block."""
    sizes = np.array(list(map(len, opened.blocks)), dtype=np.int64)
    size = np.repeat(sizes, np.diff(layout.first))[chunk]
    # A block is followed by its reverse complement, so that every row reads from left to right.
    begin = np.where(reverse, 2 * size - start - bases, start)
    residues_before, bases_before = _offsets(bases // 3), _offsets(bases)
    longest = int(bases.max(initial=0))
    protein = np.empty(residues_before[-1], dtype=np.uint8)
    nucleotide = np.empty(bases_before[-1] + longest, dtype=np.uint8)
    # One buffer for all blocks: large arrays made anew would each be fetched from the system page by page.
    strands = np.empty(2 * sizes.max(initial=0) + longest, dtype=np.uint8)
    row_edges = np.searchsorted(chunk, layout.first).tolist()
    for block, ambiguous, (first, last) in zip(opened.blocks, opened.ambiguous, pairwise(row_edges), strict=True):
        if first == last:
            continue
        both = strands[: 2 * len(block) + longest]
        _both_strands(block, ambiguous, both)
        rows = slice(first, last)
        _copy(both, begin[rows], bases[rows], nucleotide, bases_before[rows])
        begin_residue, end_residue = residues_before[first], residues_before[last]
        coding = np.empty(3 * (end_residue - begin_residue) + longest, dtype=np.uint8)
        _copy(both, begin[rows], bases[rows] // 3 * 3, coding, 3 * (residues_before[rows] - begin_residue))
        coding = coding[: len(coding) - longest]
        protein[begin_residue:end_residue] = _translate(coding, known=not len(ambiguous))
    return protein, nucleotide[: bases_before[-1]]


def _both_strands(block: bytes, ambiguous: Int64[np.ndarray, "ambiguous"], both: UInt8[np.ndarray, "n"]) -> None:
    """Write out a block and its reverse complement."""
    size = len(block)
    letters, other = both[:size], both[size : 2 * size]
    letters[:] = np.frombuffer(block, dtype=np.uint8)
    other[:] = letters[::-1]
    # A 0x41 and T 0x54 differ by 0x15, C 0x43 and G 0x47 by 0x04; C and G alone have bit 1.
    change = ((other & 2) == 0) * np.uint8(0x11)
    change += 0x04
    other ^= change
    other[size - 1 - ambiguous] = _COMPLEMENT[letters[ambiguous]]


def _copy(
    source: UInt8[np.ndarray, "n"],
    begin: Int64[np.ndarray, "rows"],
    lengths: Int64[np.ndarray, "rows"],
    target: UInt8[np.ndarray, "m"],
    place: Int64[np.ndarray, "rows"],
) -> None:
    """Copy rows from ``begin`` in the source to ``place`` in the target; both have a margin of the longest row."""
    longest = int(lengths.max())
    if longest * len(begin) > _UNEVEN * int(lengths.sum()):
        for first, length, there in zip(begin.tolist(), lengths.tolist(), place.tolist(), strict=True):
            target[there : there + length] = source[first : first + length]
        return
    # Every row is copied at the length of the longest, as one element of that many bytes, in order: what is too much
    # is overwritten by the next row. That is ten times faster than a slice a row.
    element = np.dtype((np.void, longest))
    rows: np.ndarray = np.ndarray(len(source) - longest + 1, element, source, strides=(1,))
    out: np.ndarray = np.ndarray(len(target) - longest + 1, element, target, strides=(1,))
    out[place] = rows[begin]


def _translate(coding: UInt8[np.ndarray, "bases"], *, known: bool) -> UInt8[np.ndarray, "residues"]:
    """Translate whole codons; ``known`` says that no base is ambiguous."""
    code = _base_codes(coding)
    # All codons in all frames, then every third: numpy is that much slower on every third byte.
    codons = _codon_codes(code)[::3].copy()
    if not known:
        codons[_ambiguous_bases(coding, code) // 3] = _AMBIGUOUS
    return np.frombuffer(codons.tobytes().translate(_RESIDUES), dtype=np.uint8)


def _offsets(lengths: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows+1"]:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


# One byte a position says, in bits, whether a stop starts there: bit ``p % 3`` for the forward strand and bit
# ``3 + p % 3`` for the reverse strand, where ``p`` is the position of the codon's leftmost base. Or-ing these bytes
# over a chunk tells at once which of its six frames hold a stop.
def _codon_tables() -> tuple[bytes, bytes]:
    """Residues by codon code, and stops: bit 0 for one on the forward strand, bit 3 for one on the reverse strand."""
    code = dict(zip(CODONS, STANDARD_CODE, strict=True))
    residues, stops = bytearray(b"X" * 256), bytearray(256)
    for place, codon in enumerate(map("".join, product(_CODED, repeat=3))):
        other = reverse_complement(codon.encode()).decode()
        residues[place] = ord(code[codon])
        stops[place] = (code[codon] == "*") | (code[other] == "*") << 3
    return bytes(residues), bytes(stops)


def _frame_table() -> UInt8[np.ndarray, "64 9"]:
    """Turn bits by position into bits by frame, for each start % 3 and end % 3 of a chunk."""
    table = np.zeros((64, 9), dtype=np.uint8)
    for bits, start, end in product(range(64), range(3), range(3)):
        for k in range(3):
            forward = bits >> (start + k) % 3 & 1
            reverse = bits >> (3 + (end - k) % 3) & 1
            table[bits, 3 * start + end] |= forward << k | reverse << (3 + k)
    return table


_RESIDUES, _STOPS = _codon_tables()
_BY_FRAME = _frame_table()
_COMPLEMENT = np.frombuffer(COMPLEMENT, dtype=np.uint8)
# Frames with at least one codon in a chunk of 0, 1, 2, 3, 4, 5 or more bases.
_WITH_CODONS = np.array([0, 0, 0, 0b001001, 0b011011, 0b111111], dtype=np.uint8)
_PATTERN = np.tile(np.array([1, 2, 4], dtype=np.uint8), BLOCK_BASES)


def _pattern(length: int) -> _Bytes:
    return _PATTERN[:length] if length <= len(_PATTERN) else np.tile(_PATTERN[:3], length // 3 + 1)[:length]


@dataclass(frozen=True, slots=True)
class _Open:
    """Which frames of each chunk are open; bits 0 to 5 are F1 F2 F3 R1 R2 R3."""

    rows: UInt8[np.ndarray, "chunks"]  # frames without a stop and with at least one known residue
    unknown: UInt8[np.ndarray, "chunks"]  # frames without a stop whose every codon holds an ambiguous base
    blocks: list[bytes]  # the bases of each block, where they were to be kept
    ambiguous: list[Int64[np.ndarray, "bases"]]  # where in each block the ambiguous bases are


def _find_open(sequences: Sequence[bytes], layout: Layout, *, keep: bool) -> _Open:
    """Find the open frames of every chunk; ``keep`` keeps the blocks."""
    count = len(layout.start)
    stops = np.zeros(count, dtype=np.uint8)
    readable = np.full(count, 0b111111, dtype=np.uint8)
    kept = _Open(stops, readable, [], [])
    # From a chunk's first base to past its last codon; one without a codon reads a stray byte, but has no frame.
    edges = np.empty(2 * count, dtype=np.int64)
    edges[0::2] = layout.start
    np.maximum(layout.end - 2, layout.start, out=edges[1::2])
    for bases, (first, last) in zip(layout.blocks(sequences), pairwise(layout.first), strict=True):
        bits, ambiguous = _stop_bits(bases)
        here = edges[2 * first : 2 * last]
        stops[first:last] = np.bitwise_or.reduceat(bits, here)[0::2]
        if len(ambiguous):
            bits = _readable_bits(len(bases), ambiguous)
            readable[first:last] = np.bitwise_or.reduceat(bits, here)[0::2]
        if keep:
            kept.blocks.append(bases)
            kept.ambiguous.append(ambiguous)
    place = 3 * (layout.start % 3) + layout.end % 3
    opened = ~_BY_FRAME[stops, place] & _WITH_CODONS[np.minimum(layout.end - layout.start, 5)]
    readable = _BY_FRAME[readable, place]
    return _Open(opened & readable, opened & ~readable, kept.blocks, kept.ambiguous)


def _stop_bits(bases: bytes) -> tuple[_Bytes, Int64[np.ndarray, "ambiguous"]]:
    """Mark the stops that start at each base; also say where the ambiguous bases are."""
    letters = np.frombuffer(bases, dtype=np.uint8)
    bits = np.zeros(len(bases), dtype=np.uint8)
    code = _base_codes(letters)
    ambiguous = _ambiguous_bases(letters, code)
    if len(bases) >= 3:
        codons = _codon_codes(code)
        for back in range(3) if len(ambiguous) else ():
            codons[np.clip(ambiguous - back, 0, len(codons) - 1)] = _AMBIGUOUS
        stops = np.frombuffer(codons.tobytes().translate(_STOPS), dtype=np.uint8)
        np.multiply(stops, _pattern(len(stops)), out=bits[:-2])
    return bits, ambiguous


def _readable_bits(length: int, ambiguous: Int64[np.ndarray, "ambiguous"]) -> _Bytes:
    """Mark the codons, on both strands, that hold no ambiguous base."""
    bits = _pattern(length) * np.uint8(0b001001)
    bits[-2:] = 0
    for back in range(3):
        bits[np.maximum(ambiguous - back, 0)] = 0
    return bits


def _base_codes(letters: _Bytes) -> _Bytes:
    """Code each base by two bits; a letter other than A, C, G and T gets some code too."""
    code: _Bytes = letters >> 1
    code &= 3
    return code


def _codon_codes(code: _Bytes) -> _Bytes:
    """Code the codon that starts at each base but the last two."""
    codons: _Bytes = code[:-2] * np.uint8(4)
    codons += code[1:-1]
    codons *= 4
    codons += code[2:]
    return codons


def _ambiguous_bases(letters: _Bytes, code: _Bytes) -> Int64[np.ndarray, "ambiguous"]:
    """Find the letters other than A, C, G and T."""
    # A, C and G are 0x41 plus twice their code, T is 0x54; no other nucleotide letter is either.
    known: Bool[np.ndarray, "n"] = code * np.uint8(2) + np.uint8(0x41) == letters
    known |= letters == ord("T")
    return np.flatnonzero(~known) if not known.all() else _NONE
