"""Sequences of BAM files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from vnp.errors import InputError
from vnp.sequences import bam
from vnp.sequences.reading import Record, read_records
from vnp.sequences.record import reverse_complement

LETTERS = "=ACMGRSVTWYHKDBN"
PAIRED, REVERSE, FIRST, LAST, SECONDARY, SUPPLEMENTARY = 0x1, 0x10, 0x40, 0x80, 0x100, 0x800


def record(name: str, sequence: str, flags: int = 4, operations: int = 0) -> bytes:
    """A record as BAM has it, with a tag behind it."""
    codes = [LETTERS.index(letter) for letter in sequence] + [0] * (len(sequence) % 2)
    packed = bytes(high << 4 | low for high, low in zip(codes[::2], codes[1::2], strict=True))
    body = struct.pack(
        "<iiBBHHHiiii", 0, 5, len(name) + 1, 9, 4680, operations, flags, len(sequence), -1, -1, 0
    ) + name.encode() + b"\0" + bytes(4 * operations) + packed + b"\xff" * len(sequence) + b"RGZlane\0"  # fmt: skip
    return struct.pack("<i", len(body)) + body


def whole(*records: bytes) -> bytes:
    header = b"@HD\tVN:1.6\n@SQ\tSN:chr\tLN:900\n"
    return b"BAM\1" + struct.pack("<i", len(header)) + header + struct.pack("<ii", 1, 4) + b"chr\0" + struct.pack(
        "<i", 900
    ) + b"".join(records)  # fmt: skip


def bgzf(text: bytes, block: int = 300) -> bytes:
    """Blocks as ``samtools`` packs them, the empty one last."""
    found = b""
    for first in range(0, len(text), block):
        packed = gzip.compress(text[first : first + block], mtime=0)
        extra = struct.pack("<H2sHH", 6, b"BC", 2, len(packed) + 7)
        found += packed[:3] + b"\4" + packed[4:10] + extra + packed[10:]
    return found + bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def read(path: Path, content: bytes) -> list[tuple[str, str, str | None]]:
    path.write_bytes(content)
    return [(one.name, one.sequence.decode(), one.problem) for one in read_records(path)]


@pytest.mark.parametrize("pack", [bgzf, gzip.compress, bytes], ids=["bgzf", "gzip", "plain"])
def test_each_read_is_there_once_as_it_was_read(tmp_path: Path, pack: type[bytes]) -> None:
    long = "ACGTN" * 301
    records = (
        record("forward", "ACCGTNR", 0, 3),
        record("reverse", "ACCGTNR", REVERSE, 1),
        record("pair", "AAC", PAIRED | FIRST),
        record("pair", "AAC", PAIRED | LAST | REVERSE),
        record("forward", "ACC", SECONDARY),
        record("reverse", "ACC", SUPPLEMENTARY | REVERSE),
        record("none", ""),
        record("same", "A=C"),
        record("long", long),
    )
    assert read(tmp_path / "reads.bam", pack(whole(*records))) == [
        ("forward", "ACCGTNR", None),
        ("reverse", reverse_complement(b"ACCGTNR").decode(), None),
        ("pair/1", "AAC", None),
        ("pair/2", "GTT", None),
        ("none", "", "the record is empty"),
        ("same", "A=C", "invalid letter = at base 2"),
        ("long", long, None),
    ]


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_of_any_size_give_the_same(block: int) -> None:
    text = whole(*(record(f"read{number}", "ACGT" * number) for number in range(1, 30)))
    blocks = (text[first : first + block] for first in range(0, len(text), block))
    found: list[Record] = list(bam.bam_records(blocks, Path("reads.bam")))
    assert [(one.name, len(one.sequence)) for one in found] == [
        (f"read{number}", 4 * number) for number in range(1, 30)
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bgzf(whole(record("a", "ACGT")))[:-28], "no end mark"),
        (whole(record("a", "ACGT"))[:-3], "ends inside a record"),
        (whole(record("a", "ACGT"))[:20], "ends inside a record"),
        (whole(struct.pack("<i", 30) + bytes(80)), "damaged"),
        (whole(record("a", "ACGT")[:20] + struct.pack("<i", -4) + bytes(99)), "damaged"),
        # Of no length, where one could go on for ever.
        (whole(record("a", "ACGT"), struct.pack("<i", -4)), "damaged"),
        (b"BAM\1" + struct.pack("<i", -9) + bytes(99), "damaged"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path / "reads.bam", content)


def test_a_file_without_reads_has_none(tmp_path: Path) -> None:
    assert read(tmp_path / "reads.bam", bgzf(whole())) == []
