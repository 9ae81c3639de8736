"""Features as one Parquet file: a row for each frame, the features in one column of fixed-size lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vnp.errors import UsageError
from vnp.features.read import Features, Window
from vnp.files.durable import replacing
from vnp.sequences.frames import FRAME_NAMES

_NUMBERS = {"record": "int64", "chunk": "int32", "start": "int64", "end": "int64", "label": "int8", "split": "int8"}


def require_pyarrow() -> None:
    """Make sure that Parquet can be written here.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow, which is not installed: pip install 'vnp[parquet]', or choose --format npz"
        ) from error
    del pyarrow


def write_parquet(features: Features, path: Path, progress: Callable[[int], None]) -> None:
    """Write the columns of the rows, with ``id`` for ``ids``, and ``features``.

    Layout and provenance are in the file's key-value metadata.

    Args:
        features: what to write; one window becomes one row group.
        path: of the new file.
        progress: told how many rows were written since the last call.

    Raises:
        UsageError: pyarrow is not installed.
        FeatureError: the source is damaged.
        StorageError: the disk is full or cannot be written.
    """
    require_pyarrow()
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
            use_dictionary=["frame", "group"],
            column_encoding={"features.list.element": "BYTE_STREAM_SPLIT"},
            write_statistics=[name for name in schema.names if name != "features"],
        ) as writer,
    ):
        for window in features.windows():
            writer.write_batch(_batch(window, schema), row_group_size=len(window))
            progress(len(window))


def _schema(features: Features) -> Any:
    import json

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
        "frame": arrow.array([FRAME_NAMES[frame] for frame in columns.frame.tolist()]),
        "group": arrow.array([text.decode() for text in columns.group]),
        "features": arrow.FixedSizeListArray.from_arrays(values, type=schema.field("features").type),
        **{name: arrow.array(getattr(columns, name)) for name in _NUMBERS},
    }
    return arrow.RecordBatch.from_arrays([data[name] for name in schema.names], schema=schema)
