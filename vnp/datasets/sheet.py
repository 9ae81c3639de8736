"""The sheet that says which files a training set is made of, and which organism group each record belongs to.

The groups are those of RefSeq's releases: ``plant`` is the green plants, ``invertebrate`` all animals but vertebrates,
and ``protozoa`` whatever else has a nucleus.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from vnp.datasets.annotations.annotated import Annotated, gff3_of, stem
from vnp.errors import InputError, UsageError
from vnp.sequences.opening import stream
from vnp.sequences.samplesheet import DELIMITERS, Columns, check_readable, file_in_sheet, read_rows, require_utf8

VIRAL = "viral"
HOST_GROUPS = ("vertebrate", "protozoa", "plant", "invertebrate", "fungi", "bacteria", "archaea")
"""The host groups of VirNucPro's training set. A sheet may name others."""
UNKNOWN = "unknown"
"""The organism group of host records without a lineage."""
LABEL_NAMES = ("host", "viral")
"""Names of the labels, by number."""
# The first that occurs in a lineage decides.
_GROUP_OF_TAXON = {
    "Viruses": VIRAL, "Viroids": VIRAL, "Bacteria": "bacteria", "Archaea": "archaea", "Fungi": "fungi",
    "Viridiplantae": "plant", "Vertebrata": "vertebrate", "Metazoa": "invertebrate", "Eukaryota": "protozoa",
}  # fmt: skip
_COLUMNS = Columns(
    "sheet of a training set",
    ("path", "label", "group"),
    "of which group may be left empty",
    optional=("organism_group", "annotation", "date"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file of annotated genomes."""

    path: Path  # of a GenBank or FASTA file, absolute
    label: int  # 1 viral, 0 host
    group: str | None = None  # the unit of all its records as the user gave it; None where it is to be found
    # ``viral``, one of ``HOST_GROUPS``, or any other name; None means each record's lineage decides
    organism_group: str | None = None
    annotation: Path | None = None  # the GFF3 or GenBank file of a FASTA file, absolute; None where the path is GenBank
    name: str = ""  # the path as it stands in the sheet
    # of all its records, in place of their own, such as 2004-01-12, 2004-01 or 2004; empty where not given
    date: str = ""

    @property
    def label_name(self) -> str:
        """``viral`` or ``host``."""
        return LABEL_NAMES[self.label]

    def about(self) -> dict[str, str | None]:
        """What tables and cards say of the file."""
        return {
            "path": self.name, "label": self.label_name, "group": self.group, "organism_group": self.organism_group,
        }  # fmt: skip


def read_sheet(path: str | Path, unit_column: str | None = None) -> tuple[Source, ...]:
    """Read the sheet of a training set, in its order.

    Args:
        path: ``.csv`` or ``.tsv`` with the columns path, label (viral or host), group (may be empty) and, if it likes,
            organism_group and annotation: the GFF3 or GenBank file of a FASTA file. Where that is empty, a GFF3 file
            is looked for beside the FASTA file, under its name. Paths are relative to the sheet. A column date, if
            there, has the date of a file's records.
        unit_column: the column that has the groups, in place of ``group``.

    Raises:
        UsageError: the name does not end in .csv or .tsv, or one file stands there twice.
        InputError: a file cannot be read, or rows are wrong or contradict each other.
    """
    path = Path(path)
    if path.suffix.lower() not in DELIMITERS:
        raise UsageError(
            f"{path}: the sheet of a training set is a .csv or .tsv with the columns {', '.join(_COLUMNS.required)}"
        )
    sources = []
    places: dict[Path, int] = {}
    labels: dict[tuple[str, str], tuple[int, int]] = {}
    for line, source in _sources(path, unit_column):
        before = places.setdefault(source.path.resolve(), line)
        if before != line:
            raise UsageError(f"{path}: {source.name} stands in line {before} and in line {line}; remove one")
        for what, name in (("group", source.group), ("organism group", source.organism_group)):
            if name is None:
                continue
            label, first = labels.setdefault((what, name), (source.label, line))
            if label != source.label:
                raise InputError(
                    f"the {what} {name!r} is {source.label_name} here and {LABEL_NAMES[label]} in line {first}; give "
                    "the rows one label, or their groups different names",
                    path=path,
                    line=line,
                )
        sources.append(source)
    return tuple(sources)


def _sources(path: Path, unit_column: str | None) -> Iterator[tuple[int, Source]]:
    units = "group" if unit_column is None else unit_column.strip().lower()
    columns = _COLUMNS
    if units not in columns.required:
        hint = f"{columns.hint}. --units asks for {units}, and else is ani, genome, record, genus, family or order"
        columns = replace(columns, required=(*columns.required, units), hint=hint)
    for line, row in read_rows(path, columns):
        if not row["path"]:
            raise InputError("the path is empty", path=path, line=line)
        if (name := row["label"].lower()) not in LABEL_NAMES:
            found = f"unknown label {row['label']!r}" if row["label"] else "the label is empty"
            raise InputError(f"{found}: a training set needs viral or host", path=path, line=line)
        organism_group = _organism_group(row["organism_group"], name, path, line)
        file = file_in_sheet(row["path"], path, line)
        require_utf8(file)
        annotation = _annotation(file, row["annotation"], path, line)
        yield (
            line,
            Source(
                file, LABEL_NAMES.index(name), row[units] or None, organism_group, annotation, row["path"],
                _date(row["date"], path, line),
            ),
        )  # fmt: skip


def _date(text: str, path: Path, line: int) -> str:
    """A date as it stands in the sheet, once it is sure that it is one."""
    parts = text.split("-")
    try:
        if text:
            date.fromisoformat("-".join([*parts, "01", "01"][: max(3, len(parts))]))
    except ValueError:
        raise InputError(
            f"the date is {text!r}: write it as 2004-01-12, 2004-01 or 2004, or leave it empty", path=path, line=line
        ) from None
    return text


def _organism_group(text: str, label: str, path: Path, line: int) -> str | None:
    if not text:
        return None
    name = text.lower() if text.lower() in (VIRAL, *HOST_GROUPS) else text
    if (label == "viral" and name in HOST_GROUPS) or (label == "host" and name == VIRAL):
        raise InputError(
            f"the label is {label} and the organism group {name}: one of the two is wrong. Leave the organism "
            "group empty to have it read from the lineage of GenBank records",
            path=path,
            line=line,
        )
    return name


def _annotation(file: Path, given: str, sheet: Path, line: int) -> Path | None:
    """The GFF3 or GenBank file of a FASTA file, or None where that is GenBank itself."""
    fasta = _is_fasta(file, sheet, line)
    if given:
        if not fasta:
            raise InputError(
                f"{file.name} is not FASTA, and only FASTA has an annotation beside it: leave the column annotation "
                "empty, or, where its records have no sequence, give their FASTA file as path and this one there",
                path=sheet,
                line=line,
            )
        return file_in_sheet(given, sheet, line)
    if not fasta:
        return None
    if (found := gff3_of(file)) is not None:
        check_readable(found)
        return found
    own = stem(file.name)
    raise InputError(
        f"{file.name} is FASTA, and there is no {own}.gff3 or {own}.gff (or one of them compressed) beside it: name "
        "its GFF3 or GenBank file in a column annotation",
        path=sheet,
        line=line,
    )


def _is_fasta(file: Path, sheet: Path, line: int) -> bool:
    """Tell FASTA from GenBank by the first letter."""
    start = b""
    try:
        for block in stream(file)[1]:
            start = block.removeprefix(b"\xef\xbb\xbf").lstrip()
            if start:
                break
    except InputError as error:
        raise InputError(str(error), path=sheet, line=line) from error
    if not start:
        raise InputError(f"{file.name} is empty", path=sheet, line=line)
    if start.startswith(b"@"):
        raise InputError(
            f"{file.name} looks like FASTQ: a training set is made of GenBank, or of FASTA with GFF3 or GenBank",
            path=sheet,
            line=line,
        )
    return start[:1] in b">;#"


def group_of_lineage(lineage: Sequence[str]) -> str | None:
    """The organism group of a lineage, or None where it names none of the groups."""
    return next((group for taxon, group in _GROUP_OF_TAXON.items() if taxon in lineage), None)


def group_of_record(record: Annotated, source: Source) -> str:
    """A record's organism group, by the sheet, else by its lineage; InputError where that contradicts the label."""
    if source.organism_group is not None:
        return source.organism_group
    found = group_of_lineage(record.lineage)
    if found is None:
        return VIRAL if source.label else UNKNOWN
    if (found == VIRAL) != bool(source.label):
        raise InputError(
            f"the sheet labels this file {source.label_name}, but the record's lineage is "
            f"{'; '.join(record.lineage[:4])}. Move the record into a file of the other label, or name an organism "
            "group in the sheet, which is then taken as given",
            path=source.path,
            record=record.name,
        )
    return found
