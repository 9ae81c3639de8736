from __future__ import annotations

import random

import pytest
from Bio.Data import CodonTable
from Bio.Seq import Seq
from Bio.SeqFeature import CompoundLocation, SimpleLocation
from hypothesis import given
from hypothesis import strategies as st

from tests.datasets.genbank import gene, random_protein, reverse_complement
from vnp.datasets.annotations._translation import (
    Coding,
    Part,
    agrees,
    genetic_code,
    is_genetic_code,
    protein_of,
    read_bases,
    read_exceptions,
    translate,
)

TABLES = sorted(CodonTable.unambiguous_dna_by_id)
DUAL = (27, 28, 31)


def coding(bases: str, *, skip: int = 0, table: int = 1, exceptions: str = "") -> Coding:
    return Coding([Part(0, len(bases), False)], skip, genetic_code(table), read_exceptions(exceptions))


def fits(protein: str, bases: str, *, skip: int = 0, table: int = 1, exceptions: str = "") -> bool:
    return agrees(protein.encode(), bases.encode(), coding(bases, skip=skip, table=table, exceptions=exceptions))


@pytest.mark.filterwarnings("ignore:This table contains")
@given(st.text("ACGT", max_size=90), st.sampled_from(TABLES))
def test_codons_are_read_as_biopython_reads_them(bases: str, table: int) -> None:
    expected = str(Seq(bases[: len(bases) // 3 * 3]).translate(table=table))
    found = translate(bases.encode(), genetic_code(table)).decode()
    assert found == expected


@given(st.text("ACGTRYSWKMBDHVN", max_size=60))
def test_ambiguous_codons(bases: str) -> None:
    expected = str(Seq(bases[: len(bases) // 3 * 3]).translate())
    found = translate(bases.encode(), genetic_code(1)).decode()
    # Biopython writes B, Z and J for some pairs of residues, and X where a stop is among the readings.
    assert found == "".join("X" if residue in "BZJ" else residue for residue in expected)


@given(st.data())
def test_pieces_are_joined_as_biopython_joins_them(data: st.DataObject) -> None:
    sequence = data.draw(st.text("ACGTN", min_size=1, max_size=60))
    position = st.integers(0, len(sequence) - 1)
    parts = [
        Part(min(a, b), max(a, b) + 1, reverse)
        for a, b, reverse in data.draw(st.lists(st.tuples(position, position, st.booleans()), min_size=2, max_size=5))
    ]
    theirs = CompoundLocation([SimpleLocation(start, end, -1 if reverse else 1) for start, end, reverse in parts])
    assert read_bases(sequence.encode(), parts) == bytes(theirs.extract(Seq(sequence)))


def test_pieces_outside_of_the_record() -> None:
    assert read_bases(b"ACGT", [Part(0, 5, False)]) is None
    assert read_bases(b"ACGT", [Part(3, 3, False)]) is None
    assert read_bases(b"ACGT", [Part(-1, 3, False)]) is None


def test_whole_gene_agrees_on_both_strands() -> None:
    protein = random_protein(80, 1)
    sequence = "GG" + gene(protein) + "T" + reverse_complement(gene(protein)) + "C"
    size = len(gene(protein))
    for part in (Part(2, 2 + size, False), Part(3 + size, 3 + 2 * size, True)):
        there = Coding([part], 0, genetic_code(1))
        assert agrees(protein.encode(), sequence.encode(), there)
        assert protein_of(sequence.encode(), there) == protein.encode()
        turned = Coding([part._replace(reverse=not part.reverse)], 0, genetic_code(1))
        assert not agrees(protein.encode(), sequence.encode(), turned)


@given(st.integers(0, 10**6), st.integers(0, 59), st.sampled_from("ACDEFGHIKLMNPQRSTVWY"))
def test_one_other_residue_does_not_agree(seed: int, place: int, residue: str) -> None:
    protein = random_protein(60, seed)
    changed = protein[:place] + residue + protein[place + 1 :]
    assert fits(changed, gene(protein)) == (changed == protein)


@pytest.mark.parametrize("change", ["short", "long", "cut", "shifted"])
def test_other_lengths_do_not_agree(change: str) -> None:
    protein = random_protein(60, 3)
    given_protein = {"short": protein[:-1], "long": protein + "A", "cut": protein[:30], "shifted": protein[1:]}[change]
    assert not fits(given_protein, gene(protein))


def test_without_a_stop() -> None:
    protein = random_protein(40, 4)
    bases = gene(protein, stop="")
    assert fits(protein, bases)
    assert not fits(protein[:-1], bases), "a residue is missing, and no stop stands there"


def test_stop_within_does_not_agree() -> None:
    assert not fits("MAQ", "ATGGCTTAATAA")
    assert not fits("MA", "ATGGCTTAATAA")
    assert protein_of(b"ATGGCTTAATAA", coding("ATGGCTTAATAA")) is None


@pytest.mark.parametrize("codon", ["TTG", "CTG"])
def test_other_start_codons(codon: str) -> None:
    protein, rest = "MAC", "GCTTGCTAA"
    assert fits(protein, codon + rest)
    assert fits("LAC", codon + rest), "it may be no start, where the beginning of the gene is not in the record"
    assert protein_of((codon + rest).encode(), coding(codon + rest)) == b"MAC"
    assert not fits("MACMAC", codon + rest[:-3] + codon + rest), "within a gene it is no M"
    assert not fits(protein, "GTG" + rest)
    assert fits(protein, "GTG" + rest, table=11)
    assert fits(protein, "NTG" + rest, table=11)


def test_codes_matter() -> None:
    assert fits("MWK", "ATGTGAAAATAA", table=4)
    assert not fits("MWK", "ATGTGAAAATAA")
    assert fits("MSK", "ATGAGAAAGTAA", table=5)
    assert not fits("MSK", "ATGAGAAAGTAA", table=2)
    assert protein_of(b"ATGTGAAAATAA", coding("ATGTGAAAATAA", table=4)) == b"MWK"


@pytest.mark.parametrize("table", DUAL)
def test_codons_that_are_stops_at_the_end_only(table: int) -> None:
    stop = min(genetic_code(table).stops)
    inside = genetic_code(table).residues[stop]
    bases = f"ATG{stop}GCT{stop}"
    assert fits(f"M{inside}A", bases, table=table)
    assert protein_of(bases.encode(), coding(bases, table=table)) == f"M{inside}A".encode()


def test_codon_start() -> None:
    assert fits("AC", "GGCTTGCTAA", skip=1)
    assert fits("AC", "GGGCTTGCTAA", skip=2)
    assert not fits("AC", "GGGCTTGCTAA", skip=1)
    assert protein_of(b"GGCTTGCTAA", coding("GGCTTGCTAA", skip=1)) == b"AC"


def test_bases_left_at_the_end_may_be_a_residue() -> None:
    assert fits("MAC", "ATGGCTTGCGC")
    assert fits("MACA", "ATGGCTTGCGC"), "GC is alanine whatever follows"
    assert not fits("MACG", "ATGGCTTGCGC")
    assert not fits("MACX", "ATGGCTTGCTG")
    assert not fits("MACC", "ATGGCTTGCTG")


def test_exceptions() -> None:
    bases = "ATGTGAGCTTAGTAA"
    assert not fits("MCAY", bases)
    assert fits("MUAO", bases), "selenocysteine and pyrrolysine are read from stops"
    assert not fits("MOAU", bases)
    assert fits("MWAX", bases, exceptions="(pos:4..6,aa:Trp) (pos:10..12,aa:OTHER)")
    assert not fits("MCAX", bases, exceptions="(pos:4..6,aa:Trp)")
    ends = "ATGGCTT"
    assert fits("MA", ends, exceptions="(pos:7,aa:TERM)")
    reverse = reverse_complement(bases)
    there = Coding([Part(0, 15, True)], 0, genetic_code(1), read_exceptions("(pos:complement(10..12),aa:Gln)"))
    assert agrees(b"MQAX", reverse.encode(), there)
    assert protein_of(b"ATGTGAGCTTAA", coding("ATGTGAGCTTAA", exceptions="(pos:4..6,aa:Sec)")) == b"MUA"


def test_exception_across_a_join() -> None:
    sequence = b"ATGTG" + b"GGG" + b"AGCTTAA"  # the codon TGA is in two pieces
    parts = [Part(0, 5, False), Part(8, 15, False)]
    assert read_bases(sequence, parts) == b"ATGTGAGCTTAA"
    there = Coding(parts, 0, genetic_code(1), read_exceptions("(pos:join(4..5,9),aa:Arg)"))
    assert agrees(b"MRA", sequence, there)
    assert not agrees(b"MKA", sequence, there)
    assert protein_of(sequence, there) == b"MRA"


def test_exceptions_are_read() -> None:
    assert read_exceptions("(pos:213..215,aa:Sec)") == {212: "U", 214: "U"}
    assert read_exceptions("(pos:complement(5..7),aa:Pyl),(pos:9,aa:TERM)") == {4: "O", 6: "O", 8: ""}
    assert read_exceptions("(pos:1..3, aa:OTHER)") == {0: "X", 2: "X"}
    assert read_exceptions("nonsense") == {}


def test_x_claims_nothing_and_others_must_fit() -> None:
    assert fits("MXC", "ATGGCTTGCTAA")
    assert fits("MXC", "ATGNNNTGCTAA")
    assert fits("MBC", "ATGRAYTGCTAA")
    assert not fits("MDC", "ATGRAYTGCTAA")
    assert not fits("MZC", "ATGRAYTGCTAA")


@pytest.mark.parametrize("seed", range(5))
def test_random_joins_agree_with_biopython(seed: int) -> None:
    rng = random.Random(seed)
    protein = random_protein(50, seed)
    bases = gene(protein)
    cuts = sorted(rng.sample(range(1, len(bases)), 3))
    pieces = [bases[a:b] for a, b in zip([0, *cuts], [*cuts, len(bases)], strict=True)]
    sequence, parts = "", []
    for piece in pieces:
        sequence += "".join(rng.choices("ACGT", k=7))
        reverse = rng.random() < 0.5
        parts.append(Part(len(sequence), len(sequence) + len(piece), reverse))
        sequence += reverse_complement(piece) if reverse else piece
    assert agrees(protein.encode(), sequence.encode(), Coding(parts, 0, genetic_code(1)))
    assert not agrees(protein.encode(), sequence.encode(), Coding(parts[::-1], 0, genetic_code(1)))


BIOPYTHON = CodonTable.unambiguous_dna_by_id


def test_codes_are_those_of_ncbi() -> None:
    assert [number for number in range(100) if is_genetic_code(number)] == sorted(BIOPYTHON)


@pytest.mark.parametrize("number", sorted(BIOPYTHON))
def test_code_is_what_biopython_has(number: int) -> None:
    code, theirs = genetic_code(number), BIOPYTHON[number]
    assert {codon: residue for codon, residue in code.residues.items() if residue != "*"} == theirs.forward_table
    assert code.stops == set(theirs.stop_codons)
    # Code 1 of NCBI names the start codons of life as a whole; so does Biopython.
    assert code.starts == set(theirs.start_codons)


def test_table_is_by_number_of_the_codon() -> None:
    code = genetic_code(2)
    for codon, residue in code.residues.items():
        first, second, third = ("TCAG".index(base) for base in codon)
        assert chr(code.table[16 * first + 4 * second + third]) == residue
    assert len(code.table) == 256


def test_unknown_code() -> None:
    with pytest.raises(KeyError):
        genetic_code(7)
