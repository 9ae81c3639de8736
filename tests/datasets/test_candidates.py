from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
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
from vnp.datasets.choosing._part import Part, has_part, read_part, writing_part
from vnp.datasets.choosing._prophages import ViralIndex, read_regions
from vnp.datasets.choosing.candidates import Search, find_candidates, read_lengths
from vnp.datasets.sheet import Source, group_of_lineage
from vnp.errors import InputError
from vnp.sequences.chunks import Chunking, Chunks
from vnp.sequences.frames import FRAME_NAMES, open_frames

BACTERIUM = "Bacteria; Madeupota; Madeupia"


def searched(folder: Path, source: Source, search: Search) -> Part:
    with writing_part(folder, "key", len(search.lengths.names), search.limit) as writer:
        find_candidates(source, search, writer)
    assert has_part(folder, "key")
    return read_part(folder, "key")


def host_file(folder: Path, *records: str) -> Source:
    path = folder / "h.gb"
    path.write_text("".join(records))
    return Source(path, 0, None, None, None, "h.gb")


def rows_of(part: Part) -> list[tuple[str, int, int, str, bool]]:
    """Record, start, end, frame and whether it is annotated, of every frame."""
    found = []
    for place in range(len(part.record)):
        for number, name in enumerate(FRAME_NAMES):
            if part.frames[place] >> number & 1:
                record = part.records[int(part.record[place])].name
                annotated = bool(part.annotated[place] >> number & 1)
                found.append((record, int(part.start[place]), int(part.end[place]), name, annotated))
    return found


def naive_rows(bases: str, proteins: list[str], size: int) -> list[tuple[int, int, str, bool]]:
    """Every open frame of every chunk of known bases, and whether a plain scan finds its protein in another."""
    chunks = Chunking(size).cut(np.array([len(bases)]))
    found = []
    for start, end in zip(chunks.start.tolist(), chunks.end.tolist(), strict=True):
        if set(bases[start:end]) - set("ACGT"):
            continue
        one = Chunks(np.array([0]), np.array([1], np.int32), np.array([start]), np.array([end]))
        opened = open_frames([bases.encode()], one)
        for frame, protein in zip(opened.frame.tolist(), opened.proteins(), strict=True):
            found.append((start, end, FRAME_NAMES[frame], any(protein in whole for whole in proteins)))
    return found


@pytest.fixture
def genome() -> tuple[str, list[Feature], list[str]]:
    """Genes on both strands, with ambiguous bases between two of them."""
    proteins = [random_protein(400 + 30 * number, number) for number in range(6)]
    bases, features, places = genome_with_genes(proteins, between=900)
    at = places[2][1] + 100
    return bases[:at] + "NNNRYN" + bases[at + 6 :], features, proteins


@pytest.mark.parametrize("size", [150, 300, 500])
def test_frames_inside_annotated_proteins_are_kept(
    tmp_path: Path, genome: tuple[str, list[Feature], list[str]], size: int
) -> None:
    bases, features, proteins = genome
    source = host_file(tmp_path, genbank("R1", bases, features, lineage=BACTERIUM))
    every = naive_rows(bases, proteins, size)
    part = searched(tmp_path, source, Search(read_lengths(str(size))))
    assert rows_of(part) == [("R1.1", *row) for row in every if row[3]]
    assert 0 < sum(row[3] for row in every) < len(every)
    part = searched(tmp_path, source, Search(read_lengths(str(size)), "all"))
    assert rows_of(part) == [("R1.1", *row) for row in every]


def test_every_chunk_is_counted_once(tmp_path: Path, genome: tuple[str, list[Feature], list[str]]) -> None:
    bases, features, proteins = genome
    source = host_file(tmp_path, genbank("R1", bases, features, lineage=BACTERIUM))
    (counts,) = searched(tmp_path, source, Search(read_lengths("300"))).counts["bacteria"]
    every = naive_rows(bases, proteins, 300)
    annotated = {row[:2] for row in every if row[3]}
    assert counts["chunks"] == -(-len(bases) // 300)
    assert counts["ambiguous"] > 0
    assert counts["kept"] == len(annotated)
    assert counts["unannotated"] == len({row[:2] for row in every}) - len(annotated)
    dropped = ("ambiguous", "no_open_frame", "unannotated", "listed", "matched", "kept")
    assert sum(counts[name] for name in dropped) == counts["chunks"]
    assert counts["frames"] == len(every)
    assert counts["frames"] == counts["frames_unannotated"] + counts["frames_kept"]
    assert counts["frames_kept"] == counts["frames_annotated"] == sum(row[3] for row in every)


def test_bases_and_sequences_are_kept(tmp_path: Path, genome: tuple[str, list[Feature], list[str]]) -> None:
    bases, features, _ = genome
    other, more, _ = genome_with_genes([random_protein(300, 77)], seed=4)
    source = host_file(
        tmp_path, genbank("R1", bases, features, lineage=BACTERIUM), genbank("R2", other, more, lineage=BACTERIUM)
    )
    part = searched(tmp_path, source, Search(read_lengths("150,300")))
    texts = [bases, other]
    found = list(part.bases(np.arange(len(part.record))))
    assert found == [
        texts[record][start:end].encode()
        for record, start, end in zip(part.record.tolist(), part.start.tolist(), part.end.tolist(), strict=True)
    ]
    order = list(zip(part.record.tolist(), part.start.tolist(), part.end.tolist(), strict=True))
    assert order == sorted(order)
    assert [part.sequence(number).decode() for number in (0, 1)] == texts
    assert [record.proteins for record in part.records] == [6, 1]


def test_the_lowest_keys_of_each_genome_and_length_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnp.datasets.choosing._part._SPARE", 3)
    monkeypatch.setattr("vnp.datasets.choosing._part._FEW", 2)
    texts = []
    for number in range(5):
        bases, features, _ = genome_with_genes([random_protein(900, 10 * number + n) for n in range(4)], seed=number)
        strain: Mapping[str, str | None] = {"strain": "x" if number < 3 else f"y{number}"}
        texts.append(genbank(f"R{number}", bases, features, lineage=BACTERIUM, source=dict(strain)))
    source = host_file(tmp_path, *texts)
    every = searched(tmp_path, source, Search(read_lengths("150,300")))
    limit = 7
    few = searched(tmp_path, source, Search(read_lengths("150,300"), limit=limit))
    genomes = [record.genome for record in every.records]
    assert len(set(genomes)) == 3
    wanted = set()
    for genome in set(genomes):
        for length in (0, 1):
            own = [
                place
                for place in range(len(every.record))
                if genomes[int(every.record[place])] == genome and every.length[place] == length
            ]
            wanted |= set(every.key[sorted(own, key=lambda place: every.key[place])[:limit]].tolist())
    assert set(few.key.tolist()) == wanted
    assert len(few.key) == 3 * 2 * limit
    places = {int(key): place for place, key in enumerate(every.key.tolist())}
    whole = np.array([places[key] for key in few.key.tolist()])
    assert list(few.bases(np.arange(len(whole)))) == list(every.bases(whole))
    assert few.counts["bacteria"] == every.counts["bacteria"]


def test_regions_and_viral_matches_are_dropped_from_hosts_only(tmp_path: Path) -> None:
    proteins = [random_protein(700, number) for number in range(3)]
    bases, features, places = genome_with_genes(proteins, between=200)
    text = genbank("R1", bases, features, lineage=BACTERIUM)
    source = host_file(tmp_path, text)
    (tmp_path / "p.bed").write_text(f"R1.1\t{places[0][0] + 10}\t{places[0][0] + 1100}\n")
    virus = reverse_complement(bases[places[2][0] : places[2][1]])
    search = Search(
        read_lengths("300"),
        regions=read_regions(tmp_path / "p.bed"),
        viral=ViralIndex.from_genomes([virus.encode()]),
    )
    plain = searched(tmp_path, source, Search(read_lengths("300")))
    part = searched(tmp_path, source, search)
    (counts,) = part.counts["bacteria"]
    left = set(part.start.tolist())
    assert counts["listed"] == sum(
        start < places[0][0] + 1100 and start + 300 > places[0][0] + 10 for start in plain.start.tolist()
    )
    inside = {s for s in plain.start.tolist() if places[2][0] <= s and s + 300 <= places[2][1]}
    assert inside
    assert not inside & left
    assert counts["matched"] >= len(inside)
    assert counts["kept"] == len(left) == len(plain.start) - counts["listed"] - counts["matched"]
    assert counts["frames_listed"] >= counts["listed"]
    assert counts["frames"] == sum(counts[f"frames_{name}"] for name in ("unannotated", "listed", "matched", "kept"))
    viral = Source(source.path, 1, None, "viral", None, "h.gb")
    (counts,) = searched(tmp_path, viral, search).counts["viral"]
    assert counts["listed"] == counts["matched"] == 0
    assert counts["kept"] == len(plain.start)


def test_records_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    coding = gene(random_protein(300, 1))
    good = genbank(
        "R1", coding, [Feature(f"1..{len(coding)}", {"translation": random_protein(300, 1)})], lineage=BACTERIUM
    )
    bare = genbank("R2", "", length=5000, contig="join(X.1:1..5000)", lineage=BACTERIUM)
    part = searched(tmp_path, host_file(tmp_path, good, bare), Search(read_lengths("300")))
    assert [record.problem is None for record in part.records] == [True, False]
    assert set(part.record.tolist()) == {0}
    assert list(part.counts) == ["bacteria"]


def test_a_record_of_ambiguous_bases_only(tmp_path: Path) -> None:
    texts = [genbank("R1", "N" * 2000, lineage=BACTERIUM), genbank("R2", random_bases(900, 3), lineage=BACTERIUM)]
    part = searched(tmp_path, host_file(tmp_path, *texts), Search(read_lengths("300"), "all"))
    (counts,) = part.counts["bacteria"]
    assert counts["ambiguous"] == 7
    assert counts["chunks"] == 10


@pytest.mark.parametrize(
    ("lineage", "group"),
    [
        ("Viruses; Riboviria", "viral"),
        ("Bacteria; Pseudomonadati", "bacteria"),
        ("Archaea; Methanobacteriati", "archaea"),
        ("Eukaryota; Fungi; Dikarya", "fungi"),
        ("Eukaryota; Viridiplantae; Streptophyta", "plant"),
        ("Eukaryota; Metazoa; Chordata; Craniata; Vertebrata; Euteleostomi; Mammalia", "vertebrate"),
        ("Eukaryota; Metazoa; Ecdysozoa; Nematoda", "invertebrate"),
        ("Eukaryota; Metazoa; Chordata; Tunicata", "invertebrate"),
        ("Eukaryota; Sar; Alveolata; Apicomplexa", "protozoa"),
        ("other sequences; artificial sequences", None),
        ("", None),
    ],
)
def test_organism_groups_of_lineages(lineage: str, group: str | None) -> None:
    assert group_of_lineage(tuple(lineage.split("; "))) == group


def test_the_sheet_decides_over_the_lineage_and_a_contradiction_is_an_error(tmp_path: Path) -> None:
    coding = gene(random_protein(300, 1))
    text = genbank("R1", coding, [Feature(f"1..{len(coding)}", {"translation": random_protein(300, 1)})])
    source = host_file(tmp_path, text)
    with pytest.raises(InputError, match=r"h\.gb, record 'R1\.1': the sheet labels this file host.*Viruses"):
        searched(tmp_path, source, Search(read_lengths("300")))
    assert not has_part(tmp_path, "key")
    assert {path.name for path in tmp_path.iterdir()} == {"h.gb"}
    named = Source(source.path, 0, None, "endogenous", None, "h.gb")
    assert list(searched(tmp_path, named, Search(read_lengths("300"))).counts) == ["endogenous"]
    unknown = host_file(tmp_path, text.replace("Viruses; Riboviria; Madeupviridae; Madeupvirus", "Unclassified"))
    assert list(searched(tmp_path, unknown, Search(read_lengths("300"))).counts) == ["unknown"]


def test_progress_counts_every_base(tmp_path: Path, genome: tuple[str, list[Feature], list[str]]) -> None:
    source = host_file(tmp_path, genbank("R1", genome[0], genome[1], lineage=BACTERIUM))
    told: list[int] = []
    with writing_part(tmp_path, "key", 1, None) as writer:
        find_candidates(source, Search(read_lengths("300")), writer, progress=told.append)
    assert sum(told) == len(genome[0])
