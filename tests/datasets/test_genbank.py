from __future__ import annotations

import gzip
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.genbank import (
    Feature,
    genbank,
    gene,
    genome_with_genes,
    random_bases,
    random_protein,
    reverse_complement,
)
from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.reading import read_annotated
from vnp.errors import InputError, UsageError

PROTEINS = [random_protein(size, size) for size in (30, 51, 77, 120)]


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reading(text: str | bytes, name: str = "genome.gb") -> list[Annotated]:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(read_annotated(path))

    return reading


def one(records: list[Annotated]) -> Annotated:
    assert len(records) == 1
    return records[0]


def counts(record: Annotated) -> tuple[int, int, int, int]:
    return len(record.proteins), record.mismatched, record.untranslated, record.unchecked


def with_gene(location: str, bases: str, protein: str, circular: bool = False, **more: str) -> str:
    return genbank("V1", bases, [Feature(location, {"translation": protein, **more})], circular=circular)


def test_record(read: Any) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    record = one(read(genbank("V1", bases, features, source={"strain": "S 1", "isolate": "I2"})))
    assert record.name == "V1.1"
    assert record.sequence == bases.encode()
    assert record.genome == "Madeup virus strain S 1 isolate I2"
    assert record.proteins == tuple(protein.encode() for protein in PROTEINS)
    assert record.lineage == ("Viruses", "Riboviria", "Madeupviridae", "Madeupvirus")
    assert record.problem is None
    assert counts(record)[1:] == (0, 0, 0)


def test_letters_of_the_sequence(read: Any) -> None:
    record = one(read(genbank("V1", "acgtuxnryswkmbdhv")))
    assert record.sequence == b"ACGTTNNRYSWKMBDHV"


@pytest.mark.parametrize("change", ["crlf", "cr", "bom", "ctrl-z", "spaces", "blank", "no end of line"])
def test_text_of_other_programs(read: Any, change: str) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    text = genbank("V1", bases, features) + genbank("V2", bases[:500])
    changed = {
        "crlf": text.replace("\n", "\r\n"),
        "cr": text.replace("\n", "\r"),
        "bom": "\ufeff" + text,
        "ctrl-z": text + "\x1a",
        "spaces": "".join(line + "  \n" for line in text.splitlines()),
        "blank": text.replace("//\n", "//\n\n"),
        "no end of line": text.rstrip(),
    }[change]
    assert read(changed) == read(text)
    assert counts(read(text)[0]) == (4, 0, 0, 0)


def test_compressed_files_are_told_by_content(read: Any) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    text = genbank("V1", bases, features)
    assert read(gzip.compress(text.encode()), "genome.txt") == read(text, "genome.fasta")


def test_release_files_begin_with_lines_about_the_release(read: Any) -> None:
    text = genbank("V1", "ACGT" * 30)
    assert read("GBVRL1.SEQ          Genetic Sequence Data Bank\n      December 15\n\n  1 loci\n\n" + text) == read(
        text
    )


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_blocks_of_any_size(size: int, tmp_path: Path) -> None:
    from vnp.datasets.annotations._genbank import flat_records

    bases, features, _ = genome_with_genes(PROTEINS)
    text = "".join(genbank(f"V{i}", bases[i:], features) for i in range(3)).encode()
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    pieces, whole = (list(flat_records(iter(b), tmp_path)) for b in (blocks, [text]))
    assert pieces == whole
    assert [record.sequence.decode() for record in whole] == [bases[i:] for i in range(3)]
    lines = text.decode().split("\n")
    assert [lines[record.line - 1][12:14] for record in whole] == ["V0", "V1", "V2"]


def test_name_without_version(read: Any) -> None:
    text = genbank("contig_1", "ACGT" * 9)
    for version in ("VERSION     contig_1.1\n", "ACCESSION   contig_1\n"):
        text = text.replace(version, version[:9] + "\n")
    assert one(read(text)).name == "contig_1"
    assert one(read(genbank("AB1", "ACGT" * 9, version="AB1.7  GI:12345"))).name == "AB1.7"


def test_name_that_runs_into_the_length(read: Any) -> None:
    text = genbank("x", "ACGT" * 30, version="long.1")
    text = text.replace(text.split("\n")[0], "LOCUS       contig_1_length_120000000120 bp   DNA linear")
    record = one(read(text))
    assert (record.name, record.problem) == ("long.1", None)


def test_genome_of_records_without_strain(read: Any) -> None:
    assert one(read(genbank("V1", "ACGT"))).genome == "Madeup virus"
    bare = "LOCUS       V1  4 bp DNA linear\nORIGIN\n        1 acgt\n//\n"
    assert one(read(bare)) == Annotated("V1", b"ACGT", "V1")


def test_long_name_of_an_organism(read: Any) -> None:
    text = genbank("V1", "ACGT" * 5).replace(
        "  ORGANISM  Madeup virus\n", "  ORGANISM  Madeup virus with a long name that goes on and on and\n"
        "            on (strain 5)\n"
    ).replace('/organism="Madeup virus"', "/mol_type=genomic")  # fmt: skip
    record = one(read(text))
    assert record.genome == "Madeup virus with a long name that goes on and on and on (strain 5)"
    assert record.lineage[0] == "Viruses"


LOCATIONS = {
    "plain": ("11..{end}", False),
    "partial": ("<11..>{end}", False),
    "odd partial": (">11..<{end}", False),
    "complement": ("complement(11..{end})", True),
    "join": ("join(11..40,41..{end})", False),
    "order": ("order(11..40,41..{end})", False),
    "complement of join": ("complement(join(11..40,41..{end}))", True),
    "join of complements": ("join(complement(41..{end}),complement(11..40))", True),
    "long": ("join(" + ",".join(f"{i}..{i}" for i in range(11, 70)) + ",70..{end})", False),
}


@pytest.mark.parametrize("kind", LOCATIONS)
def test_locations(read: Any, kind: str) -> None:
    location, reverse = LOCATIONS[kind]
    protein = random_protein(50, 5)
    coding = gene(protein)
    bases = random_bases(10, 1) + (reverse_complement(coding) if reverse else coding) + random_bases(9, 2)
    end = 10 + len(coding)
    assert counts(one(read(with_gene(location.format(end=end), bases, protein)))) == (1, 0, 0, 0)
    shifted = bases[:5] + "A" + bases[5:-1]
    assert counts(one(read(with_gene(location.format(end=end), shifted, protein)))) == (0, 1, 0, 0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["join", "wrapped"])
def test_genes_across_the_origin(read: Any, reverse: bool, kind: str) -> None:
    protein = random_protein(60, 6)
    coding = reverse_complement(gene(protein)) if reverse else gene(protein)
    bases = coding[100:] + random_bases(300, 3) + coding[:100]
    size = len(bases)
    there = (
        f"join({size - 99}..{size},1..{len(coding) - 100})" if kind == "join" else f"{size - 99}..{len(coding) - 100}"
    )
    text = with_gene(f"complement({there})" if reverse else there, bases, protein, circular=True)
    assert counts(one(read(text))) == (1, 0, 0, 0)
    if kind == "wrapped":
        assert counts(one(read(text.replace("circular", "linear  ")))) == (0, 0, 0, 1)


def test_slippage_reads_a_base_twice(read: Any) -> None:
    protein = random_protein(60, 7)
    coding = gene(protein)
    bases = "GG" + coding[:90] + coding[91:] + "CC"  # the 90th base is read twice if it equals the 91st
    coding = coding[:90] + coding[89] + coding[91:]
    from tests.datasets.genbank import translated

    text = with_gene(f"join(3..92,92..{1 + len(coding)})", bases, translated(coding), ribosomal_slippage="")
    assert counts(one(read(text))) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "location",
    [
        "J00194.1:11..163",
        "join(11..100,J00194.1:1..63)",
        "complement(join(J00194.1:1..63,11..100))",
        "one-of(11,14)..163",
        "(11.14)..163",
        "11.163",
        "162^163",
        "join(11..50,gap(10),61..163)",
        "163..11",
        "nonsense",
    ],
)
def test_locations_that_cannot_be_followed_are_not_checked(read: Any, location: str) -> None:
    protein = random_protein(50, 5)
    bases = random_bases(10, 1) + gene(protein) + random_bases(9, 2)
    good = Feature(f"11..{10 + len(gene(protein))}", {"translation": protein})
    text = genbank("V1", bases, [Feature(location, {"translation": "MAAA"}), good])
    record = one(read(text))
    assert counts(record) == (1, 0, 0, 1)
    assert record.proteins == (protein.encode(),)


def test_location_beyond_the_end_does_not_match(read: Any) -> None:
    protein = random_protein(20, 5)
    assert counts(one(read(with_gene("1..300", gene(protein), protein)))) == (0, 1, 0, 0)


def test_mismatches_and_pseudogenes_are_counted_and_left_out(read: Any) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    wrong = Feature(features[1].location, {"translation": PROTEINS[0]})
    pseudo = Feature(features[2].location, {"pseudo": None, "codon_start": "1"})
    record = one(read(genbank("V1", bases, [features[0], wrong, pseudo, features[3]])))
    assert counts(record) == (2, 1, 1, 0)
    assert record.proteins == (PROTEINS[0].encode(), PROTEINS[3].encode())


def test_same_protein_twice_is_kept_once(read: Any) -> None:
    bases, features, _ = genome_with_genes([PROTEINS[0], PROTEINS[0]])
    assert counts(one(read(genbank("V1", bases, features)))) == (1, 0, 0, 0)


def test_other_code_and_start(read: Any) -> None:
    bases = "GTGTGAAAATAA"
    assert counts(one(read(with_gene("1..12", bases, "MWK", transl_table="4")))) == (1, 0, 0, 0)
    assert counts(one(read(with_gene("1..12", bases, "MWK", transl_table="11")))) == (0, 1, 0, 0)
    assert counts(one(read(with_gene("1..12", bases, "MWK", transl_table="8")))) == (0, 0, 0, 1)


def test_exceptions(read: Any) -> None:
    bases = "CC" + "ATGTGAGCTTAA"
    text = with_gene("3..14", bases, "MUA", transl_except="(pos:6..8,aa:Sec)")
    assert one(read(text)).proteins == (b"MUA",)
    text = with_gene("3..14", bases, "MWA", transl_except="(pos:6..8,aa:Trp)", codon_start="1")
    assert one(read(text)).proteins == (b"MWA",)
    assert counts(one(read(with_gene("3..14", bases, "MWA")))) == (0, 1, 0, 0)


def test_strange_features_do_no_harm(read: Any) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    text = genbank("V1", bases, features)
    expected = one(read(text))
    strange = "     misc_feature    gap(((\n                     garbage without a slash\n"
    note = '/note="caf\u00e9 ""quoted"" /slash\n                     //x"\n'
    odd_note = f"     CDS             1..3\n                     {note}"
    record = one(read(text.replace("ORIGIN", strange + odd_note + "WGS         A-B\nORIGIN").encode("latin-1")))
    assert record.proteins == expected.proteins
    assert counts(record) == (4, 0, 1, 0)
    lost = "     CDS             1..3\n                     garbage\n"
    assert counts(one(read(text.replace("ORIGIN", lost + "ORIGIN")))) == (4, 0, 1, 0)


def test_record_without_genes_is_fine(read: Any) -> None:
    record = one(read(genbank("V1", "ACGT" * 100)))
    assert counts(record) == (0, 0, 0, 0)
    assert record.problem is None


def test_only_ambiguous_bases_are_no_problem_here(read: Any) -> None:
    assert one(read(genbank("V1", "N" * 1000))).problem is None


def test_record_without_its_sequence(read: Any) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    text = genbank("V1", bases, features, contig="join(AB1.1:1..50,gap(100),AB2.1:1..9)") + genbank(
        "V2", bases, features
    )
    first, second = read(text)
    assert first.problem is not None
    assert "CONTIG" in first.problem
    assert "gbwithparts" in first.problem
    assert counts(first) == (0, 0, 0, 0)
    assert counts(second) == (4, 0, 0, 0)


def test_sequence_beside_its_parts(read: Any) -> None:
    text = genbank("V1", "ACGT" * 9).replace("ORIGIN", "CONTIG      join(AB1.1:1..36)\nORIGIN")
    assert one(read(text)).problem is None


def test_file_without_any_sequence(read: Any) -> None:
    text = genbank("V1", "", contig="join(AB1.1:1..50)", length=50)
    with pytest.raises(InputError, match=r"genome\.gb: the record has no sequence; download"):
        read(text)


def test_length_other_than_said(read: Any) -> None:
    first, second = read(genbank("V1", "ACGT" * 9, length=40) + genbank("V2", "ACGT"))
    assert first.problem == "has 36 bases where its LOCUS line says 40; get the record again"
    assert second.problem is None


def test_letters_that_are_no_bases(read: Any) -> None:
    first, _ = read(genbank("V1", "ACGT" * 20 + "ACG!" + "ACGT" * 5) + genbank("V2", "ACGT"))
    assert first.problem == "invalid letter ! at base 84"


def test_file_cut_off_anywhere(read: Any) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    whole = genbank("V1", bases, features) + genbank("V2", bases, features)
    edges = {len(genbank("V1", bases, features)) + extra for extra in (-1, 0)}
    for cut in random.Random(1).sample(range(200, len(whole) - 3), 60):
        if cut in edges:
            continue
        with pytest.raises(InputError, match="ends within this record; the file was probably cut off") as caught:
            read(whole[:cut])
        assert caught.value.record in ("V1", "V2", None)
        assert caught.value.line is not None


def test_gzip_cut_off(read: Any, tmp_path: Path) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    packed = gzip.compress((genbank("V1", bases, features) + genbank("V2", random_bases(90_000, 1))).encode())
    with pytest.raises(InputError, match="ends too early"):
        read(packed[: len(packed) - 2000])


def test_records_that_lost_their_middle(read: Any) -> None:
    bases, features, _ = genome_with_genes(PROTEINS)
    first, second = (genbank(name, bases, features) for name in ("V1", "V2"))
    with pytest.raises(InputError, match=r"line 1, record 'V1': another record begins in line .*, before the end"):
        read(first[: len(first) // 2].rpartition("\n")[0] + "\n" + second)


def test_message_of_a_failed_download_within(read: Any) -> None:
    text = genbank("V1", "ACGT" * 5)
    number = text.count("\n") + 2
    with pytest.raises(InputError, match=f"line {number}: 'Error:' stands outside of a record"):
        read(text + "\nError: server busy\n" + genbank("V2", "ACGT"))
    with pytest.raises(InputError, match="stands outside of a record"):
        read(text + "//\n")


def test_names_that_occur_twice(read: Any) -> None:
    text = genbank("V1", "ACGT" * 5)
    with pytest.raises(InputError, match=f"line {text.count(chr(10)) + 1}, record 'V1.1': the record of line 1 has"):
        read(text + text)


def test_file_of_proteins(read: Any) -> None:
    text = "LOCUS       NP_1     4 aa     linear   VRL 01-JAN-2020\nACCESSION   NP_1\nORIGIN\n        1 mkvl\n//\n"
    with pytest.raises(InputError, match="'NP_1': is a GenBank file of proteins"):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (">a\nACGT\n", "FASTA, which needs its annotation"),
        ("ID   X1; SV 1;\n", "EMBL"),
        ("##gff-version 3\nV1\tx\tgene\t1\t3\t.\t+\t.\tID=g\n", "GFF3 without sequences"),
        ("hello\n", "not GenBank"),
        ("<html>\n", "not GenBank"),
        ("LOCUS       \n//\n", "no name"),
    ],
)
def test_other_files(read: Any, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text)


def test_missing_library(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gb_io", None)
    with pytest.raises(UsageError, match=r"\[dataset\]"):
        read(genbank("V1", "ACGT"))


def test_memory_is_bounded_by_a_record(tmp_path: Path) -> None:
    path = tmp_path / "many.gb"
    bases = random_bases(20_000, 1)
    with path.open("w") as file:
        for number in range(400):
            file.write(genbank(f"V{number}", bases))
    tracemalloc.start()
    total = sum(len(record.sequence) for record in read_annotated(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 400 * 20_000
    assert peak < total / 2
