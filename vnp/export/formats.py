"""VirNucPro's three kinds of ``.pt`` file.

=========  ==================================================================================================
DNA        ``{"nucleotide": [id, …], "data": [{"label": id, "mean_representation": [number, …]}, …]}``
protein    ``{"proteins": [id, …], "data": [tensor of one row, …]}``
merged     ``{"ids": [id, …], "data": tensor (n, width), "labels": [0 or 1]}``, DNA columns first
=========  ==================================================================================================

``labels`` holds one number, which is for every row of the file: 1 viral, 0 host; an unlabelled file has no such key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from vnp.errors import FeatureError, UsageError
from vnp.files.tensors import load_tensors, save_tensors

LABELS = {"host": 0, "viral": 1}


def dna_content(ids: list[str], values: Float32[np.ndarray, "n width"]) -> dict[str, Any]:
    """What a DNA file holds."""
    rows = zip(ids, values, strict=True)
    return {"nucleotide": ids, "data": [{"label": name, "mean_representation": row.tolist()} for name, row in rows]}


def protein_content(ids: list[str], values: Float32[np.ndarray, "n width"]) -> dict[str, Any]:
    """What a protein file holds; the rows share the memory of ``values``."""
    if len(ids) != len(values):
        raise ValueError(f"{len(ids)} ids for {len(values)} rows")
    return {"proteins": ids, "data": list(torch.from_numpy(values))}


def merged_content(ids: list[str], values: Float32[np.ndarray, "n width"], label: int | None) -> dict[str, Any]:
    """What a merged file holds; the tensor shares the memory of ``values``."""
    if len(ids) != len(values):
        raise ValueError(f"{len(ids)} ids for {len(values)} rows")
    content: dict[str, Any] = {"ids": ids, "data": torch.from_numpy(values)}
    return content if label is None else {**content, "labels": [label]}


def target(path: str | Path) -> Path:
    """Where a file goes; UsageError, before hours are spent on what it shall hold, where there is no folder for it."""
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a .pt file")
    return path


def save(content: dict[str, Any], path: Path) -> None:
    """Write a ``.pt`` file durably; StorageError where it cannot be written."""
    save_tensors(path, content, sealed=False)


def read_dna(path: Path) -> tuple[list[str], list[dict[str, Any]], Float32[np.ndarray, "n width"]]:
    """Read a DNA file: ids, the data as it stands there, and the same as rows; FeatureError where these do not fit."""
    ids, data = _read(path, "nucleotide")
    for place, (name, item) in enumerate(zip(ids, data, strict=True)):
        if not isinstance(item, dict) or item.get("label") != name or "mean_representation" not in item:
            raise FeatureError(
                f"{path}: item {place} of 'data' is not the mean_representation of {name!r}, whose place it has"
            )
    return ids, data, _rows(path, ids, [item["mean_representation"] for item in data])


def read_protein(path: Path) -> tuple[list[str], list[torch.Tensor], Float32[np.ndarray, "n width"]]:
    """Read a protein file, as ``read_dna`` does."""
    ids, data = _read(path, "proteins")
    return ids, data, _rows(path, ids, data)


def load(path: Path) -> dict[str, Any]:
    """Read a ``.pt`` file without running code in it; FeatureError where it holds more than plain values."""
    try:
        content = load_tensors(path)
    except FileNotFoundError as error:
        raise FeatureError(f"{path}: there is no such file") from error
    # torch raises whatever the damage makes of the file: RuntimeError, EOFError, UnpicklingError, KeyError …
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise FeatureError(f"{path} cannot be read as a .pt file of tensors, lists and text: {reason}") from error
    if not isinstance(content, dict):
        raise FeatureError(f"{path} holds a {type(content).__name__}; expected a dictionary as VirNucPro writes it")
    return content


def _read(path: Path, key: str) -> tuple[list[str], list[Any]]:
    content = load(path)
    missing = [name for name in (key, "data") if name not in content]
    if missing:
        raise FeatureError(f"{path} has no {missing[0]!r}; it holds {', '.join(map(repr, content)) or 'nothing'}")
    ids, data = content[key], content["data"]
    if not isinstance(ids, list) or not isinstance(data, list) or not all(isinstance(name, str) for name in ids):
        raise FeatureError(f"{path}: {key!r} must be a list of ids and 'data' a list of rows")
    if len(ids) != len(data):
        raise FeatureError(f"{path} has {len(ids)} ids in {key!r} and {len(data)} rows in 'data'")
    if len(set(ids)) != len(ids):
        name, count = Counter(ids).most_common(1)[0]
        raise FeatureError(f"{path}: the id {name!r} is there {count} times; every sequence needs an id of its own")
    return ids, data


def _rows(path: Path, ids: list[str], data: Sequence[Any]) -> Float32[np.ndarray, "n width"]:
    rows: list[torch.Tensor] = []
    for name, item in zip(ids, data, strict=True):
        try:
            row = torch.as_tensor(item, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise FeatureError(f"{path}: the row of {name!r} is not a list of numbers") from error
        expected = rows[0].shape if rows else row.shape
        if row.dim() != 1 or row.shape != expected:
            wanted = f"({expected[0]},)" if len(expected) == 1 else "one dimension"
            raise FeatureError(f"{path}: the row of {name!r}: expected {wanted}, got {tuple(row.shape)}")
        if not bool(torch.isfinite(row).all()):
            raise FeatureError(f"{path}: the row of {name!r} holds NaN or infinity")
        rows.append(row)
    stacked: Float32[np.ndarray, "n width"] = torch.stack(rows).numpy() if rows else np.zeros((0, 0), np.float32)
    return stacked
