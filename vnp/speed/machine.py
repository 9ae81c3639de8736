"""What is measured on, for everybody who reads the figures later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

_BF16_FLAGS = ("avx512_bf16", "amx_bf16")
_LIBRARIES = ("torch", "triton", "transformers", "numpy", "tokenizers")


def describe_machine(device: torch.device) -> dict[str, object]:
    """Name the device, the versions and the date.

    Args:
        device: that is measured.

    Returns:
        JSON values.
    """
    versions = {name: _version(name) for name in _LIBRARIES}
    found: dict[str, object] = {
        "device": str(device),
        "name": device_name(device),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version for name, version in versions.items() if version},
        "cuda": torch.version.cuda,
        "command": " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["memory_gib"] = round(properties.total_memory / 2**30, 1)
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["gpus"] = torch.cuda.device_count()
    return found


def device_name(device: torch.device) -> str:
    """Name of the GPU, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def default_precisions(device: torch.device, *, few: bool = False) -> tuple[str, ...]:
    """The precisions worth measuring: half ones on a GPU; float32 on a CPU, and bfloat16 where it has units for it."""
    if device.type == "cuda":
        return ("fp16",) if few else ("fp16", "bf16")
    return ("fp32", "bf16") if cpu_has_bf16() and not few else ("fp32",)


def cpu_has_bf16(flags: str | None = None) -> bool:
    """Whether the CPU multiplies bfloat16 by itself.

    Args:
        flags: what the system says that the CPU can do; None asks it.
    """
    words = set((_cpu_line("flags") if flags is None else flags).split())
    return any(flag in words for flag in _BF16_FLAGS)


def _processor() -> str:
    return _cpu_line("model name") or platform.processor() or platform.machine()


def _cpu_line(name: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
