from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from vnp.datasets.sheet import Source, read_sheet
from vnp.errors import InputError, UsageError, VnpError

HEAD = "path,label,group,organism_group\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("v.gb", "w.gb", "h.gb", "sub/i.gb"):
        (tmp_path / name).write_text("LOCUS       X 1 bp\n")
    for name in ("f.fna", "g.fa"):
        (tmp_path / name).write_text(">x\nACGT\n")
    (tmp_path / "f.gff3").write_text("##gff-version 3\n")
    (tmp_path / "other.gff").write_text("##gff-version 3\n")
    (tmp_path / "r.fq").write_text("@x\nACGT\n+\nIIII\n")
    (tmp_path / "empty.gb").write_text("\n")
    return tmp_path


def read(folder: Path, text: str, name: str = "s.csv") -> tuple[Source, ...]:
    (folder / name).write_text(text)
    return read_sheet(folder / name)


def test_rows_come_in_order(folder: Path) -> None:
    text = HEAD + "v.gb,Viral,,VIRAL\nsub/i.gb,host,g1,bacteria\nf.fna,host,g1,Slime moulds\nw.gb,viral,,\n"
    assert read(folder, text) == (
        Source(folder / "v.gb", 1, None, "viral", None, "v.gb"),
        Source(folder / "sub/i.gb", 0, "g1", "bacteria", None, "sub/i.gb"),
        Source(folder / "f.fna", 0, "g1", "Slime moulds", folder / "f.gff3", "f.fna"),
        Source(folder / "w.gb", 1, None, None, None, "w.gb"),
    )


def test_tabs_and_other_columns(folder: Path) -> None:
    text = "organism_group\tnote\tgroup\tlabel\tpath\nplant\tx\t\thost\th.gb\n"
    assert read(folder, text, "s.tsv") == (Source(folder / "h.gb", 0, None, "plant", None, "h.gb"),)


def test_an_annotation_is_named_or_found(folder: Path) -> None:
    text = "path,label,group,organism_group,annotation\ng.fa,host,,plant,other.gff\nf.fna,host,,plant,\nh.gb,host,,,\n"
    assert [source.annotation for source in read(folder, text)] == [folder / "other.gff", folder / "f.gff3", None]


@pytest.mark.parametrize(
    ("fasta", "gff"),
    [("a_genomic.fna.gz", "a_genomic.gff.gz"), ("b.fa", "b.gff3.gz"), ("c.1.fasta", "c.1.gff"), ("d", "d.gff3")],
)
def test_annotations_are_found_beside_compressed_files(tmp_path: Path, fasta: str, gff: str) -> None:
    for name, text in ((fasta, b">x\nACGT\n"), (gff, b"##gff-version 3\n")):
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    (found,) = read(tmp_path, HEAD + f"{fasta},host,,plant\n")
    assert found.annotation == tmp_path / gff


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("v.gb,,,\n", ["line 2", "label is empty", "viral or host"]),
        ("v.gb,virus,,\n", ["line 2", "unknown label 'virus'"]),
        ("v.gb,viral,,bacteria\n", ["line 2", "viral", "bacteria", "one of the two is wrong"]),
        ("h.gb,host,,Viral\n", ["line 2", "host", "viral"]),
        ("v.gb,viral,g,\nh.gb,host,g,\n", ["line 3", "group 'g'", "host here", "viral in line 2"]),
        ("v.gb,viral,,odd\nh.gb,host,,odd\n", ["line 3", "organism group 'odd'", "line 2"]),
        ("v.gb,viral,,\n./sub/../v.gb,viral,,\n", ["v.gb", "line 2", "line 3", "remove one"]),
        ("none.gb,viral,,\n", ["line 2", "none.gb", "no such file"]),
        (",viral,,\n", ["line 2", "path is empty"]),
        ("g.fa,host,,plant\n", ["line 2", "g.fa", "g.gff3", "annotation"]),
        ("r.fq,host,,plant\n", ["line 2", "FASTQ"]),
        ("empty.gb,host,,plant\n", ["line 2", "empty"]),
        ("v.gb,viral\n", ["line 2", "2 columns", "4"]),
        ("", ["no rows"]),
    ],
)
def test_a_faulty_sheet_is_one_message(folder: Path, rows: str, words: list[str]) -> None:
    with pytest.raises(VnpError) as error:
        read(folder, HEAD + rows)
    message = str(error.value)
    assert message.startswith(str(folder / "s.csv"))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_annotation_may_be_genbank(folder: Path) -> None:
    text = "path,label,group,organism_group,annotation\nf.fna,host,,plant,sub/i.gb\n"
    assert [source.annotation for source in read(folder, text)] == [folder / "sub/i.gb"]


def test_a_genbank_file_beside_fasta_is_not_taken_unasked(folder: Path) -> None:
    (folder / "g.gbff").write_text("LOCUS       X 1 bp\n")
    with pytest.raises(InputError, match="name its GFF3 or GenBank file in a column annotation"):
        read(folder, HEAD + "g.fa,host,,plant\n")


def test_a_genbank_file_with_an_annotation_is_refused(folder: Path) -> None:
    for annotation in ("other.gff", "g.fa"):
        text = f"path,label,group,organism_group,annotation\nh.gb,host,,plant,{annotation}\n"
        with pytest.raises(InputError, match=r"only FASTA has an annotation .* give their FASTA file as path and this"):
            read(folder, text)


def test_columns_that_are_missing(folder: Path) -> None:
    with pytest.raises(InputError, match="no column group: a sheet of a training set has the columns path"):
        read(folder, "path,label\nv.gb,viral\n")
    (source,) = read(folder, "path,label,group\nv.gb,viral,\n")
    assert source.organism_group is None


def test_a_file_that_is_no_sheet(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"v\.gb: the sheet of a training set is a \.csv or \.tsv"):
        read_sheet(folder / "v.gb")


def test_a_damaged_file_is_noticed(folder: Path) -> None:
    (folder / "cut.gb.gz").write_bytes(gzip.compress(b"LOCUS" + bytes(1000))[:20])
    with pytest.raises(InputError, match=r"line 2: .*cut\.gb\.gz: the gzip file"):
        read(folder, HEAD + "cut.gb.gz,viral,,\n")
