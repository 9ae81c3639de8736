"""Writes a training set: chunks, table and data card."""
