"""How far calls of a network of ``finetune`` can be trusted: errors of each level, and mixtures of many prevalences."""

from benchmarks.trust.measure import main

__all__ = ["main"]
