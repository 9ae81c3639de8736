"""Small models, as for the tests of speed."""

from tests.speed.conftest import dna, one_thread, protein

__all__ = ["dna", "one_thread", "protein"]
