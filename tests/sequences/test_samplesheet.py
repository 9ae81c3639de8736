from __future__ import annotations

from pathlib import Path

import pytest

from vnp.errors import InputError, UsageError, VnpError
from vnp.sequences.samplesheet import InputFile, read_inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.fa", "b.fq"):
        (tmp_path / name).write_text(">x\nACGT\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.fa").write_text(">x\nACGT\n")
    return tmp_path


def test_files_come_in_order_and_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert read_inputs([Path("b.fq"), Path("a.fa")]) == [InputFile(folder / "b.fq"), InputFile(folder / "a.fa")]


@pytest.mark.parametrize(("name", "mark"), [("s.csv", ","), ("s.tsv", "\t"), ("S.CSV", ",")])
def test_a_sheet(folder: Path, name: str, mark: str) -> None:
    rows = [["path", "label", "group"], ["a.fa", "viral", "g1"], ["sub/c.fa", "Host", ""], [""], ["b.fq", "", "g 2"]]
    (folder / name).write_text("\n".join(mark.join(row) for row in rows) + "\n")
    assert read_inputs([folder / name]) == [
        InputFile(folder / "a.fa", 1, "g1"),
        InputFile(folder / "sub" / "c.fa", 0, None),
        InputFile(folder / "b.fq", -1, "g 2"),
    ]


def test_a_sheet_from_a_spreadsheet(folder: Path) -> None:
    text = '\ufeffGroup,Label,Path,comment\r\ng1,viral,"a.fa","one, two"\r\n'
    (folder / "s.csv").write_bytes(text.encode())
    assert read_inputs([folder / "s.csv"]) == [InputFile(folder / "a.fa", 1, "g1")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty", "path, label, group"]),
        ("path,label,group\n", ["no rows"]),
        ("path,group\na.fa,x\n", ["line 1", "no column label"]),
        ("path;label;group\na.fa;viral;x\n", ["line 1", "no column path", "commas"]),
        ("path,label,group,label\na.fa,viral,x,host\n", ["two columns", "label"]),
        ("path,label,group\na.fa,virus,x\n", ["line 2", "'virus'", "viral, host"]),
        ("path,label,group\na.fa,viral\n", ["line 2", "2 columns", "3"]),
        ("path,label,group\n,viral,x\n", ["line 2", "path is empty"]),
        ("path,label,group\na.fa,viral,x\nmissing.fa,host,y\n", ["line 3", "missing.fa", "no such file"]),
        ("path,label,group\nsub,host,y\n", ["line 2", "folder"]),
        ("path,label,group\na.fa,viral,x\n./sub/../a.fa,viral,x\n", ["twice", "line 2", "line 3"]),
        ('path,label,group\n"a.fa,viral,x\n', ["line 2", "not a table that can be read"]),
        (b"path,label,group\na.fa,viral,\xff\n", ["UTF-8"]),
    ],
)
def test_a_faulty_sheet_is_one_message(folder: Path, text: str | bytes, words: list[str]) -> None:
    (folder / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(VnpError) as error:
        read_inputs([folder / "s.csv"])
    message = str(error.value)
    assert "s.csv" in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_nothing_given() -> None:
    with pytest.raises(UsageError, match="no input"):
        read_inputs([])


def test_a_missing_file(folder: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_inputs([folder / "a.fa", folder / "zz.fa"])


def test_a_file_twice(folder: Path) -> None:
    (folder / "link.fa").symlink_to(folder / "a.fa")
    with pytest.raises(UsageError, match="twice"):
        read_inputs([folder / "a.fa", folder / "link.fa"])
