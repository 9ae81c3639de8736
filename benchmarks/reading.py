"""Reading merged features with their checksums against the same without."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks import show
from benchmarks._commands import command, options
from vnp.features.layout import make_layout
from vnp.features.read import Features, open_features
from vnp.features.table import Records, Rows, Skipped, write_table

_GROUP = 100


def write_synthetic(path: Path, rows: int) -> Features:
    """Merged features of random numbers, float16, 1664 a row."""
    layout = make_layout("1664", dna=("dnabert_s", 768), protein=("fastesm2_650", 1280))
    count = -(-rows // _GROUP)
    number = np.arange(rows)
    names = [f"record{place}".encode() for place in range(count)]
    few = np.zeros(rows, np.int8)
    none = np.zeros(0, np.int8)
    write_table(
        path,
        rows=Rows(
            [f"record{row // _GROUP}_chunk_{row % _GROUP + 1}F1".encode() for row in range(rows)],
            number // _GROUP, (number % _GROUP + 1).astype(np.int32), few, number * 300, number * 300 + 300, few, few,
            [names[row // _GROUP] for row in range(rows)],
        ),
        records=Records(
            np.arange(count), names, np.full(count, 300 * _GROUP), np.full(count, _GROUP, np.int32),
            np.zeros(count, np.int32), few[:count], few[:count], names,
        ),
        skipped=Skipped(none.astype(np.int64), none.astype(np.int32), none, []),
        arrays={"features": np.random.default_rng(0).random((rows, layout.width), np.float32).astype(np.float16)},
        attributes={"kind": "features", "run": "", "layout": layout.to_json(), "chunk": 300, "provenance": "{}"},
    )  # fmt: skip
    return open_features(path)


def seconds(read: Callable[[Features], object], features: Features, repeats: int) -> float:
    """Processor seconds of this process, the least of some attempts: what others do on the machine does not count."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        read(features)
        found.append(time.process_time() - begun)
    return min(found)


@command("python -m benchmarks reading --rows 200000")
@click.option("--rows", type=click.IntRange(1, 100_000_000), default=200_000, help="Rows of 1664 numbers.")
@click.option("--repeats", type=click.IntRange(1, 1_000), default=5, help="The fastest of so many counts.")
@options.as_json
def main(rows: int, repeats: int, as_json: bool) -> None:
    """Time reading of features from the page cache: as train and export do, with checksums, and without.

    Without checksums every number is looked at instead, whether it is finite; with them it is as reduce checked it.
    """
    figures: dict[str, object] = {"rows": rows}
    with TemporaryDirectory() as folder:
        sealed = write_synthetic(Path(folder) / "features.h5", rows)
        plain = replace(sealed, checksums=None)
        readers: dict[str, Callable[[Features], object]] = {
            "windows": lambda features: sum(len(window) for window in features.windows()),
            "as stored": lambda features: sum(len(values) for _, values in features.stored_windows()),
            "ids": lambda features: len(features.ids()),
        }
        for name, read in readers.items():
            with_sums, without = (seconds(read, features, repeats) for features in (sealed, plain))
            figures[f"{name}, checksums, s"] = with_sums
            figures[f"{name}, none, s"] = without
            figures[f"{name}, cost, %"] = 100 * (with_sums / without - 1)
    show(figures, as_json)


if __name__ == "__main__":
    main()
