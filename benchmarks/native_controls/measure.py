"""The negative controls of a network of ``finetune``, from the genomes that its training kept for the test."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks._commands import command, controls, options
from vnp.datasets.annotations.elements import MOBILE, ORGANELLE, PLASMID, RRNA, VECTOR, read_pieces
from vnp.encoders.models.sixframe import AMBIGUOUS, base_codes
from vnp.errors import UsageError
from vnp.files.claims import make_folder, require_free
from vnp.files.durable import replacing
from vnp.finetune.genomes import TEST, Genomes, load_genomes, within

_LETTERS = np.frombuffer(b"ACGTN", np.uint8)
_CONTROL_OF = {"plasmid": PLASMID, "organelle": ORGANELLE}
_MARKED = (RRNA, MOBILE, VECTOR)
_SHEET = ("path", "label", "control", "seen")


def write_material(genomes: Genomes, annotated: Sequence[Path], folder: Path) -> Path:
    """Write a sheet of controls into a folder; gives its path.

    The packed set of a training knows its split. ``annotated`` are GenBank, or FASTA whose descriptions say what it is,
    of hosts; records that the training saw, or that it does not know, are told apart.

    Raises:
        UsageError: nothing was kept for the test.
        InputError: a file cannot be read.
    """
    kept = np.flatnonzero(genomes.part == TEST)
    if not len(kept):
        raise UsageError("no genome of the packed set was kept for the test: finetune with --test above 0")
    # Pieces of hosts that match viruses are left out, as they were in training and test.
    codes = np.where(within(genomes.ignored, len(genomes.codes)), AMBIGUOUS, genomes.codes)
    rows = []
    for group in sorted({genomes.groups[genomes.group[record]] for record in kept}):
        own = [record for record in kept.tolist() if genomes.groups[genomes.group[record]] == group]
        viral = bool(genomes.viral[own[0]])
        name = f"{group}.fna"
        _write(
            folder / name,
            ((f"{group}_{at}", _LETTERS[codes[genomes.starts[at] : genomes.starts[at + 1]]].tobytes()) for at in own),
        )
        rows.append((name, "viral" if viral else "host", "" if viral else _CONTROL_OF.get(group, ""), "no"))
    seen = {_digest(genomes.record(record)) for record in np.flatnonzero(genomes.part != TEST).tolist()}
    for number, source in enumerate(annotated):
        rows += _marked(source, seen, folder, number)
    sheet = folder / "controls.csv"
    with sheet.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(_SHEET)
        writer.writerows(rows)
    return sheet


def _marked(source: Path, seen: set[str], folder: Path, number: int) -> list[tuple[str, str, str, str]]:
    """Write the marked pieces of a file by what they are and whether training saw their record."""
    pieces: dict[tuple[str, str], list[tuple[str, bytes]]] = {}
    was = "no"
    for piece in read_pieces(source):
        if not piece.part:
            was = "yes" if _digest(base_codes(piece.sequence.decode())) in seen else "no"
        if piece.what in _MARKED:
            pieces.setdefault((piece.what, was), []).append((piece.name, piece.sequence))
    rows = []
    for (what, saw), own in sorted(pieces.items()):
        name = f"{number}-{what.replace(' ', '_')}-{saw}.fna"
        _write(folder / name, iter(own))
        rows.append((name, "host", what, saw))
    return rows


def _digest(codes: np.ndarray) -> str:
    return hashlib.sha256(codes.tobytes()).hexdigest()


def _write(path: Path, records: Iterator[tuple[str, bytes]]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        for name, bases in records:
            file.write(b">%s\n%s\n" % (name.encode(), bases))


@command("python -m benchmarks native_controls genomes.npz host.gbff.gz --out CONTROLS")
@click.argument("genomes", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.argument("annotated", nargs=-1, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--checkpoint", default="native", help="As predict takes it.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="A new folder.")
@click.option("--lengths", default="500,1000,3000,10000", help="Bases of windows, with commas between.")
@click.option("--windows", type=click.IntRange(1), default=200, help="Of each control and length, at most.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of what is drawn.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where encoders run.")
@options.force
def main(genomes: Path, annotated: tuple[Path, ...], out: Path, force: bool, **chosen: Any) -> None:
    """Measure benchmark controls on genomes kept for the test.

    GENOMES is the genomes.npz that finetune packed; ANNOTATED are GenBank or FASTA files of hosts, for rRNA operons,
    transposons and vectors. Writes the material, and in OUT/controls what benchmark controls writes: controls.md is
    the section of the model's card.
    """
    require_free([out / "controls.csv"], force=force)
    make_folder(out)
    sheet = write_material(load_genomes(genomes), annotated, out)
    controls.call(sheet=sheet, out=out / "controls", force=force, **chosen)
