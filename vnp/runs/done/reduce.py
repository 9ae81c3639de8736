"""Reduce: every shard is checked, then all are merged in input order into ``features.h5``.

Beside it stands ``skipped.tsv``: what has no row, for people to read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vnp.errors import DamagedShardError, FeatureError, RunExistsError, UsageError, storage_error
from vnp.features.layout import NATIVE_DNA, PROJECTED_DNA, FeatureLayout, make_layout
from vnp.features.merge import Merged, merge
from vnp.features.read import open_features
from vnp.features.split import part_counts
from vnp.features.table import Records, Skipped, read_records, read_skipped, windows
from vnp.files.claims import alone
from vnp.files.durable import remove_temporaries, replacing
from vnp.files.tables import open_text_table, table_text
from vnp.runs.done.crate import NAME as CRATE
from vnp.runs.done.crate import Action, Item, inputs_of, parameters_of, write_crate
from vnp.runs.done.receipts import (
    NAMED,
    Receipt,
    made_again,
    make_with,
    require_all_sealed,
    require_same_encoders,
    sealed,
    withdraw,
)
from vnp.runs.planning.plan import read_plan
from vnp.runs.request import Run, shard_name, versions
from vnp.runs.units import SKIPPED_COLUMNS, skipped_lines

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Reduced:
    """What reduce made."""

    path: Path
    rows: int
    layout: FeatureLayout
    skipped: dict[str, int]  # entries of ``skipped.tsv`` by reason
    fresh: bool  # False if the same file was there already
    # rows in each part of the split that came with the data, ``none`` those without; empty without a split
    parts: dict[str, int]


def reduce_run(
    run: Run, kind: str, *, force: bool = False, progress: Callable[[int], None] = lambda _rows: None
) -> Reduced:
    """Check and merge a run.

    ``kind`` is the layout, ``1664`` or ``full``; ``progress`` is told how many rows were merged since the last call.

    Raises:
        UsageError: the run keeps no rows.
        IncompleteRunError: shards are missing.
        DamagedShardError: a shard or receipt is not what was written.
        FeatureError: shards do not fit together.
        RunExistsError: other features are there.
        StorageError: the disk is full or cannot be written.
    """
    if not run.request.keeps_rows:
        raise UsageError(
            f"{run.paths.root} keeps scores and no rows to merge; predict keeps them with --keep-embeddings"
        )
    shards = read_plan(run.paths.plan, run.request.plan_sha256)
    receipts = require_all_sealed(run, shards)
    _require_alike(run, receipts)
    native = {molecule: (choice.name, choice.width) for molecule, choice in run.request.encoders.items()}
    layout = make_layout(kind, dna=native["dna"], protein=native.get("protein"))
    provenance = _provenance(run, receipts)
    with alone(run.paths.root, "reduce", [run.paths.features.name, run.paths.skipped.name]):
        if run.paths.features.exists() and not force:
            reduced = _already(run, kind, layout, provenance, progress)
        else:
            reduced = _merge(run, receipts, layout, provenance, progress)
        # One that was killed behind its merging left none.
        if reduced.fresh or not (run.paths.root / CRATE).exists():
            write_crate(run.paths.root, _action(run, kind, provenance))
        tidy(run)
    return reduced


def _merge(
    run: Run,
    receipts: Sequence[Receipt],
    layout: FeatureLayout,
    provenance: dict[str, Any],
    progress: Callable[[int], None],
) -> Reduced:
    # Shards of an earlier version have no checksums of their own.
    if damaged := [one for one in receipts if not one.content and sealed(run, one.shard, full=True) is None]:
        raise _damaged(run, damaged)
    with replacing(run.paths.features) as temporary:
        try:
            merged = merge(
                [run.paths.shard(receipt.shard) for receipt in receipts],
                temporary,
                arrays={"features": [part.source for part in layout.parts]},
                attributes={
                    "kind": "features",
                    "run": run.request.digest,
                    "layout": layout.to_json(),
                    "chunk": run.request.chunk,
                    "provenance": json.dumps(provenance, sort_keys=True),
                },
                contents=[receipt.content for receipt in receipts],
                progress=progress,
            )
            _require_whole(run, receipts, merged)
            parts = _reopen(temporary, merged, layout)
            write_skipped(run, temporary)
        except (FeatureError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            explained = _explained(run, receipts, error)
            if explained is error:
                raise
            raise explained from error
    return Reduced(run.paths.features, merged.rows, layout, merged.skipped, fresh=True, parts=parts)


def _require_alike(run: Run, receipts: Sequence[Receipt]) -> None:
    """Widths and dtypes are the planned ones, encoders the same in all."""
    require_same_encoders(run, receipts)
    leader = receipts[0]
    widths = {molecule: choice.width for molecule, choice in run.request.encoders.items()}
    if "protein" in widths and widths["dna"] == NATIVE_DNA:
        widths["dna_projected"] = PROJECTED_DNA
    planned = {"widths": widths, "dtype": run.request.store, "projections": leader.projections}
    for receipt in receipts:
        for what, expected in planned.items():
            if (found := getattr(receipt, what)) != expected:
                wrong = f"{shard_name(receipt.shard)} has the {what} {found}, expected {expected}."
                raise FeatureError(f"{wrong}\n{made_again(run, receipt)}")


def _provenance(run: Run, receipts: Sequence[Receipt]) -> dict[str, Any]:
    request = run.request
    return {
        "run": request.digest,
        "inputs": [asdict(entry) for entry in request.inputs],
        "encoders": receipts[0].encoders,
        "store": request.store,
        "devices": sorted({device for receipt in receipts for device in receipt.devices}),
        "shards": {receipt.shard: receipt.sha256 for receipt in receipts},
        "planned_with": request.versions,
        "reduced_with": versions(),
    }


def _action(run: Run, kind: str, provenance: dict[str, Any]) -> Action:
    """What extract and reduce did, for the run's crate."""
    made = [
        Item(run.paths.features, size=run.paths.features.stat().st_size, what="rows of numbers"),
        Item(run.paths.skipped, what="what has no row"),
    ]
    own = {
        **parameters_of(run),
        "layout": kind,
        "store": run.request.store,
        "devices": ", ".join(provenance["devices"]),
    }
    words = "Sequences are cut into chunks, embedded and merged into rows"
    return Action("reduce", words, inputs_of(run), made, own, run.request.created)


def _already(
    run: Run, kind: str, layout: FeatureLayout, provenance: dict[str, Any], progress: Callable[[int], None]
) -> Reduced:
    """The features that are there, if they are these, and all of them as they were written."""
    path = run.paths.features
    anew = f"python -m jobs.reduce {shlex.quote(str(run.paths.root))} --layout {kind} --force"
    try:
        found = open_features(path)
        found.check(progress)
    except FeatureError as error:
        raise RunExistsError(
            f"{path} is there and is damaged, or was made otherwise. To merge the same shards anew: {anew}"
        ) from error
    stored = found.provenance
    shards = json.loads(json.dumps(provenance["shards"]))
    if (found.layout, stored.get("run"), stored.get("shards")) != (layout, provenance["run"], shards):
        raise RunExistsError(f"{path} is there and was made otherwise. To merge the same shards anew: {anew}")
    if not _skipped_as_written(run):
        raise RunExistsError(
            f"{path} is there, but {run.paths.skipped.name} beside it is not, or not as it was written. To merge the "
            f"same shards anew: {anew}"
        )
    reasons = Counter(reason.decode() for skipped in found.skipped_windows() for reason in skipped.reason)
    return Reduced(path, found.rows, layout, dict(reasons), fresh=False, parts=part_counts(found.splits()))


def _damaged(run: Run, receipts: Sequence[Receipt]) -> DamagedShardError:
    """The error for shard files whose bytes have changed; they count as missing from now on."""
    for receipt in receipts:
        withdraw(run, receipt.shard)
    lines = [
        f"{run.paths.shard(receipt.shard)} is not the file that its receipt names: its bytes have changed"
        for receipt in receipts[:NAMED]
    ]
    return DamagedShardError("\n".join([*lines, make_with(run, len(receipts))]))


def _explained(run: Run, receipts: Sequence[Receipt], error: Exception) -> Exception:
    """What lies behind an error while merging: most often a damaged file, which then must not be trusted."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return error
    if damaged := [one for one in receipts if sealed(run, one.shard, full=True) is None]:
        return _damaged(run, damaged)
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if not isinstance(error, FeatureError):
        return FeatureError(f"the shards of {run.paths.root} cannot be merged: {error}")
    for receipt in receipts:
        if error.path == str(run.paths.shard(receipt.shard)):
            withdraw(run, receipt.shard)
            return FeatureError(f"{error}\n{make_with(run, 1)}")
    return error


def _require_whole(run: Run, receipts: Sequence[Receipt], merged: Merged) -> None:
    """Every id that was written is there, and every input record and planned row."""
    for receipt, found in zip(receipts, merged.source_ids_sha256, strict=True):
        if found != receipt.ids_sha256:
            raise FeatureError("its ids are not those that its receipt names", path=run.paths.shard(receipt.shard))
    totals = run.request.totals
    if (merged.rows, merged.records) != (totals.rows, totals.records):
        raise FeatureError(
            f"the shards hold {merged.rows:,} rows of {merged.records:,} records, the plan has {totals.rows:,} "
            f"rows of {totals.records:,}; extract the run anew with --force"
        )


def _reopen(path: Path, merged: Merged, layout: FeatureLayout) -> dict[str, int]:
    """Look at what was written; returns the rows in each part of the split."""
    with h5py.File(path, "r", locking=False) as file:
        shape = file["features"].shape
        if shape != (merged.rows, layout.width):
            raise FeatureError(f"{path} has features of {shape}, expected {(merged.rows, layout.width)}")
        return part_counts(file["split"][:])


def write_skipped(run: Run, features: Path) -> None:
    """Write every record, chunk or frame that has no row, in input order, with its reason.

    ``features`` is its merged features, be they under a temporary name.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    with open_text_table(run.paths.skipped, SKIPPED_COLUMNS) as file:
        file.writelines(_skipped_lines(run, features))


def _skipped_as_written(run: Run) -> bool:
    """Whether ``skipped.tsv`` is there and says what the features say."""
    try:
        with run.paths.skipped.open("rb") as file:
            lines = chain([table_text([SKIPPED_COLUMNS])], _skipped_lines(run, run.paths.features))
            return all(file.read(len(line)) == line for line in map(str.encode, lines)) and not file.read(1)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(error, f"reading {run.paths.skipped}") from error


def _skipped_lines(run: Run, features: Path) -> Iterator[str]:
    with h5py.File(features, "r", locking=False) as file:
        for records, skipped in _windows(file):
            yield skipped_lines(run.request.inputs, records, skipped)


def _windows(file: h5py.File) -> Iterator[tuple[Records, Skipped]]:
    """Skipped entries with the records that they speak of, a bounded number of either at a time."""
    of_entry = file["skipped/record"]
    ordinals = file["records/ordinal"]
    for entries in windows(len(of_entry)):
        asked = of_entry[entries]
        # Records of the file are consecutive, so that an ordinal tells the place.
        first, last = int(asked[0] - ordinals[0]), int(asked[-1] - ordinals[0])
        for places in windows(last + 1, first):
            low, high = np.searchsorted(asked - ordinals[0], (places.start, places.stop))
            if low < high:
                yield read_records(file, places), read_skipped(file, slice(entries.start + low, entries.start + high))


def tidy(run: Run) -> None:
    """Remove what tasks that were killed left of a run whose shards are all done.

    A task that still works on one of them finds its files gone, sees the receipt, and leaves.
    """
    # What cannot be removed does no harm.
    with contextlib.suppress(OSError):
        for folder in (run.paths.root, run.paths.shards, run.paths.receipts):
            remove_temporaries(folder)
        for folder in run.paths.parts.glob("shard-*"):
            shutil.rmtree(folder, ignore_errors=True)
        for receipt in run.paths.receipts.glob("*.withdrawn"):
            receipt.unlink(missing_ok=True)
