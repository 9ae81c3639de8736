"""The way of the data through the files: how many a reader has to open to follow ``extract`` to the bytes on disk."""

from __future__ import annotations

from benchmarks.walk import walk_extract

MOST_MODULES = 40


def test_extract_runs_through_few_files() -> None:
    found = walk_extract()
    assert {"jobs.extract", "vnp.runs.making.pipeline", "vnp.features.merge"} <= found.functions.keys()
    assert len(found.functions) <= MOST_MODULES, sorted(found.functions)
