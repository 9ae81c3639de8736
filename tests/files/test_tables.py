"""Tables come back as they were written, from every reader that people use."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vnp.errors import InputError
from vnp.files.tables import open_text_table, table_lines, table_text
from vnp.sequences.samplesheet import table_rows

NAMES = [
    "plain", '"begins', 'in"side', 'ends"', '""', '"', '"both"', "#first", "HWI-1_0001:1:2#0/1", "5'", "'both'", "it's",
    "back\\slash", "\\", "\\N", "a\\tb", "a\tb", "=1+1", "+x", "-y", "@z", "a b", " lead", "trail ", "é…☃", "a,b",
    "a;b", "%s", "\u00a0x", "x\u2028y", '"a\\"b"', "''", "#",
]  # fmt: skip
COLUMNS = ["name", "number", "remark"]
ROWS = [[name, str(number), name if number % 2 else ""] for number, name in enumerate(NAMES)]
TREE = Path(__file__).resolve().parents[2]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.tsv"
    with open_text_table(path, COLUMNS) as file:
        file.write(table_lines(list(zip(*ROWS, strict=True))))
    return path


def test_through_csv(table: Path) -> None:
    for options in ({"dialect": "excel-tab"}, {"delimiter": "\t"}, {"delimiter": "\t", "strict": True}):
        with table.open(newline="", encoding="utf-8") as file:
            assert list(csv.reader(file, **options)) == [COLUMNS, *ROWS]
    assert len(table.read_bytes().splitlines()) == 1 + len(ROWS)


def test_through_its_own_reader(table: Path) -> None:
    assert list(table_rows(table, "table")) == list(enumerate([COLUMNS, *ROWS], start=1))


def test_through_pandas(table: Path) -> None:
    pandas = pytest.importorskip("pandas")
    found = pandas.read_csv(table, sep="\t")
    assert list(found.columns) == COLUMNS
    assert found["name"].tolist() == NAMES
    assert found["number"].tolist() == list(range(len(NAMES)))


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="there is no R")
@pytest.mark.parametrize("call", ["read.delim(path)", 'read.table(path, sep = "\\t", header = TRUE)'])
def test_through_r(table: Path, call: str) -> None:
    script = f"options(warn = 2); path <- commandArgs(TRUE); found <- {call}; writeLines(as.character(found$name))"
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin:/usr/local/bin"}
    done = subprocess.run(
        ["Rscript", "-e", script, str(table)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.removesuffix("\n").split("\n") == NAMES


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\x9b"])
def test_line_ends_and_other_control_characters_are_spelled(character: str) -> None:
    assert table_text([["path", "n"], [f"a{character}b", "1"]]) == f"path\tn\na{repr(character)[1:-1]}b\t1\n"


def test_separated_by_commas() -> None:
    assert table_text([["a,b", "c\td"], ["e", '"']], ",") == '"a,b",c\td\ne,""""\n'


def test_no_rows() -> None:
    assert table_lines([[], []]) == "" == table_text([])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'a\tb\n"c\td\n', "not a table that can be read: unexpected end of data"),
        (b'a\tb\n"c"d\te\n', "line 2: not a table that can be read"),
        (b"a\t" + b"x" * 200_000 + b"\n", "line 1: not a table that can be read: field larger"),
        (b"\xff\n", "not UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(said)):
        list(table_rows(path, "table"))


def test_nothing_else_writes_tables() -> None:
    other = re.compile(r"csv\.(writer|DictWriter)|\"\\t\"\.join")
    found = [
        path.relative_to(TREE).as_posix()
        for top in ("vnp", "jobs")
        for path in (TREE / top).rglob("*.py")
        if other.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
