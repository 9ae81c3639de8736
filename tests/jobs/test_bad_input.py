"""What goes wrong with inputs and disks: one clear message, or a line in skipped.tsv, and nothing half-written."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs.commands import SAMPLE, call, clean, extract
from tests.runs.making import coding, dna, write_fasta
from vnp.files.machine import IGNORE_DISK

GOOD = f">good\n{coding(600, 1)}\n"
PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQ"
Case = tuple[str, str | bytes | None, list[str]]

# File name, content, and what the message must say. The file's own name must always be said.
REFUSED: dict[str, Case] = {
    "missing": ("none.fa", None, ["there is no such file", "check the path"]),
    "empty": ("a.fa", b"", ["the file is empty"]),
    "blank lines": ("a.fa", b"\n\n\n", ["holds no record"]),
    "no header": ("a.fa", b"ACGTACGT\nACGT\n", ["line 1", "not FASTA or FASTQ", "'>'"]),
    "binary": ("a.fa", bytes(range(256)) * 40, ["binary"]),
    "random gzip": ("a.fa.gz", gzip.compress(os.urandom(5000)), ["binary"]),
    "truncated gzip": ("a.fa.gz", gzip.compress(GOOD.encode() * 50)[:-20], ["ends too early", "copy it again"]),
    "damaged gzip": ("a.fa.gz", gzip.compress(os.urandom(500).hex().encode())[:300] + b"\0" * 300, ["damaged"]),
    "empty gzip": ("a.fa.gz", gzip.compress(b""), ["empty"]),
    "protein": ("a.faa", f">p1\n{PROTEIN}\n>p2\n{PROTEIN}\n", ["looks like protein", "'p1'", "give the DNA"]),
    "same id twice": ("a.fa", ">x\nACGT\n>y\nAC\n>x\nGG\n", ["'x'", "line 1", "line 5"]),
    "FASTQ cut off": ("a.fq", "@r1\nACGT\n+\nIIII\n@r2\nACGT\n+\nII", ["r2"]),
    "FASTQ out of step": ("a.fq", "@r1\nACGT\n+\nIIIIII\n@r2\nACGT\n+\nIIII\n", ["line"]),
    "web page": ("a.fa", "<!DOCTYPE html>\n<html></html>\n", ["web page"]),
    "SAM": ("a.fa", "@HD\tVN:1.6\n", ["SAM", "samtools view -b"]),
    "zip": ("a.fa", b"PK\x03\x04" + bytes(100), ["zip", "unpack"]),
    "sheet without a column": ("a.csv", "path,label\ngood.fa,viral\n", ["line 1", "no column group"]),
    "sheet with an unknown label": (
        "a.csv",
        "path,label,group\ngood.fa,virus,\n",
        ["line 2", "'virus'", "viral, host"],
    ),
    "sheet with a missing file": ("a.csv", "path,label,group\nnone.fa,viral,\n", ["line 2", "none.fa", "no such file"]),
    "sheet without rows": ("a.csv", "path,label,group\n", ["no rows"]),
    "empty sheet": ("a.csv", "", ["empty"]),
    "sheet of junk": ("a.tsv", bytes(range(128, 256)) * 4, ["not UTF-8"]),
    "sheet with a short row": ("a.csv", "path,label,group\ngood.fa\n", ["line 2", "1 columns"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    file, content, parts = REFUSED[name]
    path = tmp_path / file
    (tmp_path / "good.fa").write_text(GOOD)
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    # Good files before and after must not hide it.
    other = write_fasta(tmp_path / "other.fa", [("o1", coding(900, 2))])
    result = extract(other, path, "--out", tmp_path / "run")
    message = clean(result)
    assert result.exit_code in (1, 2), message
    assert message.count("error: ") == 1
    for part in (file, *parts):
        assert part in message, message
    assert not (tmp_path / "run").exists()


def test_a_folder_is_refused(tmp_path: Path) -> None:
    result = extract(tmp_path, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "is a folder" in clean(result)
    assert not (tmp_path / "run").exists()


def test_no_input_and_the_same_twice(tmp_path: Path) -> None:
    result = extract("--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "no input" in clean(result)
    path = write_fasta(tmp_path / "a.fa", [("a", "ACGT")])
    result = extract(path, path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "given twice" in clean(result)


def skipped(run: Path) -> list[list[str]]:
    """The lines of ``skipped.tsv`` below its header."""
    with (run / "skipped.tsv").open(newline="", encoding="utf-8") as file:
        _, *lines = csv.reader(file, "excel-tab")
    assert {len(line) for line in lines} <= {6}
    return lines


def test_paths_with_odd_letters(tmp_path: Path) -> None:
    for number, name in enumerate(("a\tb.fa", "a\nb.fa", 'ü "x".fa', "a.b,c.fa")):
        path = write_fasta(tmp_path / name, [("x", coding(600, 1)), ("e", "")])
        out = tmp_path / f"run-{number}"
        assert extract(path, "--out", out, "--prefix-ids").exit_code == 0
        assert call("reduce", out).exit_code == 0
        (line,) = skipped(out)
        assert line[1] == str(path).replace("\n", "\\n")
    path = tmp_path / os.fsdecode(b"not-utf-8-\xff.fa")
    path.write_text(GOOD)
    result = extract(path, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "not UTF-8" in clean(result)


def test_the_same_id_in_two_files_names_both_and_the_option(tmp_path: Path) -> None:
    paths = [write_fasta(tmp_path / name, [("x", coding(600, 1))]) for name in ("one.fa", "two.fa")]
    result = extract(*paths, "--out", tmp_path / "run")
    message = clean(result)
    assert result.exit_code == 1
    assert all(part in message for part in ("'x'", "one.fa, line 1", "two.fa, line 1", "--prefix-ids"))
    assert extract(*paths, "--out", tmp_path / "run", "--prefix-ids").exit_code == 0


NAMES = {
    "pipe and slash": ("gi|9626243|ref/NC_001416.1", "gi|9626243|ref/NC_001416.1"),
    "quotes": ('it\'s"quoted"', 'it\'s"quoted"'),
    "tab ends the name": ("one\ttwo", "one"),
    "non-ASCII": ("Bacillus-Müller-φ29", "Bacillus-Müller-φ29"),
    "comma": ("a,b;c", "a,b;c"),
    "300 bytes": ("n" * 300, "n" * 300),
    "100 kB": ("n" * 100_000, "n" * 100_000),
    "like an id": ("x_chunk_1F1", "x_chunk_1F1"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_come_through(tmp_path: Path, name: str) -> None:
    import h5py

    given, expected = NAMES[name]
    path = write_fasta(tmp_path / "a.fa", [(given, coding(400, 1)), ("plain", coding(400, 2)), ("e" + given, "")])
    assert extract(path, "--out", tmp_path / "run", "--shards", 2).exit_code == 0
    assert call("reduce", tmp_path / "run").exit_code == 0
    with h5py.File(tmp_path / "run/features.h5", "r") as file:
        assert file["records/name"][0].decode() == expected
        assert file["ids"][0].decode() == f"{expected}_chunk_1F1"
    assert [line[0] for line in skipped(tmp_path / "run")] == ["e" + expected]


SKIPPED = {
    "empty record": (">bad\n>good\n", "the record is empty"),
    "only N": (f">bad\n{'N' * 900}\n", "only ambiguous bases"),
    "gaps": (">bad\nACGT--ACGTACGTACGTAAAGGGCC\n", "invalid letter -"),
    "star": (">bad\nACGTACGTACGTACGTACGTACGT*\n", "invalid letter *"),
    "too short": (">bad\nAC\n", "shorter than 3 bases"),
    "one protein among DNA": (f">bad\n{PROTEIN}\n", "looks like protein"),
    "no name": (">\nACGTACGTACGT\n", "the header has no name"),
    "digits": (">bad\nACGT1ACGTACGTACGT\n", "invalid letter 1"),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_skipped(tmp_path: Path, name: str) -> None:
    text, reason = SKIPPED[name]
    text = text.removesuffix(">good\n")
    path = tmp_path / "a.fa"
    path.write_text(f">first\n{coding(900, 1)}\n{text}>last\n{coding(900, 2)}\n")
    result = extract(path, "--out", tmp_path / "run", "--shards", 3)
    assert result.exit_code == 0, clean(result)
    assert call("reduce", tmp_path / "run").exit_code == 0
    bad = [line for line in skipped(tmp_path / "run") if not line[0].startswith(("first", "last"))]
    assert bad
    assert {line[5].split(" at ")[0].split(":")[0] for line in bad} == {reason}
    assert {line[1] for line in bad} == {str(path)}


ACCEPTED: dict[str, Callable[[str], bytes]] = {
    "lower case": lambda text: text.lower().encode(),
    "RNA": lambda text: text.replace("T", "U").encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "blank lines": lambda text: text.replace("\n", "\n\n").encode(),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "no newline at the end": lambda text: text.rstrip("\n").encode(),
    "a comment": lambda text: b"; a comment\n# another\n" + text.encode(),
    "gzip of another name": lambda text: gzip.compress(text.encode()),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(tmp_path: Path, name: str) -> None:
    import h5py

    text = "".join(f">r{i}\n{coding(500, i)}{dna(200, i)}\n" for i in range(3))
    found = []
    for folder, content in (("plain", text.encode()), ("other", ACCEPTED[name](text))):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "a.fa"
        path.write_bytes(content.replace(b">R", b">r") if name != "gzip of another name" else content)
        assert extract(path, "--out", tmp_path / folder / "run", "--shards", 3).exit_code == 0
        assert call("reduce", tmp_path / folder / "run").exit_code == 0
        with h5py.File(tmp_path / folder / "run/features.h5", "r") as file:
            found.append((file["ids"][:].tolist(), file["features"][:].tobytes()))
    assert found[0] == found[1]


class TestOutput:
    def test_an_existing_run(self, tmp_path: Path) -> None:
        path = write_fasta(tmp_path / "a.fa", [("a", coding(900, 1))])
        out = tmp_path / "run"
        assert extract(path, "--out", out).exit_code == 0
        again = extract(path, "--out", out)
        assert again.exit_code == 0
        assert "nothing to do: all 1 shards" in again.stdout
        other = extract(path, "--out", out, "--chunk", 500)
        assert other.exit_code == 2
        assert all(part in clean(other) for part in ("holds another run", "chunk: 300 there, 500 asked", "--force"))
        forced = extract(path, "--out", out, "--chunk", 500, "--force")
        assert forced.exit_code == 0
        assert "planned" in forced.stdout

    def test_a_folder_of_something_else(self, tmp_path: Path) -> None:
        path = write_fasta(tmp_path / "a.fa", [("a", coding(900, 1))])
        for more in ((), ("--force",)):
            result = extract(path, "--out", tmp_path, *more)
            assert result.exit_code == 2
            assert "is not empty and is no run" in clean(result)
        assert sorted(item.name for item in tmp_path.iterdir()) == ["a.fa"]

    @pytest.mark.parametrize("out", ["a.fa/run", "/proc/run", "/dev/null/run", "/sys/vnp-run"])
    def test_where_nothing_can_be_written(self, tmp_path: Path, out: str) -> None:
        path = write_fasta(tmp_path / "a.fa", [("a", coding(900, 1))])
        result = extract(path, "--out", tmp_path / out)
        message = clean(result)
        assert result.exit_code in (1, 2), message
        assert message.count("error: ") == 1
        assert Path(out).name in message

    def test_a_file(self, tmp_path: Path) -> None:
        path = write_fasta(tmp_path / "a.fa", [("a", coding(900, 1))])
        result = extract(path, "--out", path)
        assert result.exit_code == 2
        assert clean(result)
        assert path.read_text().startswith(">a")


def mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "tiny", "-o", "size=900k")


class TestFullDisk:
    def test_read_only(self, tmp_path: Path, tiny: Path) -> None:
        path = write_fasta(tmp_path / "a.fa", [("a", coding(900, 1))])
        subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
        result = extract(path, "--out", tiny / "run")
        message = clean(result)
        assert result.exit_code == 1
        assert "read-only" in message
        assert str(tiny / "run") in message

    def test_full_from_the_start(self, tmp_path: Path, tiny: Path) -> None:
        path = write_fasta(tmp_path / "a.fa", [("a", coding(900, 1))])
        fill(tiny, 0)
        result = extract(path, "--out", tiny / "run")
        message = clean(result)
        assert result.exit_code == 1
        assert "no space left" in message
        assert not (tiny / "run/run.json").exists()

    def test_full_while_shards_are_made(self, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = tiny / "run"
        refused = extract(SAMPLE, "--out", out, "--shards", 4)
        assert refused.exit_code == 1
        assert "MB needed" in clean(refused)
        monkeypatch.setenv(IGNORE_DISK, "1")
        result = extract(SAMPLE, "--out", out, "--shards", 4)
        message = clean(result)
        assert result.exit_code == 3
        assert "no space left" in message
        assert f"python -m jobs.rerun {out}" in message
        self.check(out)
        # Room is made, and it goes on.
        subprocess.run(["mount", "-o", "remount,size=60m", str(tiny)], check=True)
        again = call("rerun", out, "--cluster", "inline")
        assert again.exit_code == 0, clean(again)
        assert call("reduce", out).exit_code == 0

    def test_full_while_merging(self, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(IGNORE_DISK, "1")
        out = tiny / "run"
        subprocess.run(["mount", "-o", "remount,size=60m", str(tiny)], check=True)
        assert extract(SAMPLE, "--out", out, "--shards", 2).exit_code == 0
        fill(tiny, 1_500_000)
        result = call("reduce", out)
        message = clean(result)
        assert result.exit_code == 1
        assert "no space left" in message
        assert str(out / "features.h5") in message
        assert not (out / "features.h5").exists()
        self.check(out)
        (tiny / "filler").unlink()
        assert call("reduce", out).exit_code == 0

    def check(self, out: Path) -> None:
        from vnp.runs.done.receipts import sealed
        from vnp.runs.request import Run

        run = Run.open(out)
        for path in run.paths.receipts.iterdir():
            assert sealed(run, int(path.stem.removeprefix("shard-")), full=True) is not None
        assert not list(out.rglob("*.tmp"))


def fill(folder: Path, but: int) -> None:
    """Fill a disk up to so many bytes."""
    disk = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        file.write(bytes(max(0, disk.f_bavail * disk.f_frsize - but)))


def test_every_odd_specimen(shared: Path, tmp_path: Path) -> None:
    """Each is refused with one message that names it, or every one of its records is accounted for."""
    import h5py

    listed = (shared / "data/odd_inputs/README.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in listed if line.startswith("| ") and "/" in line.split("|")[1]]
    assert len(names) == 81
    taken = 0
    for number, name in enumerate(names):
        out = tmp_path / str(number)
        result = extract(shared / "data/odd_inputs" / name, "--out", out)
        message = clean(result)
        if result.exit_code:
            assert result.exit_code in (1, 2), (name, message)
            assert message.count("error: ") == 1, (name, message)
            assert Path(name).name in message, (name, message)
            assert not out.exists(), name
            continue
        taken += 1
        assert call("reduce", out).exit_code == 0, name
        with h5py.File(out / "features.h5", "r") as file:
            record, chunk = file["record"][:].tolist(), file["chunk"][:].tolist()
            skipped, numbers = file["skipped/record"][:].tolist(), file["skipped/chunk"][:].tolist()
            chunks = file["records/chunks"][:].tolist()
        units = {(r, c) for r, c in zip(record, chunk, strict=True)} | set(zip(skipped, numbers, strict=True))
        expected = {(r, c) for r, count in enumerate(chunks) for c in (range(1, count + 1) if count else (0,))}
        assert units == expected, name
    assert taken >= 40
