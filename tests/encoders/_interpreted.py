"""Runs Triton's kernels in its interpreter, on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def interpreted(code: str) -> None:
    """Run Python code whose kernels are interpreted, in a process of its own: Triton decides that at import."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    whole = f"from tests.encoders._interpreted import mend; mend(); {code}"
    done = subprocess.run([sys.executable, "-c", whole], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def mend() -> None:
    """Triton's interpreter makes an int of an array with one element, which numpy 2.4 no longer does."""
    import torch
    from triton.runtime import interpreter

    plain = interpreter._patch_lang_tensor

    def patched(tensor: type, *scope: Any) -> None:  # since 3.6 there is something that takes patches back
        plain(tensor, *scope)
        put = scope[0].set_attr if scope else setattr
        put(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
    torch.set_num_threads(1)
