"""What a training set is to be like, and what it was made from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from vnp.datasets.choosing.candidates import Lengths
from vnp.datasets.lineage import RANKS
from vnp.datasets.sheet import Source
from vnp.errors import UsageError
from vnp.features.split import shares_of_parts
from vnp.files.extras import require_extra
from vnp.files.hashing import json_sha256
from vnp.sequences.reading import input_digest

# Goes up when parts of an older state of this code can no longer be used.
_PARTS = 2
UNITS = ("ani", "genome", "record", *RANKS)
"""What a split never cuts; anything else is a column of the sheet."""
_CHOICES = {
    "frames": ("annotated", "all"), "balance": ("none", "label", "group"), "split_by": ("chance", "date"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training set is to be like."""

    lengths: Lengths  # of chunks
    # ``annotated`` takes the open frames inside an annotated protein, ``all`` every open frame
    frames: str = "annotated"
    per_group: int | None = None  # the most chunks of an organism group; None for all
    balance: str = "none"  # ``none``, ``label`` or ``group``; see ``vnp.datasets.choosing._sample.choose``
    units: str = "ani"  # one of ``UNITS``, see ``vnp.datasets.choosing._split.find_units``, or a column of the sheet
    # ``chance``, or ``date``: what was known first is trained on, and what came last tested on
    split_by: str = "chance"
    validation: float = 0.1  # share of the units that training is watched on
    test: float = 0.2  # share of the units that nothing is decided on
    seed: int = 0  # of sampling, of the split, and of lengths drawn from a range
    prophages: Path | None = None  # BED file of regions whose host chunks are dropped
    keep_prophages: bool = False  # keep host chunks that a viral genome of the set matches

    def check(self) -> None:
        """Raise UsageError where a value is out of bounds, or a library is missing."""
        for name, values in _CHOICES.items():
            if (value := getattr(self, name)) not in values:
                raise UsageError(f"--{name.replace('_', '-')} is one of {', '.join(values)}, not {value}")
        if self.per_group is not None and self.per_group < 1:
            raise UsageError(f"--per-group {self.per_group}: give a number above 0")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: give 0 or a number above")
        shares_of_parts(self.validation, self.test)
        if not self.units.strip():
            raise UsageError(f"--units is one of {', '.join(UNITS)}, or a column of the sheet")
        if self.units == "ani":
            require_extra("dataset", "--units ani", needs=("pyskani",))

    def settings(self) -> dict[str, object]:
        """The values that decide what is in the set, but for the files, as they stand on a command line."""
        prophages = None if self.prophages is None else self.prophages.name
        return asdict(self) | {"lengths": str(self.lengths), "prophages": prophages}

    def command(self, sheet: Path) -> str:
        """The command that makes this set; without what does not change it, such as the folder."""
        words = ["python", "-m", "jobs.dataset", sheet.name, "--out", "DIR"]
        for name, value in self.settings().items():
            option = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
            elif value is not None and value is not False:
                words += [option, str(value)]
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Request:
    """A recipe, and the sheet and files that it is for, with their SHA-256; ``prophages`` is that of the BED file."""

    sheet: Path
    sources: tuple[Source, ...]
    digests: tuple[Mapping[str, str], ...]
    recipe: Recipe
    prophages: str | None

    def part_key(self, number: int) -> str:
        """The name of the part of a source: changes with whatever changes what is in it."""
        source, recipe = self.sources[number], self.recipe
        about: dict[str, object] = {
            "version": _PARTS,
            "digests": dict(self.digests[number]),
            "label": source.label,
            "organism_group": source.organism_group,
            "seed": recipe.seed,
            "lengths": str(recipe.lengths),
            "frames": recipe.frames,
            "limit": recipe.per_group,
            "sequences": self.needs_sequences(number),
        }
        if not source.label:
            about["prophages"] = self.prophages
            pairs = zip(self.sources, self.digests, strict=True)
            viral = sorted(digest["sha256"] for one, digest in pairs if one.label)
            about["viral"] = None if recipe.keep_prophages else viral
        return json_sha256(about)[:40]

    def needs_sequences(self, number: int) -> bool:
        """Whether the records of a source are looked at again: to compare genomes, or to find prophages."""
        source = self.sources[number]
        to_compare = self.recipe.units == "ani" and source.group is None
        return to_compare or (bool(source.label) and not self.recipe.keep_prophages)

    def digest(self) -> str:
        """SHA-256 of everything that decides what is in the set."""
        rows = [
            {
                "path": source.name,
                "label": source.label,
                "group": source.group,
                "date": source.date,
                "part": self.part_key(number),
            }
            for number, source in enumerate(self.sources)
        ]
        return json_sha256({"rows": rows, "settings": self.recipe.settings()})


def make_request(sheet: Path, sources: Sequence[Source], recipe: Recipe, *, workers: int) -> Request:
    """Hash the files of a sheet; InputError where one cannot be read."""
    paths = [path for source in sources for path in (source.path, source.annotation) if path is not None]
    with ThreadPoolExecutor(workers) as threads:
        found = dict(zip(paths, threads.map(input_digest, paths), strict=True))
    digests = []
    for source in sources:
        digest = {"sha256": found[source.path]}
        if source.annotation is not None:
            digest["annotation_sha256"] = found[source.annotation]
        digests.append(digest)
    bed = None if recipe.prophages is None else input_digest(recipe.prophages)
    return Request(sheet, tuple(sources), tuple(digests), recipe, bed)
