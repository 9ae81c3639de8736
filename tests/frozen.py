"""Comparing with what is frozen in ``tests/freeze``, or freezing it anew.

Hashed is what is exact on every machine: text, whole numbers, and the spectra of ``kmer``, which are whole numbers
scaled by square root and division, both rounded exactly. What comes from sums of fractions, as the projection of the
DNA half and all scores, is compared with a tolerance.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FROZEN = Path(__file__).resolve().parent / "freeze"
UPDATE = os.environ.get("VNP_FREEZE_UPDATE") == "1"

Json = Any


def equal(name: str, found: str) -> None:
    """Compare text with the frozen one, or freeze it."""
    path = FROZEN / name
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found, encoding="utf-8")
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    if found != expected:
        pair = expected.splitlines(), found.splitlines()
        lines = [*difflib.unified_diff(*pair, f"frozen {name}", "now", lineterm="", n=1)]
        pytest.fail("\n".join(lines[:60]), pytrace=False)


def close(name: str, found: Json, tolerance: float = 1e-3) -> None:
    """The same for what ``json`` can hold, where numbers with a fraction may differ a little."""
    path = FROZEN / name
    frozen = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not UPDATE else None
    equal(name, as_text(_settled(found, frozen, tolerance)))


def close_table(name: str, found: str, ratios: set[str], tolerance: float = 1e-3) -> None:
    """The same for a tab-separated table, where the columns ``ratios`` may differ a little."""
    path = FROZEN / name
    frozen = path.read_text(encoding="utf-8").splitlines() if path.exists() and not UPDATE else []
    lines = found.splitlines()
    header = lines[0].split("\t")
    for number in range(1, min(len(lines), len(frozen))):
        now, then = lines[number].split("\t"), frozen[number].split("\t")
        if len(now) == len(then) == len(header):
            cells = zip(header, now, then, strict=True)
            lines[number] = "\t".join(
                old if column in ratios and new and old and _near(float(new), float(old), tolerance) else new
                for column, new, old in cells
            )
    equal(name, "\n".join(lines) + "\n")


def _near(new: float, old: float, tolerance: float) -> bool:
    return math.isclose(new, old, rel_tol=tolerance, abs_tol=tolerance)


def _settled(found: Json, frozen: Json, tolerance: float) -> Json:
    """What was found, with the frozen number where it is near enough."""
    if isinstance(found, dict):
        named = frozen if isinstance(frozen, dict) else {}
        return {key: _settled(value, named.get(key), tolerance) for key, value in found.items()}
    if isinstance(found, list):
        listed = frozen if isinstance(frozen, list) and len(frozen) == len(found) else [None] * len(found)
        return [_settled(*pair, tolerance) for pair in zip(found, listed, strict=True)]
    if isinstance(found, float) and isinstance(frozen, float):
        return frozen if _near(found, frozen, tolerance) else found
    return found


def as_text(value: Json) -> str:
    """JSON to be read by people: a list of numbers is one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def array(values: np.ndarray) -> str:
    """Type, shape and digest of an array."""
    shape = "x".join(map(str, values.shape))
    return f"{values.dtype.str} {shape} {sha256(np.ascontiguousarray(values).tobytes())}"


def statistics(values: np.ndarray) -> Json:
    """Mean of every column, and mixtures of some whole rows: what a wrong column, row, sign or scale would change."""
    wide = values.astype(np.float64)
    weights = np.cos(np.arange(wide.shape[1]))
    rows = np.linspace(0, len(wide) - 1, 20).astype(int)
    return {
        "type": f"{values.dtype.str} {values.shape[0]}x{values.shape[1]}",
        "square": round(float((wide**2).sum() / len(wide)), 6),
        "columns": [round(float(mean), 6) for mean in wide.mean(axis=0)],
        "rows": [round(float(mixed), 6) for mixed in wide[rows] @ weights],
    }


def keys(value: Json, prefix: str = "") -> Iterator[str]:
    """Names of all entries of nested dictionaries; of a list those of its first entry."""
    if isinstance(value, list):
        yield from keys(value[0], f"{prefix}[]") if value else ()
    elif isinstance(value, dict) and value:
        for key in sorted(value):
            yield from keys(value[key], f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix
