"""Real annotated genomes, read by vnp and by Biopython."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from Bio import SeqIO

from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.reading import read_annotated
from vnp.sequences.reading import read_records

COUNTS = {
    # records, bases, translations that agree, mismatched, untranslated, unchecked
    "viral.gbff.gz": (931, 6_710_242, 4_646, 2, 13, 0),
    "host.gbff.gz": (19, 7_891_518, 6_414, 2, 220, 1),
}


@pytest.fixture(params=sorted(COUNTS))
def file(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "data" / str(request.param)


def read(path: Path) -> list[Annotated]:
    return list(read_annotated(path))


def biopython_records(path: Path) -> list[Any]:
    with gzip.open(path, "rt") as text:
        return list(SeqIO.parse(text, "genbank"))


def plainly_translated(feature: Any, record: Any) -> bytes:
    bases = feature.extract(record.seq)[int(feature.qualifiers.get("codon_start", ["1"])[0]) - 1 :]
    table = int(feature.qualifiers.get("transl_table", ["1"])[0])
    return str(bases[: len(bases) // 3 * 3].translate(table=table)).removesuffix("*").encode()


def test_real_files_as_biopython_reads_them(file: Path) -> None:
    ours, theirs = read(file), biopython_records(file)
    assert [record.name for record in ours] == [record.id for record in theirs]
    found = Counter(agree=0, mismatched=0, untranslated=0, unchecked=0)
    for our, record in zip(ours, theirs, strict=True):
        assert our.problem is None
        assert our.sequence == bytes(record.seq).upper()
        assert list(our.lineage) == record.annotations["taxonomy"]
        source = next(feature for feature in record.features if feature.type == "source")
        assert our.genome.startswith(source.qualifiers["organism"][0])
        proteins = set(our.proteins)
        for feature in (feature for feature in record.features if feature.type == "CDS"):
            translation = feature.qualifiers.get("translation", [""])[0].encode()
            remote = any(part.ref for part in feature.location.parts)
            if not translation or remote:
                found["untranslated"] += not translation
                found["unchecked"] += bool(translation)
                continue
            plain = plainly_translated(feature, record)
            # All that agrees by the plainest check is kept, and what is kept differs in a few residues at most.
            if plain == translation or translation in proteins:
                found["agree"] += 1
                assert translation in proteins
                assert abs(len(plain) - len(translation)) <= 1
                assert sum(a != b for a, b in zip(plain, translation, strict=False)) <= 3
            else:
                found["mismatched"] += 1
        for name in ("mismatched", "untranslated", "unchecked"):
            found[name] -= getattr(our, name)
            assert found[name] == 0, record.id
    totals = [sum(getattr(record, name) for record in ours) for name in ("mismatched", "untranslated", "unchecked")]
    assert (len(ours), sum(len(record.sequence) for record in ours), found["agree"], *totals) == COUNTS[file.name]


def test_sequences_are_those_of_the_fasta_files(shared: Path) -> None:
    bases = {record.name: record.sequence for record in read_records(shared / "data" / "viral.fna.gz")}
    records = read(shared / "data" / "viral.gbff.gz")
    same = [bases[record.name] == record.sequence for record in records if record.name in bases]
    assert len(same) > 800
    assert all(same)


@pytest.mark.parametrize("name", ["biopython/dups.fasta", "genometools/corrupt.fas", "viral-ngs/empty.fasta"])
def test_other_files_are_refused_with_a_message(shared: Path, name: str) -> None:
    from vnp.errors import InputError

    with pytest.raises(InputError):
        read(shared / "data" / "odd_inputs" / name)
