"""Other programs that find viruses beside vnp, on the same windows and phages."""

from benchmarks.peers.measure import main

__all__ = ["main"]
