"""No writer writes over a file that it reads, by whatever name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs.commands import call, clean
from vnp.errors import UsageError
from vnp.files.claims import require_free
from vnp.files.durable import creating, protect, replacing, write_text

GENOME = ">a\n" + "GCA" * 200 + "\n"


@pytest.fixture(autouse=True)
def nothing_protected() -> Iterator[None]:
    yield
    protect([], anew=True)


def same(path: Path) -> Path:
    return path


def dotted(path: Path) -> Path:
    return path.parent / "folder" / ".." / path.name


def linked(path: Path) -> Path:
    (path.parent / "soft").symlink_to(path)
    return path.parent / "soft"


def hard_linked(path: Path) -> Path:
    (path.parent / "hard").hardlink_to(path)
    return path.parent / "hard"


@pytest.mark.parametrize("name", [same, dotted, linked, hard_linked])
def test_a_file_that_is_read_is_not_written(tmp_path: Path, name: Callable[[Path], Path]) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "in.fa"
    path.write_text("mine")
    protect([path])
    other = name(path)
    for writer in (replacing, creating):
        with pytest.raises(UsageError, match="is read, and would be written over"), writer(other) as temporary:
            temporary.write_text("theirs")
    with pytest.raises(UsageError, match="is read"):
        require_free([other], force=True)
    assert path.read_text() == "mine"
    write_text(tmp_path / "out", "theirs")
    # A number of a file that is gone may come again.
    path.unlink()
    write_text(path, "new")


COMMANDS: dict[str, list[str]] = {
    "frames": ["frames", "{out}/identified_nucleotide.fa", "--out", "{out}", "--force"],
    "convert": ["convert", "{out}/model.pth", "--chunk", "300", "--out", "{out}/model.pth", "--force"],
    "train": ["train", "{out}/f.h5", "--out", "{out}/f.h5", "--force"],
    "export": ["export", "{out}/features.npz", "--format", "npz", "--out", "{out}/features.npz", "--force"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_commands_by_another_name(tmp_path: Path, name: str, link: Callable[[Path, Path], None]) -> None:
    words = [word.format(out=tmp_path / "out") for word in COMMANDS[name]]
    out = Path(words[1])
    out.parent.mkdir()
    out.write_text(GENOME)
    source = tmp_path / f"source{out.suffix}"
    link(out, source)
    done = call(words[0], source, *words[2:])
    assert done.exit_code != 0, clean(done)
    assert out.read_text() == GENOME


def test_frames_says_which_file(tmp_path: Path) -> None:
    source = tmp_path / "identified_nucleotide.fa"
    source.write_text(GENOME)
    done = call("frames", source, "--out", tmp_path, "--force")
    assert done.exit_code == 2
    assert f"{source} is read, and would be written over" in clean(done)
    assert source.read_text() == GENOME


def test_files_of_a_sheet_are_read_too(tmp_path: Path) -> None:
    source = tmp_path / "out/identified_protein.faa"
    source.parent.mkdir()
    source.write_text(GENOME)
    (tmp_path / "sheet.csv").write_text("path,label,group\nout/identified_protein.faa,,\n")
    done = call("frames", tmp_path / "sheet.csv", "--out", tmp_path / "out", "--force")
    assert done.exit_code == 2
    assert source.read_text() == GENOME
