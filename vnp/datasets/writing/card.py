"""The data card: what a training set is made of, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_CHUNKS = (
    ("chunks", "chunks"), ("ambiguous", "ambiguous base"), ("no_open_frame", "no open frame"),
    ("unannotated", "not in an annotation"), ("listed", "listed prophage"), ("matched", "viral match"),
    ("kept", "kept"),
)  # fmt: skip
_FRAMES = (
    ("frames", "open frames"), ("frames_unannotated", "not in an annotation"), ("frames_listed", "listed prophage"),
    ("frames_matched", "viral match"), ("frames_kept", "kept"), ("frames_annotated", "of these annotated"),
)  # fmt: skip
_NUMBERS = tuple(name for name, _ in (*_CHUNKS, *_FRAMES))
_TOTAL = "all"
Row = Mapping[str, Any]


def render_card(summary: Mapping[str, Any]) -> str:
    """Write the card as Markdown.

    Args:
        summary: as ``vnp.datasets.writing.gather.summarise`` makes it.
    """
    sections = (
        _head(summary), _chunks(summary), _frames(summary), _sample(summary), _units(summary), _files(summary),
        _settings(summary), _cautions(summary),
    )  # fmt: skip
    return "\n".join(line for section in sections for line in section)


def chunk_lines(summary: Mapping[str, Any]) -> list[str]:
    """The table of chunks in lines for a terminal.

    Args:
        summary: as ``vnp.datasets.writing.gather.summarise`` makes it.
    """
    counts = [*summary["counts"], *_totals(summary["counts"])]
    cells = [["organism group", "length", *(title for _, title in _CHUNKS)]]
    cells += [
        [str(row["organism_group"]), str(row["length"]), *(f"{row[name]:,}" for name, _ in _CHUNKS)] for row in counts
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _head(summary: Mapping[str, Any]) -> list[str]:
    labels = ", ".join(f"{row['chunks']:,} {row['label']} ({row['rows']:,} rows)" for row in summary["labels"])
    return [
        "# Training set",
        "",
        f"{summary['chunks']:,} chunks of {summary['bases']:,} bases in `dataset.fna.gz`: {labels}. "
        f"`dataset.parquet` has a row for each of the {summary['rows']:,} frames to embed, with its label, unit, "
        "part of the split, and where it is from.",
        "",
        f"SHA-256 of `dataset.fna.gz`: `{summary['fasta_sha256']}`. Made by vnp {summary['code']}:",
        "",
        f"    {summary['command']}",
        "",
    ]


def _chunks(summary: Mapping[str, Any]) -> list[str]:
    return [
        "## Chunks",
        "",
        "What became of every chunk that the records were cut into. A chunk stands in the first column that is true of "
        "it.",
        "",
        *_count_table(summary, _CHUNKS),
    ]


def _frames(summary: Mapping[str, Any]) -> list[str]:
    return [
        "## Frames",
        "",
        "The same for the open frames of the chunks without an ambiguous base. A frame is open if it holds no stop "
        "codon, and annotated if its protein is a part of an annotated protein of its record.",
        "",
        *_count_table(summary, _FRAMES),
    ]


def _count_table(summary: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    counts = summary["counts"]
    rows = [*counts, *_totals(counts)]
    return _table(
        ["organism group", "length", *(title for _, title in columns)],
        [[row["organism_group"], row["length"], *(row[name] for name, _ in columns)] for row in rows],
    )


def _totals(counts: Sequence[Row]) -> list[dict[str, Any]]:
    lengths = list(dict.fromkeys(row["length"] for row in counts))
    totals = []
    for length in lengths:
        own = [row for row in counts if row["length"] == length]
        totals.append(
            {"organism_group": _TOTAL, "length": length, **{name: sum(row[name] for row in own) for name in _NUMBERS}}
        )
    return totals


def _sample(summary: Mapping[str, Any]) -> list[str]:
    settings = summary["settings"]
    most = "everything that was kept" if settings["per_group"] is None else f"at most {settings['per_group']:,} chunks"
    balance = {
        "none": "Nothing was balanced.",
        "label": "As many viral as host chunks were taken, the latter from all host groups alike.",
        "group": "As many chunks were taken from each organism group.",
    }[settings["balance"]]
    rows = [
        [row[name] for name in ("organism_group", "length", "chunks", "rows", "genomes", "least_of_a_genome",
                                "most_of_a_genome")]
        for row in summary["sample"]
    ]  # fmt: skip
    return [
        "## Sample",
        "",
        f"From each organism group {most}; every genome of a group gives the same number, as far as it has them, and "
        f"of every length the same. {balance}",
        "",
        *_table(["organism group", "length", "chunks", "rows", "genomes", "least of one", "most of one"], rows),
    ]


def _units(summary: Mapping[str, Any]) -> list[str]:
    settings = summary["settings"]
    what = {
        "ani": "Genomes of one label with at least 95 % average nucleotide identity (skani) are one unit",
        "genome": "A genome is a unit",
        "record": "A record is a unit",
    }[settings["units"]]
    rows = [[row[name] for name in ("organism_group", "part", "units", "chunks", "rows")] for row in summary["split"]]
    return [
        "## Units and split",
        "",
        f"{what}, unless the sheet names a group: {summary['units']:,} units of {summary['genomes']:,} genomes. Units "
        f"are never cut. Of those of each organism group {settings['validation']:g} are for validation and "
        f"{settings['test']:g} for test; one that holds more than half of its group's bases is for training. That "
        "depends on the files, the sheet and the seed, not on lengths, frames or the size of the sample.",
        "",
        *_table(["organism group", "part", "units", "chunks", "rows"], rows),
    ]


def _files(summary: Mapping[str, Any]) -> list[str]:
    columns = ("path", "label", "organism_group", "group", "records", "unusable", "without_proteins", "bases",
               "proteins", "mismatched", "unchecked", "untranslated")  # fmt: skip
    titles = ("file", "label", "organism group", "group", "records", "unusable", "without proteins", "bases",
              "proteins", "mismatched", "unchecked", "untranslated")  # fmt: skip
    rows = [
        [("by lineage" if name == "organism_group" else "") if row[name] is None else row[name] for name in columns]
        for row in summary["files"]
    ]
    digests = [
        f"- `{row['sha256']}` {row['path']}"
        + (f", annotation `{row['annotation_sha256']}`" if "annotation_sha256" in row else "")
        for row in summary["files"]
    ]
    lines = [
        "## Files",
        "",
        "Proteins are the annotated translations that agree with the sequence; mismatched ones do not and were not "
        "used, nor were those that could not be checked. Untranslated are coding sequences without a protein, as of "
        "pseudogenes.",
        "",
        *_table(titles, rows),
        "SHA-256 of the files:",
        "",
        *digests,
        "",
    ]
    if summary["problem_count"]:
        shown = [f"- {row['record']} of {row['file']}: {row['problem']}" for row in summary["problems"]]
        more = summary["problem_count"] - len(shown)
        lines += ["Records that could not be used:", "", *shown, *([f"- and {more:,} more"] if more else []), ""]
    return lines


def _settings(summary: Mapping[str, Any]) -> list[str]:
    settings = dict(summary["settings"])
    if summary["prophages_sha256"] is not None:
        settings["prophages"] = f"{settings['prophages']} (SHA-256 {summary['prophages_sha256']})"
    rows = [[name.replace("_", " "), "none" if value is None else str(value)] for name, value in settings.items()]
    return ["## Settings", "", *_table(["setting", "value"], rows)]


def _cautions(summary: Mapping[str, Any]) -> list[str]:
    settings = summary["settings"]
    notes = []
    if settings["keep_prophages"]:
        notes.append("Host chunks that a viral genome of the set matches were kept and are labelled host.")
    else:
        notes.append(
            "Host chunks that a viral genome of the set matches at 90 % identity or more over the chunk were dropped. "
            "Prophages and other insertions of viruses that are not in the set are still labelled host."
        )
    if settings["prophages"] is None:
        notes.append("No list of prophage regions was given (--prophages).")
    if settings["frames"] == "all":
        notes.append(
            "Frames outside of annotated proteins are in the set, with the label of their genome: most are not genes."
        )
    unknown = [row for row in summary["counts"] if row["organism_group"] == "unknown"]
    if unknown:
        notes.append("Host records without a lineage that tells their organism group are called unknown.")
    notes += [
        "A label is that of the file in the sheet; nothing here checks it but the lineage in GenBank records.",
        "Which licence the files are under, and what may be done with a set made of them, is for its makers to find "
        "out.",
    ]
    return ["## Cautions", "", *(f"- {note}" for note in notes), ""]


def _table(titles: Iterable[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    titles, rows = list(titles), list(rows)
    numeric = [bool(rows) and all(isinstance(row[place], int) for row in rows) for place in range(len(titles))]
    lines = [_line(titles), _line(["---:" if right else "---" for right in numeric])]
    lines += [_line([f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]) for row in rows]
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
