"""What is measured: models, and lengths as vnp makes them of genomes, of whole proteins and of a user's file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from vnp.encoders.build import read_state
from vnp.encoders.models.bare import BareModel, random_model
from vnp.encoders.weights.folders import find_folder, locate_weighted, read_config
from vnp.encoders.weights.lock import check_fit
from vnp.errors import InputError, WeightsError
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import open_frames
from vnp.sequences.opening import stream
from vnp.sequences.reading import read_records

SAMPLE = Path(__file__).resolve().parent.parent / "sample"

# DNABERT-S's vocabulary has 4.9 bases a token on genomes, and two special tokens come on top.
_BASES_A_TOKEN = 4.9
_SPECIAL = 2
_READ = 150
_CHUNKS = (300, 500)
# Lengths of proteins are about log-normal (Zhang, Trends in Genetics 16, 2000); median and spread are those of
# bacterial and viral proteomes, roughly.
_PROTEIN_MEDIAN, _PROTEIN_SPREAD = 270.0, 0.65
_PROTEIN_SHORTEST, _PROTEIN_LONGEST = 30, 1000


@dataclass(frozen=True, eq=False)
class Workload:
    """Sequences as they come in practice."""

    name: str  # in a few words
    lengths: Int64[np.ndarray, "n"]  # tokens of each, special tokens included, in random order
    unit: str = "tokens"  # what lengths count

    @property
    def tokens(self) -> int:
        """Tokens of all."""
        return int(self.lengths.sum())

    @property
    def span(self) -> str:
        """Tokens of the shortest and the longest, in words."""
        low, high = int(self.lengths.min()), int(self.lengths.max())
        return f"{low:,} {self.unit}" if low == high else f"{low:,} to {high:,} {self.unit}"


def default_workloads(*, dna: bool, tokens: int, seed: int = 0, few: bool = False) -> list[Workload]:
    """What the bundled sample gives, of about so many tokens each, and at least one sequence.

    These are frames of 150-base reads, and of chunks of 300 and 500 bases; for proteins also exactly 100 residues, and
    whole proteins. With ``few`` only short ones, and whole proteins.
    """
    genomes = sample_genomes()
    chunks = (_CHUNKS[0],) if few else _CHUNKS
    found = [("reads of 150 bases", _frames(_reads(genomes, seed), _READ, dna))]
    found += [(f"chunks of {size} bases", _frames(genomes, size, dna)) for size in chunks]
    made = [Workload(name, _draw(lengths, tokens, seed)) for name, lengths in found]
    if dna:
        return made
    if not few:
        made.append(Workload("100 residues", _draw(np.array([100 + _SPECIAL], np.int64), tokens, seed)))
    made.append(Workload("whole proteins, 30 to 1,000 residues", whole_proteins(tokens, seed)))
    return made


def whole_proteins(tokens: int, seed: int = 0) -> Int64[np.ndarray, "n"]:
    """Draw lengths of whole proteins: log-normal with median 270, within 30 to 1,000 residues."""
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.normal(np.log(_PROTEIN_MEDIAN), _PROTEIN_SPREAD, max(64, tokens // 64)))
    kept = drawn[(drawn >= _PROTEIN_SHORTEST) & (drawn <= _PROTEIN_LONGEST)].astype(np.int64) + _SPECIAL
    some = kept[: max(2, int(np.searchsorted(kept.cumsum(), tokens)))].copy()
    if some.sum() > _PROTEIN_SHORTEST + _PROTEIN_LONGEST:
        some[:2] = _PROTEIN_LONGEST + _SPECIAL, _PROTEIN_SHORTEST + _SPECIAL
    return rng.permutation(some)


def file_workload(path: Path, *, dna: bool, tokens: int, bases: bool = False) -> Workload:
    """Take lengths from a FASTA file, plain or compressed, drawn so that there are about so many tokens, or bases."""
    lengths = np.array(_fasta_lengths(path), np.int64)
    lengths = lengths[lengths > 0]
    if not len(lengths):
        raise InputError("has no sequences; give FASTA", path=path)
    if bases:
        return Workload(path.name, _draw(lengths, tokens), "bases")
    in_tokens = dna_tokens(lengths) if dna else lengths + _SPECIAL
    return Workload(path.name, _draw(in_tokens, tokens))


def dna_tokens(bases: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Estimate the tokens that DNABERT-S makes of so many bases: 4.9 bases a token and two special ones."""
    return np.maximum(1, np.rint(bases / _BASES_A_TOKEN)).astype(np.int64) + _SPECIAL


def sample_genomes() -> list[bytes]:
    """Sequences of the bundled sample, in order of their files' names."""
    return [
        record.sequence
        for path in sorted(SAMPLE.glob("*/*.fna.gz"))
        for record in read_records(path)
        if record.problem is None
    ]


def _reads(genomes: list[bytes], seed: int) -> list[bytes]:
    """Windows of one read's length, ten bases apart at random places: more than enough to draw from."""
    rng = np.random.default_rng(seed)
    places = [
        (index, int(start))
        for index, genome in enumerate(genomes)
        if len(genome) >= _READ
        for start in rng.integers(0, len(genome) - _READ + 1, len(genome) // 10)
    ]
    return [genomes[index][start : start + _READ] for index, start in places]


def _frames(sequences: list[bytes], size: int, dna: bool) -> Int64[np.ndarray, "n"]:
    chunks = Chunking(size).cut(np.array([len(each) for each in sequences], np.int64))
    frames = open_frames(sequences, chunks)
    return dna_tokens(np.diff(frames.nucleotide_offsets)) if dna else np.diff(frames.protein_offsets) + _SPECIAL


def _draw(lengths: Int64[np.ndarray, "n"], tokens: int, seed: int = 0) -> Int64[np.ndarray, "n"]:
    """So many of these lengths that they have about as many tokens as wanted, the extremes among them."""
    rng = np.random.default_rng(seed)
    count = max(1, round(tokens / float(lengths.mean())))
    rounds = -(-count // len(lengths))
    some = np.concatenate([rng.permutation(lengths) for _ in range(rounds)])[:count]
    for place, extreme in enumerate((lengths.max(), lengths.min())):
        if count > 2 and extreme not in some:
            some[place] = extreme
    return rng.permutation(some)


def _fasta_lengths(path: Path) -> list[int]:
    text = b"".join(stream(path)[1]).strip()
    if text and not text.startswith(b">"):
        raise InputError("is no FASTA: it does not begin with '>'", path=path)
    return [len(record.partition(b"\n")[2].translate(None, b" \t\r\n")) for record in text.split(b"\n>")]


def find_model(name: str, device: str, *, weights: Path | None, full: bool) -> BareModel:
    """Make a model ready to be measured, with real weights where they are there.

    Its tensors stay on the CPU, so that what a contestant takes of a GPU's memory is its own.

    Args:
        name: of an encoder with weights, or the folder of a model.
        weights: a folder of weights; None for the default one, which is looked at only for the published size.
        full: without weights, the published size instead of a small one.

    Raises:
        WeightsError: the folder that was named is not there, or what is in it is damaged.
    """
    spec, given = locate_weighted(name, weights)
    folder: Path | None
    try:
        folder = find_folder(spec, given or weights)
    except WeightsError:
        # A folder without this model is no mistake; one that is not there, or half a model, is.
        if weights is not None and (not weights.is_dir() or (weights / name).exists()):
            raise
        folder = None
    if folder is None or (given is None and weights is None and not full):
        model = random_model(device, spec, full=full)
        return replace(model, state={key: tensor.cpu() for key, tensor in model.state.items()})
    check_fit(spec, folder)
    model = BareModel(spec, read_config(folder), {}, torch.device(device), f"weights of {folder}")
    state = {key.removeprefix(model.trunk.prefix): tensor for key, tensor in read_state(folder, spec.pins).items()}
    needed = model.sizes.tensors()
    missing = [key for key in needed if key not in state]
    if missing:
        again = "bring it back" if given else f"fetch it again: python -m jobs.fetch {name}"
        raise WeightsError(f"{folder} lacks the tensor {missing[0]}; {again}")
    return replace(model, state={key: state[key] for key in needed})
