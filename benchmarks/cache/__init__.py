"""What ``--cache`` gives and costs, on reads of which many, some or none are there more than once."""

from benchmarks.cache.measure import main

__all__ = ["main"]
