"""Tasks that share the shards of a run: how long large runs take, and what is lost when they are killed."""

from benchmarks.elastic.simulation import main

__all__ = ["main"]
