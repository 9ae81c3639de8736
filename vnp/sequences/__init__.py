"""Reads sequences, cuts them into chunks, and translates the chunks in six frames.

``reading`` and ``samplesheet`` take input apart, ``names`` finds ids that occur twice, ``chunks`` cuts, ``frames``
translates, and ``benchmark`` times it.
"""
