"""Weights: where they are, whether they are the right ones, how they come here, and the tensors in them."""
