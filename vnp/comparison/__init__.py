"""A against B: classifiers and feature sets on the same held-out records."""
