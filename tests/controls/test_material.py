from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vnp.controls.material import (
    CONTROLS,
    HOSTS,
    LOW_COMPLEXITY,
    SHUFFLED_HOSTS,
    SHUFFLED_VIRUSES,
    Source,
    cut,
    gather,
    read_sheet,
)
from vnp.controls.shuffle import dinucleotide_shuffle
from vnp.datasets.annotations.elements import MOBILE, ORGANELLE, OTHER, PLASMID, RRNA, VECTOR, read_pieces, what_it_says
from vnp.errors import InputError

BASES = bytes(np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 6000))
GENBANK = """LOCUS       XX1 {size} bp    DNA     circular BCT 12-JAN-2004
DEFINITION  Somebacter whatever strain 1, complete genome, with a definition of
            two lines.
ACCESSION   XX1
VERSION     XX1.1
FEATURES             Location/Qualifiers
     source          1..{size}
                     /organism="Somebacter"{source}
     rRNA            101..600
                     /product="16S ribosomal RNA"
     rRNA            complement(<900..>1300)
                     /product="23S ribosomal RNA"
     rRNA            5001..5100
                     /product="5S ribosomal RNA"
     mobile_element  join(2001..2100,2201..2400)
                     /mobile_element_type="insertion
                     sequence:IS5"
     mobile_element  3001..3200
                     /mobile_element_type="other: prophage
                     remnant"
     repeat_region   4001..4050
                     /note="REP12"
     repeat_region   complement(4101..4200)
                     /mobile_element="transposon:Tn3"
     mobile_element  join(5990..6000,1..20)
     mobile_element  order(J00194.1:1..100,4301..4350)
ORIGIN
{bases}
//
"""


def genbank(source: str = "") -> str:
    text = BASES.decode().lower()
    lines = [f"{at + 1:>9} {text[at : at + 60]}" for at in range(0, len(text), 60)]
    return GENBANK.format(size=len(BASES), source=source, bases="\n".join(lines))


def pairs(sequence: bytes) -> Counter[tuple[int, int]]:
    return Counter(pairwise(sequence))


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffle_keeps_every_pair_of_neighbours(seed: int) -> None:
    random = np.random.default_rng(seed)
    letters = np.frombuffer([b"ACGT", b"ACGTN", b"AC", b"A", b"ACGTRYK"][seed], np.uint8)
    sequence = random.choice(letters, 700, p=random.dirichlet(np.ones(len(letters)))).tobytes()
    found = dinucleotide_shuffle(sequence, np.random.default_rng(1))
    assert pairs(found) == pairs(sequence)
    assert (found[:1], found[-1:]) == (sequence[:1], sequence[-1:])
    assert found == dinucleotide_shuffle(sequence, np.random.default_rng(1))
    assert (found == sequence) == (len(set(sequence)) == 1)


def test_all_orders_are_equally_likely() -> None:
    # Every sequence with these pairs, found by trying all orders of the letters between the ends.
    from itertools import permutations

    sequence = b"ACAGATCAG"
    orders = {b"A" + bytes(order) + b"G" for order in permutations(sequence[1:-1])}
    right = {one for one in orders if pairs(one) == pairs(sequence)}
    random = np.random.default_rng(3)
    counted = Counter(dinucleotide_shuffle(sequence, random) for _ in range(400 * len(right)))
    assert set(counted) == right
    assert len(right) > 5
    # Five standard deviations of a count with mean 400.
    assert max(abs(count - 400) for count in counted.values()) < 100


@pytest.mark.parametrize("sequence", [b"", b"A", b"AC"])
def test_what_is_too_short_stays(sequence: bytes) -> None:
    assert dinucleotide_shuffle(sequence, np.random.default_rng(0)) == sequence


def test_pieces_of_genbank(tmp_path: Path) -> None:
    path = tmp_path / "x.gb"
    path.write_text(genbank())
    whole, *marked = read_pieces(path)
    assert (whole.name, whole.what, whole.sequence) == ("XX1.1", OTHER, BASES)
    found = [(one.name.partition(":")[2], one.what) for one in marked]
    # rRNA genes near each other are one operon; prophages, plain repeats, other records and origins are left out.
    assert found == [("101-1300", RRNA), ("5001-5100", RRNA), ("2001-2400", MOBILE), ("4101-4200", MOBILE)]
    assert marked[0].sequence == BASES[100:1300]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('\n                     /plasmid="pX"', PLASMID),
        ('\n                     /organelle="mitochondrion"', ORGANELLE),
    ],
)
def test_the_source_says_what_a_record_is(source: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gb"
    path.write_text(genbank(source))
    assert next(read_pieces(path)).what == what


def test_pieces_of_gff3(tmp_path: Path) -> None:
    fasta, gff = tmp_path / "x.fna", tmp_path / "x.gff3"
    fasta.write_bytes(b">c1 something\n%s\n>c2\n%s\n" % (BASES, BASES[:900]))
    gff.write_text(
        "##gff-version 3\n"
        "c1\tx\tregion\t1\t6000\t.\t+\t.\tID=c1;genome=chromosome\n"
        "c1\tx\trRNA\t11\t500\t.\t+\t.\tproduct=16S ribosomal RNA\n"
        "c1\tx\tmobile_genetic_element\t701\t900\t.\t+\t.\tmobile_element_type=transposon%3ATn5\n"
        "c1\tx\tmobile_genetic_element\t1701\t1900\t.\t+\t.\tmobile_element_type=prophage\n"
        "c2\tx\tregion\t1\t900\t.\t+\t.\tID=c2;genome=mitochondrion\n"
        "##FASTA\n>c1\nnot read\n"
    )
    found = [(one.name, one.what) for one in read_pieces(fasta, gff)]
    assert found == [("c1", OTHER), ("c1:11-500", RRNA), ("c1:701-900", MOBILE), ("c2", ORGANELLE)]
    gff.write_text("##gff-version 3\nc1 x region\n")
    with pytest.raises(InputError, match="no line of GFF3"):
        list(read_pieces(fasta, gff))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("NZ_1 Aeromonas media WS plasmid pWSY, complete sequence", PLASMID),
        ("NC_1 Abidama producta mitochondrion, complete genome", ORGANELLE),
        ("NC_2 Arabidopsis thaliana chloroplast, complete genome", ORGANELLE),
        ("L08752 Cloning vector pUC18, complete sequence", VECTOR),
        ("TE_1 Drosophila transposable element 1731#LTR/Copia", MOBILE),
        ("X Staphylococcus SCCmec cassette", MOBILE),
        ("Y Escherichia 16S ribosomal RNA gene, partial sequence", RRNA),
        ("NC_3 Escherichia coli K-12, complete genome", OTHER),
        ("NC_4 transposable phage Mu", OTHER),
    ],
)
def test_what_a_description_says(text: str, what: str) -> None:
    assert what_it_says(text) == what


def test_material_is_sorted_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "host.gb").write_text(genbank())
    (tmp_path / "virus.fna").write_bytes(b">v1 a plasmid-like phage\n%s\n" % BASES)
    (tmp_path / "own.fna").write_bytes(b">o1\n%s\n" % BASES)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("path,label,control,seen\nhost.gb,host,,yes\nvirus.fna,viral,,\nown.fna,host,vectors,no\n")
    found = gather(read_sheet(sheet))
    assert {name: [one.name for one in own] for name, own in found.items() if own} == {
        SHUFFLED_VIRUSES: ["v1"],
        SHUFFLED_HOSTS: ["XX1.1"],
        RRNA: ["XX1.1:101-1300", "XX1.1:5001-5100"],
        MOBILE: ["XX1.1:2001-2400", "XX1.1:4101-4200"],
        VECTOR: ["o1"],
        HOSTS: ["XX1.1"],
    }
    windows = list(cut(found, [100, 700], 5, seed=0))
    counted = Counter((one.control, one.length) for one in windows)
    # Operons of 1,200 and 100 bases; elements of 400 and 100 bases, of which none is of 700.
    assert counted[RRNA, 100] == 5
    assert (counted[MOBILE, 100], counted[MOBILE, 700], counted[RRNA, 700]) == (5, 0, 1)
    assert counted[LOW_COMPLEXITY, 700] == 5
    assert all(len(one.bases) == one.length for one in windows)
    assert len({one.name for one in windows}) == len(windows)
    assert {one.control for one in windows if one.seen} == {SHUFFLED_HOSTS, RRNA, MOBILE, HOSTS}
    again = list(cut(found, [100, 700], 5, seed=0))
    assert again == windows
    assert list(cut(found, [100, 700], 5, seed=1)) != windows


def test_windows_do_not_overlap_are_mostly_known_and_of_what_was_not_seen() -> None:
    bases = bytes(BASES[:1000]) + b"N" * 500 + bytes(BASES[1000:2000])
    found: dict[str, list[Source]] = {name: [] for name in CONTROLS}
    found[HOSTS] = [Source("seen", BASES, True), Source("a", bases, False), Source("b", BASES[:250], False)]
    windows = [one for one in cut(found, [200], 100, seed=4) if one.control == HOSTS]
    assert {one.source for one in windows} == {"a", "b"}
    places = sorted(bases.index(one.bases) for one in windows if one.source == "a")
    assert all(later - earlier >= 200 for earlier, later in pairwise(places))
    assert all(one.bases.count(b"N") <= 10 for one in windows)
    assert 6 <= len(places) <= 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path\nx.fna\n", "label"),
        ("path,label\nx.fna,other\n", "a control needs viral or host"),
        ("path,label,control\nx.fna,host,fungi\n", "use plasmids"),
        ("path,label,control\nx.fna,viral,plasmids\n", "leave control empty"),
        ("path,label,seen\nx.fna,host,perhaps\n", "yes or no"),
        ("path,label\ny.fna,host\n", "no such file"),
    ],
)
def test_bad_sheets(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.fna").write_text(">a\nACGT\n")
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(text)
    with pytest.raises(InputError, match=said):
        read_sheet(sheet)


def test_a_sheet_that_is_not_there_is_said_to_be_missing_whatever_it_is_called(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; check the path"):
        read_sheet(tmp_path / "nosuch")


def test_genbank_has_its_annotation_within(tmp_path: Path) -> None:
    (tmp_path / "x.gb").write_text(genbank())
    with pytest.raises(InputError, match="annotation within"):
        list(read_pieces(tmp_path / "x.gb", tmp_path / "x.gb"))
