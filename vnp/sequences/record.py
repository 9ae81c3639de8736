"""What one record is, what its letters mean, and how names and bases are cleaned."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np


class Record(NamedTuple):
    """One record of a sequence file.

    A named tuple, since a run makes up to a billion of these and a frozen dataclass takes four times as long to make.
    """

    # first word of the header. Characters that cannot be printed, and bytes that are not UTF-8, are written as
    # backslash escapes. A record without a name is called ``unnamed_line_N`` and has a problem
    name: str
    # upper-case bases, ASCII, T for U, N for X, without white space; where there is a problem, whatever was found
    sequence: bytes
    line: int  # line of the header in the decompressed file, from 1
    offset: int | None = None  # byte of the header in the file; None in a compressed file
    problem: str | None = None  # why the record cannot be used, or None
    description: str = ""  # what the header says behind the name


# Many records at once: twice as fast as calling Record, and the tests check that it gives the same.
make_record: Callable[[tuple[str, bytes, int, int | None, str | None, str]], Record] = partial(tuple.__new__, Record)

WHITE = b" \t\n\r\x0b\x0c"
# Upper case; U is T in RNA; X is what masking programs write for N.
UPPER = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyzUX", b"ABCDEFGHIJKLMNOPQRSTTVWNYZTN")
NUCLEOTIDES = b"ACGTRYSWKMBDHVN"
_NOT_NUCLEOTIDE = re.compile(rb"[^ACGTRYSWKMBDHVN]")

# Every nucleotide letter to that of the other strand.
COMPLEMENT = bytes.maketrans(b"ACGTRYSWKMBDHVN", b"TGCAYRSWMKVHDBN")
# The 64 codons in NCBI's order, and what each is in its table 1, the standard code.
CODONS = tuple("".join(codon) for codon in product("TCAG", repeat=3))
STANDARD_CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"

# Bases from which on arrays count faster than ``translate``.
_LONG = 2_000
_PROTEIN_ONLY = b"EFILPQZJO*"
# A protein has a third of its residues among those letters, DNA none of them.
_PROTEIN_SHARE = 0.1


def reverse_complement(bases: bytes) -> bytes:
    """Read upper-case bases on the other strand."""
    return bases.translate(COMPLEMENT)[::-1]


def clean_name(header: str, line: int) -> tuple[str, str | None]:
    """Take the name from a header line without its mark; also say what is wrong with it."""
    words = header.split(None, 1)
    if not words:
        return f"unnamed_line_{line}", "the header has no name"
    name = words[0]
    if not name.isprintable():
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    return name, None


def checked_record(header: bytes, sequence: bytes, line: int, offset: int | None, *, good: bool = False) -> Record:
    """Make a record of a header without its mark and clean bases; ``good`` says that these need no look."""
    text = header.decode("utf-8", "backslashreplace")
    name, problem = clean_name(text, line)
    # Looking for a bad letter takes long in a chromosome, so not where there is none.
    if not (good and sequence):
        problem = problem or sequence_problem(sequence)
    return Record(name, sequence, line, offset, problem, "".join(text.split(None, 1)[1:]))


def plain_names(headers: bytes, mark: str) -> tuple[Sequence[str], Sequence[str]] | None:
    """Take names and descriptions from header lines joined by LF, each with its mark.

    Returns:
        Both, of each header; None where one needs ``clean_name``.
    """
    text = headers.decode("utf-8", "backslashreplace").replace("\t", " ")
    lines = text[1:].split("\n" + mark)
    names: Sequence[str] = lines
    descriptions: Sequence[str] = [""] * len(lines)
    if " " in text:
        names, _, descriptions = zip(*[line.partition(" ") for line in lines], strict=True)
    return (names, descriptions) if "" not in names and "".join(names).isprintable() else None


def base_counts(sequence: bytes) -> tuple[int, int]:
    """Count G and C, and the letters that are none of the four bases, in upper-case nucleotides."""
    if len(sequence) < _LONG:
        rest = sequence.translate(None, b"AT")
        ambiguous = len(rest.translate(None, b"GC"))
        return len(rest) - ambiguous, ambiguous
    letters = np.frombuffer(sequence, dtype=np.uint8)
    a, c, g, t = (int(np.count_nonzero(letters == base)) for base in b"ACGT")
    return c + g, len(letters) - a - c - g - t


def clean_bases(text: bytes, between: bytes = b"") -> tuple[bytes, bool]:
    """Make bases upper case, U to T and X to N, without white space; also say whether all of them are nucleotides.

    The bases may be of several records; the byte that stands between them stays.
    """
    letters = np.frombuffer(text, dtype=np.uint8)
    # Most files hold A, C, G, T and N in lines and nothing else; seeing that is much faster than mapping each letter.
    usual = letters == 10
    for letter in b"ACGTN" + between.strip():
        usual |= letters == letter
    if usual.all():
        return (text if between == b"\n" else text.replace(b"\n", b"")), True
    text = text.translate(UPPER, WHITE.replace(between, b"") if between else WHITE)
    return text, not text.translate(None, NUCLEOTIDES + between)


def count_lines(text: bytes) -> int:
    """Count the line ends in a text, faster than ``bytes.count``."""
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == 10))


def sequence_problem(sequence: bytes) -> str | None:
    """Say why a cleaned sequence cannot be used, or None."""
    if not sequence:
        return "the record is empty"
    found = _NOT_NUCLEOTIDE.search(sequence)
    if found is None:
        return None
    if looks_like_protein(sequence):
        return f"looks like protein: letter {_shown(found[0])} at position {found.start() + 1}"
    hint = " (a gap: remove the alignment)" if found[0] in b"-." else ""
    return f"invalid letter {_shown(found[0])} at base {found.start() + 1}{hint}"


_TORN = re.compile(rb"[>\0]")


def torn_at(body: bytes) -> int | None:
    """The first byte in the lines of a record's bases that belongs to another record or to none."""
    found = _TORN.search(body)
    return None if found is None else found.start()


def torn_problem(text: bytes, base: int) -> str:
    """Say what ``torn_at`` found.

    ``text`` is the file from there on, at least to the end of a name; ``base`` bytes of the record stand before it.
    """
    if text.startswith(b"\0"):
        return (
            f"zero bytes at base {base + 1}: a hole, as a crash or a broken copy leaves one, and records that stood "
            "there are lost; copy the file again"
        )
    name, _ = clean_name(text[1:].partition(b"\n")[0].decode("utf-8", "backslashreplace"), 0)
    return (
        f"another record ({name}) begins in the middle of a line at base {base + 1}: files were joined without a line "
        "end between them, and both records are lost; put one there"
    )


def looks_like_protein(sequence: bytes) -> bool:
    """Tell whether a tenth of the letters are residues that no nucleotide code has."""
    others = len(sequence) - len(sequence.translate(None, _PROTEIN_ONLY))
    return others > _PROTEIN_SHARE * len(sequence)


def _shown(letter: bytes) -> str:
    """A letter, or what stands for one that cannot be shown; without quotes, for tables would have to double them."""
    return repr(letter.decode())[1:-1] if letter.isascii() else f"byte 0x{letter[0]:02x}"
