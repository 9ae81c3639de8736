"""Inputs that are no longer those that were planned: nothing of them is used, however alike they look from outside."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.runs.making import column_bytes, dna, make_all, make_one, pair, plan_run, small_blocks, write_fasta
from vnp.errors import ChangedInputError, RunError, VnpError
from vnp.files.hashing import file_sha256
from vnp.runs.frames import write_frames
from vnp.runs.making.pipeline import make_shards
from vnp.runs.planning.plan import planned_records, read_plan
from vnp.runs.planning.survey import survey
from vnp.runs.request import Run
from vnp.sequences.opening import BLOCK, block_digest
from vnp.sequences.samplesheet import InputFile

RECORDS = [(f"r{number:04d}", dna(1_200, number)) for number in range(600)]
KINDS = ("fa", "fq", "fa.gz")
LAST = 3


def write(path: Path) -> Path:
    """An input of several blocks of bytes."""
    if path.suffix == ".fq":
        path.write_text("".join(f"@{name}\n{bases}\n+\n{'I' * len(bases)}\n" for name, bases in RECORDS))
        return path
    return write_fasta(path, RECORDS)


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """A planned run of one input that is reached by a link."""
    write(tmp_path / f"in.{request.param}")
    link = tmp_path / f"link.{request.param}"
    link.symlink_to(f"in.{request.param}")
    return plan_run(tmp_path / "run", [link], LAST + 1)


def flip(content: bytes) -> bytes:
    """One bit of one base, near the end."""
    place = len(content) - 2_000
    return content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :]


def cut_and_pad(content: bytes) -> bytes:
    return content[: len(content) * 3 // 4] + b"\n" * (len(content) - len(content) * 3 // 4)


def swap_records(content: bytes) -> bytes:
    """The last two records change places."""
    mark = content[:1]
    *others, last = content.split(b"\n" + mark)
    return b"".join([(b"\n" + mark).join([*others[:-1], last.removesuffix(b"\n"), others[-1]]), b"\n"])


def keep_times(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file as ``rsync --times`` or ``cp --preserve`` would."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def in_place(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda link: keep_times(link.resolve(), lambda path: path.write_bytes(change(path.read_bytes())))


def point_elsewhere(link: Path) -> None:
    """The link leads to another file of as many bytes and the same time."""
    other = link.with_name("other")
    other.write_bytes(flip(link.read_bytes()))
    os.utime(other, ns=(link.stat().st_atime_ns, link.stat().st_mtime_ns))
    link.unlink()
    link.symlink_to(other)


def append(link: Path) -> None:
    keep_times(link.resolve(), lambda path: path.write_bytes(path.read_bytes() + b"\n"))


def swapped(content: bytes) -> bytes:
    if content[:2] == b"\x1f\x8b":
        # Packed anew without compression, the swapped records take as many bytes.
        return gzip.compress(swap_records(gzip.decompress(content)), 0, mtime=0)
    return swap_records(content)


CHANGES: dict[str, Callable[[Path], None]] = {
    "a bit, with size and time kept": in_place(flip),
    "another file behind the link": point_elsewhere,
    "cut off and filled up": in_place(cut_and_pad),
    "longer": append,
    "records in another order": in_place(swapped),
    "gone": lambda link: link.resolve().unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_sealed_of_what_changed(run: Run, change: str) -> None:
    CHANGES[change](Path(run.request.inputs[0].path))
    with pytest.raises(ChangedInputError, match=r"link\.(fa|fq|fa\.gz): .*extract the run anew with --force"):
        make_one(run, LAST)
    assert not run.paths.receipt(LAST).exists()
    assert not list(run.paths.blocks(LAST).glob("block-*"))


def test_other_shards_of_the_file_are_as_planned(tmp_path: Path) -> None:
    fasta = write(tmp_path / "in.fa")
    run, whole = (plan_run(tmp_path / name, [fasta], LAST + 1) for name in ("run", "whole"))
    make_all(whole)
    in_place(flip)(fasta)
    outcomes, failed = make_shards(run, range(LAST + 1), load=pair)
    # The third shard ends in the block of bytes that changed.
    assert [outcome.shard for outcome in outcomes] == [0, 1]
    assert [(number, type(error)) for number, error in failed] == [(2, ChangedInputError), (3, ChangedInputError)]
    for number in range(2):
        assert column_bytes(run.paths.shard(number)) == column_bytes(whole.paths.shard(number))


@pytest.mark.parametrize("replaced", [True, False])
def test_changed_while_a_task_reads_it(run: Run, replaced: bool) -> None:
    """A task goes on with the file that it opened; what is written into that, or opened after, is refused."""
    run = small_blocks(run, 400)
    link = Path(run.request.inputs[0].path)
    told: list[int] = []

    def change(shard: int, done: int, _all: int) -> None:
        told.append(shard)
        if told.count(0) == 2 and done == 1:
            (point_elsewhere if replaced else in_place(flip))(link)

    _, failed = make_shards(run, range(LAST + 1), block_done=change, load=pair)
    assert LAST in dict(failed)
    assert all(isinstance(error, ChangedInputError) for _, error in failed)
    assert not run.paths.receipt(LAST).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_bits(tmp_path: Path, kind: str) -> None:
    """Each of 500 single bits, anywhere in the file, is noticed by who reads that place."""
    path = write(tmp_path / f"in.{kind}")
    content = path.read_bytes()
    planned = survey([InputFile(path)], 300)
    digests = planned.blocks[0].tolist()
    assert digests == [block_digest(content[first : first + BLOCK]) for first in range(0, len(content), BLOCK)]
    for place in np.random.default_rng(0).integers(0, len(content) * 8, 500).tolist():
        number = place // 8 // BLOCK
        block = bytearray(content[number * BLOCK : (number + 1) * BLOCK])
        block[place // 8 % BLOCK] ^= 1 << place % 8
        assert block_digest(bytes(block)) != digests[number]


def test_a_copy_is_the_same_input(run: Run) -> None:
    path = Path(run.request.inputs[0].path)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert {outcome.state for outcome in make_all(run)} == {"done"}


def test_the_receipt_says_what_was_read(tmp_path: Path) -> None:
    fasta = write(tmp_path / "in.fa")
    content = fasta.read_bytes()
    run = plan_run(tmp_path / "run", [fasta], LAST + 1)
    make_all(run)
    starts = [shard.start.offset for shard in read_plan(run.paths.plan, run.request.plan_sha256)]
    for number, (start, after) in enumerate(zip(starts, [*starts[1:], len(content)], strict=True)):
        (found,) = json.loads(run.paths.receipt(number).read_text())["inputs"].values()
        assert found["first"] == start // BLOCK * BLOCK
        assert after <= found["end"] <= len(content)


@pytest.mark.parametrize("change", ["a bit, with size and time kept", "cut off and filled up"])
def test_frames_are_of_what_was_surveyed(tmp_path: Path, change: str) -> None:
    fasta = write(tmp_path / "in.fa")
    found = survey([InputFile(fasta)], 300)
    CHANGES[change](fasta)
    with pytest.raises(ChangedInputError):
        write_frames(found, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("change", [name for name in CHANGES if name != "gone"])
def test_records_of_a_planned_input(run: Run, change: str) -> None:
    (entry,) = run.request.inputs
    assert sum(1 for _ in planned_records(entry)) == len(RECORDS)
    CHANGES[change](Path(entry.path))
    with pytest.raises(VnpError):
        list(planned_records(entry))


def test_a_plan_that_does_not_know_the_bytes_is_refused(tmp_path: Path) -> None:
    run = plan_run(tmp_path / "run", [write(tmp_path / "in.fa")], 1)
    with h5py.File(run.paths.plan, "r+") as file:
        del file["blocks"]
    request = replace(run.request, plan_sha256=file_sha256(run.paths.plan))
    request.write(run.paths.request)
    with pytest.raises(RunError, match="extract the run anew with --force"):
        make_one(Run(run.paths, request), 0)
