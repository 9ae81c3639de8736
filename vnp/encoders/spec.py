"""What each encoder is: facts only, so that planning on a login node never loads a tensor library.

The facts come from the models' own pages and papers: ESM2 (Lin et al., Science 379, 2023), FastESM2_650
(Synthyra), DNABERT-S (Zhou et al., 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vnp.errors import UsageError

Molecule = Literal["dna", "protein"]
Family = Literal["esm2", "dnabert", "kmer"]
Pooling = Literal["residues", "tokens", "spectrum"]

MOLECULES: tuple[Molecule, ...] = ("dna", "protein")


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """One encoder.

    Attributes:
        name: what users call it.
        molecule: what it reads.
        width: numbers in one embedding.
        family: the architecture that runs it.
        pooling: ``residues`` is the mean without the first and last token, ``tokens`` the mean over all,
            ``spectrum`` no pooling at all.
        tokenizer: which tokenizer it needs: ``esm2``, ``dnabert`` or ``none``.
        hub_id: the repository on the Hugging Face hub, if it has weights there.
        revision: the pinned commit; None means that ``jobs.fetch`` pins what it finds.
        licence: of the weights; None means that ``jobs.fetch`` records what it finds.
        pins: weight file to its SHA-256, or to the first digits of it where no more is known.
        algorithm: version of an encoder that is code alone.
        weights: file that tensors are read from to its SHA-256; empty until the files were seen.
        config_digest: SHA-256 of the configuration, once seen.
        tokenizer_digest: SHA-256 of the tokenizer, once seen.
    """

    name: str
    molecule: Molecule
    width: int
    family: Family
    pooling: Pooling
    tokenizer: str
    hub_id: str | None = None
    revision: str | None = None
    licence: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict, hash=False)
    algorithm: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict, hash=False)
    config_digest: str | None = None
    tokenizer_digest: str | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether there are files to fetch before this encoder can run."""
        return self.family != "kmer"


_ALL: tuple[EncoderSpec, ...] = (
    EncoderSpec(
        name="fastesm2_650",
        molecule="protein",
        width=1280,
        family="esm2",
        pooling="residues",
        tokenizer="esm2",
        hub_id="Synthyra/FastESM2_650",
    ),
    EncoderSpec(
        name="esm2_650m",
        molecule="protein",
        width=1280,
        family="esm2",
        pooling="residues",
        tokenizer="esm2",
        hub_id="facebook/esm2_t33_650M_UR50D",
        revision="08e4846e537177426273712802403f7ba8261b6c",
        licence="MIT",
        pins={"model.safetensors": "a08adabb949fa67ad3c14b509d04fd60368b35007b0095e3358f81200c4f4db0"},
    ),
    EncoderSpec(
        name="esm2_3b",
        molecule="protein",
        width=2560,
        family="esm2",
        pooling="residues",
        tokenizer="esm2",
        hub_id="facebook/esm2_t36_3B_UR50D",
        revision="476b639933c8baad5ad09a60ac1a87f987b656fc",
        licence="MIT",
        pins={
            "pytorch_model-00001-of-00002.bin": "0f971f11",
            "pytorch_model-00002-of-00002.bin": "7560b46f",
        },
    ),
    EncoderSpec(
        name="dnabert_s",
        molecule="dna",
        width=768,
        family="dnabert",
        pooling="tokens",
        tokenizer="dnabert",
        hub_id="zhihan1996/DNABERT-S",
    ),
    EncoderSpec(
        name="kmer",
        molecule="dna",
        width=768,
        family="kmer",
        pooling="spectrum",
        tokenizer="none",
        algorithm="kmer-dna-1",
    ),
    EncoderSpec(
        name="kmer",
        molecule="protein",
        width=1280,
        family="kmer",
        pooling="spectrum",
        tokenizer="none",
        algorithm="kmer-protein-1",
    ),
)


def names(molecule: str) -> tuple[str, ...]:
    """Name the encoders for one molecule.

    Args:
        molecule: ``dna`` or ``protein``.

    Returns:
        Names in the order of the documentation.

    Raises:
        UsageError: the molecule is neither.
    """
    if molecule not in MOLECULES:
        raise UsageError(f"no molecule is called {molecule!r}; use 'dna' or 'protein'")
    return tuple(one.name for one in _ALL if one.molecule == molecule)


def weighted() -> tuple[EncoderSpec, ...]:
    """List the encoders that need weight files, in the order of the documentation."""
    return tuple(one for one in _ALL if one.needs_weights)


def spec(name: str, molecule: str | None = None) -> EncoderSpec:
    """Look up an encoder.

    Args:
        name: such as ``fastesm2_650``.
        molecule: ``dna`` or ``protein``; may be left out where only one molecule has an encoder of that name.

    Returns:
        Its facts.

    Raises:
        UsageError: there is none; the message lists those there are.
    """
    if molecule is not None:
        known = names(molecule)
        found = [one for one in _ALL if one.name == name and one.molecule == molecule]
        if not found:
            raise UsageError(f"no {molecule} encoder is called {name!r}; there are: {', '.join(known)}")
        return found[0]
    found = [one for one in _ALL if one.name == name]
    if not found:
        known = tuple(dict.fromkeys(one.name for one in _ALL))
        raise UsageError(f"no encoder is called {name!r}; there are: {', '.join(known)}")
    if len(found) > 1:
        raise UsageError(f"the encoder {name!r} exists for DNA and for protein; say which (molecule=...)")
    return found[0]
