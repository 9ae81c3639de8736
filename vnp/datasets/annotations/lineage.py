"""Which of VirNucPro's organism groups an organism belongs to, by its taxonomic lineage.

The groups are those of RefSeq's releases: ``plant`` is the green plants, ``invertebrate`` all animals but vertebrates,
and ``protozoa`` whatever else has a nucleus.
"""

from __future__ import annotations

from collections.abc import Sequence

from vnp.datasets.annotations.annotated import Annotated
from vnp.datasets.sheet import VIRAL, Source
from vnp.errors import InputError

UNKNOWN = "unknown"
"""The organism group of host records without a lineage."""
# The first that occurs in a lineage decides.
_GROUPS = (
    ("Viruses", VIRAL),
    ("Viroids", VIRAL),
    ("Bacteria", "bacteria"),
    ("Archaea", "archaea"),
    ("Fungi", "fungi"),
    ("Viridiplantae", "plant"),
    ("Vertebrata", "vertebrate"),
    ("Metazoa", "invertebrate"),
    ("Eukaryota", "protozoa"),
)


def group_of_lineage(lineage: Sequence[str]) -> str | None:
    """The organism group of a lineage, or None where it names none of the groups."""
    return next((group for taxon, group in _GROUPS if taxon in lineage), None)


def group_of_record(record: Annotated, source: Source) -> str:
    """The organism group of a record: what the sheet says of its file, else what its lineage says.

    Raises:
        InputError: the lineage contradicts the label.
    """
    if source.organism_group is not None:
        return source.organism_group
    found = group_of_lineage(record.lineage)
    if found is None:
        return VIRAL if source.label else UNKNOWN
    if (found == VIRAL) != bool(source.label):
        raise InputError(
            f"the sheet labels this file {'viral' if source.label else 'host'}, but the record's lineage is "
            f"{'; '.join(record.lineage[:4])}. Move the record into a file of the other label, or name an organism "
            "group in the sheet, which is then taken as given",
            path=source.path,
            record=record.name,
        )
    return found
