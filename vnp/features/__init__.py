"""Feature rows: their layout, the projection of the DNA half, the files that hold them, merging and reading."""

FEATURES_NAME = "features.h5"
"""Name of merged features, in the folder of their run."""
RUN_NAME = "run.json"
"""Name of the file that makes a folder a run."""
