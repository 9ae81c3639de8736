"""The data card: what a training set is made of, for people. Its words stand in ``card.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

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


def render_card(summary: Mapping[str, Any]) -> str:
    """Write the card as Markdown, of what ``vnp.datasets.writing._gather.summarise`` gives."""
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
    cells = [["organism group", "length", *_CHUNKS.values()]]
    cells += [
        [str(row["organism_group"]), str(row["length"]), *(f"{row[name]:,}" for name in _CHUNKS)]
        for row in _with_totals(summary["counts"])
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells]


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
