"""Viral regions against what is known: phages put into bacterial genomes, and prophages that were annotated."""

from benchmarks.regions.measure import main

__all__ = ["main"]
