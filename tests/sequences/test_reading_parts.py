"""Reading on from the middle of a file must not judge the file anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnp.errors import InputError
from vnp.sequences.reading import read_records

PROTEIN = "MKLFEEPQLLIPWQELFPEILKRRSFPQ"


def _offset(path: Path, name: bytes) -> int:
    return path.read_bytes().index(b">" + name if b">" + name in path.read_bytes() else b"@" + name)


def test_proteins_at_the_end_of_a_file_of_dna_are_problems_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "mixed.fa"
    path.write_text(
        "".join(f">d{i}\nACGTACGTAA\n" for i in range(40)) + "".join(f">p{i}\n{PROTEIN}\n" for i in range(15))
    )
    whole = list(read_records(path))
    assert [record.problem is None for record in whole] == [True] * 40 + [False] * 15
    rest = list(read_records(path, offset=_offset(path, b"p0"), line=81))
    assert rest == whole[40:]


def test_a_file_of_protein_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "protein.fa"
    path.write_text(f">p\n{PROTEIN}\n")
    with pytest.raises(InputError, match="protein"):
        list(read_records(path))


def test_a_header_may_speak_of_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a.fa"
    path.write_text(">x of the metabolic path, partial\nACGT\n")
    assert [record.name for record in read_records(path)] == ["x"]
    sheet = tmp_path / "sheet.txt"
    for text in ("path,label,group\n", "label\tpath\tgroup\n"):
        sheet.write_text(text)
        with pytest.raises(InputError, match="samplesheet"):
            list(read_records(sheet))


def test_a_read_may_be_called_like_a_line_of_sam(tmp_path: Path) -> None:
    path = tmp_path / "a.fq"
    path.write_text("@r1\nACGT\n+\nIIII\n@CO\tx\nACGT\n+\nIIII\n")
    whole = list(read_records(path))
    assert [record.name for record in whole] == ["r1", "CO"]
    assert list(read_records(path, offset=_offset(path, b"CO"), line=5)) == whole[1:]
