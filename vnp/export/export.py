"""Features in the formats of other tools. Every format holds float32, whatever the run stored.

``.npz`` and Parquet are written in windows: numpy can only save an array that it holds in memory.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vnp.errors import FeatureError, UsageError, storage_error
from vnp.export.pt import OURS, WholeDna, plan_pieces, require_memory, write_piece
from vnp.features.read import Features, Window
from vnp.files.claims import alone, make_folder, require_free
from vnp.files.durable import replacing, require_unread, sync_folder, temporary_name, write_text
from vnp.files.extras import require_extra
from vnp.files.hashing import file_sha256
from vnp.sequences.frames import FRAME_TEXTS

FORMATS = ("pt", "npz", "parquet")
_MOST_PADDING = 1 << 30
_HALF = ".pt-unfinished"
# Columns of numbers as an .npz names them, and their types in Parquet.
_NPZ_NUMBERS = {"labels": "label", **{name: name for name in ("split", "record", "chunk", "start", "end")}}
_NPZ_TEXTS = {"ids": "ids", "groups": "group"}
_NUMBERS = {"record": "int64", "chunk": "int32", "start": "int64", "end": "int64", "label": "int8", "split": "int8"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    paths: tuple[Path, ...]  # the files
    rows: int  # rows over all of them
    width: int  # numbers in a row


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

    ``npz`` and ``parquet`` stream and need little memory; they become ``features.npz`` and ``features.parquet``. A file
    of ``pt`` must fit in memory; there is one a label: ``viral_merged.pt``, ``host_merged.pt`` and
    ``unlabelled_merged.pt``, because VirNucPro gives all rows of a file one label. Beside them stands their SHA-256, as
    ``sha256sum -c`` reads it, in ``features.npz.sha256``, ``features.parquet.sha256`` or ``pt.sha256``.

    Args:
        parts: with ``pt``, write the DNA and protein embeddings too (``*_DNABERT_S.pt``, ``*_ESM.pt``).
        rows_per_file: with ``pt``, the most rows of a file (``viral_00001_merged.pt`` and so on).
        force: write over what is there.
        progress: told how many rows were written since the last call.

    Raises:
        UsageError: an argument does not fit the format, a ``.pt`` file would not fit in memory, or pyarrow is missing.
        RunExistsError: a file is there already.
        RunError: ``parts`` needs shards that are not there.
        FeatureError: the features are damaged.
        StorageError: the disk is full or cannot be written.
    """
    _check(kind, parts, rows_per_file)
    if kind == "pt":
        return _export_pt(features, folder, parts, rows_per_file, force, progress)
    if kind == "parquet":
        require_extra("parquet", "Parquet", ", or choose --format npz")
    target = folder / f"features.{kind}"
    require_free([target], force=force)
    make_folder(folder)
    with alone(folder, "export", [target.name]):
        require_free([target], force=force)
        (write_npz if kind == "npz" else write_parquet)(features, target, progress)
        _write_sums(folder, target.name, [target])
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
    require_free(_standing(folder), force=force)
    require_memory(features, pieces, parts=parts)
    whole = WholeDna(features) if parts else None
    make_folder(folder)
    with alone(folder, "export", ["pt"]):
        require_free(_standing(folder), force=force)
        # A reader takes every file of the folder, so they get their names when all of them are written.
        stage = temporary_name(folder / "pt")
        try:
            make_folder(stage)
            names = [path.name for piece in pieces for path in write_piece(features, piece, stage, whole, progress)]
            _publish(stage, folder, names)
        except OSError as error:
            raise storage_error(error, f"writing {folder}") from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return Exported(tuple(folder / name for name in names), features.rows, features.width)


def _ours(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.pt") if OURS.fullmatch(path.name)) if folder.is_dir() else []


def _standing(folder: Path) -> list[Path]:
    """The files of an earlier export; what one left that was killed while they got their names is none."""
    return [] if (folder / _HALF).exists() else _ours(folder)


def _publish(stage: Path, folder: Path, names: Sequence[str]) -> None:
    """Put finished files in place of all that stand there; while that goes on, a folder beside them says so."""
    for path in _ours(folder):
        require_unread(path)
    half = folder / _HALF
    shutil.rmtree(half, ignore_errors=True)
    stage.rename(half)
    for path in _ours(folder):
        path.unlink()
    for name in names:
        (half / name).rename(folder / name)
    _write_sums(folder, "pt", [folder / name for name in names])
    half.rmdir()
    sync_folder(folder)


def _write_sums(folder: Path, name: str, paths: Sequence[Path]) -> None:
    write_text(folder / f"{name}.sha256", "".join(f"{file_sha256(path)}  {path.name}\n" for path in paths))


def write_npz(features: Features, path: Path, progress: Callable[[int], None]) -> None:
    """Write arrays that ``numpy.load`` reads without pickles.

    Raises:
        FeatureError: the source is damaged, or its ids are too long for numpy's strings of one width.
        StorageError: the disk is full or cannot be written.
    """
    widths = {name: _longest(features, column) for name, column in _NPZ_TEXTS.items()}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "x", allowZip64=True) as archive:
        for name, column in _NPZ_TEXTS.items():
            dtype = np.dtype(f"<U{widths[name]}")
            texts = (np.array(window, dtype) for window in features.text_windows(column))
            _add(archive, name, dtype, (features.rows,), texts)
        _add(archive, "features", np.dtype("<f4"), (features.rows, features.width), _values(features, progress))
        for name, column in _NPZ_NUMBERS.items():
            dtype = next(features.number_windows(column), np.zeros(0, np.int64)).dtype.newbyteorder("<")
            _add(archive, name, dtype, (features.rows,), features.number_windows(column))
        names = np.array(FRAME_TEXTS, "<U2")
        _add(archive, "frame", names.dtype, (features.rows,), (names[w] for w in features.number_windows("frame")))
        layout = np.array(features.layout.to_json())
        _add(archive, "layout", layout.dtype, (), [layout])


def _values(features: Features, progress: Callable[[int], None]) -> Iterator[np.ndarray]:
    for window in features.windows():
        yield window.values
        progress(len(window))


def _longest(features: Features, column: str) -> int:
    """Letters of the longest text."""
    longest = max((len(text) for texts in features.text_windows(column) for text in texts), default=1) or 1
    padded = 4 * longest * features.rows
    if padded > max(_MOST_PADDING, 4 * features.width * features.rows):
        raise FeatureError(
            f"{features.path}: one of its {column} has {longest:,} letters, and numpy would pad all to as many "
            f"({padded / 1e9:,.0f} GB): export to parquet, or shorten the names of the records"
        )
    return longest


def _add(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], windows: Iterable[np.ndarray]
) -> None:
    # A ZipInfo made here has a fixed date, so that the same features give the same bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for window in windows:
            member.write(np.ascontiguousarray(window, dtype).tobytes())


def write_parquet(features: Features, path: Path, progress: Callable[[int], None]) -> None:
    """Write one row a frame, a window a row group; layout and provenance are in the file's key-value metadata.

    Raises:
        UsageError: pyarrow is not installed.
        FeatureError: the source is damaged.
        StorageError: the disk is full or cannot be written.
    """
    import pyarrow.parquet as parquet

    schema = _schema(features)
    with (
        replacing(path) as temporary,
        # Widened float16 has 13 zero bits in each number; splitting bytes into streams lets zstd find them.
        parquet.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=1,
            write_page_checksum=True,
            use_dictionary=["frame", "group"],
            column_encoding={"features.list.element": "BYTE_STREAM_SPLIT"},
            write_statistics=[name for name in schema.names if name != "features"],
        ) as writer,
    ):
        for window in features.windows():
            writer.write_batch(_batch(window, schema), row_group_size=len(window))
            progress(len(window))


def _schema(features: Features) -> Any:
    import pyarrow as arrow

    fields = {name: getattr(arrow, kind)() for name, kind in _NUMBERS.items()}
    texts = {name: arrow.string() for name in ("id", "frame", "group")}
    values = {"features": arrow.list_(arrow.float32(), features.width)}
    order = ("id", "record", "chunk", "frame", "start", "end", "label", "split", "group", "features")
    types = {**fields, **texts, **values}
    return arrow.schema(
        [arrow.field(name, types[name], nullable=False) for name in order],
        metadata={
            "vnp.layout": features.layout.to_json(),
            "vnp.chunk": str(features.chunk),
            "vnp.provenance": json.dumps(features.provenance, sort_keys=True),
        },
    )


def _batch(window: Window, schema: Any) -> Any:
    import pyarrow as arrow

    columns = window.columns
    values = arrow.array(np.ascontiguousarray(window.values).reshape(-1))
    data = {
        "id": arrow.array([text.decode() for text in columns.ids]),
        "frame": arrow.array([FRAME_TEXTS[frame] for frame in columns.frame.tolist()]),
        "group": arrow.array([text.decode() for text in columns.group]),
        "features": arrow.FixedSizeListArray.from_arrays(values, type=schema.field("features").type),
        **{name: arrow.array(getattr(columns, name)) for name in _NUMBERS},
    }
    return arrow.RecordBatch.from_arrays([data[name] for name in schema.names], schema=schema)
