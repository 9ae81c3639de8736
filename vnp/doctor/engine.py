"""Checks the packed engine against padded float32 attention, with random weights.

``python -m vnp.doctor.engine`` runs a small model; ``--full`` runs the published sizes on a GPU. No weights
and no network are needed: what is compared is two ways to compute one function. How fast they are is measured by
``python -m jobs.benchmark speed``.
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
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vnp.encoders.build import find_device
from vnp.encoders.weights.random_weights import Family, RandomModel, mixed_lengths, random_model
from vnp.errors import EncoderError, VnpError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pooled cosine to float32 that a correct kernel reaches; a wrong border or slope falls far below.
LEAST_COSINE: Mapping[str, float] = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999, "fp8": 0.999}


@dataclass(frozen=True)
class PackedCheck:
    """How far packed embeddings are from padded ones in float32.

    Attributes:
        family: the architecture.
        layers: layers of the model that was checked.
        width: its width.
        device: where it ran.
        precision: of the packed run.
        kernel: the attention kernel that was chosen.
        sequences: how many were compared.
        tokens: how many those had.
        min_cosine: smallest cosine between a sequence's two pooled embeddings.
        max_relative: largest distance between the two, divided by the reference's length.
        max_abs: largest difference of one number.
        seconds: what the packed run took, first-time compilation included.
    """

    family: str
    layers: int
    width: int
    device: str
    precision: str
    kernel: str
    sequences: int
    tokens: int
    min_cosine: float
    max_relative: float
    max_abs: float
    seconds: float

    @property
    def passes(self) -> bool:
        """Whether the cosine is what the precision allows for."""
        return self.min_cosine >= LEAST_COSINE[self.precision]


def check_packed(
    device: str,
    precision: str,
    *,
    family: Family = "esm2",
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
        family: the architecture.
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
    model = random_model(device, family, full=full, layers=layers, seed=seed)
    return _compare(_Reference.make(model, sequences, longest, seed), precision, attention)


@dataclass(frozen=True, eq=False)
class _Reference:
    """Sequences, and what padded attention in float32 makes of them."""

    model: RandomModel
    ids: list[NDArray[np.int64]]
    means: NDArray[np.float64]

    @classmethod
    def make(cls, model: RandomModel, sequences: int, longest: int, seed: int) -> _Reference:
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
        family=reference.model.family,
        layers=int(str(reference.model.config["num_hidden_layers"])),
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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", action="append", choices=("fp32", "fp16", "bf16", "fp8"))
    parser.add_argument("--family", action="append", choices=("esm2", "esm2_3b", "dnabert"))
    parser.add_argument("--kernel", action="append", help="only these instead of all that run here")
    parser.add_argument("--full", action="store_true", help="the published sizes instead of small ones")
    parser.add_argument("--longest", type=int, default=1500, help="tokens of the longest sequence")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        find_device(options.device)
    except EncoderError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    report = _Report()
    report.add("environment", partial(_environment, options.device))
    for family in options.family or ("esm2", "dnabert"):
        model = random_model(options.device, family, full=options.full)
        _check_all(report, model, options)
        if options.device.startswith("cuda"):
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


def _check_all(report: _Report, model: RandomModel, options: argparse.Namespace) -> None:
    on_gpu = model.device.startswith("cuda")
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


def starve(model: RandomModel, precision: str) -> dict[str, object]:
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
        "family": model.family,
        "events": encoder.events,
        "max_abs": float(np.abs(plenty - scarce).max()),
        "passes": bool(encoder.events) and bool(np.allclose(plenty, scarce, atol=1e-2)),
    }


def _environment(device: str) -> dict[str, object]:
    try:
        import triton

        compiler = triton.__version__
    except ImportError:
        compiler = "none"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    return {"torch": torch.__version__, "triton": compiler, "device": device, "name": name}


if __name__ == "__main__":
    sys.exit(main())
