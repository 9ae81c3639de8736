"""The GPUs, and whether attention gives right numbers here: packed rows against padded float32, with random weights.

No weights and no network are needed: what is compared is two ways to compute one function.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from vnp.doctor import Finding, guarded
from vnp.encoders.build import DTYPES
from vnp.encoders.device import choose_device
from vnp.encoders.measured import cosines
from vnp.encoders.models.bare import BareModel, mixed_lengths, random_model
from vnp.encoders.spec import TRANSFORMERS, EncoderSpec, weighted

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Largest difference from float32 that rounding explains, for values around 1.
SDPA_TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
# Pooled cosine to float32 that a correct kernel reaches; a wrong border or slope falls far below.
LEAST_COSINE: Mapping[str, float] = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999, "fp8": 0.999}
OLDEST_CAPABILITY = (7, 0)


def gpus_and_kernels() -> list[Finding]:
    """Look at each GPU, and at the attention kernels on the CPU and on each GPU."""
    gpus = range(torch.cuda.device_count())
    findings = [guarded(f"GPU {number}", partial(_gpu, number), "ask whoever runs this machine") for number in gpus]
    for place in ("cpu", *(f"cuda:{number}" for number in gpus)):
        for precision in ("fp16", "bf16") if place != "cpu" else ("fp32",):
            findings.append(_sdpa(place, precision))
            findings += [_packed(place, precision, family.name) for family in TRANSFORMERS]
    return findings


def _gpu(number: int) -> Finding:
    facts = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    found = (
        f"{facts.name}, {total / 2**30:.0f} GiB ({free / 2**30:.0f} GiB free), "
        f"compute capability {facts.major}.{facts.minor}"
    )
    if (facts.major, facts.minor) < OLDEST_CAPABILITY:
        return Finding(f"GPU {number}", "warning", found, "too old for fast attention; expect low speed")
    if free < total / 2:
        return Finding(f"GPU {number}", "warning", found, "another process uses it; see nvidia-smi")
    return Finding(f"GPU {number}", "ok", found)


def _sdpa(place: str, precision: str) -> Finding:
    about = f"SDPA {place} {precision}"
    mend = "run with another --precision, or update driver and torch"

    def look() -> Finding:
        error = sdpa_error(place, precision)
        limit = SDPA_TOLERANCE[precision]
        found = f"largest difference from float32 {error:.1e} (allowed {limit:.0e})"
        return Finding(about, "ok", found) if error <= limit else Finding(about, "fails", found, mend)

    return guarded(about, look, mend)


def sdpa_error(place: str, precision: str) -> float:
    """Largest difference of torch's attention from the formula, softmax(q kᵀ / √d) v, in float32; or infinity."""
    kind = DTYPES[precision]
    chance = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 200, 64, generator=chance).to(kind).to(place) for _ in range(3))
    got = torch.nn.functional.scaled_dot_product_attention(query, key, value).float()
    query, key, value = query.float(), key.float(), value.float()
    weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)
    error = (got - weights @ value).abs().max().item()
    return error if error == error else float("inf")


def _packed(place: str, precision: str, family: str) -> Finding:
    about = f"packed {family} {place} {precision}"
    mend = "another --precision may work; please report it with this line"

    def look() -> Finding:
        small = place == "cpu"
        result = check_packed(
            place, precision, model=family, sequences=12 if small else 48, longest=300 if small else 1500
        )
        found = f"{result.kernel}: smallest cosine to padded float32 {result.min_cosine:.7f} ({result.seconds:.1f} s)"
        return Finding(about, "ok", found) if result.passes else Finding(about, "fails", found, mend)

    return guarded(about, look, mend)


@dataclass(frozen=True)
class PackedCheck:
    """How far packed embeddings are from padded ones in float32."""

    layers: int  # of the model that was checked
    precision: str  # of the packed run
    kernel: str  # the attention kernel that was chosen
    sequences: int  # how many were compared
    min_cosine: float  # smallest cosine between a sequence's two pooled embeddings
    seconds: float  # what the packed run took, first-time compilation included

    @property
    def passes(self) -> bool:
        """Whether the cosine is what the precision allows for."""
        return self.min_cosine >= LEAST_COSINE[self.precision]


def check_packed(
    device: str, precision: str, *, model: str, layers: int | None = None, sequences: int = 48, longest: int = 1500
) -> PackedCheck:
    """Compare packed embeddings of a small random model with padded ones in float32 on the same device.

    ``model`` names an encoder or its architecture.

    Raises:
        EncoderError: the device or kernel cannot be used, or an embedding is not finite.
    """
    made = random_model(choose_device(device), find_spec(model), layers=layers)
    return compare_packed(Reference.make(made, sequences, longest), precision, "packed")


def find_spec(name: str) -> EncoderSpec:
    """The encoder of this name, or the first of an architecture of this name."""
    return next(one for one in weighted() if name in (one.name, one.family.name))


@dataclass(frozen=True, eq=False)
class Reference:
    """Sequences, and what padded attention in float32 makes of them."""

    model: BareModel
    ids: list[NDArray[np.int64]]
    means: NDArray[np.float64]

    @classmethod
    def make(cls, model: BareModel, sequences: int, longest: int, seed: int = 0) -> Reference:
        """Draw sequences, and embed them."""
        ids = model.sequences(mixed_lengths(sequences, longest, seed), seed)
        return cls(model, ids, model.encoder("fp32", "padded").embed_ids(ids).astype(np.float64))


def compare_packed(reference: Reference, precision: str, attention: str) -> PackedCheck:
    """Run the same sequences with another kernel and precision."""
    encoder = reference.model.encoder(precision, attention)
    began = time.perf_counter()
    got = encoder.embed_ids(reference.ids).astype(np.float64)
    seconds = time.perf_counter() - began
    return PackedCheck(
        layers=reference.model.sizes.depth,
        precision=precision,
        kernel=encoder.kernel,
        sequences=len(reference.ids),
        min_cosine=float(cosines(got, reference.means).min()),
        seconds=seconds,
    )
