"""vnp finds viral sequences: embeddings of DNA and six-frame protein, and a classifier on top."""

__version__ = "0.1.0"
