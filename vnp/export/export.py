"""Features in the formats of other tools. Every format holds float32, whatever the run stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import RunExistsError, UsageError, storage_error
from vnp.export.halves import Halves
from vnp.export.npz import write_npz
from vnp.export.parquet import require_pyarrow, write_parquet
from vnp.export.pt import OURS, plan_pieces, require_memory, write_piece
from vnp.features.read import Features
from vnp.files.durable import sync_folder

FORMATS = ("pt", "npz", "parquet")
_WRITERS = {"npz": write_npz, "parquet": write_parquet}
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Args:
        paths: the files.
        rows: rows over all of them.
        width: numbers in a row.
    """

    paths: tuple[Path, ...]
    rows: int
    width: int


def export(
    features: Features,
    kind: str,
    folder: Path,
    *,
    parts: bool = False,
    rows_per_file: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] = lambda _rows: None,
) -> Exported:
    """Write features in another format.

    ``npz`` and ``parquet`` stream and need little memory; they become ``features.npz`` and ``features.parquet``. A
    file of ``pt`` must fit in memory; there is one a label: ``viral_merged.pt``, ``host_merged.pt`` and
    ``unlabelled_merged.pt``, because VirNucPro gives all rows of a file one label.

    Args:
        features: from ``open_features``.
        kind: ``pt``, ``npz`` or ``parquet``.
        folder: where the files go.
        parts: with ``pt``, write the DNA and protein embeddings too (``*_DNABERT_S.pt``, ``*_ESM.pt``).
        rows_per_file: with ``pt``, the most rows of a file (``viral_00001_merged.pt`` and so on).
        force: write over what is there.
        progress: told how many rows were written since the last call.

    Raises:
        UsageError: an argument does not fit the format, a ``.pt`` file would not fit in memory, or pyarrow is
            missing.
        RunExistsError: a file is there already.
        RunError: ``parts`` needs shards that are not there.
        FeatureError: the features are damaged.
        StorageError: the disk is full or cannot be written.
    """
    _check(kind, parts, rows_per_file)
    if kind == "pt":
        return _export_pt(features, folder, parts, rows_per_file, force, progress)
    if kind == "parquet":
        require_pyarrow()
    target = folder / f"features.{kind}"
    _require_free([target] if target.exists() else [], force)
    _make(folder)
    _WRITERS[kind](features, target, progress)
    return Exported((target,), features.rows, features.width)


def _check(kind: str, parts: bool, rows_per_file: int | None) -> None:
    if kind not in FORMATS:
        raise UsageError(f"no format is called {kind!r}; use one of {', '.join(FORMATS)}")
    if kind != "pt" and (parts or rows_per_file is not None):
        raise UsageError("--parts and --rows-per-file belong to --format pt")
    if rows_per_file is not None and rows_per_file < 1:
        raise UsageError(f"--rows-per-file must be at least 1, not {rows_per_file}")


def _export_pt(
    features: Features,
    folder: Path,
    parts: bool,
    rows_per_file: int | None,
    force: bool,
    progress: Callable[[int], None],
) -> Exported:
    pieces = plan_pieces(features, rows_per_file)
    before = sorted(path for path in folder.glob("*.pt") if OURS.fullmatch(path.name)) if folder.is_dir() else []
    _require_free(before, force)
    require_memory(features, pieces, parts=parts)
    halves = Halves(features) if parts else None
    _make(folder)
    paths: list[Path] = []
    for piece in pieces:
        paths += write_piece(features, piece, folder, halves, progress)
    # A reader takes every file of the folder, so what an earlier export left must not stay beside these.
    for path in set(before) - set(paths):
        path.unlink()
    sync_folder(folder)
    return Exported(tuple(paths), features.rows, features.width)


def _require_free(there: list[Path], force: bool) -> None:
    if there and not force:
        names = ", ".join(map(str, there[:_NAMED])) + (" …" if len(there) > _NAMED else "")
        raise RunExistsError(f"{names}: already there. Choose another --out, or --force to write anew")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"making {folder}") from error
