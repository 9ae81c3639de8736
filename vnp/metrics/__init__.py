"""Metrics of two-class predictions, with intervals over groups."""
