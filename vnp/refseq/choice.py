"""Which files of a RefSeq release make a training set: VirNucPro's rules.

Source: ``download_data.py`` of https://github.com/Li-Jing-1997/VirNucPro. Its rules are these. One pseudo-random
stream, Python's ``random`` with the seed 42, serves all host groups in the order of ``HOSTS``. Of each group's folder,
the GenBank files (``*.genomic.gbff.gz``) are taken in the order of the server's page, and ``random.sample`` draws ten
of them for plants, invertebrates and both groups of vertebrates, one for the others, or all where there are fewer.
Of viruses it is the first file, without a draw. With every GenBank file ``X.genomic.gbff.gz`` comes the FASTA file
``X.1.genomic.fna.gz``.

Since one stream serves all groups, a group's draw depends on how many files the groups before it have. So those are
listed too, even if only the later group was asked for: a group's files are the same whatever else is asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vnp.errors import DownloadError, UsageError

SEED = 42
"""VirNucPro's seed."""

_GENBANK = "genomic.gbff.gz"
_FASTA = "1.genomic.fna.gz"


@dataclass(frozen=True, slots=True)
class Group:
    """A folder of the release, its organism group and label, and how many GenBank files VirNucPro takes of it."""

    name: str
    organisms: str
    label: str
    files: int


VIRAL = Group("viral", "viral", "viral", 1)
HOSTS = tuple(
    Group(name, name.partition("_")[0], "host", files)
    for name, files in (
        ("bacteria", 1), ("archaea", 1), ("fungi", 1), ("protozoa", 1), ("plant", 10), ("invertebrate", 10),
        ("vertebrate_mammalian", 10), ("vertebrate_other", 10),
    )
)  # fmt: skip
"""In the order in which VirNucPro draws."""

GROUPS = {group.name: group for group in (VIRAL, *HOSTS)}
_SEVERAL = {"vertebrate": ("vertebrate_mammalian", "vertebrate_other"), "all": tuple(GROUPS)}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file to fetch: ``genbank`` (annotation, and often the sequence) or ``fasta``."""

    name: str
    group: Group
    kind: str


def parse_groups(text: str) -> tuple[str, ...]:
    """Read ``viral,bacteria``; ``vertebrate`` is both of its folders, ``all`` all of them. UsageError for others."""
    found: set[str] = set()
    for name in filter(None, (part.strip().lower() for part in text.split(","))):
        if name not in GROUPS and name not in _SEVERAL:
            known = ", ".join([*GROUPS, *_SEVERAL])
            raise UsageError(f"RefSeq has no group {name!r} that vnp knows; there are {known}")
        found.update(_SEVERAL.get(name, (name,)))
    if not found:
        raise UsageError("--refseq needs a group, such as viral,bacteria")
    return tuple(name for name in GROUPS if name in found)


def choose(
    listing: Callable[[str], Sequence[str]],
    groups: Iterable[str],
    *,
    seed: int = SEED,
    files: int | None = None,
    fasta: bool = True,
) -> tuple[Chosen, ...]:
    """Choose files by VirNucPro's rules, see above: viruses, then hosts in the order of the draws.

    Args:
        listing: gives the file names of a group's folder, in the order of the server's page.
        files: GenBank files of every group, in place of VirNucPro's one or ten.
        fasta: behind each GenBank file comes its FASTA file where the server has it.

    Raises:
        DownloadError: a folder has no GenBank file.
    """
    wanted = set(groups)
    found: list[Chosen] = []
    if VIRAL.name in wanted:
        names = listing(VIRAL.name)
        first = sorted(set(_genbank(names, VIRAL)), key=_number)[: files or VIRAL.files]
        found += _with_fasta(first, VIRAL, names, fasta)
    stream = random.Random(seed)  # noqa: S311 - a draw that others can repeat, no secret
    for group in HOSTS[: 1 + max((place for place, one in enumerate(HOSTS) if one.name in wanted), default=-1)]:
        names = listing(group.name)
        available = _genbank(names, group)
        drawn = stream.sample(available, min(files or group.files, len(available)))
        if group.name in wanted:
            found += _with_fasta(drawn, group, names, fasta)
    return tuple(dict.fromkeys(found))


def fasta_name(genbank: str) -> str:
    """The name of the FASTA file that belongs to a GenBank file."""
    return genbank.removesuffix(_GENBANK) + _FASTA


def _genbank(names: Sequence[str], group: Group) -> list[str]:
    found = [name for name in names if name.endswith(_GENBANK)]
    if not found:
        raise DownloadError(f"the server's folder {group.name}/ lists no *.{_GENBANK}: is it a RefSeq release?")
    return found


def _number(name: str) -> tuple[int, str]:
    found = re.search(r"\.(\d+)\.", name)
    return (int(found[1]) if found else 0, name)


def _with_fasta(drawn: Sequence[str], group: Group, names: Sequence[str], fasta: bool) -> list[Chosen]:
    there = set(names) if fasta else set()
    found = []
    for name in drawn:
        found.append(Chosen(name, group, "genbank"))
        if fasta_name(name) in there:
            found.append(Chosen(fasta_name(name), group, "fasta"))
    return found
