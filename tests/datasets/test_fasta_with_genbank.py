"""FASTA whose annotation is GenBank, as RefSeq has it for large genomes."""

from __future__ import annotations

import bz2
import gzip
import random
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.genbank import Feature, fasta, genbank, genome_with_genes, random_bases, random_protein
from tests.datasets.making import record, write_sheet
from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.annotations.reading import read_annotated
from vnp.datasets.recipe import Recipe
from vnp.errors import InputError

PROTEINS = [random_protein(size, size) for size in (30, 51, 77, 120)]
BASES, FEATURES, _ = genome_with_genes(PROTEINS)
CONTIG = "join(AB1.1:1..50,gap(100),AB2.1:1..9)"

Read = Callable[..., list[Annotated]]


def read_file(path: Path, annotation: Path | None = None) -> list[Annotated]:
    return list(read_annotated(path, annotation))


def without_bases(text: str) -> str:
    """GenBank records with a CONTIG line in place of their bases, as RefSeq writes those of large genomes."""
    text = re.sub(r"^CONTIG .*\n(?: .*\n)*", "", text, flags=re.MULTILINE)
    return re.sub(r"^ORIGIN.*\n(?: .*\n)*", "CONTIG      join(AB1.1:1..50)\n", text, flags=re.MULTILINE)


def records_of(text: str) -> list[str]:
    return re.findall(r"^LOCUS(?s:.*?)^//\n", text, flags=re.MULTILINE)


def shuffled(items: list[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(items, len(items))


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reading(records: dict[str, str], annotation: str | bytes) -> list[Annotated]:
        (tmp_path / "g.fna").write_text(fasta(records))
        (tmp_path / "g.gb").write_bytes(annotation if isinstance(annotation, bytes) else annotation.encode())
        return read_file(tmp_path / "g.fna", tmp_path / "g.gb")

    return reading


@pytest.fixture
def whole(tmp_path: Path) -> Callable[[str], list[Annotated]]:
    def reading(text: str) -> list[Annotated]:
        (tmp_path / "whole.gb").write_text(text)
        return read_file(tmp_path / "whole.gb")

    return reading


def genomes() -> dict[str, str]:
    """Records with all that is counted: proteins that agree, mismatched, untranslated and unchecked ones."""
    odd = [
        FEATURES[0],
        Feature(FEATURES[1].location, {"translation": PROTEINS[0]}),
        Feature(FEATURES[2].location, {"pseudo": None}),
        Feature("join(1..9,AB3.1:1..30)", {"translation": PROTEINS[3]}),
    ]
    size = len(BASES)
    turned = BASES[100:] + BASES[:100]
    end = int(FEATURES[0].location.partition("..")[2]) - 100
    wrapped = [Feature(f"{size - 39}..{end}", {"translation": PROTEINS[0]}), FEATURES[1]]
    return {
        "V1": genbank("V1", BASES, FEATURES, source={"strain": "S 1", "isolate": "I2"}),
        "V2": genbank("V2", BASES, odd, organism="Other virus"),
        "V3": genbank("V3", turned, wrapped, circular=True, lineage="Bacteria; Madeupota"),
        "V4": genbank("V4", BASES[:300]),
    }


def bases_of(records: list[Annotated]) -> dict[str, str]:
    return {one.name: one.sequence.decode() for one in records}


@pytest.mark.parametrize("stripped", [True, False])
def test_as_from_genbank_alone(read: Read, whole: Callable[[str], list[Annotated]], stripped: bool) -> None:
    text = "".join(genomes().values())
    expected = whole(text)
    assert [(len(one.proteins), one.mismatched, one.untranslated, one.unchecked) for one in expected] == [
        (4, 0, 0, 0), (1, 1, 1, 1), (1, 1, 0, 0), (0, 0, 0, 0),
    ]  # fmt: skip
    annotation = without_bases(text) if stripped else text
    assert stripped == ("ORIGIN" not in annotation)
    assert read(bases_of(expected), annotation) == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_the_fasta_file(read: Read, whole: Callable[[str], list[Annotated]], seed: int) -> None:
    texts = shuffled(list(genomes().values()), seed)
    expected = whole("".join(texts))
    annotation = without_bases("".join(shuffled(texts, seed + 10)))
    assert read(bases_of(expected), annotation) == expected


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_formats_are_told_by_content(read: Read, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    text = without_bases(genbank("V1", BASES, FEATURES)).encode()
    (found,) = read({"V1.1": BASES.lower()}, pack(text))
    assert found.sequence == BASES.encode()
    assert len(found.proteins) == 4
    (tmp_path / "bases").write_bytes(pack(fasta({"V1.1": BASES}).encode()))
    (tmp_path / "g.gff3").write_bytes(pack(text))
    assert read_file(tmp_path / "bases", tmp_path / "g.gff3") == [found]


def test_proteins_are_checked_against_the_bases_of_the_fasta_file(read: Read) -> None:
    """The GenBank record's own bases may be those of another version."""
    (right,) = read({"V1.1": BASES}, genbank("V1", random_bases(len(BASES), 9), FEATURES))
    assert (len(right.proteins), right.mismatched) == (4, 0)
    (wrong,) = read({"V1.1": random_bases(len(BASES), 9)}, genbank("V1", BASES, FEATURES))
    assert (len(wrong.proteins), wrong.mismatched, wrong.problem) == (0, 4, None)


def test_another_length_is_that_records_problem(read: Read) -> None:
    size = len(BASES)
    said = f"has {size + 1:,} bases, and in g.gb {size:,}: give files of the same release"
    for text in (genbank("V1", BASES, FEATURES), genbank("V1", "", FEATURES, length=size, contig=CONTIG)):
        first, second = read({"V1.1": BASES + "A", "V2.1": BASES}, text + genbank("V2", BASES, FEATURES))
        assert first.problem == said
        assert (first.proteins, first.genome, first.lineage[0]) == ((), "Madeup virus", "Viruses")
        assert (second.problem, len(second.proteins)) == (None, 4)


def test_own_bases_of_another_length_than_the_locus_line_says(read: Read) -> None:
    (found,) = read({"V1.1": BASES}, genbank("V1", BASES[:-7], FEATURES, length=len(BASES)))
    assert found.problem == f"has {len(BASES):,} bases, and in g.gb {len(BASES) - 7:,}: give files of the same release"


def test_problems_of_fasta_records(read: Read) -> None:
    (first, second) = read({"V1.1": "ACG!T", "V2.1": BASES}, genbank("V1", BASES, FEATURES) + genbank("V2", BASES))
    assert first.problem == "invalid letter ! at base 4"
    assert first.genome == "Madeup virus"
    assert second.problem is None


def test_names_that_disagree(read: Read) -> None:
    text = without_bases(genbank("V1", BASES, FEATURES) + genbank("V2", BASES, FEATURES))
    with pytest.raises(
        InputError, match=r"g\.gb: its names and those of g\.fna disagree: 'V2\.1' only here, 'V2' only"
    ):
        read({"V1.1": BASES, "V2": BASES}, text)


def test_one_side_may_have_more(read: Read) -> None:
    text = without_bases(genbank("V1", BASES, FEATURES) + genbank("V2", BASES, FEATURES))
    (found,) = read({"V2.1": BASES}, text)
    assert (found.name, len(found.proteins)) == ("V2.1", 4)
    _, bare = read({"V1.1": BASES, "c1": "ACGT"}, without_bases(genbank("V1", BASES, FEATURES)))
    assert bare == Annotated("c1", b"ACGT", "c1")


def test_names_that_occur_twice(read: Read) -> None:
    text = genbank("V1", BASES, FEATURES)
    line = text.count("\n") + 1
    with pytest.raises(InputError, match=rf"g\.gb, line {line}, record 'V1\.1': the record of line 1 has this name"):
        read({"V1.1": BASES}, text + text)
    with pytest.raises(InputError, match=r"g\.fna, line 3, record 'V1\.1': the record of line 1 has this name"):
        read({"V1.1": BASES + "\n>V1.1\n" + BASES}, text)


def test_an_annotation_that_was_cut_off(read: Read) -> None:
    text = without_bases(genbank("V1", BASES, FEATURES) + genbank("V2", BASES, FEATURES))
    with pytest.raises(InputError, match=r"g\.gb, .*the file ends within this record"):
        read({"V1.1": BASES}, text[:-40])
    with pytest.raises(InputError, match=r"g\.gb: the gzip file ends too early"):
        read({"V1.1": BASES}, gzip.compress(text.encode())[:-20])
    with pytest.raises(InputError, match=r"g\.gb: the file is empty"):
        read({"V1.1": BASES}, "")


def test_files_that_were_swapped(tmp_path: Path) -> None:
    (tmp_path / "a.gb").write_text(without_bases(genbank("V1", BASES, FEATURES)))
    (tmp_path / "a.fna").write_text(fasta({"V1.1": BASES}))
    with pytest.raises(InputError, match=r"a\.gb: is GenBank, .*give their FASTA file as path and this one as"):
        read_file(tmp_path / "a.gb", tmp_path / "a.fna")


@pytest.mark.parametrize(
    ("genbank_name", "fasta_name"),
    [
        ("plant.3.genomic.gbff.gz", "plant.3.1.genomic.fna.gz"),
        ("plant.3.genomic.gbff", "plant.3.1.genomic.fna"),
        ("GCF_1.1_x_genomic.gbff.gz", "GCF_1.1_x_genomic.fna.gz"),
        ("x.gbff", "x.fa"),
        ("x.gbff.gz", "x.fasta"),
        ("x.gb", "x.fna.xz"),
    ],
)
def test_genbank_without_sequence_names_the_fasta_file_beside_it(
    tmp_path: Path, genbank_name: str, fasta_name: str
) -> None:
    path = tmp_path / genbank_name
    text = without_bases(genbank("V1", BASES, FEATURES) + genbank("V2", BASES, FEATURES)).encode()
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    with pytest.raises(InputError, match=r"none of the 2 records has a sequence; download it .* as path and"):
        read_file(path)
    (tmp_path / fasta_name).write_bytes(b"not read")
    said = f"in {fasta_name} beside the file: in the sheet, give {fasta_name} as path and {path.name} in the column"
    with pytest.raises(InputError, match=f"none of the 2 records has a sequence; .* {re.escape(said)} annotation"):
        read_file(path)


def test_some_records_without_sequence_name_the_fasta_file_too(tmp_path: Path) -> None:
    path = tmp_path / "x.gbff"
    path.write_text(without_bases(genbank("V1", BASES, FEATURES)) + genbank("V2", BASES, FEATURES))
    (tmp_path / "x.fna").write_text(fasta({"V1.1": BASES}))
    first, second = read_file(path)
    assert first.problem is not None
    assert first.problem.startswith("has no sequence, only the parts it is made of (CONTIG); the bases are likely in ")
    assert "give x.fna as path and x.gbff in the column annotation" in first.problem
    assert len(second.proteins) == 4


def test_one_record_without_sequence(tmp_path: Path) -> None:
    path = tmp_path / "x.gbff"
    path.write_text(without_bases(genbank("V1", BASES, FEATURES)))
    with pytest.raises(InputError, match=r"x\.gbff: the record has no sequence; download it"):
        read_file(path)


@pytest.mark.parametrize("stripped", [True, False])
def test_memory_is_bounded_by_the_annotation(tmp_path: Path, stripped: bool) -> None:
    bases = random_bases(20_000, 1)
    text = genbank("V", bases, FEATURES)
    text = without_bases(text) if stripped else text
    with (tmp_path / "g.gb").open("w") as annotation, (tmp_path / "g.fna").open("w") as sequences:
        for number in range(400):
            sequences.write(f">V{number}.1\n{bases}\n")
            annotation.write(text.replace("VERSION     V.1", f"VERSION     V{399 - number}.1"))
    tracemalloc.start()
    found = read_annotated(tmp_path / "g.fna", tmp_path / "g.gb")
    total = sum(len(one.sequence) for one in found)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 400 * 20_000
    assert peak < total / 2


def build(sheet: Path, out: Path) -> dict[str, Any]:
    from vnp.datasets.build import build_dataset
    from vnp.datasets.choosing.candidates import read_lengths

    recipe = Recipe(read_lengths("150,300"), per_group=400, units="genome", seed=3, keep_prophages=True)
    return build_dataset(sheet, out, recipe).summary


def table_of(folder: Path) -> Any:
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(folder / "dataset.parquet").replace_schema_metadata(None)


def write_pair(folder: Path, text: str, name: str = "host") -> tuple[Path, Path]:
    """Write a set with the whole GenBank file, and one with its bases as FASTA; returns their sheets."""
    whole, parted = folder / "whole", folder / "parted"
    viruses = "".join(record(f"V{number}", "viral", number) for number in range(4))
    for place in (whole, parted):
        place.mkdir()
        (place / "viral").write_text(viruses)
    (whole / name).write_text(text)
    bases = {one.name: one.sequence.decode() for one in read_file(whole / name)}
    (parted / name).write_text(fasta(bases))
    with gzip.open(parted / "annotation", "wt", compresslevel=1) as file:
        file.write(without_bases("".join(shuffled(records_of(text), 5))))
    sheets = []
    for place, annotation in ((whole, ""), (parted, "annotation")):
        rows = ["viral,viral,,,", f"{name},host,,,{annotation}"]
        sheets.append(write_sheet(place / "sheet.csv", rows))
        sheets[-1].write_text(sheets[-1].read_text().replace("organism_group\n", "organism_group,annotation\n", 1))
    return sheets[0], sheets[1]


def same_sets(tmp_path: Path, text: str) -> None:
    pytest.importorskip("pyarrow")
    one, other = write_pair(tmp_path, text)
    first, second = build(one, tmp_path / "one"), build(other, tmp_path / "other")
    assert first["rows"] > 300
    assert (tmp_path / "one" / "dataset.fna.gz").read_bytes() == (tmp_path / "other" / "dataset.fna.gz").read_bytes()
    assert table_of(tmp_path / "one").equals(table_of(tmp_path / "other"))
    changing = ("sha256", "annotation_sha256")
    files = [
        [{key: value for key, value in file.items() if key not in changing} for file in summary.pop("files")]
        for summary in (first, second)
    ]
    assert files[0] == files[1]
    for summary in (first, second):
        summary.pop("command")
    assert first == second


def test_the_same_set_as_from_genbank_alone(tmp_path: Path) -> None:
    hosts = [("bacteria", n) for n in range(10, 13)] + [("plant", n) for n in range(13, 15)]
    same_sets(tmp_path, "".join(record(f"H{n}", group, n, genes=12) for group, n in hosts))


def test_real_genomes(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "host.gbff.gz"
    with gzip.open(path, "rt") as file:
        texts = records_of(file.read())
    expected = {one.name: one for one in read_file(path)}
    assert len(texts) == len(expected) == 19
    names = shuffled(list(expected), 4)
    assert names != list(expected)
    (tmp_path / "host.fna").write_text(fasta({name: expected[name].sequence.decode() for name in names}))
    contigs = without_bases("".join(texts))
    assert len(records_of(contigs)) == contigs.count("\nCONTIG ") == 19
    (tmp_path / "host.gbff").write_text(contigs)
    assert read_file(tmp_path / "host.fna", tmp_path / "host.gbff") == [expected[name] for name in names]


def test_real_genomes_give_the_same_set(shared: Path, tmp_path: Path) -> None:
    with gzip.open(shared / "data" / "host.gbff.gz", "rt") as file:
        same_sets(tmp_path, file.read())
