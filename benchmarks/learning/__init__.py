"""What ESM2 of small shapes learns from random weights, and what each kind of fine-tuning does for frames."""

from benchmarks.learning.study import main

__all__ = ["main"]
