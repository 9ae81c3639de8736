"""torch, the GPUs, and whether attention gives right numbers on them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from vnp.doctor.finding import Finding, guarded

if TYPE_CHECKING:
    pass

# Largest difference from float32 that rounding explains, for values around 1.
SDPA_TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
OLDEST_CAPABILITY = (7, 0)


def accelerator() -> list[Finding]:
    """Look at torch, at each GPU, and at the attention kernels on the CPU and on each GPU."""
    first = guarded("torch", _torch, "install torch for this machine (https://pytorch.org/get-started/locally)")
    if first.state == "fails":
        return [first]
    import torch

    findings = [first]
    places = ["cpu"]
    for number in range(torch.cuda.device_count()):
        place = f"cuda:{number}"
        findings.append(guarded(f"GPU {number}", lambda number=number: _gpu(number), "ask whoever runs this machine"))  # type: ignore[misc]
        places.append(place)
    for place in places:
        for precision in ("fp16", "bf16") if place != "cpu" else ("fp32",):
            findings.append(_sdpa(place, precision))
            findings += [_packed(place, precision, family) for family in ("esm2", "dnabert")]
    return findings


def _torch() -> Finding:
    import torch

    build = "CPU build" if torch.version.cuda is None else f"CUDA {torch.version.cuda} build"
    found = f"torch {torch.__version__} ({build}), {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Finding("torch", "ok", f"{found}, {torch.cuda.device_count()} GPU(s)")
    if shutil.which("nvidia-smi"):
        mend = (
            "install a CUDA build of torch"
            if torch.version.cuda is None
            else "see nvidia-smi: is the driver new enough for this CUDA? is CUDA_VISIBLE_DEVICES empty?"
        )
        return Finding("torch", "warning", f"{found}; nvidia-smi is here, but torch sees no GPU", mend)
    return Finding("torch", "ok", f"{found}; no GPU here: encoders run on the CPU")


def _gpu(number: int) -> Finding:
    import torch

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
    """Compare torch's attention with the formula, softmax(q kᵀ / √d) v, in float32.

    Args:
        place: device.
        precision: ``fp16``, ``bf16`` or ``fp32``, of the attention that is checked.

    Returns:
        The largest absolute difference; infinity if something is not a number.
    """
    import torch

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
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
        from vnp.doctor.engine import check_packed

        small = place == "cpu"
        result = check_packed(
            place,
            precision,
            family="dnabert" if family == "dnabert" else "esm2",
            sequences=12 if small else 48,
            longest=300 if small else 1500,
        )
        found = f"{result.kernel}: smallest cosine to padded float32 {result.min_cosine:.7f} ({result.seconds:.1f} s)"
        return Finding(about, "ok", found) if result.passes else Finding(about, "fails", found, mend)

    return guarded(about, look, mend)
