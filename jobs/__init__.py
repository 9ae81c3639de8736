"""The commands: `python -m jobs.NAME`. Nothing in `vnp` imports from here."""
