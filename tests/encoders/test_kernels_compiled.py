"""The kernels compile for GPUs that are not here, fit into them, and are compiled no more often than they differ."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BOTH = ("esm2_650m:joint", "dnabert_s:joint")
PLAIN = ("esm2_650m:plain", "dnabert_s:plain", "esm2_650m:tuned")
# Shared memory that a program may have, in KiB: CUDA C++ Programming Guide, table of compute capabilities.
CARDS = {
    "A100": (80, 163, PLAIN),
    "L40S": (89, 99, PLAIN),
    "H100": (90, 227, (*BOTH, "esm2_650m:fp8", "esm2_650m:tuned")),
    "B200": (100, 227, (*BOTH, "esm2_650m:fp8", "esm2_650m:tuned")),
    "RTX Blackwell": (120, 99, PLAIN),
}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize("card", CARDS)
def test_kernels_compile_and_fit(card: str, tmp_path: Path) -> None:
    from vnp.encoders.kernels.triton_steps import SHARED_MEMORY

    capability, room, models = CARDS[card]
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.encoders._compiled", str(capability), *models]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[str, int]]] = json.loads(done.stdout)
    assert set(found) == set(models)
    for model, compiled in found.items():
        assert compiled
        for kernel, shared in compiled:
            assert shared <= room * 1024, (model, kernel)
            assert shared <= SHARED_MEMORY, (model, kernel)
        times = Counter(kernel for kernel, _ in compiled)
        # One for all numbers of rows; of 8-bit products one for each shape.
        assert times["triton_steps._linear_gelu"] == (1 if model.endswith("joint") else 0)
        assert times["fp8._linear"] == (4 if model.endswith("fp8") else 0)
        assert times["triton_attention._attend"] <= 3
        if model.endswith("tuned"):
            assert (times["turned._into_queries"], times["turned._into_keys"]) == (1, 3)


def test_products_of_our_own_need_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from vnp.encoders.kernels.fused import _has_tiles

    for capability, room, fits in (
        ((9, 0), 227, True),
        ((10, 0), 227, True),
        ((12, 0), 99, False),
        ((8, 0), 163, False),
    ):
        card = SimpleNamespace(shared_memory_per_block_optin=room * 1024)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, of=capability: of)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, of=card: of)
        assert _has_tiles(torch.device("cuda")) is fits
    # A torch that does not say.
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert _has_tiles(torch.device("cuda"))
