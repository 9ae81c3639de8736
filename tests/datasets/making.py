"""A small set of annotated genomes on disk: five viruses and six hosts in four files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.datasets.genbank import fasta, genbank, genome_with_genes, gff3_line, random_protein

LINEAGES = {
    "bacteria": "Bacteria; Madeupota",
    "plant": "Eukaryota; Viridiplantae; Madeupphyta",
    "viral": "Viruses; Madeupviricetes",
}
HEAD = "path,label,group,organism_group"


def proteins_of(seed: int, count: int = 4) -> list[str]:
    return [random_protein(220, 100 * seed + number) for number in range(count)]


def record(name: str, group: str, seed: int, *, genes: int = 4) -> str:
    bases, features, _ = genome_with_genes(proteins_of(seed, genes), between=250, seed=100 * seed)
    return genbank(name, bases, features, organism=f"Organism {name}", lineage=LINEAGES[group])


def write_set(folder: Path) -> Path:
    """Write the files; returns the sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "v1.gb").write_text("".join(record(f"V{n}", "viral", n) for n in range(3)))
    (folder / "v2.gb").write_text("".join(record(f"V{n}", "viral", n, genes=1 + n) for n in range(3, 5)))
    hosts = [("bacteria", n) for n in range(10, 13)] + [("plant", n) for n in range(13, 15)]
    (folder / "h.gb").write_text("".join(record(f"H{n}", group, n, genes=6) for group, n in hosts))
    bases, _, places = genome_with_genes(proteins_of(15, 8), between=250, seed=1500)
    (folder / "f.fna").write_text(fasta({"F15": bases}))
    lines = [
        gff3_line("F15", start, end, "-+"[number % 2 == 0], ID=f"cds{number}")
        for number, (start, end) in enumerate(places)
    ]
    (folder / "f.gff3").write_text("##gff-version 3\n" + "".join(lines))
    rows = ("v1.gb,viral,,", "h.gb,host,,", "v2.gb,viral,,viral", "f.fna,host,,fungi")
    return write_sheet(folder / "sheet.csv", rows)


def write_sheet(path: Path, rows: Sequence[str]) -> Path:
    path.write_text("\n".join((HEAD, *rows)) + "\n")
    return path
