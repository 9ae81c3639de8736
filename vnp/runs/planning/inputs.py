"""Makes sure that the inputs are still the files that were planned, before work is spent on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vnp.errors import ChangedInputError, InputError
from vnp.runs.request import PlannedInput, Request
from vnp.runs.shard import Shard
from vnp.sequences.reading import input_digest


def check_inputs(inputs: Sequence[PlannedInput]) -> None:
    """Compare files with what was planned: size and time of change; where only the time differs, the bytes.

    Raises:
        ChangedInputError: a file is gone or is another.
    """
    for entry in inputs:
        try:
            stat = Path(entry.path).stat()
        except OSError as error:
            raise ChangedInputError(
                f"cannot be read any more ({error.strerror}); put it back, or extract the run anew with --force",
                path=entry.path,
            ) from error
        if stat.st_size == entry.size and stat.st_mtime_ns == entry.mtime_ns:
            continue
        if stat.st_size != entry.size or input_digest(entry.path) != entry.sha256:
            raise ChangedInputError(
                f"has changed since the run was planned ({entry.size:,} bytes then, {stat.st_size:,} now); "
                "put it back, or extract the run anew with --force",
                path=entry.path,
            )


def check_tables(inputs: Sequence[PlannedInput]) -> None:
    """Make sure that the tables of datasets are still those that were planned. Tasks need not ask: what the tables tell
    is in the plan.

    Raises:
        ChangedInputError: a table is gone or is another.
    """  # noqa: D205 - one sentence of two lines
    for entry in inputs:
        if entry.dataset is None:
            continue
        try:
            found = input_digest(entry.dataset)
        except (OSError, InputError) as error:
            raise ChangedInputError(
                f"cannot be read any more ({error}); put it back, or extract the run anew with --force",
                path=entry.dataset,
            ) from error
        if found != entry.dataset_sha256:
            raise ChangedInputError(
                "is not the table that the run was planned with; put it back, or extract the run anew with --force",
                path=entry.dataset,
            )


def inputs_of(request: Request, shards: Sequence[Shard], number: int) -> Sequence[PlannedInput]:
    """The files that a shard reads."""
    first = shards[number].start.input
    last = len(request.inputs) - 1
    if number + 1 < len(shards):
        following = shards[number + 1].start
        at_start = following.record == 0 and following.chunk == 0
        last = following.input - 1 if at_start else following.input
    return request.inputs[first : last + 1]
