from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets.genbank import genbank, random_bases
from vnp.datasets.annotations.reading import read_annotated
from vnp.datasets.choosing._split import Unit, UnitRecord, describe_units, find_units, split_by_date
from vnp.datasets.lineage import rank_of, unit_of
from vnp.datasets.sheet import read_sheet
from vnp.errors import InputError
from vnp.features.split import TEST, TRAIN, VALIDATION

HERPES = "Viruses; Heunggongvirae; Peploviricota; Herviviricetes; Herpesvirales; Orthoherpesviridae; Simplexvirus"
ECOLI = "Bacteria; Pseudomonadota; Gammaproteobacteria; Enterobacterales; Enterobacteriaceae; Escherichia"
FLY = "Eukaryota; Metazoa; Arthropoda; Insecta; Diptera; Drosophilidae; Drosophila; Sophophora"


@pytest.mark.parametrize(
    ("lineage", "organism", "ranks"),
    [
        (HERPES, "Human alphaherpesvirus 1 strain 17", ("Simplexvirus", "Orthoherpesviridae", "Herpesvirales")),
        (ECOLI, "Escherichia coli K-12", ("Escherichia", "Enterobacteriaceae", "Enterobacterales")),
        (FLY, "Drosophila melanogaster", ("Drosophila", "Drosophilidae", "")),
        ("Viruses; Caudoviricetes; unclassified Caudoviricetes", "Some phage", ("", "", "")),
        ("Viruses; Siphoviridae; L5virus", "Mycobacterium phage", ("L5virus", "Siphoviridae", "")),
        ("Bacteria; Enterobacteriaceae; environmental samples", "uncultured bacterium", ("", "Enterobacteriaceae", "")),
        ("", "", ("", "", "")),
    ],
)
def test_ranks(lineage: str, organism: str, ranks: tuple[str, ...]) -> None:
    names = tuple(filter(None, lineage.split("; ")))
    assert tuple(rank_of(names, organism, rank) for rank in ("genus", "family", "order")) == ranks


def test_a_narrower_rank_stands_in_and_never_a_wider_one() -> None:
    fly = tuple(FLY.split("; "))
    assert unit_of(fly, "Drosophila melanogaster", "order") == "Drosophilidae"
    assert unit_of(("Viruses", "Herpesvirales"), "x", "genus") == ""


def test_units_are_families_then_genomes_and_groups_of_the_sheet_win() -> None:
    def record(name: str, lineage: str, group: str | None = None) -> UnitRecord:
        return UnitRecord(name, f"G{name}", 1, "viral", 10, group, "v.gb", tuple(lineage.split("; ")))

    records = [record("a", HERPES), record("b", HERPES), record("c", "Viruses"), record("d", HERPES, "own")]
    assert find_units(records, "family", lambda _: b"") == ["Orthoherpesviridae"] * 2 + ["Gc", "own"]
    assert find_units(records, "host", lambda _: b"") == ["Ga", "Gb", "Gc", "own"]
    with pytest.raises(InputError, match="none of the 1 records without a group, such as c, has a lineage"):
        find_units(records[2:], "family", lambda _: b"")


def dated(**dates: str) -> dict[str, Unit]:
    return {name: Unit(int(name[0] == "v"), name[0], 10, date) for name, date in dates.items()}


def test_the_newest_are_tested_on_and_the_undated_trained_on() -> None:
    viral = {f"v{n}": f"20{n:02}-01-01" for n in range(10)}
    split = split_by_date(dated(**viral, v_none="", h1="1999", h2="2001-05", h3="2003"))
    assert {name: part for name, part in split.items() if part == TEST} == {"v8": 2, "v9": 2, "h3": 2}
    assert {name for name, part in split.items() if part == VALIDATION} == {"v7", "h2"}
    assert split["v_none"] == split["h1"] == TRAIN
    assert set(split_by_date(dated(**viral, h1="1999", h2="2001"), test=0).values()) == {TRAIN, VALIDATION}


def test_units_of_one_day_stay_together() -> None:
    days = dict.fromkeys(("v1", "v2", "v3", "v4"), "2001") | {"v5": "2002", "v6": "2003", "v7": "2003"}
    split = split_by_date(dated(**days, h1="1999", h2="2001", h3="2003"))
    assert [split[name] for name in days] == [TRAIN] * 4 + [VALIDATION] + [TEST] * 2


@pytest.mark.parametrize(
    ("hosts", "words"),
    [({"h1": ""}, "0 host units have a date"), (dict.fromkeys(("h1", "h2", "h3"), "2001"), "on 1 different days")],
)
def test_too_few_dates(hosts: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        split_by_date(dated(v1="2001", v2="2002", v3="2003", **hosts))


def test_a_unit_is_as_old_as_its_oldest_record() -> None:
    records = [
        UnitRecord(name, "g", 1, "viral", 5, date=date) for name, date in (("a", "2005"), ("b", ""), ("c", "1999"))
    ]
    assert describe_units(records, ["u", "u", "u"])["u"].date == "1999"


def test_dates_of_genbank_are_those_of_the_first_submission_else_of_the_locus_line(tmp_path: Path) -> None:
    plain = genbank("A1", random_bases(300, 1), [])
    day = plain.splitlines()[0].split()[-1]
    plain = plain.replace(day, "17-MAY-2006", 1)
    days = ("12-JAN-2004", "01-FEB-2003")
    journal = "".join(f"  JOURNAL   Submitted ({one}) to INSDC\n" for one in days)
    journal = f"REFERENCE   1\n{journal}FEATURES"
    (tmp_path / "a.gb").write_text(plain + plain.replace("A1", "A2").replace("FEATURES", journal, 1))
    records = list(read_annotated(tmp_path / "a.gb", None))
    assert [one.date for one in records] == ["2006-05-17", "2003-02-01"]
    (tmp_path / "b.gb").write_text(plain.replace("17-MAY-2006", "17-MAI-2006"))
    assert [one.date for one in read_annotated(tmp_path / "b.gb", None)] == [""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "v.gb").write_text(genbank("V1", random_bases(300, 1), []))
    return tmp_path


def sheet(folder: Path, head: str, row: str) -> Path:
    (folder / "s.csv").write_text(f"{head}\n{row}\n")
    return folder / "s.csv"


def test_dates_and_a_column_of_units_in_the_sheet(folder: Path) -> None:
    path = sheet(folder, "path,label,group,organism_group,date,Biome", "v.gb,viral,g,,2004-02,sea")
    (by_group,), (by_biome,) = read_sheet(path), read_sheet(path, "biome")
    assert (by_group.group, by_biome.group, by_group.date) == ("g", "sea", "2004-02")
    with pytest.raises(InputError, match=r"no column depth.*--units asks for depth, and else is ani"):
        read_sheet(path, "depth")


@pytest.mark.parametrize("date", ["yesterday", "2004-13", "2004-02-30", "12.1.2004", "2004-1-1-1"])
def test_dates_that_are_none(folder: Path, date: str) -> None:
    with pytest.raises(InputError, match=r"s\.csv, line 2: the date is .*write it as 2004-01-12"):
        read_sheet(sheet(folder, "path,label,group,organism_group,date", f"v.gb,viral,,,{date}"))
