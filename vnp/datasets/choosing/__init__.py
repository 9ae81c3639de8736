"""Chooses the chunks of a training set, and deals units out to its parts."""
