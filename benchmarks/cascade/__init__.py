"""What ``predict --cascade`` settles and changes, on mixtures of genomes."""

from benchmarks.cascade.measure import main

__all__ = ["main"]
