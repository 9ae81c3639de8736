"""DNA and protein embeddings side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vnp.errors import FeatureError, RunExistsError, UsageError
from vnp.export.formats import LABELS, load, merged_content, read_dna, read_protein, save, target


def merge_data(
    dna_file: str | Path, protein_file: str | Path, merged_file: str | Path, data_type: str | None = None
) -> dict[str, Any]:
    """Join the DNA and protein embeddings of the same sequences, in the order of the DNA file.

    A merged file that is there already is left alone if it holds exactly this; otherwise it is an error.

    Args:
        dna_file: from ``extract_dnabert_s``.
        protein_file: from ``extract_fast_esm``, in any order.
        merged_file: to write.
        data_type: ``viral`` gives the file the label 1, ``host`` 0, None no label.

    Returns:
        What the file holds: ``ids``, ``data`` (float32, n by the sum of both widths, DNA first) and, with a data
        type, ``labels``: one number for the whole file.

    Raises:
        UsageError: there is no such data type.
        FeatureError: a file cannot be read, its rows differ in width or are not finite, or a sequence is missing
            in one of them.
        RunExistsError: ``merged_file`` is there and holds something else.
        StorageError: the disk is full or cannot be written.
    """
    dna_path, protein_path, merged_path = Path(dna_file), Path(protein_file), target(merged_file)
    if data_type is not None and data_type not in LABELS:
        raise UsageError(f"data_type is {data_type!r}; use 'viral', 'host' or None")
    ids, _, dna = read_dna(dna_path)
    names, _, protein = read_protein(protein_path)
    _require_both(dna_path, ids, protein_path, names)
    places = {name: place for place, name in enumerate(names)}
    order = np.array([places[name] for name in ids], np.int64)
    merged = merged_content(
        ids, np.concatenate([dna, protein[order]], axis=1), None if data_type is None else LABELS[data_type]
    )
    if merged_path.exists():
        _require_same(merged_path, merged)
    else:
        save(merged, merged_path)
    return merged


def _require_both(dna_path: Path, ids: list[str], protein_path: Path, names: list[str]) -> None:
    for here, have, there, lack in ((dna_path, ids, protein_path, names), (protein_path, names, dna_path, ids)):
        present = set(lack)
        missing = [name for name in have if name not in present]
        if missing:
            raise FeatureError(
                f"{len(missing)} of {len(have)} sequences of {here} are missing in {there}, the first is "
                f"{missing[0]!r}. Embed both files of the same jobs.frames, whole"
            )


def _require_same(path: Path, merged: dict[str, Any]) -> None:
    there = load(path)
    data = there.get("data")
    same = there.keys() == merged.keys() and all(there[key] == merged[key] for key in merged if key != "data")
    if same and isinstance(data, torch.Tensor) and data.shape == merged["data"].shape:
        same = torch.equal(data, merged["data"])
    else:
        same = False
    if not same:
        shape = f"{tuple(data.shape)}" if isinstance(data, torch.Tensor) else "no rows"
        raise RunExistsError(
            f"{path} is there and holds something else (expected {tuple(merged['data'].shape)} with "
            f"labels {merged.get('labels')}, got {shape} with labels {there.get('labels')}): delete it "
            "first, or choose another name"
        )
