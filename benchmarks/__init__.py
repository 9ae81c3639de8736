"""Measurements for whoever works on vnp: `python -m benchmarks NAME`. Not part of the wheel."""
