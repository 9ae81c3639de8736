from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnp.errors import InputError, UsageError
from vnp.sequences import opening as _files
from vnp.sequences.opening import BLOCK, block_digest
from vnp.sequences.reading import Record, input_digest, read_records

FASTA = b">one first record\nACGTN\nacgu\n>two\nRYSWKMBDHV\n"
FASTA_RECORDS = [("one", b"ACGTNACGT"), ("two", b"RYSWKMBDHV")]
FASTQ = b"@one first record\nACGTNacgu\n+\n@+IIIIIII\n@two\nRYS\n+two\nIII\n"
FASTQ_RECORDS = [("one", b"ACGTNACGT"), ("two", b"RYS")]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(data: bytes, name: str = "in.txt") -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return put


Write = Callable[..., Path]


def pairs(path: Path) -> list[tuple[str, bytes]]:
    records = list(read_records(path))
    assert [record.problem for record in records] == [None] * len(records)
    return [(record.name, record.sequence) for record in records]


def problems(path: Path) -> list[str | None]:
    return [record.problem for record in read_records(path)]


def message(path: Path) -> str:
    with pytest.raises(InputError) as error:
        list(read_records(path))
    text = str(error.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text.removeprefix(str(path))


# What is read


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(("data", "records"), [(FASTA, FASTA_RECORDS), (FASTQ, FASTQ_RECORDS)])
def test_every_compression_by_content(write: Write, packer: str, data: bytes, records: list[tuple[str, bytes]]) -> None:
    assert pairs(write(PACKERS[packer](data))) == records


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
def test_several_members_in_one_file(write: Write, packer: str) -> None:
    pack = PACKERS[packer]
    assert pairs(write(pack(FASTA[:20]) + pack(FASTA[20:]))) == FASTA_RECORDS


@pytest.mark.parametrize("packer", PACKERS)
def test_who_watches_sees_every_byte_on_disk(write: Write, packer: str) -> None:
    path = write(PACKERS[packer](FASTA * 20_000 if packer == "plain" else FASTA))
    seen: list[tuple[int, bytes]] = []
    for _ in read_records(path, watch=lambda *block: seen.append(block)):
        pass
    assert [number for number, _ in seen] == list(range(len(seen)))
    blocks = [block for _, block in seen]
    assert b"".join(blocks) == path.read_bytes()
    assert blocks[-1] == b""
    assert {len(block) for block in blocks[:-2]} <= {BLOCK}
    assert hashlib.sha256(b"".join(blocks)).hexdigest() == input_digest(path)


def test_who_watches_sees_the_whole_first_block_of_what_is_read(write: Write) -> None:
    text = b"".join(b">r%06d\nACGTACGT\n" % number for number in range(50_000))
    path = write(text)
    start = text.index(b">r030000")
    seen: dict[int, bytes] = {}
    first, *_ = read_records(path, watch=seen.__setitem__, offset=start, line=60_001)
    assert first.name == "r030000"
    assert min(seen) == start // BLOCK > 0
    assert all(block == text[number * BLOCK : (number + 1) * BLOCK] for number, block in seen.items())


def test_digests_of_blocks_tell_what_changed() -> None:
    generator = np.random.default_rng(0)
    block = generator.integers(0, 256, 10_001, np.uint8).tobytes()
    others = {block, b"", block[:-1], block + b"\0", *(block[start:] + block[:start] for start in range(500))}
    for place in generator.integers(0, len(block) * 8, 500).tolist():
        changed = bytearray(block)
        changed[place // 8] ^= 1 << place % 8
        others.add(bytes(changed))
    assert len({block_digest(one) for one in others}) == len(others)
    # It stands in plans, so it may never change.
    assert block_digest(b"ACGT" * 100) == 0x516BE24C8158C480


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(("data", "records"), [(FASTA, FASTA_RECORDS), (FASTQ, FASTQ_RECORDS)])
@pytest.mark.parametrize("last", [b"", b"\x1a", b"\n\x1a", b"\n\n"])
def test_line_ends(write: Write, end: bytes, data: bytes, records: list[tuple[str, bytes]], last: bytes) -> None:
    assert pairs(write((data + last).replace(b"\n", end))) == records
    assert pairs(write((data.rstrip() + last).replace(b"\n", end))) == records


def test_white_space_blank_lines_comments_and_a_byte_order_mark(write: Write) -> None:
    data = b"\xef\xbb\xbf# comment\n;another\n\n>one\n\nAC GT\tN\n\n  acgu  \n\n>two\nRYSWKMBDHV\n\n"
    assert pairs(write(data)) == FASTA_RECORDS


def test_masked_bases_are_n(write: Write) -> None:
    assert pairs(write(b">a\nACXxGT\n")) == [("a", b"ACNNGT")]


def test_fastq_over_several_lines(write: Write) -> None:
    data = b"@one x\nACGT\nNACGT\n+\n@III\n+IIII\n\n@two\nRYS\n+\nIII\n@three\nACGTAC\n+three\nIII\nIII\n"
    assert pairs(write(data)) == [("one", b"ACGTNACGT"), ("two", b"RYS"), ("three", b"ACGTAC")]


def test_lines_and_offsets(write: Write) -> None:
    fasta = b"# c\n\n" + FASTA + b">three\nA\n"
    fastq = FASTQ + b"@three\nAC\nGT\n+\nII\nII\n@four\nA\n+\nI\n"
    for data, lines in ((fasta, [3, 6, 8]), (fastq, [1, 5, 9, 15]), (fastq.replace(b"\n", b"\r\n"), [1, 5, 9, 15])):
        path = write(data)
        records = list(read_records(path))
        assert [record.line for record in records] == lines
        for index, record in enumerate(records):
            assert record.offset is not None
            assert data[record.offset + 1 :].startswith(record.name.encode())
            assert list(read_records(path, offset=record.offset, line=record.line)) == records[index:]
        packed = list(read_records(write(gzip.compress(data))))
        assert packed == [record._replace(offset=None) for record in records]


def test_no_offset_into_a_compressed_file(write: Write) -> None:
    with pytest.raises(UsageError, match="gzip"):
        list(read_records(write(gzip.compress(FASTA)), offset=5))


@given(
    records=st.lists(
        st.tuples(st.text("ab|/'é", min_size=1, max_size=5), st.text("ACGTN", max_size=30)), min_size=1, max_size=6
    ),
    width=st.integers(1, 12),
    block=st.integers(1, 40),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_blocks_of_any_size_give_the_same(
    write: Write, records: list[tuple[str, str]], width: int, block: int, end: str
) -> None:
    def folded(text: str) -> str:
        return "".join(text[i : i + width] + end for i in range(0, len(text), width)) or end

    fasta = "".join(f">{name} x{end}{folded(bases)}" for name, bases in records)
    fastq = "".join(f"@{name} x{end}{folded(bases)}+{end}{folded('@' * len(bases))}" for name, bases in records)
    expected = [(name, bases.encode(), "the record is empty" if not bases else None) for name, bases in records]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "BLOCK", block)
        for text in (fasta, fastq):
            path = write(text.encode())
            read = list(read_records(path))
            assert [(record.name, record.sequence, record.problem) for record in read] == expected
            starts = [record.offset for record in read]
            assert [path.read_bytes()[start : start + 1] for start in starts if start is not None] == [
                text[0].encode()
            ] * len(read)
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            assert [lines[record.line - 1][1:-2] for record in read] == [name for name, _ in records]


def test_memory_is_bounded_by_the_longest_record(write: Write) -> None:
    line = b"ACGT" * 20 + b"\n"
    data = b"".join(b">r%d\n" % index + line * 1_250 for index in range(300))  # 30 MB, records of 100 kB
    for packed in (data, gzip.compress(data, 1), zstd(data)):
        path = write(packed)
        tracemalloc.start()
        count = sum(len(record.sequence) for record in read_records(path, watch=lambda _number, _block: None))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == 30_000_000
        assert peak < 8_000_000


# Records with a problem


@pytest.mark.parametrize("block", [1, 2, 7, 64, BLOCK])
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            b"AC GT\nACG>b0 of a file\nTTTT\n",
            "another record (b0) begins in the middle of a line at base 8: files were joined without a line end "
            "between them, and both records are lost; put one there",
        ),
        (
            b"AC" + bytes(100) + b"\nAC\n",
            "zero bytes at base 3: a hole, as a crash or a broken copy leaves one, and records that stood there are "
            "lost; copy the file again",
        ),
    ],
)
def test_records_that_are_lost_in_another_are_told(
    write: Write, monkeypatch: pytest.MonkeyPatch, body: bytes, problem: str, block: int
) -> None:
    path = write(b">first\nACGT\n>bad\n" + body + b">last\nACGT\n")
    monkeypatch.setattr(_files, "BLOCK", block)
    found = [(record.name, record.problem) for record in read_records(path)]
    assert found == [("first", None), ("bad", problem), ("last", None)]


def test_a_hole_in_a_file_takes_no_memory(write: Write) -> None:
    path = write(gzip.compress(b">a\nACGT\n>hole\nAC" + bytes(200_000_000) + b"\n>b\nACGT\n", 1))
    tracemalloc.start()
    found = [record.problem is None for record in read_records(path)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [True, False, True]
    assert peak < 8_000_000


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz"])
def test_what_follows_the_packed_data(write: Write, packer: str, caplog: pytest.LogCaptureFixture) -> None:
    packed = PACKERS[packer](FASTA)
    assert pairs(write(packed + bytes(1_024))) == FASTA_RECORDS
    assert pairs(write(packed + bytes(64) + packed)) == FASTA_RECORDS * 2
    caplog.clear()
    path = write(packed + b"junk behind")
    assert pairs(path) == pairs(path) == FASTA_RECORDS
    (said,) = caplog.messages
    assert f"{path}: 11 bytes that are not {packer} follow where the compressed data ends (b'junk beh' …)" in said
    assert "records are lost" in message(write(packed + b"junk" * 100_000 + packed))


def test_a_dictionary_of_gigabytes_is_refused(write: Write) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    header = bytearray(lzma.compress(FASTA, filters=[{**filters[0], "dict_size": 1 << 16}]))
    assert pairs(write(bytes(header))) == FASTA_RECORDS
    # The size of the dictionary is one byte of the block's header, whose CRC-32 follows it.
    header[16] = 36
    header[20:24] = zlib.crc32(bytes(header[12:20])).to_bytes(4, "little")
    assert "needs more than 512 MiB to be unpacked" in message(write(bytes(header)))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "the record is empty"),
        (b"\n \n", "the record is empty"),
        (b"ACG-TT--A\n", "invalid letter - at base 4 (a gap: remove the alignment)"),
        (b"AC\nGT.A\n", "invalid letter . at base 5 (a gap: remove the alignment)"),
        (b"ACGTACGTACGTAC\nGT*ACGTA\n", "invalid letter * at base 17"),
        (b"ACGTACGTACGTACGTE\n", "invalid letter E at base 17"),
        (b"ACG\x1aT\n", r"invalid letter \x1a at base 4"),
        (b"ACG\xc3T\n", "invalid letter byte 0xc3 at base 4"),
        (b"MKLVEFPQILSSEQ\n", "looks like protein: letter L at position 3"),
    ],
)
def test_a_record_with_a_problem_keeps_its_place(write: Write, body: bytes, problem: str) -> None:
    rest = b"".join(b">ok%d\nACGT\n" % index for index in range(3))
    records = list(read_records(write(b">first\nACGT\n>bad\n" + body + rest)))
    assert [record.name for record in records] == ["first", "bad", "ok0", "ok1", "ok2"]
    assert [record.problem for record in records] == [None, problem, None, None, None]
    assert records[1].sequence == b"".join(body.split())


def test_fastq_records_with_problems(write: Write) -> None:
    data = b"@a\nAC-T\n+\nIIII\n@b\n\n+\n\n@\nACGT\n+\nIIII\n@d\nACGT\n+\nIIII\n"
    assert problems(write(data)) == [
        "invalid letter - at base 3 (a gap: remove the alignment)",
        "the record is empty",
        "the header has no name",
        None,
    ]


def test_names(write: Write) -> None:
    headers = [
        b"tab\there",
        b"a/1 b",
        b"'quoted\"",
        "ünï".encode(),
        b"bad\xff\xfe",
        b"bad\xff\xfd",
        b"nul\x00bell\x07",
        b"  spaced",
        b"",
        b"   ",
        b"n" * 100_000 + b" d" * 50_000,
        b"gi|1|>x",
    ]
    expected = [
        "tab",
        "a/1",
        "'quoted\"",
        "ünï",
        r"bad\xff\xfe",
        r"bad\xff\xfd",
        r"nul\x00bell\x07",
        "spaced",
        "unnamed_line_17",
        "unnamed_line_19",
        "n" * 100_000,
        "gi|1|>x",
    ]
    fasta = write(b"".join(b">" + header + b"\nACGT\n" for header in headers))
    assert [record.name for record in read_records(fasta)] == expected
    assert problems(fasta)[8:10] == ["the header has no name"] * 2
    assert problems(fasta).count(None) == 10
    fastq = write(b"".join(b"@" + header + b"\nACGT\n+\nIIII\n" for header in headers))
    names = [record.name for record in read_records(fastq)]
    assert names[:8] + names[10:] == expected[:8] + expected[10:]
    assert names[8:10] == ["unnamed_line_33", "unnamed_line_37"]
    for record in read_records(fastq):
        assert type(record) is Record


# Files that cannot be used


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty"]),
        (b"\n\n", ["no record"]),
        (b"# only a comment\n", ["no record"]),
        (b"ACGTACGT\n", ["line 1", "'>'", "'@'", "ACGTACGT"]),
        (b"# c\n%foo\n", ["line 2", "%foo"]),
        (b" >indented\nACGT\n", ["line 1", "'>'"]),
        (bytes(range(256)), ["binary", "00 01 02"]),
        (b"\x7fELF\x02\x01\x01" + bytes(100), ["binary"]),
        (b"PK\x03\x04xxxx", ["zip", "gzip"]),
        (b"\x04\x22\x4d\x18xxxx", ["lz4", "zstd"]),
        (b"\x1f\x9dxxxx", ["compress"]),
        (b"@HD\tVN:1.6\n", ["SAM", "samtools"]),
        (gzip.compress(b"BAM\x01xxxx", mtime=0), ["BAM", "damaged"]),
        (b"LOCUS       X\n", ["GenBank"]),
        (b"<!DOCTYPE html>\n<html>", ["download"]),
        (b"path,label,group\nx,viral,\n", ["samplesheet", ".csv"]),
        (b">a\nMKLVEFPQILSSEQ\n", ["line 1", "'a'", "protein", "DNA"]),
        (b">d\nACGT\n" + b">p\nMKLVEFPQILSSEQ\n" * 30, ["line 3", "'p'", "protein"]),
        (b"@a\nACGT\n+\nIII\n@b\nACGT\n+\nIIII\n", ["line 4", "'a'", "4 bases but 3 qualities"]),
        (b"@a\nACGT\n+\nIIIII\n@b\nACGT\n+\nIIII\n", ["line 4", "'a'", "4 bases but 5 qualities"]),
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n", ["line 5", "'b'", "cut off"]),
        (b"@a\nACGT\n+\nIIII\nACGT\n+\nIIII\n", ["line 5", "start here with '@'"]),
        (b"@a\nACGT\n@b\nACGT\n+\nIIII\n", ["line 3", "'+' line should follow"]),
        (b"@a\nACGT\n+b\nIIII\n", ["line 3", "another name"]),
        (gzip.compress(FASTA * 1000, mtime=0)[:-20], ["gzip", "too early", "copy it again"]),
        (bz2.compress(FASTA * 1000)[:-20], ["bzip2", "copy it again"]),
        (lzma.compress(FASTA * 1000)[:-20], ["xz", "copy it again"]),
        (zstd(FASTA * 1000)[:-5], ["zstd", "too early", "copy it again"]),
        (gzip.compress(FASTA, mtime=0)[:12] + b"garbage!!" * 9, ["gzip", "damaged"]),
        (zstd(FASTA)[:6] + b"garbage!!" * 9, ["zstd"]),
    ],
)
def test_a_file_that_cannot_be_used_is_one_message(write: Write, data: bytes, words: list[str]) -> None:
    text = message(write(data))
    for word in words:
        assert word in text


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert "no such file" in message(tmp_path / "missing.fa")
    assert "link points nowhere" in message(tmp_path / "link")
    assert "folder" in message(tmp_path)
    assert "not a regular file" in message(tmp_path / "pipe")
    with pytest.raises(InputError, match="no such file"):
        input_digest(tmp_path / "missing.fa")


def test_a_disk_that_fails_is_one_message(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    path = write(FASTA)
    monkeypatch.setattr(_files._File, "read", fail)
    assert "Input/output error" in message(path)


def test_a_record_comes_before_the_rest_of_the_file_is_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "BLOCK", 64)
    path = write(FASTA * 500)
    taken: list[int] = []
    assert next(read_records(path, watch=lambda _number, block: taken.append(len(block)))).name == "one"
    assert 0 < sum(taken) < 1_000
