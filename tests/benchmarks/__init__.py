"""Measurements of maintainers give the figures that they say."""
