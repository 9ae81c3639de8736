from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets.genbank import fasta, gene, gff3_line, random_bases, random_protein, reverse_complement
from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.reading import read_annotated
from vnp.errors import InputError

PROTEIN = random_protein(60, 1)
CODING = gene(PROTEIN)
SIZE = len(CODING)
BEFORE, AFTER = random_bases(40, 1), random_bases(30, 2)
FORWARD = BEFORE + CODING + AFTER
REVERSE = BEFORE + reverse_complement(CODING) + AFTER
HEAD = "##gff-version 3\n"

Read = Callable[..., list[Annotated]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reading(lines: str | bytes, records: dict[str, str] | None = None) -> list[Annotated]:
        genome, annotation = tmp_path / "genome.fna", tmp_path / "genome.gff3"
        genome.write_text(fasta(records or {"c1": FORWARD}))
        annotation.write_bytes(lines if isinstance(lines, bytes) else (HEAD + lines).encode())
        return list(read_annotated(genome, annotation))

    return reading


def counts(record: Annotated) -> tuple[int, int, int, int]:
    return len(record.proteins), record.mismatched, record.untranslated, record.unchecked


def found(records: list[Annotated]) -> tuple[bytes, ...]:
    assert len(records) == 1
    assert counts(records[0])[1:] == (0, 0, 0)
    return records[0].proteins


def line(start: int, end: int, strand: str = "+", phase: int | str = 0, **attributes: str) -> str:
    """A CDS line, placed relative to the gene."""
    return gff3_line("c1", 40 + start, 40 + end, strand, phase, **{"ID": "cds1", **attributes})


def test_gene_on_either_strand(read: Read) -> None:
    assert found(read(line(0, SIZE))) == (PROTEIN.encode(),)
    assert found(read(line(0, SIZE, "-"), {"c1": REVERSE})) == (PROTEIN.encode(),)
    assert counts(read(line(1, SIZE))[0]) == (0, 1, 0, 0)


def test_record(read: Read) -> None:
    first, second = read(line(0, SIZE), {"c1": FORWARD.lower(), "c2": AFTER})
    assert (first.name, first.sequence, first.genome) == ("c1", FORWARD.encode(), "c1")
    assert counts(second) == (0, 0, 0, 0)
    assert second.problem is None


PIECES = [(0, 50, 0), (80, 140, 1), (200, SIZE + 90, 1)]


def spliced(strand: str) -> tuple[str, list[tuple[int, int, int]]]:
    """A gene with two introns, and its pieces with their phases, from left to right."""
    exons = [CODING[:50], CODING[50:110], CODING[110:]]
    introns = [random_bases(30, 5), random_bases(60, 6)]
    bases = exons[0] + introns[0] + exons[1] + introns[1] + exons[2]
    pieces = [(0, 50, 0), (80, 140, 1), (200, len(bases), 1)]
    if strand == "-":
        bases = reverse_complement(bases)
        pieces = [(len(bases) - end, len(bases) - start, phase) for start, end, phase in pieces][::-1]
    return BEFORE + bases + AFTER, pieces


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("names", ["one id", "parent", "transcript"])
def test_pieces_in_any_order(read: Read, strand: str, order: tuple[int, ...], names: str) -> None:
    bases, pieces = spliced(strand)
    text = gff3_line("c1", 40, len(bases) - 30, strand, ".", "mRNA", ID="rna1", Parent="gene1")
    for place in order:
        start, end, phase = pieces[place]
        attributes = {
            "one id": {"ID": "cds1", "Parent": "rna1"},
            "parent": {"Parent": "rna1"},
            "transcript": {"ID": f"rna1.cds{place}", "Parent": "rna1"},
        }[names]
        text += gff3_line("c1", 40 + start, 40 + end, strand, phase, **attributes)
    assert found(read(text, {"c1": bases})) == (PROTEIN.encode(),)


def test_pieces_shared_by_two_transcripts(read: Read) -> None:
    bases, pieces = spliced("+")
    text = "".join(gff3_line("c1", 40, 300, "+", ".", "mRNA", ID=name) for name in ("rna1", "rna2"))
    for place, (start, end, phase) in enumerate(pieces):
        parents = "rna1,rna2" if place < 2 else "rna1"
        text += gff3_line("c1", 40 + start, 40 + end, "+", phase, ID=f"piece{place}", Parent=parents)
    (record,) = read(text, {"c1": bases})
    assert PROTEIN.encode() in record.proteins
    assert PROTEIN[: 110 // 3].encode() in record.proteins


def test_two_genes_of_one_parent_stay_two(read: Read) -> None:
    other = random_protein(33, 3)
    bases = BEFORE + CODING + gene(other) + AFTER
    end = SIZE + len(gene(other))
    text = line(0, SIZE, Parent="gene1") + line(SIZE, end, ID="cds2", Parent="gene1")
    assert found(read(text, {"c1": bases})) == (PROTEIN.encode(), other.encode())


def test_slippage_reads_a_base_twice(read: Read) -> None:
    bases = BEFORE + CODING[:90] + CODING[91:] + AFTER
    text = line(0, 90) + line(89, SIZE - 1)
    protein = found(read(text, {"c1": bases}))[0].decode()
    assert protein[:30] == PROTEIN[:30]
    assert protein[31:] == PROTEIN[31:]


def test_phase_of_a_gene_that_begins_before_the_record(read: Read) -> None:
    for skip in (1, 2):
        bases = CODING[3 - skip :] + AFTER
        text = gff3_line("c1", 0, SIZE - 3 + skip, "+", skip, ID="a", partial="true", start_range=".,1")
        assert found(read(text, {"c1": bases})) == (PROTEIN[1:].encode(),)


@pytest.mark.parametrize("strand", ["+", "-"])
def test_start_codons(read: Read, strand: str) -> None:
    coding = "GTG" + gene("AC")
    bases = coding if strand == "+" else reverse_complement(coding)
    open_end, other_end = ("start_range", "end_range") if strand == "+" else ("end_range", "start_range")

    def protein(**attributes: str) -> bytes:
        return found(read(gff3_line("c1", 0, 12, strand, 0, ID="a", **attributes), {"c1": bases}))[0]

    assert protein() == b"VAC"
    assert protein(transl_table="11") == b"MAC"
    assert protein(transl_table="11", partial="true") == b"VAC"
    assert protein(transl_table="11", partial="true", **{open_end: ".,1"}) == b"VAC"
    assert protein(transl_table="11", partial="true", **{other_end: "12,."}) == b"MAC"


def test_other_codes(read: Read) -> None:
    bases = {"c1": "ATGTGAAAATAA"}
    assert found(read(gff3_line("c1", 0, 12, ID="a", transl_table="4"), bases)) == (b"MWK",)
    assert counts(read(gff3_line("c1", 0, 12, ID="a"), bases)[0]) == (0, 1, 0, 0)
    assert counts(read(gff3_line("c1", 0, 12, ID="a", transl_table="7"), bases)[0]) == (0, 0, 0, 1)


@pytest.mark.parametrize("comma", [",", "%2C"])
def test_exceptions(read: Read, comma: str) -> None:
    text = gff3_line("c1", 0, 15, ID="a", transl_except=f"(pos:4..6{comma}aa:Sec),(pos:10..12{comma}aa:Gln)")
    assert found(read(text, {"c1": "ATGTGAGCTTAGTAA"})) == (b"MUAQ",)


def test_pseudogenes_and_unknown_strands(read: Read) -> None:
    text = line(0, SIZE, pseudo="true") + line(0, SIZE, "?", ID="b") + line(0, SIZE, ID="c", pseudogene="unknown")
    assert counts(read(text)[0]) == (0, 0, 2, 1)


def test_escaped_names(read: Read) -> None:
    record = {"c;1=a,b%": FORWARD}
    text = gff3_line("c%3B1%3Da%2Cb%25", 40, 40 + SIZE, ID="cds%2C1", Note="a%3Bb")
    assert found(read(text, record)) == (PROTEIN.encode(),)


def test_trans_splicing_keeps_the_order(read: Read) -> None:
    bases = BEFORE + CODING[90:] + AFTER + reverse_complement(CODING[:90])
    at = len(bases) - 90
    text = gff3_line("c1", at, at + 90, "-", 0, ID="a", exception="trans-splicing")
    text += gff3_line("c1", 40, 40 + SIZE - 90, "+", 0, ID="a", exception="trans-splicing")
    assert found(read(text, {"c1": bases})) == (PROTEIN.encode(),)


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("way", ["beyond the end", "two lines"])
def test_genes_across_the_origin_of_a_circle(read: Read, strand: str, way: str) -> None:
    coding = CODING if strand == "+" else reverse_complement(CODING)
    bases = coding[100:] + AFTER + coding[:100]
    size = len(bases)
    region = gff3_line("c1", 0, size, "+", ".", "region", ID="c1:1", Is_circular="true")
    if way == "beyond the end":
        text = gff3_line("c1", size - 100, size - 100 + SIZE, strand, 0, ID="a")
    else:
        text = gff3_line("c1", size - 100, size, strand, 0, ID="a") + gff3_line("c1", 0, SIZE - 100, strand, 0, ID="a")
    assert found(read(region + text, {"c1": bases})) == (PROTEIN.encode(),)
    if way == "beyond the end":
        with pytest.raises(InputError, match=r"genome\.gff3, line 2: a CDS ends at base"):
            read(text, {"c1": bases})


def test_coordinates_beyond_the_sequence(read: Read) -> None:
    text = line(0, SIZE) + gff3_line("c1", 10, 2000, ID="far")
    with pytest.raises(InputError, match=r"line 3: a CDS ends at base 2,000, and the record 'c1' has \d+; give files"):
        read(text)


def test_names_that_disagree(read: Read) -> None:
    with pytest.raises(InputError, match=r"genome\.fna disagree: 'c1' only here, 'chr1' only there"):
        read(line(0, SIZE), {"chr1": FORWARD})
    many = {f"chr{number}": FORWARD for number in range(9)}
    with pytest.raises(InputError, match=r"'chr0', 'chr1', 'chr2' \(9 in all\) only there"):
        read(line(0, SIZE), many)


def test_one_side_may_have_more(read: Read) -> None:
    other = gff3_line("c2", 0, 9, ID="x")
    assert len(read(line(0, SIZE) + other)) == 1
    assert len(read(line(0, SIZE), {"c1": FORWARD, "c2": AFTER})) == 2
    named = "##sequence-region c3 1 30\n"
    assert len(read(named + line(0, SIZE) + other, {"c1": FORWARD, "c3": AFTER})) == 2


def test_sequences_within_the_annotation_are_left_alone(read: Read) -> None:
    assert found(read(line(0, SIZE) + "##FASTA\n>c1\nACGT\n")) == (PROTEIN.encode(),)
    assert found(read(line(0, SIZE) + ">c1\nACGT\n")) == (PROTEIN.encode(),)


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 18])
def test_sequences_within_the_annotation_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("vnp.sequences.opening.BLOCK", block)
    path = tmp_path / "prokka.gff"
    text = HEAD + line(0, SIZE) + "##FASTA\n" + fasta({"c1": FORWARD, "c2": AFTER})
    path.write_text(text)
    for annotation in (None, path):
        first, second = read_annotated(path, annotation)
        assert first.proteins == (PROTEIN.encode(),)
        assert second.sequence == AFTER.encode()
    path.write_text(text + ">c2\nACGT\n")
    number = text.count("\n") + 1
    with pytest.raises(InputError, match=f"line {number}, record 'c2': the record of line 6 has this name too"):
        list(read_annotated(path))


@pytest.mark.parametrize(
    "change", [gzip.compress, lambda text: text.replace(b"\n", b"\r\n"), lambda text: text.rstrip()]
)
def test_text_of_other_programs(read: Read, change: Callable[[bytes], bytes]) -> None:
    assert found(read(change((HEAD + line(0, SIZE)).encode()))) == (PROTEIN.encode(),)


def test_comments_and_other_features(read: Read) -> None:
    text = "#!genome-build x\n\n###\n" + gff3_line("c1", 0, 9, "+", ".", "gene", ID="g") + line(0, SIZE) + "###\n"
    assert found(read(text)) == (PROTEIN.encode(),)


def test_genome_is_named_by_taxon_and_strain(read: Read) -> None:
    region = "".join(
        gff3_line(name, 0, 20, "+", ".", "region", ID=name, Dbxref="BioSample:1,taxon:562", strain="K-12")
        for name in ("c1", "c2")
    )
    records = read(region + line(0, SIZE), {"c1": FORWARD, "c2": AFTER})
    assert [record.genome for record in records] == ["taxon:562 strain K-12"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c1 x CDS 1 9 . + 0 ID=a\n", "line 2: has 1 columns where GFF3 has 9; GFF3 separates"),
        ("c1\tx\tCDS\t1\n", "line 2: has 4 columns"),
        ("c1\tx\tCDS\t1\t9\t.\t+\t0\n", "line 2: the last column"),
        ('c1\tx\tCDS\t1\t9\t.\t+\t0\tgene_id "a"; transcript_id "b";\n', "line 2: .*is this GTF"),
        ("c1\tx\tCDS\t0\t9\t.\t+\t0\tID=a\n", "line 2: a CDS from '0'"),
        ("c1\tx\tCDS\t1\t99999999999999999999\t.\t+\t0\tID=a\n", "line 2: a CDS from '1' to '9999"),
        ("c1\tx\tCDS\t9\t1\t.\t+\t0\tID=a\n", "line 2: a CDS from '9' to '1'"),
        ("c1\tx\tCDS\tone\t9\t.\t+\t0\tID=a\n", "line 2: a CDS from 'one'"),
        ("c1\tx\tCDS\t1\t9\t.\t+\t3\tID=a\n", "with phase '3'"),
        ("", "holds no feature"),
    ],
)
def test_lines_that_are_wrong(read: Read, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text)


def test_annotation_cut_off(read: Read) -> None:
    packed = gzip.compress((HEAD + line(0, SIZE)).encode())
    with pytest.raises(InputError, match=r"genome\.gff3: the gzip file ends too early"):
        read(packed[:-9])


def test_genbank_with_an_annotation_beside_it(tmp_path: Path) -> None:
    from tests.datasets.genbank import genbank

    path, annotation = tmp_path / "a.gb", tmp_path / "a.gff3"
    path.write_text(genbank("V1", "ACGT"))
    annotation.write_text(HEAD)
    with pytest.raises(InputError, match="is GenBank, which has its annotation within"):
        list(read_annotated(path, annotation))


def test_records_that_cannot_be_used(read: Read) -> None:
    records = read(line(0, SIZE), {"c1": "ACG!T", "c2": FORWARD})
    assert records[0].problem == "invalid letter ! at base 4"
    assert records[1].problem is None
