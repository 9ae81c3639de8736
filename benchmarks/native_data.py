"""Turns collections of genomes into the sheet that the bundled model is trained from."""

from __future__ import annotations

import csv
import gzip
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click

from vnp.sequences.reading import read_records

_ORGANELLE = re.compile(r"chloroplast|mitochond|plastid|tair_chr[cm]|chrmt")
_EUKARYOTES = {"fungi", "protozoa", "plant", "invertebrate", "vertebrate"}
# What the text of a record says when the virus infects bacteria or archaea.
_PHAGE = re.compile(
    r"phage|caudo|microvir|virus of a prokaryote|gokusho|\binovir|rudivir|rod-shaped virus|halovirus|haloarcula|"
    r"sulfolobus|pleomorphic virus|archae|t7-like|leviviri|tectivir|corticovir|cystovir|plectrovir|acidianus|"
    r"pyrobaculum|thermoproteus|spindle|filamentous virus \d|turreted|imgvr"
)
_EUKARYOTIC = re.compile(r"virus|viridae|satellite|viroid|npv|segment|noro|virophage|giant virus")
_PHAGE_SOURCES = ("autographiviridae", "mVCs", "mdmparis", "vHULK", "HVSeeker", "tax_myPHAGE", "MARVEL", "VGs")
_EUKARYOTIC_SOURCES = (
    "giffordlabcvr", "virtool", "tomasMasson", "nextstrain", "artic-network", "quick-lab", "NeLLi-team",
    "thackl/gggenomes", "nawrockie", "broadinstitute",
)  # fmt: skip


@click.command()
@click.argument("collections", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder for the sheet and its files.")
@click.option("--by", type=click.Choice(["unit", "genus"]), default="unit", help="What is never split.")
def main(collections: tuple[Path, ...], out: Path, by: str) -> None:
    """Write one FASTA a unit, group and kind of COLLECTIONS, folders with records.tsv.gz beside GROUP.fna.gz."""
    rows = []
    for number, folder in enumerate(collections, start=1):
        pieces: dict[tuple[str, str, str, str], list[bytes]] = defaultdict(list)
        for row, sequence in _records(folder):
            label, group, kind = _sorted(row)
            unit = row["unit"] if by == "unit" else _genus(row, group) or row["unit"]
            pieces[label, group, kind, unit].append(b">%s\n%s\n" % (row["accession"].encode(), sequence))
        for at, ((label, group, kind, unit), records) in enumerate(pieces.items()):
            name = f"{number}/{group}-{at:05d}.fna.gz"
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            with (out / name).open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                packed.write(b"".join(records))
            rows.append((name, label, group, unit, kind, str(number)))
    with (out / "genomes.csv").open("w", newline="") as sheet:
        writer = csv.writer(sheet)
        writer.writerow(("path", "label", "group", "unit", "kind", "sample"))
        writer.writerows(rows)
    print(f"{out / 'genomes.csv'}: {len(rows)} files")


def _records(folder: Path) -> Iterator[tuple[dict[str, str], bytes]]:
    with gzip.open(folder / "records.tsv.gz", "rt") as table:
        listed = list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = {(row["file"], row["accession"], int(row["length"])): row for row in listed}
    for name in sorted({row["file"] for row in listed if row["file"].endswith(".fna.gz")}):
        for record in read_records(folder / name):
            yield rows[name, record.name, len(record.sequence)], record.sequence


def _genus(row: dict[str, str], group: str) -> str:
    """The genus of a prokaryote, or of the one that a phage was named after; empty where none is named."""
    text = row["organism"] or row["description"]
    if group == "phage":
        named = re.match(r"([A-Z][a-z]+)\b.{0,40}?\b(pro|cyano)?(phage|virus)", text)
        return (
            f"phages of {named[1]}" if named and named[1] not in ("Caudovirales", "Uncultured", "Uncultivated") else ""
        )
    if group not in ("bacteria", "archaea", "plasmid"):
        return ""
    if row.get("genus"):
        return row["genus"]
    named = re.match(r"(?:Candidatus )?([A-Z][a-z]{3,}) [a-z]", text)
    return named[1] if named else ""


def _sorted(row: dict[str, str]) -> tuple[str, str, str]:
    """Label, group and kind of a record, of which an empty one is not known."""
    group = row["file"].removesuffix(".fna.gz")
    text = " ".join(row[column] for column in ("organism", "taxonomy", "description", "accession")).lower()
    if group == "viral":
        kind = _virus(row, text)
        return "viral", kind or "virus", kind
    if group == "plasmid" or "plasmid" in text:
        return "host", "plasmid", "plasmid"
    if group == "organelle" or _ORGANELLE.search(text):
        return "host", "organelle", "organelle"
    if group in _EUKARYOTES:
        return "host", group, "eukaryote"
    unnamed = "not named by the source" in text or "marine prokaryote" in text
    return "host", group, "bacteria|archaea" if unnamed else group


def _virus(row: dict[str, str], text: str) -> str:
    source = f"{row['source']} {row['path']}"
    if "tara" in text or "tara_virus" in source:
        return ""
    if "virophage" in text or "giant virus" in text:
        return "eukaryotic_virus"
    if _PHAGE.search(text) or any(name in source for name in _PHAGE_SOURCES):
        return "phage"
    if row["source"].startswith(_EUKARYOTIC_SOURCES) or _EUKARYOTIC.search(text):
        return "eukaryotic_virus"
    return ""


if __name__ == "__main__":
    main()
