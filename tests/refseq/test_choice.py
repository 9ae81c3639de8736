from __future__ import annotations

import math
import random

import pytest

from vnp.errors import DownloadError, UsageError
from vnp.refseq.choice import HOSTS, choose, parse_groups

NUMBERS = {
    "viral": 3,
    "bacteria": 1201,
    "archaea": 27,
    "fungi": 96,
    "protozoa": 8,
    "plant": 214,
    "invertebrate": 7,
    "vertebrate_mammalian": 640,
    "vertebrate_other": 311,
}


def listing(group: str) -> tuple[str, ...]:
    """A folder's page, sorted as text, as the server does it: 1, 10, 100, 2."""
    names = []
    for number in range(1, NUMBERS[group] + 1):
        names += [f"{group}.{number}.1.genomic.fna.gz", f"{group}.{number}.genomic.gbff.gz"]
        names += [f"{group}.{number}.2.genomic.fna.gz", f"{group}.{number}.protein.faa.gz"]
    return tuple(sorted(names))


def drawn(generator: random.Random, population: int, count: int) -> list[int]:
    """Places that ``random.sample`` draws, from the generator's bits alone.

    As Python documents it for a sequence: where the population is small, drawn places are filled with the last ones;
    where it is large, places that come twice are drawn again. A place is so many bits, until it is below the bound.
    """

    def below(bound: int) -> int:
        bits = bound.bit_length()
        while (value := generator.getrandbits(bits)) >= bound:
            pass
        return value

    small = 21
    if count > 5:
        small += 4 ** math.ceil(math.log(count * 3, 4))
    if population <= small:
        places = list(range(population))
        found = []
        for index in range(count):
            place = below(population - index)
            found.append(places[place])
            places[place] = places[population - index - 1]
        return found
    taken: list[int] = []
    for _ in range(count):
        place = below(population)
        while place in taken:
            place = below(population)
        taken.append(place)
    return taken


@pytest.mark.parametrize("seed", [42, 7])
def test_choice_is_the_one_that_a_single_stream_over_all_hosts_gives(seed: int) -> None:
    stream = random.Random(seed)
    expected = ["viral.1.genomic.gbff.gz"]
    for group in HOSTS:
        names = [name for name in listing(group.name) if name.endswith("genomic.gbff.gz")]
        count = 10 if group.organisms in ("plant", "invertebrate", "vertebrate") else 1
        expected += [names[place] for place in drawn(stream, len(names), min(count, len(names)))]
    found = choose(listing, NUMBERS, seed=seed)
    assert [one.name for one in found if one.kind == "genbank"] == expected
    assert len(expected) == 1 + 4 + 10 + 7 + 10 + 10


def test_choice_as_it_was_when_this_was_written() -> None:
    """Another Python must not change the draw of the published seed."""
    found = choose(listing, ["bacteria", "protozoa", "plant"], fasta=False)
    assert [one.name.removesuffix(".genomic.gbff.gz") for one in found] == PINNED


PINNED = ["bacteria.122", "protozoa.5"] + [
    f"plant.{number}" for number in (155, 150, 130, 76, 122, 62, 77, 31, 119, 42)
]


@pytest.mark.parametrize("group", NUMBERS)
def test_a_group_is_the_same_alone_as_among_all(group: str) -> None:
    alone = choose(listing, [group])
    assert alone == tuple(one for one in choose(listing, NUMBERS) if one.group.name == group)
    assert alone


def test_only_what_the_draw_depends_on_is_listed() -> None:
    asked: list[str] = []

    def watched(group: str) -> tuple[str, ...]:
        asked.append(group)
        return listing(group)

    choose(watched, ["viral", "archaea"])
    assert asked == ["viral", "bacteria", "archaea"]


def test_fasta_files_come_along_where_they_are() -> None:
    found = choose(lambda _: ["archaea.3.genomic.gbff.gz"], ["archaea"])
    assert [one.name for one in found] == ["archaea.3.genomic.gbff.gz"]
    found = choose(listing, ["viral"])
    assert [(one.name, one.kind) for one in found] == [
        ("viral.1.genomic.gbff.gz", "genbank"),
        ("viral.1.1.genomic.fna.gz", "fasta"),
    ]


def test_other_numbers_of_files() -> None:
    found = choose(listing, ["viral", "protozoa", "plant"], files=2, fasta=False)
    by_group = {name: [one.name for one in found if one.group.name == name] for name in NUMBERS}
    assert by_group["viral"] == ["viral.1.genomic.gbff.gz", "viral.2.genomic.gbff.gz"]
    assert len(by_group["protozoa"]) == len(by_group["plant"]) == 2
    assert len(choose(listing, ["protozoa"], files=100, fasta=False)) == NUMBERS["protozoa"]


def test_a_folder_without_genbank_files() -> None:
    with pytest.raises(DownloadError, match=r"archaea/ lists no \*.genomic.gbff.gz"):
        choose(lambda name: listing(name) if name == "bacteria" else ["x.rna.gbff.gz"], ["archaea"])


def test_groups() -> None:
    assert parse_groups("Bacteria, viral,,bacteria") == ("viral", "bacteria")
    assert parse_groups("vertebrate") == ("vertebrate_mammalian", "vertebrate_other")
    assert parse_groups("all") == tuple(NUMBERS)
    with pytest.raises(UsageError, match="no group 'virus'"):
        parse_groups("virus")
    with pytest.raises(UsageError, match="needs a group"):
        parse_groups(" , ")
