"""The exact GELU, x * Phi(x) (Hendrycks & Gimpel, 2016), as both models publish it."""

from __future__ import annotations

import torch
from torch.nn import functional


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Apply GELU to each number.

    Torch's own kernel on CPU rounds differently at the ends of what each thread works on, so a number would
    depend on its place in the batch; its error function does not.

    Args:
        x: any shape.

    Returns:
        The same shape; on CPU in float32, each number depends on its own input alone.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return functional.gelu(x)
    found: torch.Tensor = (x * 0.5**0.5).erf_().add_(1.0).mul_(x).mul_(0.5)
    return found
