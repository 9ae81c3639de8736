"""Negative controls of a network of ``finetune``, on what its training kept for the test."""

from benchmarks.native_controls.measure import main

__all__ = ["main"]
