from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runs.making import ask, coding, make_all, make_one, plan_run, write_fasta
from vnp.errors import ChangedInputError, InputError, RunError, RunExistsError, UsageError
from vnp.runs.done.receipts import Announced
from vnp.runs.planning.plan import check_inputs, inputs_of, read_plan
from vnp.runs.planning.start import start_run
from vnp.runs.request import Run
from vnp.sequences.samplesheet import InputFile


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "in.fa", [(f"r{i}", coding(900, i)) for i in range(6)])


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_run_json_says_what_was_asked(tmp_path: Path, fasta: Path) -> None:
    run = plan_run(tmp_path / "run", [InputFile(fasta, 1, "g")], shards=2, chunk=500, store="float32")
    assert Run.open(run.paths.root) == run
    stored = json.loads(run.paths.request.read_text())
    assert stored["schema"] == "vnp-run/2"
    assert stored["inputs"][0]["path"] == str(fasta)
    assert (stored["inputs"][0]["label"], stored["inputs"][0]["group"]) == (1, "g")
    assert (stored["chunk"], stored["store"], stored["shards"]) == (500, "float32", 2)
    assert stored["dna"]["identity"]["width"] == 768


def test_the_same_request_goes_on(tmp_path: Path, fasta: Path) -> None:
    root = tmp_path / "run"
    first, before = start_run(ask([fasta]), root)
    assert not before
    make_one(first, 0)
    there = tree(root)
    second, before = start_run(ask([fasta]), root)
    assert before
    assert second == first
    assert tree(root) == there


def test_device_and_place_of_the_weights_follow_the_new_command(tmp_path: Path, fasta: Path) -> None:
    first, _ = start_run(ask([fasta]), tmp_path / "run")
    second, before = start_run(ask([fasta], device="cpu", weights=tmp_path), tmp_path / "run")
    assert before
    assert second == Run.open(tmp_path / "run")
    assert (second.request.device, second.request.weights) == ("cpu", str(tmp_path))
    assert second.request.digest == first.request.digest


def test_other_weights_are_said_to_be_other_weights(tmp_path: Path, fasta: Path) -> None:
    run, _ = start_run(ask([fasta]), tmp_path / "run")
    protein = run.request.encoders["protein"]
    identity = {**protein.identity, "weights": {"model.safetensors": "0" * 64}}
    replace(run.request, protein=replace(protein, identity=identity)).write(run.paths.request)
    with pytest.raises(RunExistsError, match=r"protein encoder: kmer \(auto\) with other weights\)"):
        start_run(ask([fasta]), tmp_path / "run")


def test_a_run_that_was_planned_in_the_meantime_is_found(tmp_path: Path, fasta: Path) -> None:
    def plan_too(_: int) -> None:
        if not (tmp_path / "run" / "run.json").exists():
            make_one(start_run(ask([fasta]), tmp_path / "run")[0], 0)

    run, before = start_run(ask([fasta]), tmp_path / "run", progress=plan_too)
    assert before
    assert run.paths.receipt(0).exists()


def test_force_does_not_begin_anew_under_a_living_task(tmp_path: Path, fasta: Path) -> None:
    run, _ = start_run(ask([fasta]), tmp_path / "run")
    current = Announced(run.paths.blocks(1), None)
    there = tree(tmp_path / "run")
    with pytest.raises(RunExistsError, match=r"a task is at work on shard-00001 of .*: end it first, or wait"):
        start_run(ask([fasta], 2), tmp_path / "run", force=True)
    assert tree(tmp_path / "run") == there
    current.end("stopped")
    assert start_run(ask([fasta], 2), tmp_path / "run", force=True)[0].request.shards == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"shards": 4}, "shards: 3 there, 4 asked"),
        ({"chunk": 500}, "chunk: 300 there, 500 asked"),
        ({"store": "float32"}, "store: float16 there, float32 asked"),
        ({"precision": "bf16"}, r"DNA encoder: kmer \(auto\) there, kmer \(bf16\) asked"),
        ({"token_budget": 99}, "token budget: None there, 99 asked"),
        ({"prefix_ids": True}, "prefixed ids: False there, True asked"),
    ],
)
def test_another_request_is_refused_and_says_what_differs(
    tmp_path: Path, fasta: Path, options: dict[str, Any], named: str
) -> None:
    root = tmp_path / "run"
    start_run(ask([fasta]), root)
    there = tree(root)
    with pytest.raises(RunExistsError, match=named):
        start_run(ask([fasta], **options), root)
    assert tree(root) == there


def test_other_inputs_labels_and_groups_are_refused(tmp_path: Path, fasta: Path) -> None:
    start_run(ask([fasta]), tmp_path / "run")
    other = write_fasta(tmp_path / "other.fa", [("x", "ACGT")])
    for files, said in (
        ([other], r"input 1, .*other\.fa: .*in\.fa there, which holds something else"),
        ([fasta, other], "inputs: 1 files there, 2 asked"),
        (
            [InputFile(fasta, 1)],
            "label none, group none, sample none there, label viral, group none, sample none asked",
        ),
        ([InputFile(fasta, -1, "g")], "group none, sample none there, label none, group g, sample none asked"),
    ):
        with pytest.raises(RunExistsError, match=said):
            start_run(ask(files), tmp_path / "run")


class TestMovedInputs:
    """An input is its content, wherever it is."""

    def test_found_again_where_it_is_now(self, tmp_path: Path, fasta: Path) -> None:
        run = plan_run(tmp_path / "run", [fasta])
        make_one(run, 0)
        moved = fasta.rename(tmp_path / "moved.fa")
        with pytest.raises(ChangedInputError, match="give the command that made the run again, with its new path"):
            make_one(run, 1)
        again, before = start_run(ask([moved]), run.paths.root)
        assert before
        assert again.request.digest == run.request.digest
        assert again.request.inputs[0].path == str(moved)
        assert Run.open(run.paths.root).request == again.request
        assert [make_one(again, number).state for number in range(3)] == ["already", "done", "done"]
        moved.rename(fasta)
        back, _ = start_run(ask([fasta]), run.paths.root)
        assert back.request.inputs[0].planned_path is None
        assert {outcome.state for outcome in make_all(back)} == {"already"}

    def test_through_links_and_dots(self, tmp_path: Path, fasta: Path) -> None:
        run = plan_run(tmp_path / "run", [fasta])
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder/link.fa").symlink_to(fasta)
        (tmp_path / "hard.fa").hardlink_to(fasta)
        for path in ("folder/link.fa", "hard.fa", f"folder/../{fasta.name}"):
            again, before = start_run(ask([tmp_path / path]), run.paths.root)
            assert before
            assert again.request.digest == run.request.digest

    def test_something_else_under_another_name(self, tmp_path: Path, fasta: Path) -> None:
        run = plan_run(tmp_path / "run", [fasta])
        other = tmp_path / "other.fa"
        other.write_bytes(fasta.read_bytes().replace(b"C", b"G", 1))
        with pytest.raises(RunExistsError, match="holds something else"):
            start_run(ask([other]), run.paths.root)
        assert Run.open(run.paths.root).request == run.request


class TestForce:
    def test_begins_anew(self, tmp_path: Path, fasta: Path) -> None:
        root = tmp_path / "run"
        make_all(plan_run(root, [fasta]))
        (root / "notes.txt").write_text("mine")
        run, before = start_run(ask([fasta], shards=2), root, force=True)
        assert not before
        assert not list(run.paths.receipts.iterdir())
        assert not list(run.paths.shards.iterdir())
        assert (root / "notes.txt").read_text() == "mine"

    def test_deletes_nothing_if_the_new_run_cannot_be_planned(self, tmp_path: Path, fasta: Path) -> None:
        root = tmp_path / "run"
        make_all(plan_run(root, [fasta]))
        there = tree(root)
        bad = tmp_path / "bad.fa"
        bad.write_text(">x\nACGT\n>x\nACGT\n")
        with pytest.raises(InputError, match="'x'"):
            start_run(ask([bad]), root, force=True)
        assert tree(root) == there

    @pytest.mark.parametrize("name", ["logs", "shards", "parts", "features.h5"])
    def test_a_folder_that_is_no_run_is_never_touched(self, tmp_path: Path, fasta: Path, name: str) -> None:
        root = tmp_path / "home"
        if name == "features.h5":
            root.mkdir()
            (root / name).write_text("mine")
        else:
            (root / name).mkdir(parents=True)
            (root / name / "diary").write_text("mine")
        (root / "notes.txt").write_text("mine")
        there = tree(root)
        for force in (False, True):
            with pytest.raises(RunExistsError, match="is no run: choose another --out"):
                start_run(ask([fasta]), root, force=force)
        assert tree(root) == there

    def test_a_file_is_refused(self, tmp_path: Path, fasta: Path) -> None:
        for force in (False, True):
            with pytest.raises(RunExistsError, match="is a file"):
                start_run(ask([fasta]), fasta, force=force)


def test_what_is_left_without_run_json_needs_force(tmp_path: Path, fasta: Path) -> None:
    root = tmp_path / "run"
    run = plan_run(root, [fasta])
    make_all(run)
    run.paths.request.unlink()
    with pytest.raises(RunExistsError, match="--force"):
        start_run(ask([fasta]), root)
    _, before = start_run(ask([fasta]), root, force=True)
    assert not before


def test_a_killed_planning_leaves_nothing_in_the_way(tmp_path: Path, fasta: Path) -> None:
    root = tmp_path / "run"
    run = plan_run(root, [fasta])
    run.paths.request.unlink()
    _, before = start_run(ask([fasta]), root)
    assert not before


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null", b'"x"', b"{", b"\xff\xfe", b'{"schema": "vnp-run/2"}'])
def test_damaged_run_json_is_said_plainly(tmp_path: Path, fasta: Path, content: bytes) -> None:
    run = plan_run(tmp_path / "run", [fasta])
    run.paths.request.write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json (is (damaged|of another)|was changed)"):
        Run.open(run.paths.root)


def test_edited_run_json_is_refused(tmp_path: Path, fasta: Path) -> None:
    run = plan_run(tmp_path / "run", [fasta])
    text = run.paths.request.read_text()
    run.paths.request.write_text(text.replace('"chunk": 300', '"chunk": 500'))
    with pytest.raises(RunError, match="was changed after it was written"):
        Run.open(run.paths.root)
    run.paths.request.write_text(text.replace("vnp-run/2", "vnp-run/9"))
    with pytest.raises(RunError, match="another version"):
        Run.open(run.paths.root)
    with pytest.raises(UsageError, match="is not a run"):
        Run.open(tmp_path)


class TestChangedInputs:
    def changed(self, run: Run, fasta: Path, message: str) -> None:
        with pytest.raises(ChangedInputError, match=message):
            check_inputs(run.request.inputs, read=True)
        with pytest.raises(ChangedInputError, match=message):
            start_run(ask([fasta]), run.paths.root)
        with pytest.raises(ChangedInputError, match=message):
            make_one(run, 0)
        assert not list(run.paths.receipts.iterdir())
        assert not list(run.paths.parts.rglob("block-*"))

    def test_another_size(self, tmp_path: Path, fasta: Path) -> None:
        run = plan_run(tmp_path / "run", [fasta])
        fasta.write_text(fasta.read_text() + ">new\nACGT\n")
        self.changed(run, fasta, r"in\.fa: has changed since the run was planned \(\d,\d+ bytes then, \d,\d+ now\)")

    def test_same_size_other_bytes(self, tmp_path: Path, fasta: Path) -> None:
        run = plan_run(tmp_path / "run", [fasta])
        text = fasta.read_text()
        fasta.write_text(text.replace("C", "A", 1))
        os.utime(fasta, ns=(0, run.request.inputs[0].mtime_ns + 1))
        self.changed(run, fasta, "has changed since the run was planned")

    def test_gone(self, tmp_path: Path, fasta: Path) -> None:
        run = plan_run(tmp_path / "run", [fasta])
        content = fasta.read_bytes()
        fasta.unlink()
        with pytest.raises(ChangedInputError, match="cannot be read any more"):
            make_one(run, 0)
        fasta.write_bytes(content)
        assert make_one(run, 0).state == "done"

    def test_only_touched(self, tmp_path: Path, fasta: Path) -> None:
        run = plan_run(tmp_path / "run", [fasta])
        os.utime(fasta, ns=(0, 12345))
        assert {outcome.state for outcome in make_all(run)} == {"done"}
        assert start_run(ask([fasta]), run.paths.root)[1]

    def test_a_shard_minds_its_own_files(self, tmp_path: Path) -> None:
        files = [write_fasta(tmp_path / f"{i}.fa", [(f"r{i}", coding(3000, i))]) for i in range(3)]
        run = plan_run(tmp_path / "run", files)
        shards = read_plan(run.paths.plan, run.request.plan_sha256)
        assert [[entry.path for entry in inputs_of(run.request, shards, n)] for n in range(3)] == [
            [str(f)] for f in files
        ]
        files[1].write_text(">r1\nA\n")
        assert make_one(run, 0).state == "done"
        assert make_one(run, 2).state == "done"
        with pytest.raises(ChangedInputError, match=r"1\.fa"):
            make_one(run, 1)
