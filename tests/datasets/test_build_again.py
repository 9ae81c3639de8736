"""What stands in the folder of a training set: what goes on, what is made anew, what is refused."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.crash._child import Points, die, in_child
from tests.datasets.building import FILES, RECIPE, build, content, sheet
from tests.datasets.making import write_sheet
from vnp.datasets import build as build_module
from vnp.datasets.choosing.candidates import find_candidates
from vnp.errors import InputError, RunExistsError, UsageError
from vnp.files.claims import alone
from vnp.files.durable import temporary_name
from vnp.runs.planning.dataset import read_dataset

__all__ = ["sheet"]

pytest.importorskip("pyarrow")


def test_the_same_again_is_done_at_once_and_something_else_is_refused(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build(sheet, out)
    before = content(out)
    again = build(sheet, out, workers=2)
    assert not first.again
    assert again.again
    assert again.summary == first.summary
    with pytest.raises(RunExistsError, match="already there, and not made from these files"):
        build(sheet, out, replace(RECIPE, seed=4))
    assert content(out) == before
    build(sheet, out, replace(RECIPE, seed=4), force=True)
    assert content(out).keys() == before.keys()
    assert content(out) != before


def test_a_damaged_set_is_not_taken_for_finished(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(sheet, out)
    before = content(out)
    (out / "dataset.fna.gz").write_bytes(before["dataset.fna.gz"][:-1])
    with pytest.raises(RunExistsError):
        build(sheet, out)
    (out / "dataset.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunExistsError):
        build(sheet, out)
    build(sheet, out, force=True)
    assert content(out) == before


def test_one_flipped_bit_is_found(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(sheet, out)
    before = content(out)
    for name in sorted(FILES):
        flipped = bytearray(before[name])
        flipped[len(flipped) // 3] ^= 4
        (out / name).write_bytes(flipped)
        with pytest.raises(RunExistsError, match=r"already there, and not made|is not as it was written"):
            build(sheet, out)
        if name != "dataset.md":
            with pytest.raises(InputError, match=r"damaged|is not the FASTA"):
                read_dataset(out / "dataset.parquet", out / "dataset.fna.gz")
        (out / name).write_bytes(before[name])
    assert build(sheet, out).again


@pytest.mark.parametrize("kind", ["npz", "bases"])
def test_a_damaged_part_is_made_anew(sheet: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_arguments: object, **_more: object) -> str:
        raise KeyboardInterrupt

    build(sheet, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as stopped:
        stopped.setattr(build_module, "write_fasta", stop)
        with pytest.raises(KeyboardInterrupt):
            build(sheet, out)
    for path in (out / "parts").glob(f"*.{kind}"):
        flipped = bytearray(path.read_bytes())
        if flipped:
            flipped[len(flipped) // 2] ^= 1
            path.write_bytes(flipped)
    build(sheet, out)
    assert content(out) == content(tmp_path / "whole")


def test_files_of_somebody_else_are_left_alone(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    build(sheet, out)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "dataset.md").write_text("mine")
    with pytest.raises(RunExistsError, match=r"dataset\.md"):
        build(sheet, out, replace(RECIPE, seed=9))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "name", ["parts/notes.txt", "parts/shard-00000/block-00000.h5", "parts/sub/request.json", "parts"]
)
def test_parts_of_somebody_else_are_left_alone(sheet: Path, tmp_path: Path, name: str, force: bool) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("precious")
    with pytest.raises(RunExistsError, match="parts is there and is not of a training set"):
        build(sheet, out, force=force)
    assert content(out) == {name: b"precious"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 5}', '{"shards": 3}'])
def test_parts_with_a_request_of_something_else_are_left_alone(sheet: Path, tmp_path: Path, text: str) -> None:
    parts = tmp_path / "out/parts"
    parts.mkdir(parents=True)
    (parts / "request.json").write_text(text)
    (parts / "notes.txt").write_text("precious")
    with pytest.raises(RunExistsError):
        build(sheet, tmp_path / "out")
    assert content(parts) == {"request.json": text.encode(), "notes.txt": b"precious"}


def test_the_folder_of_a_run_is_refused(sheet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    (out / "run.json").write_text("{}")
    with pytest.raises(RunExistsError, match="is the folder of a run: choose another --out"):
        build(sheet, out, force=True)
    assert sorted(path.name for path in out.iterdir()) == ["parts", "run.json"]


def test_parts_with_nothing_but_a_temporary_file_go_on(sheet: Path, tmp_path: Path) -> None:
    """What is left where the first step was killed."""
    parts = tmp_path / "out/parts"
    parts.mkdir(parents=True)
    temporary_name(parts / "request.json").write_text("{")
    build(sheet, tmp_path / "out")
    assert set(content(tmp_path / "out")) == FILES


def test_two_at_once_in_one_folder(sheet: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out", "dataset"), pytest.raises(UsageError, match="another dataset is at work"):
        build(sheet, tmp_path / "out")
    build(sheet, tmp_path / "out")


def test_killed_at_any_call_that_changes_files(sheet: Path, tmp_path: Path) -> None:
    build(sheet, tmp_path / "whole")
    expected = content(tmp_path / "whole")
    counting = Points()
    with counting.watch():
        build(sheet, tmp_path / "counted")
    calls = len(counting.names)
    assert calls > 40
    choose = random.Random(5)
    for number in range(30):
        at = choose.randrange(number * calls // 30, (number + 1) * calls // 30)
        points = Points(at, die, after=choose.random() < 0.5)
        out = tmp_path / f"out{number}"

        def work(points: Points = points, out: Path = out) -> None:
            with points.watch():
                build(sheet, out)

        assert in_child(work, tmp_path).signal == signal.SIGKILL
        _require_whole_or_absent(out, expected)
        build(sheet, out)
        assert content(out) == expected
        shutil.rmtree(out)


def _require_whole_or_absent(out: Path, expected: dict[str, bytes]) -> None:
    for name in FILES:
        assert not (out / name).exists() or (out / name).read_bytes() == expected[name]


def test_finished_files_are_not_read_again(sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def dying(limit: int) -> Callable[..., None]:
        def find(source: Any, *args: Any, **more: Any) -> None:
            if len(seen) == limit:
                raise KeyboardInterrupt
            seen.append(source.name)
            find_candidates(source, *args, **more)

        return find

    monkeypatch.setattr("vnp.datasets.build.find_candidates", dying(2))
    with pytest.raises(KeyboardInterrupt):
        build(sheet, tmp_path / "out")
    assert sorted(seen) == ["v1.gb", "v2.gb"]
    monkeypatch.setattr("vnp.datasets.build.find_candidates", dying(4))
    build(sheet, tmp_path / "out")
    assert sorted(seen) == ["f.fna", "h.gb", "v1.gb", "v2.gb"]
    monkeypatch.undo()
    build(sheet, tmp_path / "other")
    assert content(tmp_path / "out") == content(tmp_path / "other")


def test_what_was_read_serves_other_options(sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that failed late, here for want of units, goes on with an option that mends it."""
    few = write_sheet(sheet.parent / "few.csv", ["v1.gb,viral,,", "h.gb,host,a,bacteria", "f.fna,host,b,fungi"])
    with pytest.raises(InputError, match=r"host units: 2, too few.*--test 0"):
        build(few, tmp_path / "out")
    monkeypatch.setattr("vnp.datasets.build.find_candidates", None)
    build(few, tmp_path / "out", replace(RECIPE, test=0))
    assert set(content(tmp_path / "out")) == FILES


def test_killed_with_its_workers(sheet: Path, tmp_path: Path) -> None:
    """SIGKILL of the command ends its workers too, and the same command goes on."""
    build(sheet, tmp_path / "whole")
    out = tmp_path / "out"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from vnp.datasets import build as module\n"
        "from tests.datasets.building import RECIPE\n"
        "real = module.find_candidates\n"
        "def slow(source, *args, **more):\n"
        "    real(source, *args, **more)\n"
        "    if source.label == 0:\n"
        "        Path(sys.argv[3], source.name).write_text(str(__import__('os').getpid()))\n"
        "        time.sleep(600)\n"
        "module.find_candidates = slow\n"
        "module.build_dataset(Path(sys.argv[1]), Path(sys.argv[2]), RECIPE, workers=2)\n"
    )
    marks = tmp_path / "marks"
    marks.mkdir()
    command = subprocess.Popen([sys.executable, "-c", code, str(sheet), str(out), str(marks)])
    try:
        workers = _wait_for(lambda: [int(text) for p in marks.iterdir() if (text := p.read_text())], 2)
    finally:
        command.kill()
        command.wait()
    _wait_for(lambda: [pid for pid in workers if not _runs(pid)], 2)
    assert len(list((out / "parts").glob("*.npz"))) == 2
    build(sheet, out, workers=2)
    assert content(out) == content(tmp_path / "whole")


def _wait_for(found: Callable[[], list[int]], count: int) -> list[int]:
    for _ in range(1200):
        if len(got := found()) == count:
            return got
        time.sleep(0.05)
    raise AssertionError("this never came")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
