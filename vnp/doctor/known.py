"""Known answers: what published weights make of fixed sequences, beside what they make of them here.

``known.json`` has every 40th number (ESM2-3B 80th, DNABERT-S 24th) of pooled rows that others published for the very
checkpoints that are pinned here, rounded to four digits. The sequences are made here: random proteins of a seed, and
the open frames of two synthetic constructs. No code of a model is run but ours.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from vnp.doctor import Finding, fetching, guarded
from vnp.encoders import from_folder
from vnp.encoders.registry import Encoder
from vnp.encoders.spec import EncoderSpec, Molecule
from vnp.encoders.weights.folders import find_folder, weight_files
from vnp.encoders.weights.lock import check_fit, resolve
from vnp.errors import WeightsError
from vnp.files.machine import available_memory
from vnp.files.records import from_json, parse_json
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import open_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

# Distance between two rows, divided by the length of the published one, that a precision explains. float32: TF32 and
# kernels of other makers (0.6 % between two of that run's own ways to batch). bf16: errors of 0.006 a token, as
# FastESM2's authors measured, on numbers of 0.1, of which the mean over residues leaves a part. Rows of two of the
# sequences are 0.16 to 1.3 apart; with the special tokens in the mean, that of the shortest protein is 0.14 away.
_PUBLISHED = {"fp32": 0.01, "bf16": 0.06}
_HERE = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.06}
# Weights in float32 and what a few short sequences need besides.
_MEMORY = 2.2

_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
_LENGTHS = (61, 29, 13)
_LEFT = "AAAGGTAAACGTATTGCAGAACTGAAAGAAGCGATTGAAAAA"
_RIGHT = (
    "CGTGCAGAACTGGCAGAAGCGATTAAAAAAGCGGCGGAAGCGATGGCGGCG"
    "AAAGGTAAAGCGATTGAAGCGGCGAAAGAAGCGATTGCGGAACTGAAAGCGGCGAAAGAAGCGGCG"
)
_CONSTRUCTS = (f"ATGGCTAGC{_LEFT}{_RIGHT}AAATAA", f"ATGAAA{_RIGHT}{_LEFT}CGTTGA")


@dataclass(frozen=True, slots=True)
class Answer:
    """Numbers that somebody published for an encoder's weights."""

    encoder: str  # its name
    source: str  # where they were published, and what made them
    precision: Literal["fp32", "bf16"]  # of what made them
    sequences: Literal["proteins", "frames"]  # what was embedded: ``random_proteins``, or ``frames`` of the constructs
    first: int  # the first number of a row that is kept
    step: int  # from one kept number of a row to the next
    rows: tuple[tuple[float, ...], ...]  # the kept numbers, a row a sequence


def known_answers(name: str) -> list[Answer]:
    """What was published for an encoder; nothing for most."""
    text = (files("vnp.doctor") / "known.json").read_text()
    return [one for one in from_json(tuple[Answer, ...], parse_json(text)) if one.encoder == name]


def random_proteins() -> list[str]:
    """Three proteins of 61, 29 and 13 residues: M, then letters that Python's generator of seed 42 draws."""
    chance = random.Random(42)  # noqa: S311 (the very letters that were embedded, no secret)
    return ["M" + "".join(chance.choices(_RESIDUES, k=length - 1)) for length in _LENGTHS]


def frames(molecule: Molecule) -> list[str]:
    """The four open frames of the constructs, R1 and R2 of each, as DNA or as protein."""
    bases = [one.encode() for one in _CONSTRUCTS]
    found = open_frames(bases, Chunking(500).cut(np.array([len(one) for one in bases], np.int64)))
    return found.nucleotides() if molecule == "dna" else found.proteins()


def known(one: EncoderSpec, weights: Path | None, *, needed: bool = True) -> Finding:
    """Embed the fixed sequences with a user's weights and compare with what was published for them.

    Weights are as in ``vnp.encoders.load``; device and precision are those that it takes by default.

    Returns:
        ``ok`` or ``fails`` with the largest distance; ``warning`` where memory is too short to tell; ``not here`` where
        nothing was published, or weights that are not ``needed`` are missing.
    """
    about = f"known answers {one.name}"
    answers = known_answers(one.name)
    if not answers:
        how = f"python -m jobs.doctor --reference {one.name} compares with the published model, running its own code"
        return Finding(about, "not here", "nobody published numbers for these weights", how)
    fetch = fetching(one.name, weights)

    def look() -> Finding:
        try:
            folder = find_folder(one, weights)
            check_fit(one, folder)
        except WeightsError:
            if needed:
                raise
            return Finding(about, "not here", "the weights are not here", fetch)
        resolve(one, folder)
        needs = _MEMORY * sum((folder / name).stat().st_size for name in weight_files(folder, one.pins))
        free = available_memory()
        if free is not None and free < needs:
            found = f"not compared: that takes {needs / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free"
            return Finding(about, "warning", found, "python -m jobs.doctor --known where there is more memory")
        return compare(one.name, from_folder(folder, device="auto", precision="auto"), answers)

    return guarded(about, look, fetch)


def compare(name: str, encoder: Encoder, answers: Sequence[Answer]) -> Finding:
    """Compare an encoder's rows with published ones; EncoderError where a row is not finite."""
    said, good = [], True
    for answer in answers:
        sequences = random_proteins() if answer.sequences == "proteins" else frames(encoder.spec.molecule)
        distance = distances(
            encoder.embed(sequences)[:, answer.first :: answer.step], np.array(answer.rows, np.float32)
        )
        allowed = _PUBLISHED[answer.precision] + _HERE[encoder.precision]
        good &= bool((distance <= allowed).all())
        said.append(
            f"largest relative distance {distance.max():.4f} (allowed {allowed:.2f}) over {len(sequences)} sequences "
            f"in {encoder.precision}, published in {answer.precision} by {answer.source}"
        )
    mend = "" if good else "do not use these weights with this version: fetch them again, and if it stays, report it"
    return Finding(f"known answers {name}", "ok" if good else "fails", "; ".join(said), mend)


def distances(got: Float32[np.ndarray, "n width"], want: Float32[np.ndarray, "n width"]) -> Float32[np.ndarray, " n"]:
    """Distance between rows of one number, divided by the length of the wanted one; ValueError for unlike shapes."""
    if got.shape != want.shape:
        raise ValueError(
            f"{got.shape[0]} rows of {got.shape[1]} numbers, published are {want.shape[0]} of {want.shape[1]}"
        )
    found: Float32[np.ndarray, " n"] = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
    return found
