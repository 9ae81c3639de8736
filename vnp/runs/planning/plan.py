"""``plan.h5``: the cut of a run into shards of equal expected work, and what datasets say of their records.

A shard is a run of consecutive units (chunks), so that the merged file is in input order whatever the number of shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

import h5py
import numpy as np

from vnp.errors import RunError, storage_error
from vnp.features._image import whole_file
from vnp.files.durable import replacing
from vnp.runs.done.receipts import file_sha256
from vnp.runs.planning.selection import Selection, read_selections, write_selections
from vnp.runs.request import PlannedInput
from vnp.runs.shard import Position, Shard

SCHEMA = "vnp-plan/2"

SHARD_TYPE = np.dtype(
    [
        ("input", "<i4"),
        ("record", "<i8"),
        ("chunk", "<i8"),
        ("offset", "<i8"),
        ("line", "<i8"),
        ("units", "<i8"),
        ("rows", "<i8"),
        ("tokens", "<i8"),
        ("bases", "<i8"),
    ]
)


def write_plan(path: Path, shards: Sequence[Shard], selections: Mapping[int, Selection] | None = None) -> str:
    """Write ``plan.h5`` durably.

    Args:
        path: of the file.
        shards: the table.
        selections: what datasets say of their records, by the index of the input.

    Returns:
        SHA-256 of the file.
    """
    table = np.array([(*astuple(shard.start), *astuple(shard)[2:]) for shard in shards], SHARD_TYPE)
    with replacing(path) as temporary:
        with whole_file(temporary) as file:
            file.attrs["schema"] = SCHEMA
            file.create_dataset("shards", data=table, track_times=False)
            write_selections(file, selections or {})
        return file_sha256(temporary)


def read_plan(path: Path, sha256: str) -> list[Shard]:
    """Read ``plan.h5``.

    Raises:
        RunError: it is missing, or not the file that ``run.json`` names.
    """
    with _planned(path, sha256) as file:
        table = file["shards"][:]
    places = len(fields(Position))
    return [Shard(number, Position(*row[:places]), *row[places:]) for number, row in enumerate(table.tolist())]


def read_chosen(
    path: Path, sha256: str, inputs: Sequence[PlannedInput], shards: Sequence[Shard], number: int
) -> dict[int, Selection]:
    """Read from ``plan.h5`` what datasets say of the records of one shard.

    Args:
        path: of the plan.
        sha256: of the plan.
        inputs: all files of the run.
        shards: all shards of the run.
        number: of the shard.

    Returns:
        By the index of the input; empty without datasets.

    Raises:
        RunError: as ``read_plan``.
    """
    if all(entry.dataset is None for entry in inputs):
        return {}
    with _planned(path, sha256) as file:
        return read_selections(file, inputs, shards, number)


@contextmanager
def _planned(path: Path, sha256: str) -> Iterator[h5py.File]:
    """The open plan, once it is sure that it is the planned one."""
    try:
        found = file_sha256(path)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing; extract with --force starts the run anew") from error
    except OSError as error:
        raise storage_error(error, f"reading {path}") from error
    if found != sha256:
        raise RunError(f"{path} is not the plan that run.json names; extract with --force starts the run anew")
    with h5py.File(path, "r", locking=False) as file:
        yield file
