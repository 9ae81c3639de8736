"""Reads sequences, cuts them into chunks, and translates the chunks in six frames."""
