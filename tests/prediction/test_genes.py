"""Genes of DNA, and what they say for a phage."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from tests.prediction.tiny import SAMPLE
from vnp.encoders.models.sixframe import base_codes
from vnp.prediction.genes import LENGTH_ODDS, OTHER_STRAND, SAME_STRAND, Genes, find_genes

OTHER = np.array([3, 2, 1, 0, 4], np.uint8)


def made_up(sizes: list[int], reverse: list[bool]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """DNA with genes of so many codons, apart from each other by stops in all frames."""
    random = np.random.default_rng(3)
    codons = ["GCG", "CTG", "GAA", "AAA", "GGC", "ACC", "GAT", "CGT", "ATC", "GTG"]
    between = "TTAGCTAACTAATTAGTTAACTAGCTAA" * 3
    text, spans = between, []
    for size, turned in zip(sizes, reverse, strict=True):
        gene = "ATG" + "".join(random.choice(codons, size - 2)) + "TAA"
        if turned:
            gene = gene[::-1].translate(str.maketrans("ACGT", "TGCA"))
        spans.append((len(text), len(text) + len(gene)))
        text += gene + between
    return base_codes(text), spans


def charge(codes: np.ndarray, start: int, end: int, reverse: bool) -> float:
    """Charge of a gene's protein for each amino acid: of the made-up codons, two are acidic and two are basic."""
    gene = OTHER[codes[start:end][::-1]] if reverse else codes[start:end]
    text = "".join("ACGT"[code] for code in gene[:-3])
    codons = [text[at : at + 3] for at in range(0, len(text), 3)]
    return sum((one in ("AAA", "CGT")) - (one in ("GAA", "GAT")) for one in codons) / len(codons)


def test_genes_are_found_on_both_strands() -> None:
    reverse = [False, True, True, False, False, True, False] * 3
    codes, spans = made_up([300, 200, 60, 400, 90, 250, 150] * 3, reverse)
    found = find_genes(codes)
    ends = [(end if not turned else start) for (start, end), turned in zip(spans, reverse, strict=True)]
    assert np.where(found.reverse, found.start, found.end).tolist() == ends
    assert found.reverse.tolist() == reverse
    assert found.charged == pytest.approx(
        [charge(codes, *one) for one in zip(found.start, found.end, found.reverse, strict=True)]
    )
    other = find_genes(OTHER[codes[::-1]])
    assert sorted((len(codes) - other.end).tolist()) == sorted(found.start.tolist())


@pytest.mark.parametrize("sequence", ["", "ACGTA", "N" * 500, "TTAA" * 150])
def test_what_holds_no_gene(sequence: str) -> None:
    found = find_genes(base_codes(sequence))
    assert len(found.start) == 0
    assert found.odds_within(np.array([0, 100, 1_000])).tolist() == [0, 0]


def test_each_gene_adds_for_its_length_and_each_neighbour_for_its_strand() -> None:
    genes = Genes(np.array([0, 210, 2_000]), np.array([180, 450, 2_900]), np.array([False, False, True]), np.zeros(3))
    assert genes.odds() == pytest.approx(
        [
            LENGTH_ODDS[1] + SAME_STRAND / 2,
            LENGTH_ODDS[2] + (SAME_STRAND + OTHER_STRAND) / 2,
            LENGTH_ODDS[7] + OTHER_STRAND / 2,
        ]
    )
    within = genes.odds_within(np.array([0, 300, 1_000, 3_000]))
    assert within == pytest.approx([genes.odds()[0], genes.odds()[1], genes.odds()[2]])


def test_genes_speak_for_the_phage_and_against_the_host() -> None:
    said = {}
    for name in ("viral/phage_lambda", "host/rickettsia_prowazekii"):
        with gzip.open(SAMPLE / f"{name}.fna.gz", "rt") as file:
            codes = base_codes("".join(line.strip() for line in file if not line.startswith(">"))[:45_000])
        said[name] = float(find_genes(codes).odds().mean())
    assert said["viral/phage_lambda"] > 0.1 > -0.1 > said["host/rickettsia_prowazekii"]


def test_genes_are_counted_where_their_middles_lie() -> None:
    genes = Genes(
        np.array([0, 400, 900, 3_000]),
        np.array([300, 800, 1_900, 3_900]),
        np.array([False, False, True, True]),
        np.array([0.1, 0.07, 0.2, -0.1]),
    )
    assert (genes.basic, genes.within(150, 1_400).basic, genes.within(5_000, 6_000).basic) == (0.5, 0.5, 0)
    own = genes.within(150, 1_400)
    assert (own.count, own.turns) == (2, 0.5 / 6)
    assert genes.turns == 1.5 / 8
    assert genes.within(5_000, 6_000).turns == 0.1
    assert genes.density(np.array([0.0, 1_000.0]), np.array([1_000.0, 5_000.0])).tolist() == [2.0, 0.5]
