"""Counts of a prediction for other programs, in all and of each sample: ``summary.json``, and a table for MultiQC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vnp.prediction.calls import Calls
from vnp.report.calls import HOST, NO_CALL, VIRAL
from vnp.runs.request import Request

SCHEMA = "vnp-summary/1"
_COLUMNS: dict[str, dict[str, Any]] = {
    "records": {"title": "Records", "description": "Records of the sample", "format": "{:,d}", "scale": "Greys"},
    "viral": {"title": "Viral", "description": "Records called viral", "format": "{:,d}", "scale": "Purples"},
    "viral_percent": {
        "title": "% viral", "description": "Share of the records with a call that are called viral", "suffix": "%",
        "min": 0, "max": 100, "format": "{:,.2f}", "scale": "Purples",
    },
    "viral_bases": {"title": "Viral bases", "description": "Bases of these", "format": "{:,d}", "scale": "Purples"},
    "host": {"title": "Host", "description": "Records called host", "format": "{:,d}", "scale": "Greens"},
    "no_call": {"title": "No call", "description": "Records without a call", "format": "{:,d}", "scale": "Greys"},
}  # fmt: skip
"""Columns of the table, as MultiQC has them."""


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """What came of the records of a sample, or of a file where no sample is named."""

    sample: str  # its name
    files: list[str]  # as in the column ``source``
    records: int
    bases: int
    viral: int
    viral_bases: int
    host: int
    no_call: int
    kinds: dict[str, int]  # records of each kind that is told, the most frequent first


def count_samples(
    names: Sequence[str], files: Sequence[str], windows: Sequence[slice], calls: Calls, kinds: Sequence[str]
) -> list[SampleCounts]:
    """Count the calls of each sample, in the order in which samples come up.

    Names are of the sample of each file, windows its records; calls are of all records.
    """
    of: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        of.setdefault(name, []).append(place)
    return [
        _count(name, [files[at] for at in some], [windows[at] for at in some], calls, kinds)
        for name, some in of.items()
    ]


def _count(name: str, files: list[str], windows: list[slice], calls: Calls, kinds: Sequence[str]) -> SampleCounts:
    call, length, kind = (
        np.concatenate([column[window] for window in windows]) for column in (calls.call, calls.length, calls.kind)
    )
    viral = call == VIRAL
    often = Counter(kinds[number] for number in kind[kind >= 0].tolist())
    return SampleCounts(
        sample=name,
        files=files,
        records=len(call),
        bases=int(length.sum()),
        viral=int(viral.sum()),
        viral_bases=int(length[viral].sum()),
        host=int((call == HOST).sum()),
        no_call=int((call == NO_CALL).sum()),
        kinds=dict(often.most_common()),
    )


def cascade_of(request: Request, settled: int) -> dict[str, Any]:
    """What is told of records that the native network settled; empty where none could be."""
    if request.classifier is None or request.classifier.cascade is None:
        return {}
    return {"cascade": {"settled_by_native": settled, **asdict(request.classifier.cascade)}}


def summary_of(about: Mapping[str, Any], samples: Sequence[SampleCounts]) -> dict[str, Any]:
    """What ``summary.json`` holds, by what ``predictions.json`` does."""
    kept = ("counts", "kinds", "threshold", "expected_false_calls", "viral_share", "no_call_reasons")
    return {
        "schema": SCHEMA,
        "vnp": about["versions"]["vnp"],
        "checkpoint": Path(about["settings"]["checkpoint"]).name,
        **{name: about[name] for name in (*kept, "cascade") if name in about},
        "samples": [asdict(one) for one in samples],
    }


def multiqc_of(samples: Sequence[SampleCounts]) -> dict[str, Any]:
    """What ``vnp_mqc.json`` holds: custom content of MultiQC, a table with a row for each sample."""
    data = {}
    for one in samples:
        called = one.viral + one.host
        row = {name: getattr(one, name) for name in _COLUMNS if name != "viral_percent"}
        data[one.sample] = {**row, "viral_percent": 100 * one.viral / called if called else 0.0}
    return {
        "id": "vnp",
        "section_name": "vnp",
        "description": "Records that vnp calls viral or host.",
        "plot_type": "table",
        "pconfig": {"id": "vnp_table", "title": "vnp: calls of records", "namespace": "vnp", "col1_header": "Sample"},
        "headers": _COLUMNS,
        "data": data,
    }
