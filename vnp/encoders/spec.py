"""What each encoder is: facts only, so that planning on a login node never loads a tensor library.

The facts come from the models' own pages and papers: ESM2 (Lin et al., Science 379, 2023), FastESM2_650
(Synthyra), DNABERT-S (Zhou et al., 2024). Another encoder is one more entry here, and where its architecture is
new, one more ``Family`` and the module in ``models/`` that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, Literal

from vnp.errors import UsageError

Molecule = Literal["dna", "protein"]
Pooling = Literal["residues", "tokens", "spectrum", "places"]

MOLECULES: tuple[Molecule, ...] = ("dna", "protein")
NO_ENCODER = "none"
"""What users give as the protein encoder where a row is to be a chunk."""


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. What runs it is named as ``module:class`` and imported when it is asked for."""

    name: str  # in one word
    title: str  # what messages call it
    # runs it. With a tokenizer, a model for the engine: takes configuration, tensors, device and type. Without one, the
    # encoder itself: takes what ``registry`` gives it, or, without weights, the molecule
    model: str
    # ``residues`` is the mean without the first and last token, ``tokens`` the mean over all, ``places`` means and
    # maxima over the places of a convolution, ``spectrum`` no pooling at all
    pooling: Pooling
    # ``letters`` (``vocab.txt``), ``pieces`` (``tokenizer.json``) or ``none``
    tokenizer: Literal["letters", "pieces", "none"] = "none"
    molecule: Molecule = "protein"  # what a model of this kind reads that is known by its configuration alone
    model_types: tuple[str, ...] = ()  # what its ``config.json`` may say as ``model_type``
    # what the name of any class of such a model has in it, in lower case; empty where that tells nothing
    class_part: str = ""
    key: str = ""  # what its ``config.json`` must have besides; empty where nothing must
    fused: str | None = None  # its layers fused for a GPU, if anybody wrote them
    eight_bits: str | None = None  # the same with products in 8 bits
    half: str = "fp16"  # what ``auto`` is on a GPU that has it
    int8: bool = False  # whether it computes in bytes on a CPU; ``auto`` does where the CPU multiplies them

    def describes(self, config: Mapping[str, object]) -> bool:
        """Whether a ``config.json`` is of this architecture."""
        listed = config.get("architectures")
        classes = [str(one).lower() for one in listed] if isinstance(listed, list) else []
        named = self.class_part != "" and any(self.class_part in one for one in classes)
        return (config.get("model_type") in self.model_types or named) and (not self.key or self.key in config)

    def load_model(self) -> Any:
        """Import the class that runs it."""
        return resolve_name(self.model)


ESM2 = Family(
    name="esm2",
    title="ESM2",
    model="vnp.encoders.models.esm2:Esm2",
    pooling="residues",
    tokenizer="letters",
    model_types=("esm", "fast_esm", "fastesm"),
    class_part="esm",
    fused="vnp.encoders.kernels.fused:FusedEsm2",
    eight_bits="vnp.encoders.kernels.fp8:Fp8Esm2",
)
DNABERT = Family(
    name="dnabert",
    title="DNABERT-S",
    model="vnp.encoders.models.dnabert:MosaicBert",
    pooling="tokens",
    tokenizer="pieces",
    molecule="dna",
    model_types=("bert",),
    key="alibi_starting_size",
    fused="vnp.encoders.kernels.fused:FusedMosaicBert",
)
KMER = Family(name="kmer", title="k-mers", model="vnp.encoders.models.kmer:KmerEncoder", pooling="spectrum")

SIXFRAME = Family(
    name="sixframe",
    title="sixframe",
    model="vnp.encoders.windows:SixFrameEncoder.build",
    pooling="places",
    molecule="dna",
    model_types=("sixframe",),
    half="bf16",
    int8=True,
)

TRANSFORMERS: tuple[Family, ...] = (ESM2, DNABERT)
"""The architectures that the engine runs."""
TRAINED: tuple[Family, ...] = (*TRANSFORMERS, SIXFRAME)
"""The architectures that have weights."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """One encoder."""

    name: str  # what users call it
    molecule: Molecule  # what it reads
    width: int  # numbers in one embedding
    family: Family  # the architecture that runs it
    depth: int = 0  # layers
    heads: int = 0  # of its attention
    inner: int = 0  # width of its feed-forward network
    shortest: int = 1  # bases of the shortest chunk that it makes a row of, where a row is a chunk
    # whether its ``config.json`` says as ``window`` how many bases it reads at once: the chunk where nobody says
    windows: bool = False
    bundled: str | None = None  # the room whose folder has its weights, where they come with the package
    timed_tokens: int = 0  # how many tokens a GPU is timed on: enough for a second or so
    hub_id: str | None = None  # the repository on the Hugging Face hub, if it has weights there
    revision: str | None = None  # the pinned commit; None means that ``jobs.fetch`` pins what it finds
    licence: str | None = None  # of the weights; None means that ``jobs.fetch`` records what it finds
    # weight file to its SHA-256, or to the first digits of it where no more is known
    pins: Mapping[str, str] = field(default_factory=dict, hash=False)
    algorithm: str | None = None  # version of an encoder that is code alone
    # file that tensors are read from to its SHA-256; empty until the files were seen
    weights: Mapping[str, str] = field(default_factory=dict, hash=False)
    config_digest: str | None = None  # SHA-256 of the configuration, once seen
    tokenizer_digest: str | None = None  # SHA-256 of the tokenizer, once seen
    # SHA-256 of the table of units that it was fine-tuned on, where it was; see ``weights.provenance``
    trained_on: str | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether it has weights: it is a network, and may use a GPU."""
        return self.algorithm is None

    @property
    def gigabytes(self) -> float:
        """About the size of its published weights, in float32: of the products of its layers."""
        products = 4 * self.width + (3 if self.molecule == "dna" else 2) * self.inner
        return self.depth * self.width * products * 4 / 1e9

    @property
    def pooling(self) -> Pooling:
        """How states of tokens become one row; see ``Family``."""
        return self.family.pooling


_ALL: tuple[EncoderSpec, ...] = (
    EncoderSpec(
        "fastesm2_650", "protein", 1280, ESM2, depth=33, heads=20, inner=5120, timed_tokens=260_000,
        hub_id="Synthyra/FastESM2_650",
    ),
    EncoderSpec(
        "esm2_650m", "protein", 1280, ESM2, depth=33, heads=20, inner=5120, timed_tokens=260_000,
        hub_id="facebook/esm2_t33_650M_UR50D", revision="08e4846e537177426273712802403f7ba8261b6c", licence="MIT",
        pins={"model.safetensors": "a08adabb949fa67ad3c14b509d04fd60368b35007b0095e3358f81200c4f4db0"},
    ),
    EncoderSpec(
        "esm2_3b", "protein", 2560, ESM2, depth=36, heads=40, inner=10240, timed_tokens=130_000,
        hub_id="facebook/esm2_t36_3B_UR50D", revision="476b639933c8baad5ad09a60ac1a87f987b656fc", licence="MIT",
        pins={"pytorch_model-00001-of-00002.bin": "0f971f11", "pytorch_model-00002-of-00002.bin": "7560b46f"},
    ),
    EncoderSpec(
        "dnabert_s", "dna", 768, DNABERT, depth=12, heads=12, inner=3072, timed_tokens=1_040_000,
        hub_id="zhihan1996/DNABERT-S",
    ),
    EncoderSpec(
        "sixframe", "dna", 768, SIXFRAME, shortest=100, windows=True, timed_tokens=20_000_000,
        bundled="native", licence="MIT",
        pins={"model.safetensors": "7643feaf36318cc2dd80dde95d1ab7ebd901eeb66e27028c3fcdf5f7cdbd17e2"},
    ),
    EncoderSpec("kmer", "dna", 768, KMER, algorithm="kmer-dna-1"),
    EncoderSpec("kmer", "protein", 1280, KMER, algorithm="kmer-protein-1"),
)  # fmt: skip

DEFAULTS: Mapping[Molecule, str] = {"dna": "dnabert_s", "protein": "fastesm2_650"}
"""The encoder of each molecule where the user names none."""


def names(molecule: str) -> tuple[str, ...]:
    """The encoders for ``dna`` or ``protein``, in the order of the documentation; UsageError for another molecule."""
    if molecule not in MOLECULES:
        raise UsageError(f"no molecule is called {molecule!r}; use 'dna' or 'protein'")
    return tuple(one.name for one in _ALL if one.molecule == molecule)


def weighted() -> tuple[EncoderSpec, ...]:
    """List the encoders whose weights are to be fetched, in the order of the documentation."""
    return tuple(one for one in _ALL if one.needs_weights and one.bundled is None)


def spec(name: str, molecule: str | None = None) -> EncoderSpec:
    """Look up an encoder; UsageError where there is none, or one of each molecule and none is given."""
    known = tuple(dict.fromkeys(one.name for one in _ALL)) if molecule is None else names(molecule)
    found = registered(name, molecule)
    if not found:
        kind = "" if molecule is None else f"{molecule} "
        raise UsageError(f"no {kind}encoder is called {name!r}; there are: {', '.join(known)}")
    if len(found) > 1:
        raise UsageError(f"the encoder {name!r} exists for DNA and for protein; say which (molecule=...)")
    return found[0]


def registered(name: str, molecule: str | None = None) -> list[EncoderSpec]:
    """The encoders of a name, one a molecule; none where it is of no registered one, but may be a folder's."""
    return [one for one in _ALL if one.name == name and molecule in (None, one.molecule)]
