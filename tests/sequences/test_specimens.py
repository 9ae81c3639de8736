"""Every odd or malformed file of other projects' test data is read right or refused with one clear message."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from vnp.errors import InputError
from vnp.sequences.reading import Record, read_records

# (good records, records with a problem, a word of their problems)
READ: dict[str, tuple[int, int, str]] = {
    "biopython/dups.fasta": (5, 0, ""),
    "biopython/NC_001802.fna": (1, 0, ""),
    "biopython/NC_001802lc.fna": (1, 0, ""),
    "biopython/NC_001802x.fna": (1, 0, ""),
    "biopython/rna.fa": (4, 0, ""),
    "biopython/example_dos.fastq": (3, 0, ""),
    "biopython/zero_length.fastq": (4, 1, "empty"),
    "biopython/tricky.fastq": (4, 0, ""),
    "biopython/misc_rna_original_sanger.fastq": (4, 0, ""),
    "biopython/misc_dna_original_sanger.fastq": (4, 0, ""),
    "biopython/longreads_original_sanger.fastq": (10, 0, ""),
    "biopython/wrapping_original_sanger.fastq": (3, 0, ""),
    "biopython/example.fasta": (3, 0, ""),
    "biopython/example.fastq": (3, 0, ""),
    "biopython/example.fastq.gz": (3, 0, ""),
    "biopython/example.fastq.bgz": (3, 0, ""),
    # Qualities are counted, not read: an odd character among them does not touch the bases.
    "biopython/error_qual_del.fastq": (5, 0, ""),
    "biopython/error_qual_escape.fastq": (5, 0, ""),
    "biopython/error_qual_null.fastq": (5, 0, ""),
    "biopython/error_qual_space.fastq": (5, 0, ""),
    "biopython/error_qual_tab.fastq": (5, 0, ""),
    "biopython/error_qual_unit_sep.fastq": (5, 0, ""),
    "biopython/error_qual_vtab.fastq": (5, 0, ""),
    "biopython/error_spaces.fastq": (5, 0, ""),
    "biopython/error_tabs.fastq": (5, 0, ""),
    "biojulia/badfasta.fasta": (3, 0, ""),
    "biojulia/bug2901.fasta": (2, 2, "gap"),
    "biojulia/spaced_fasta.fasta": (37, 0, ""),
    "genometools/empty_seq.fas": (0, 1, "empty"),
    "genometools/Duplicate.fna": (2, 0, ""),
    "genometools/TTT-small-wrongchar.fna": (0, 2, "no name"),
    "genometools/RandomN.fna": (0, 1, "no name"),
    "genometools/U89959_ests_gi_8690080_soft_masked.fas": (1, 0, ""),
    "genometools/Small.fna": (0, 6, "no name"),
    "dnaio/dos.fastq": (3, 0, ""),
    "viral-ngs/ambig_bases.fasta": (2, 0, ""),
    "viral-ngs/messy-headers.fasta": (8, 0, ""),
    "viral-ngs/contigs.ebov.ambig.fasta.gz": (49, 0, ""),
    "viral-ngs/ebola.fasta.gz": (20, 0, ""),
    "viral-ngs/ebola.fasta.bz2": (20, 0, ""),
    "viral-ngs/ebola.fasta.zst": (20, 0, ""),
    "jaeger/test_short.fasta": (1, 0, ""),
    "barrnap/empty.fa": (0, 1, "empty"),
    "barrnap/polyg.fa": (1, 0, ""),
    "barrnap/nohits.fa": (1, 0, ""),
    "htslib/faidx.fa": (5, 1, "no name"),
    "htslib/multiline.fa": (2, 0, ""),
    "htslib/multiline.fq": (2, 0, ""),
    "htslib/longline.fq": (1, 0, ""),
    "htslib/minimal.fa": (1, 0, ""),
    "vadr/noro.r1.longdesc.fa": (1, 0, ""),
    "vadr/noro.r1.longname.fa": (1, 0, ""),
    "vadr/noro.longdesc.fa": (1, 0, ""),
    "vadr/iss30-toomanyNs-noro.fa": (2, 0, ""),
    "glue/erythro-dependo-copi-tetra.aln.fna": (0, 5, "gap"),
    "phagcn2/ctrl_z_last_record.fasta": (1, 0, ""),
}
# (records before the fault, words of the message)
REFUSED: dict[str, tuple[int, list[str]]] = {
    "biopython/error_diff_ids.fastq": (2, ["line 11", "850_123", "another name"]),
    "biopython/error_double_qual.fastq": (3, ["line 13", "start here with '@'"]),
    "biopython/error_double_seq.fastq": (3, ["line 15", "362_549", "'+' line should follow"]),
    "biopython/error_long_qual.fastq": (3, ["line 16", "362_549", "25 bases but 26 qualities"]),
    "biopython/error_no_qual.fastq": (0, ["line 4", "610_79", "25 bases but 0 qualities"]),
    "biopython/error_short_qual.fastq": (2, ["line 12", "850_123", "25 bases but 24 qualities"]),
    "biopython/error_trunc_at_plus.fastq": (4, ["line 17", "183_714", "cut off"]),
    "biopython/error_trunc_at_qual.fastq": (4, ["line 17", "183_714", "cut off"]),
    "biopython/error_trunc_at_seq.fastq": (4, ["line 17", "183_714", "cut off"]),
    "biopython/error_trunc_in_plus.fastq": (4, ["line 19", "183_714", "another name"]),
    "biopython/error_trunc_in_qual.fastq": (4, ["line 17", "183_714", "cut off"]),
    "biopython/error_trunc_in_seq.fastq": (4, ["line 17", "183_714", "cut off"]),
    "biopython/error_trunc_in_title.fastq": (4, ["line 17", "cut off"]),
    "biojulia/fa01.fasta": (2, ["line 1", "protein"]),
    "biojulia/multi_1.fasta": (6, ["line 1", "protein"]),
    "genometools/corrupt.fas": (0, ["line 1", "%foo", "'>'"]),
    "dnaio/simple.fasta": (2, ["line 1", "first_sequence", "protein"]),
    "dnaio/simple.fasta.gz": (2, ["line 1", "first_sequence", "protein"]),
    "dnaio/simple.fasta.bz2": (2, ["line 1", "first_sequence", "protein"]),
    "dnaio/simple.fasta.xz": (2, ["line 1", "first_sequence", "protein"]),
    "dnaio/with_comment.fasta": (2, ["line 3", "first_sequence", "protein"]),
    "viral-ngs/empty.fasta": (0, ["empty"]),
    "viral-ngs/ebola.fasta.lz4": (0, ["lz4", "gzip, bzip2, xz and zstd"]),
    "jaeger/test_empty.fasta": (0, ["empty"]),
    "barrnap/null.fa": (0, ["empty"]),
}


@pytest.fixture(scope="module")
def specimens(shared: Path) -> Path:
    return shared / "data" / "odd_inputs"


def described(specimens: Path) -> dict[str, str]:
    """The description of each specimen, from the table in the folder."""
    rows = [line.split("|") for line in (specimens / "README.md").read_text().splitlines() if line.startswith("| ")]
    return {cells[1].strip(): cells[6].strip() for cells in rows if "/" in cells[1]}


def read_all(path: Path) -> tuple[list[Record], str]:
    records = []
    try:
        for record in read_records(path):
            records.append(record)
    except InputError as error:
        return records, str(error)
    return records, ""


def test_every_specimen_is_in_a_table(specimens: Path) -> None:
    assert set(described(specimens)) == READ.keys() | REFUSED.keys()
    assert len(READ) + len(REFUSED) == 81


@pytest.mark.parametrize("name", READ)
def test_specimen_is_read(specimens: Path, name: str) -> None:
    records, error = read_all(specimens / name)
    good, bad, word = READ[name]
    problems = [record.problem for record in records if record.problem is not None]
    assert error == ""
    assert (len(records) - len(problems), len(problems)) == (good, bad)
    assert all(word in problem for problem in problems)


@pytest.mark.parametrize("name", REFUSED)
def test_specimen_is_refused(specimens: Path, name: str) -> None:
    records, error = read_all(specimens / name)
    before, words = REFUSED[name]
    assert len(records) == before
    assert error.startswith(str(specimens / name))
    for word in words:
        assert word in error


def test_the_counts_are_those_of_the_description(specimens: Path) -> None:
    checked = 0
    for name, text in described(specimens).items():
        found = re.search(r"(\d+) FASTA records", text)
        if found and name != "viral-ngs/ebola.fasta.lz4":
            assert len(read_all(specimens / name)[0]) == int(found[1]), name
            checked += 1
    assert checked == 39


def test_the_bases_are_those_in_the_file(specimens: Path) -> None:
    for name in READ:
        path = specimens / name
        if not re.search(r"\.(fa|fas|fna|fasta)(\.gz)?$", name):
            continue
        text = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\x1a").split(b"\n")
        bases: list[bytes] = []
        for line in lines:
            if line.startswith(b">"):
                bases.append(b"")
            else:
                bases[-1] += line.replace(b" ", b"").upper().replace(b"U", b"T").replace(b"X", b"N")
        assert [record.sequence for record in read_records(path)] == bases, name


def test_the_same_genomes_in_three_compressions(specimens: Path) -> None:
    digests = set()
    for ending in ("gz", "bz2", "zst"):
        digest = hashlib.sha256()
        for record in read_records(specimens / "viral-ngs" / f"ebola.fasta.{ending}"):
            digest.update(record.name.encode() + b"\n" + record.sequence + b"\n")
        digests.add(digest.hexdigest())
    assert len(digests) == 1
