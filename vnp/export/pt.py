"""Features as VirNucPro's ``.pt`` files.

VirNucPro gives a whole file one label, so there is one file a label. It keeps 10,000 rows in a file; so can this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vnp.errors import UsageError
from vnp.export.halves import Halves
from vnp.features.read import Features, Window
from vnp.files.memory import available_memory

NAMES = {1: "viral", 0: "host", -1: "unlabelled"}
OURS = re.compile(r"(viral|host|unlabelled)(_\d{5,})?_(merged|DNABERT_S|ESM)\.pt")
_ROWS_LIKE_VIRNUCPRO = 10_000
# A Python float and its place in a list, and its bytes in the pickle that torch builds in memory and then copies.
_LISTED_NUMBER = 32 + 2 * 10
_ID_BYTES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What goes into one file of each kind.

    Args:
        label: of all its rows, None for no label.
        name: start of the files' names.
        rows: numbers of its rows, rising.
    """

    label: int | None
    name: str
    rows: Int64[np.ndarray, "n"]

    def paths(self, folder: Path, *, parts: bool) -> list[Path]:
        """Its files."""
        kinds = ("merged", "DNABERT_S", "ESM") if parts else ("merged",)
        return [folder / f"{self.name}_{kind}.pt" for kind in kinds]


def plan_pieces(features: Features, rows_per_file: int | None) -> list[Piece]:
    """Say which rows go into which file.

    Args:
        features: what is exported.
        rows_per_file: the most rows of a file; None is one file a label.
    """
    labels = features.labels()
    pieces = []
    for label, name in NAMES.items():
        rows = np.flatnonzero(labels == label)
        stored = None if label < 0 else label
        if rows_per_file is None:
            if len(rows):
                pieces.append(Piece(stored, name, rows))
            continue
        for number, first in enumerate(range(0, len(rows), rows_per_file), start=1):
            pieces.append(Piece(stored, f"{name}_{number:05d}", rows[first : first + rows_per_file]))
    return pieces or [Piece(None, NAMES[-1], np.zeros(0, np.int64))]


def require_memory(features: Features, pieces: list[Piece], *, parts: bool) -> None:
    """Make sure that the largest file fits in memory, where torch must hold it.

    Raises:
        UsageError: it does not; the message says how to make smaller files.
    """
    available = available_memory()
    largest = max(len(piece.rows) for piece in pieces)
    dna = next(part.native for part in features.layout.parts if part.name == "dna")
    a_row = 4 * features.width + _ID_BYTES
    if parts:
        a_row += dna * (4 + _LISTED_NUMBER) + 4 * features.width
    needed = largest * a_row + (256 << 20)
    if available is not None and needed > available:
        smaller = min(_ROWS_LIKE_VIRNUCPRO, largest // 2)
        raise UsageError(
            f"a .pt file must fit in memory: {largest:,} rows need about {needed / 1e9:,.1f} GB, and "
            f"{available / 1e9:,.1f} GB are free. Make smaller files with --rows-per-file {max(1, smaller)}, or choose "
            "--format npz or parquet, which need little memory"
        )


def write_piece(
    features: Features, piece: Piece, folder: Path, halves: Halves | None, progress: Callable[[int], None]
) -> list[Path]:
    """Write one file, or three.

    Args:
        features: the source.
        piece: which rows.
        folder: where to.
        halves: where the DNA and protein files get their rows from; None writes none.
        progress: told how many rows were read since the last call.

    Returns:
        The files.

    Raises:
        FeatureError: the source is damaged.
        StorageError: the disk is full or cannot be written.
    """
    # Here, because this loads torch.
    from vnp.virnucpro import formats

    count = len(piece.rows)
    paths = piece.paths(folder, parts=halves is not None)
    values = np.empty((count, features.width), np.float32)
    dna = np.empty((count if halves else 0, halves.dna_width if halves else 0), np.float32)
    ids: list[str] = []
    for window in _windows(features, piece.rows):
        here = slice(len(ids), len(ids) + len(window))
        values[here] = window.values
        if halves is not None:
            dna[here] = halves.dna(window)
        ids += [name.decode() for name in window.columns.ids]
        progress(len(window))
    formats.save(formats.merged_content(ids, values, piece.label), paths[0])
    if halves is not None:
        protein: Float32[np.ndarray, "n width"] = values[:, features.layout.columns("protein")]
        formats.save(formats.dna_content(ids, dna), paths[1])
        formats.save(formats.protein_content(ids, np.ascontiguousarray(protein)), paths[2])
    return paths


def _windows(features: Features, rows: Int64[np.ndarray, "n"]) -> Iterator[Window]:
    """Windows of the rows, one run of consecutive rows after the other: labels belong to whole input files."""
    if not len(rows):
        return
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for run in np.split(rows, breaks):
        yield from features.windows(int(run[0]), int(run[-1]) + 1)
