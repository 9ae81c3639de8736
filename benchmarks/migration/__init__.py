"""``slurm/migration.sh`` from end to end on this machine, with random weights and the bundled genomes."""

from benchmarks.migration.measure import main

__all__ = ["main"]
