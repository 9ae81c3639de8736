"""What a training set consists of, in numbers, and the data card that tells people. Its words stand in ``card.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Int64

from vnp import __version__
from vnp.datasets.choosing._part import Counts, Part, no_counts
from vnp.datasets.choosing._split import Unit
from vnp.datasets.lineage import RANKS
from vnp.datasets.recipe import Request
from vnp.datasets.sheet import LABEL_NAMES
from vnp.datasets.writing.write import SCHEMA, Gathered, Records
from vnp.features.split import PARTS
from vnp.files.tables import columns

_CHUNKS = {
    "chunks": "chunks", "ambiguous": "ambiguous base", "no_open_frame": "no open frame",
    "unannotated": "not in an annotation", "listed": "listed prophage", "matched": "viral match", "kept": "kept",
}  # fmt: skip
_FRAMES = {
    "frames": "open frames", "frames_unannotated": "not in an annotation", "frames_listed": "listed prophage",
    "frames_matched": "viral match", "frames_kept": "kept", "frames_annotated": "of these annotated",
}  # fmt: skip
_TEMPLATE = Path(__file__).with_suffix(".md")
Row = Mapping[str, Any]
_SAMPLES = 20
_FEW_UNITS = 20


def summarise(
    request: Request,
    found: Gathered,
    records: Records,
    units: Mapping[str, Unit],
    chosen: Int64[np.ndarray, "chosen"],
    fasta_sha256: str,
) -> dict[str, Any]:
    """Count what a set consists of, for the data card and ``--json``.

    Nothing in it depends on when, where or how fast it was made.
    """
    names = request.recipe.lengths.names
    frames = np.bitwise_count(found.column("frames")[chosen]).astype(np.int64)
    record = found.record[chosen]
    labels = np.array([source.label for source in request.sources])[found.source[record]]
    files = list(zip(request.sources, request.digests, found.parts, strict=True))
    problems = [
        {"file": source.name, "record": one.name, "problem": one.problem}
        for source, _, part in files
        for one in part.records
        if one.problem is not None
    ]
    return {
        "schema": SCHEMA,
        "code": __version__,
        "command": request.recipe.command(request.sheet),
        "settings": request.recipe.settings(),
        "prophages_sha256": request.prophages,
        "fasta_sha256": fasta_sha256,
        "chunks": len(chosen),
        "rows": int(frames.sum()),
        "bases": int((found.column("end") - found.column("start"))[chosen].sum()),
        "labels": [
            {
                "label": LABEL_NAMES[label],
                "chunks": int((labels == label).sum()),
                "rows": int(frames[labels == label].sum()),
            }
            for label in (1, 0)
        ],
        "files": [{**source.about(), **digest, **_counted(part)} for source, digest, part in files],
        "problems": problems[:_SAMPLES],
        "problem_count": len(problems),
        "counts": [
            {"organism_group": group, "length": length, **numbers}
            for group, own in _counts(found.parts, len(names)).items()
            for length, numbers in zip(names, own, strict=True)
        ],
        "sample": list(_sample(found, records, chosen, frames, names)),
        "units": len(units),
        "genomes": len({(one.label, one.genome) for one in found.records}),
        "split": list(_split(records, units, record, frames)),
        "warnings": list(_warnings(request, found, records, units)),
    }


def _warnings(request: Request, found: Gathered, records: Records, units: Mapping[str, Unit]) -> Iterator[str]:
    """What makes the split worth less than it looks."""
    kind = request.recipe.units
    if kind in RANKS:
        asked = [number for number, one in enumerate(found.records) if one.group is None]
        without = sum(not records.ranks[kind][number] for number in asked)
        if without:
            yield (
                f"{without:,} of {len(asked):,} records have no {kind} in their lineage: their unit is the narrower "
                "rank that it tells, or the genome"
            )
    if request.recipe.split_by == "date" and (undated := sum(not unit.date for unit in units.values())):
        yield f"{undated:,} of {len(units):,} units have no date and are in training"
    for label in (1, 0):
        count = sum(unit.label == label for unit in units.values())
        if count < _FEW_UNITS:
            yield (
                f"only {count:,} units are {LABEL_NAMES[label]}: what is measured on the few of them that are held out "
                "says little of others"
            )


def _counted(part: Part) -> dict[str, int]:
    usable = [record for record in part.records if record.problem is None]
    sums = ("bases", "proteins", "mismatched", "untranslated", "unchecked")
    return {
        "records": len(part.records),
        "unusable": len(part.records) - len(usable),
        **{name: sum(getattr(record, name) for record in usable) for name in sums},
        "without_proteins": sum(not record.proteins for record in usable),
    }


def _counts(parts: Sequence[Part], lengths: int) -> dict[str, Counts]:
    total: dict[str, Counts] = {}
    for part in parts:
        for group, own in part.counts.items():
            for into, numbers in zip(total.setdefault(group, no_counts(lengths)), own, strict=True):
                for name, number in numbers.items():
                    into[name] += number
    return dict(sorted(total.items()))


def _sample(
    found: Gathered,
    records: Records,
    chosen: Int64[np.ndarray, "chosen"],
    frames: Int64[np.ndarray, "chosen"],
    names: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Chosen chunks and rows of each organism group and length, and the genomes that they are from."""
    record, length = found.record[chosen], found.column("length")[chosen]
    groups = np.array(records.organism_group)[record]
    genomes = np.array([one.genome for one in found.records])[record]
    for group in sorted(set(records.organism_group)):
        for number, size in enumerate(names):
            own = (groups == group) & (length == number)
            _, shares = np.unique(genomes[own], return_counts=True)
            yield {
                "organism_group": group,
                "length": size,
                "genomes": len(shares),
                "chunks": int(own.sum()),
                "rows": int(frames[own].sum()),
                "least_of_a_genome": int(shares.min()) if len(shares) else 0,
                "most_of_a_genome": int(shares.max(initial=0)),
            }


def _split(
    records: Records,
    units: Mapping[str, Unit],
    record: Int64[np.ndarray, "chosen"],
    frames: Int64[np.ndarray, "chosen"],
) -> Iterator[dict[str, Any]]:
    """Units, chunks and rows of each organism group and part; ``record`` is that of each chosen chunk."""
    groups = np.array(records.organism_group)[record]
    part_of_unit = dict(zip(records.unit, records.part.tolist(), strict=True))
    count = Counter((about.organism_group, part_of_unit[unit]) for unit, about in units.items())
    for group in sorted(set(records.organism_group)):
        for number, part in enumerate(PARTS):
            own = (groups == group) & (records.part[record] == number)
            yield {
                "organism_group": group,
                "part": part,
                "units": count[group, number],
                "chunks": int(own.sum()),
                "rows": int(frames[own].sum()),
            }


def render_card(summary: Mapping[str, Any]) -> str:
    """Write the card as Markdown, of what ``vnp.datasets.writing.write.summarise`` gives."""
    # Markdown is for people to read as it is, and nothing in it is escaped.
    words = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)  # noqa: S701
    words.filters["number"] = "{:,}".format
    settings = dict(summary["settings"])
    if summary["prophages_sha256"] is not None:
        settings["prophages"] = f"{settings['prophages']} (SHA-256 {summary['prophages_sha256']})"
    return words.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        summary,
        files=[{**row, "organism_group": row["organism_group"] or "by lineage"} for row in summary["files"]],
        counts_and_totals=_with_totals(summary["counts"]),
        setting_rows=[
            {"name": name.replace("_", " "), "value": "none" if value is None else str(value)}
            for name, value in settings.items()
        ],
        chunk_titles=_CHUNKS,
        frame_titles=_FRAMES,
        table=_table,
    )


def chunk_lines(summary: Mapping[str, Any]) -> list[str]:
    """The table of chunks in lines for a terminal, of the same."""
    rows = _with_totals(summary["counts"])
    # A reason that nothing was left out for needs no column.
    named = {name: title for name, title in _CHUNKS.items() if name == "kept" or any(row[name] for row in rows)}
    cells = [[f"{row['organism_group']} {row['length']}", *(f"{row[name]:,}" for name in named)] for row in rows]
    return columns([["group, length", *named.values()], *cells])


def _with_totals(counts: Sequence[Row]) -> list[Row]:
    """The counts, and behind them those of all groups together, by length."""
    totals = []
    for length in dict.fromkeys(row["length"] for row in counts):
        own = [row for row in counts if row["length"] == length]
        sums = {name: sum(row[name] for row in own) for name in (*_CHUNKS, *_FRAMES)}
        totals.append({"organism_group": "all", "length": length, **sums})
    return [*counts, *totals]


def _table(rows: Sequence[Row], /, **titles: str) -> str:
    """A Markdown table of columns by name, numbers to the right."""
    numeric = [bool(rows) and all(isinstance(row[name], int) for row in rows) for name in titles]
    lines = [_line(titles.values()), _line("---:" if right else "---" for right in numeric)]
    lines += [_line(_cell(row[name]) for name in titles) for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
