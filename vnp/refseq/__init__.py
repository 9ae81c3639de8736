"""Genomes of NCBI's RefSeq release for a training set: which files, and how they come here whole."""
