"""Measurements that users do not need; not in the wheel. ``python -m benchmarks NAME`` runs one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from vnp.errors import storage_error

# Beyond what anyone waits for, and far below what numbers of eight bytes hold.
MOST = 1_000_000_000


def show(figures: Mapping[str, object], as_json: bool) -> None:
    """Print a table of two columns, or JSON."""
    if as_json:
        click.echo(json.dumps(figures, indent=2))
        return
    widest = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name:<{widest}}  {_number(value):>12}")


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make a folder below another one, which is removed in the end; a disk that fails is a user's error."""
    try:
        with tempfile.TemporaryDirectory(prefix="vnp-benchmark-", dir=folder) as place:
            yield Path(place)
    except OSError as error:
        raise storage_error(error, f"writing below {folder}") from error


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
