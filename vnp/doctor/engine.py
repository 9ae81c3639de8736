"""The GPUs, and whether attention gives right numbers here: packed rows against padded float32, with random weights.

``python -m vnp.doctor.engine`` runs a small model of each kind; ``--full`` runs the published sizes on a GPU. No
weights and no network are needed: what is compared is two ways to compute one function. How fast they are is measured
by ``python -m jobs.benchmark speed``.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vnp.doctor import Finding, guarded
from vnp.encoders.build import DTYPES
from vnp.encoders.device import choose_device
from vnp.encoders.models.bare import BareModel, mixed_lengths, random_model
from vnp.encoders.spec import TRAINED, EncoderSpec, weighted
from vnp.errors import VnpError

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
            findings += [_packed(place, precision, family.name) for family in TRAINED]
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
    mend = "run python -m vnp.doctor.engine for details; another --precision may work"

    def look() -> Finding:

        small = place == "cpu"
        result = check_packed(
            place,
            precision,
            model=family,
            sequences=12 if small else 48,
            longest=300 if small else 1500,
        )
        found = f"{result.kernel}: smallest cosine to padded float32 {result.min_cosine:.7f} ({result.seconds:.1f} s)"
        return Finding(about, "ok", found) if result.passes else Finding(about, "fails", found, mend)

    return guarded(about, look, mend)


@dataclass(frozen=True)
class PackedCheck:
    """How far packed embeddings are from padded ones in float32."""

    family: str  # the architecture
    layers: int  # layers of the model that was checked
    width: int  # its width
    device: str  # where it ran
    precision: str  # of the packed run
    kernel: str  # the attention kernel that was chosen
    sequences: int  # how many were compared
    tokens: int  # how many those had
    min_cosine: float  # smallest cosine between a sequence's two pooled embeddings
    max_relative: float  # largest distance between the two, divided by the reference's length
    max_abs: float  # largest difference of one number
    seconds: float  # what the packed run took, first-time compilation included

    @property
    def passes(self) -> bool:
        """Whether the cosine is what the precision allows for."""
        return self.min_cosine >= LEAST_COSINE[self.precision]


def check_packed(
    device: str,
    precision: str,
    *,
    model: str = "esm2",
    full: bool = False,
    layers: int | None = None,
    sequences: int = 48,
    longest: int = 1500,
    seed: int = 0,
    attention: str = "packed",
) -> PackedCheck:
    """Compare packed embeddings with padded ones in float32 on the same device.

    Args:
        device: such as ``cuda:0``.
        precision: of the packed run.
        model: name of an encoder, or of its architecture.
        full: the published size instead of a small one.
        layers: another number of layers.
        sequences: how many to compare.
        longest: tokens of the longest one.
        seed: of weights and sequences.
        attention: the kernel to check; see ``vnp.encoders.build.build``.

    Returns:
        The differences.

    Raises:
        EncoderError: the device or kernel cannot be used, or an embedding is not finite.
    """
    made = random_model(choose_device(device), find_spec(model), full=full, layers=layers, seed=seed)
    return _compare(_Reference.make(made, sequences, longest, seed), precision, attention)


def find_spec(name: str) -> EncoderSpec:
    """The encoder of this name, or the first of an architecture of this name."""
    return next(one for one in weighted() if name in (one.name, one.family.name))


@dataclass(frozen=True, eq=False)
class _Reference:
    """Sequences, and what padded attention in float32 makes of them."""

    model: BareModel
    ids: list[NDArray[np.int64]]
    means: NDArray[np.float64]

    @classmethod
    def make(cls, model: BareModel, sequences: int, longest: int, seed: int) -> _Reference:
        ids = model.sequences(mixed_lengths(sequences, longest, seed), seed)
        return cls(model, ids, model.encoder("fp32", "padded").embed_ids(ids).astype(np.float64))


def _compare(reference: _Reference, precision: str, attention: str) -> PackedCheck:
    encoder = reference.model.encoder(precision, attention)
    began = time.perf_counter()
    got = encoder.embed_ids(reference.ids).astype(np.float64)
    seconds = time.perf_counter() - began
    size = np.linalg.norm(reference.means, axis=1)
    cosine = (got * reference.means).sum(axis=1) / (np.linalg.norm(got, axis=1) * size)
    return PackedCheck(
        family=reference.model.spec.family.name,
        layers=reference.model.sizes.depth,
        width=encoder.width,
        device=str(encoder.device),
        precision=precision,
        kernel=encoder.kernel,
        sequences=len(reference.ids),
        tokens=sum(len(each) for each in reference.ids),
        min_cosine=float(cosine.min()),
        max_relative=float((np.linalg.norm(got - reference.means, axis=1) / size).max()),
        max_abs=float(np.abs(got - reference.means).max()),
        seconds=seconds,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks of the command line; exit code 0 if all pass, else 1."""
    parser = argparse.ArgumentParser(prog="python -m vnp.doctor.engine", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", action="append", choices=tuple(DTYPES))
    known = [*(one.name for one in TRAINED), *(one.name for one in weighted())]
    parser.add_argument("--family", action="append", choices=known, help="or one encoder of it")
    parser.add_argument("--kernel", action="append", help="only these instead of all that run here")
    parser.add_argument("--full", action="store_true", help="the published sizes instead of small ones")
    parser.add_argument("--longest", type=int, default=1500, help="tokens of the longest sequence")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        device = choose_device(options.device)
    except VnpError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    report = _Report()
    report.add("environment", partial(_environment, device))
    for name in options.family or [one.name for one in TRAINED]:
        model = random_model(device, find_spec(name), full=options.full)
        _check_all(report, model, options)
        if device.type == "cuda":
            report.add("memory", partial(starve, model, "fp16"))
    sys.stdout.write(("all checks passed" if report.good else "a check FAILED") + "\n")
    if options.json:
        options.json.write_text(json.dumps(report.results, indent=1) + "\n")
    return 0 if report.good else 1


class _Report:
    """Prints each result as it comes; one that fails does not keep the next from running."""

    def __init__(self) -> None:
        self.results: dict[str, list[dict[str, object]]] = {}
        self.good = True

    def add(self, kind: str, function: Callable[[], Mapping[str, object]]) -> None:
        try:
            record = dict(function())
        except (VnpError, RuntimeError) as error:
            record = {"passes": False, "error": f"{type(error).__name__}: {error}"}
        self.good &= bool(record.get("passes", True))
        self.results.setdefault(kind, []).append(record)
        words = (
            f"{key}={value:.8g}" if isinstance(value, float) else f"{key}={value}" for key, value in record.items()
        )
        sys.stdout.write(f"{kind}: {'  '.join(words)}\n")
        sys.stdout.flush()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _check_all(report: _Report, model: BareModel, options: argparse.Namespace) -> None:
    on_gpu = model.device.type == "cuda"
    reference = _Reference.make(model, 200, options.longest, 0)
    for precision in options.precision or (("fp16", "bf16", "fp32") if on_gpu else ("fp32",)):
        half = on_gpu and precision != "fp32"
        # 8 bits have kernels of their own alone.
        kernels = ["auto"] if precision == "fp8" else ["fused", "packed", "triton"] if half else ["packed"]
        for kernel in options.kernel or dict.fromkeys(kernels):
            report.add("check", partial(_checked, reference, precision, kernel))


def _checked(reference: _Reference, precision: str, kernel: str) -> dict[str, object]:
    check = _compare(reference, precision, kernel)
    return {"passes": check.passes, **asdict(check)}


def starve(model: BareModel, precision: str) -> dict[str, object]:
    """Take most of the GPU's memory away, and see whether the encoder goes on with smaller batches."""
    encoder = model.encoder(precision, "auto")
    ids = model.sequences(np.full(2 * encoder.token_budget // 100, 100, np.int64), 0)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated(encoder.device)
    torch.cuda.reset_peak_memory_stats(encoder.device)
    plenty = encoder.embed_ids(ids)
    peak = torch.cuda.max_memory_allocated(encoder.device)
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(encoder.device).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 0.4 * (peak - held)) / whole, encoder.device)
    try:
        scarce = encoder.embed_ids(ids)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, encoder.device)
    return {
        "family": model.spec.family.name,
        "events": encoder.events,
        "max_abs": float(np.abs(plenty - scarce).max()),
        "passes": bool(encoder.events) and bool(np.allclose(plenty, scarce, atol=1e-2)),
    }


def _environment(device: torch.device) -> dict[str, object]:
    try:
        compiler = metadata.version("triton")
    except metadata.PackageNotFoundError:
        compiler = "none"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {"torch": torch.__version__, "triton": compiler, "device": str(device), "name": name}


if __name__ == "__main__":
    sys.exit(main())
