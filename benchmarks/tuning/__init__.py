"""``finetune`` of an ESM2 model: right gradients on a GPU, speed, and memory."""

from benchmarks.tuning.measure import main

__all__ = ["main"]
