from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from jobs.benchmark import main as benchmark
from jobs.train import main as train
from tests.comparison.making import frames, write_features
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.recipe import ADAMW, RECIPES
from vnp.comparison._cases import Frames
from vnp.comparison.contestants import CompareOptions
from vnp.errors import UsageError

RECORDS = 60
FOUND = frames(RECORDS, per_chunk=2, chunks=3)
# One group a record: both of a pair would be in one group else.
GOOD = "<b>&x"
FRAMES = replace(FOUND, group=[f"g{index}" for index in range(RECORDS)])


def values(found: Frames, seed: int, *, dna: float, protein: float) -> np.ndarray:
    """Features that tell the label by so much, in two columns of DNA and four of protein."""
    random = np.random.default_rng(seed)
    sign = 2.0 * found.label[found.record] - 1
    scale = np.array([dna] * 2 + [protein] * 4)
    made: np.ndarray = sign[:, None] * scale + random.normal(size=(len(found), 6))
    return made


@pytest.fixture(scope="module", autouse=True)
def quick_training() -> Iterator[None]:
    """Few epochs of small batches, and no plots of the trainings: those have their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "adamw", replace(ADAMW, batch=32, epochs=6))
        patch.setattr("vnp.classifier.train.write_training_plots", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of features, a good and a poor one, and a checkpoint of the good one."""
    folder = tmp_path_factory.mktemp("accuracy")
    write_features(folder / "good.h5", FRAMES, values=values(FRAMES, 0, dna=0.1, protein=1.2))
    write_features(folder / "poor.h5", FRAMES, values=values(FRAMES, 1, dna=0.1, protein=0.1))
    words = ["good.h5", "--out", "model.pth", "--recipe", "adamw"]
    done = CliRunner().invoke(train, [str(folder / word) if "." in word else word for word in words])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def compared(folder: Path) -> Path:
    """What a comparison of both, and of the DNA half of one, writes."""
    poor = f"poor={folder / 'poor.h5'}@{folder / 'model.pth'}"
    done = accuracy(f"{GOOD}={folder / 'good.h5'}", poor, "--part", "dna", "--out", folder / "ab")
    assert done.exit_code == 0, done.output
    assert "record level" in done.stdout
    return folder / "ab"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the plots of the page."""
    monkeypatch.setattr("vnp.comparison.page.comparison_plots", lambda *_: [])


def accuracy(*words: object) -> Result:
    extra = ["--replicates", "50", "--recipe", "adamw", "--device", "cpu"]
    return CliRunner().invoke(benchmark, ["accuracy", *map(str, words), *extra])


def table(folder: Path) -> dict[tuple[str, str, str, str], dict[str, str]]:
    with (folder / "accuracy.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {(row["contestant"], row["level"], row["by"], row["stratum"]): row for row in rows}


def test_features_are_trained_on_one_split_and_compared(compared: Path) -> None:
    found = json.loads((compared / "accuracy.json").read_text())
    assert [one["name"] for one in found["contestants"]] == [GOOD, f"{GOOD} dna alone", "poor"]
    assert found["split"]["parts"]["test"]["groups"] == 12
    assert {one["split"]["sha256"] for one in found["contestants"]} == {found["split"]["sha256"]}
    assert any("groups is a single record" in note for note in found["notes"])
    levels = found["levels"]
    counts = {level: levels[level]["measured"][GOOD][0]["count"] for level in levels}
    assert counts == {"frame": 72, "chunk": 36, "record": 12}
    frame = {name: measured[0] for name, measured in levels["frame"]["measured"].items()}
    assert frame[GOOD]["roc_auc"] > 0.95 > 0.75 > frame[f"{GOOD} dna alone"]["roc_auc"]
    pair = next(one for one in levels["frame"]["pairs"] if (one["first"], one["second"]) == (GOOD, "poor"))
    assert pair["second_minus_first"]["accuracy"]["interval"][1] < 0
    assert pair["mcnemar"]["p_value"] < 0.01
    assert pair["mcnemar"]["first_only"] > pair["mcnemar"]["second_only"]
    assert len(levels["frame"]["pairs"]) == 3
    assert table(compared)[GOOD, "frame", "organism", "bacteria"]["roc_auc"] == ""
    assert (compared / "models/_b__x_dna_alone.pth").exists()


def test_the_page_needs_nothing_else(compared: Path) -> None:
    page = (compared / "accuracy.html").read_text()
    assert not re.findall(r"<script|@import|\ssrc=|url\((?!#)", page)
    links = {link for link in re.findall(r'\shref="([^"#]*)"', page) if link}
    assert links == {"data:,", "accuracy.tsv", "accuracy.json", "disagreements.tsv"}
    # Of each level three curves, the scores of three, and differences: each a drawing of its own.
    assert page.count("<svg") == 3 * 7
    assert "&lt;b&gt;&amp;x" in page
    assert "<b>" not in page


def test_disagreements_are_listed(compared: Path) -> None:
    with (compared / "disagreements.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows
    for row in rows:
        calls = {name.partition(":")[2]: call for name, call in row.items() if name.startswith("call:")}
        assert set(calls.values()) == {"viral", "host"}
        for name, call in calls.items():
            assert (float(row[f"probability:{name}"]) >= 0.5) == (call == "viral")
        assert row["label"] == ("viral" if int(row["record"][1:]) % 2 else "host")


@pytest.mark.usefixtures("undrawn")
def test_the_same_command_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    words = (f"a={folder / 'good.h5'}@{folder / 'model.pth'}", f"b={folder / 'poor.h5'}@{folder / 'model.pth'}")
    for name in ("a", "b"):
        done = accuracy(*words, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    for name in ("accuracy.tsv", "accuracy.json", "accuracy.html", "disagreements.tsv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_is_compared_on_rows_it_has_not_seen(folder: Path, tmp_path: Path) -> None:
    done = accuracy(f"{folder / 'good.h5'}@{folder / 'model.pth'}", "--out", tmp_path / "unseen", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    measured = found["levels"]["frame"]["measured"]["model"][0]
    trained = json.loads((folder / "model.metrics.json").read_text())["test"]["frame"]
    for name in ("count", "accuracy", "roc_auc", "brier"):
        assert measured[name] == pytest.approx(trained[name])
    assert found["split"] is None
    assert any("72 of 360 rows" in note for note in found["notes"])
    done = accuracy(
        folder / "good.h5", "--checkpoint", folder / "model.pth", "--all", "--out", tmp_path / "all", "--json"
    )
    assert json.loads(done.stdout)["levels"]["frame"]["measured"]["good"][0]["count"] == 360


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_on_other_records(folder: Path, tmp_path: Path) -> None:
    """Records that training never saw, such as reads: all of them count."""
    other = replace(
        FRAMES, names=[f"read{index}" for index in range(RECORDS)], group=[f"new{i}" for i in range(RECORDS)]
    )
    write_features(tmp_path / "reads.h5", other, values=values(other, 5, dna=0.1, protein=1.2))
    done = accuracy(tmp_path / "reads.h5", "--checkpoint", folder / "model.pth", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert table(tmp_path / "out")["reads", "frame", "all", "all"]["count"] == "360"
    # Under the genomes that they were cut from, those of the training part are left out.
    groups = tmp_path / "groups.tsv"
    groups.write_text("".join(f"read{index}\tg{index}\n" for index in range(RECORDS)))
    words = (tmp_path / "reads.h5", "--checkpoint", folder / "model.pth", "--groups", groups, "--out", tmp_path / "cut")
    assert accuracy(*words).exit_code == 0
    assert table(tmp_path / "cut")["reads", "frame", "all", "all"]["count"] == "72"


@pytest.mark.usefixtures("undrawn")
def test_trained_and_checkpoint_together(folder: Path, tmp_path: Path) -> None:
    words = (folder / "poor.h5", f"old={folder / 'good.h5'}@{folder / 'model.pth'}")
    done = accuracy(*words, "--split", folder / "model.split.tsv", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert {key[0] for key in table(tmp_path)} == {"poor", "old"}
    assert table(tmp_path)["old", "record", "all", "all"]["count"] == "12"


@pytest.mark.usefixtures("undrawn")
def test_a_split_by_row_is_said_to_leak(folder: Path, tmp_path: Path) -> None:
    done = accuracy(folder / "good.h5", "--split", "random", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "too good" in done.stdout
    assert table(tmp_path)["good", "frame", "all", "all"]["count"] == "72"


@pytest.mark.usefixtures("undrawn")
def test_chunks_of_two_sizes_share_records_only(folder: Path, tmp_path: Path) -> None:
    longer = frames(RECORDS, per_chunk=2, chunks=2)
    longer = replace(longer, group=FRAMES.group)
    write_features(tmp_path / "long.h5", longer, chunk=500, values=values(longer, 3, dna=0.1, protein=1.2))
    words = (f"{folder / 'good.h5'}@{folder / 'model.pth'}", tmp_path / "long.h5")
    done = accuracy(*words, "--split", folder / "model.split.tsv", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert {key[1] for key in table(tmp_path / "out")} == {"record"}
    assert "model 300, long 500" in done.stdout


@pytest.mark.usefixtures("undrawn")
def test_organisms_and_groups_from_tables(folder: Path, tmp_path: Path) -> None:
    organisms, groups = tmp_path / "organisms.tsv", tmp_path / "groups.tsv"
    organisms.write_text(
        "".join(f"u{index}\t{'phage' if index % 4 > 1 else 'bacterium'}\n" for index in range(RECORDS))
    )
    groups.write_text("".join(f"r{index}\tu{index // 2 * 2}\n" for index in range(RECORDS)))
    words = (folder / "good.h5", "--checkpoint", folder / "model.pth", "--all", "--groups", groups)
    done = accuracy(*words, "--organisms", organisms, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert {key[3] for key in table(tmp_path / "out") if key[2] == "organism"} == {"bacterium", "phage"}
    assert table(tmp_path / "out")["good", "record", "all", "all"]["groups"] == "30"


@pytest.mark.usefixtures("undrawn")
def test_groups_of_organisms_are_left_out_in_turn(folder: Path, tmp_path: Path) -> None:
    """All records of the group are tested on and none is trained on; the only group of a class stays."""
    path = tmp_path / "groups.tsv"
    kinds = ["phage" if FRAMES.label[index] else "ab"[index % 3 > 0] for index in range(RECORDS)]
    path.write_text("record\tkind\n" + "".join(f"r{index}\t{kind}\n" for index, kind in enumerate(kinds)))
    words = (f"x={folder / 'good.h5'}", "--groups", path, "--leave-out", "kind", "--out", tmp_path / "out")
    done = accuracy(*words)
    assert done.exit_code == 0, done.output
    with (tmp_path / "out/left_out.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [tuple(row.values())[:3] for row in rows] == [("x", "a", "host"), ("x", "b", "host")]
    assert int(rows[0]["seen_records"]) < int(rows[0]["records"]) == kinds.count("a")
    assert all(0.5 < float(row["roc_auc"]) <= 1 for row in rows)
    stored = json.loads((tmp_path / "out/accuracy.json").read_text())
    assert [(one["group"], one["class"], one["unseen"]["records"]) for one in stored["left_out"]] == [
        (row["left_out"], row["class"], int(row["records"])) for row in rows
    ]
    assert any("phage is not left out" in note for note in stored["notes"])
    page = (tmp_path / "out/accuracy.html").read_text()
    assert f"<td>{rows[0]['right']}</td>" in page.partition("Trained without a group")[2]
    assert "phage is not left out" in done.stdout
    split = (tmp_path / "out/models/x_without_a.split.tsv").read_text()
    assert not list((tmp_path / "out/models").glob("*.given.tsv"))
    held = {line.split("\t")[0] for line in split.splitlines()[1:] if line.endswith("test")}
    assert {FRAMES.group[index] for index, kind in enumerate(kinds) if kind == "a"} <= held
    again = accuracy(*words)
    assert (again.exit_code, "left_out.tsv" in again.output) == (2, True)
    refused = accuracy(folder / "good.h5", "--checkpoint", folder / "model.pth", *words[1:-1], tmp_path / "two")
    assert (refused.exit_code, "needs a contestant without a checkpoint" in refused.output) == (2, True)


@pytest.mark.usefixtures("undrawn")
def test_other_records_are_refused(folder: Path, tmp_path: Path) -> None:
    fewer = frames(8)
    write_features(tmp_path / "few.h5", fewer)
    done = accuracy(folder / "good.h5", tmp_path / "few.h5", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "good and few are not over the same records" in done.stderr
    assert "52 records are only in good: r8, r9" in done.stderr
    assert not (tmp_path / "out/accuracy.tsv").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["good.h5", "good.h5"], 2, "two contestants are called good"),
        (["good.h5", "--all"], 2, "checkpoints only"),
        (["good.h5@absent.pth"], 1, "there is no such checkpoint"),
        (["absent.h5"], 1, "there is no such run or file"),
        (["good.h5", "--split", "absent.tsv"], 1, "neither auto, group nor random"),
        (["good.h5@"], 2, "a checkpoint goes behind it"),
        ([], 2, "Missing argument"),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_wrong_use(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(folder)
    done = accuracy(*words, "--out", tmp_path)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name",
    ["accuracy.tsv", "accuracy.json", "accuracy.html", "disagreements.tsv", "split.tsv", "models/good.pth"],
)
@pytest.mark.usefixtures("undrawn")
def test_what_is_there_is_not_written_over(folder: Path, tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    done = accuracy(folder / "good.h5", "--out", tmp_path)
    assert done.exit_code == 2, done.output
    assert f"{tmp_path} holds {name.partition('/')[0]}, which were there before" in done.stderr
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.usefixtures("undrawn")
def test_force_writes_over_all_of_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    names = ("accuracy.tsv", "split.tsv", "models/good.pth", "models/good.split.tsv")
    for name in names:
        (tmp_path / name).write_text("mine")
    assert accuracy(folder / "good.h5", "--out", tmp_path, "--force").exit_code == 0
    assert all((tmp_path / name).read_bytes() != b"mine" for name in names)
    assert not (tmp_path / "contest.json").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_comparison_goes_on_and_another_does_not_take_its_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    words = (folder / "poor.h5", f"old={folder / 'good.h5'}@{folder / 'model.pth'}", "--out", tmp_path / "out")
    with monkeypatch.context() as stopped:
        stopped.setattr("vnp.comparison.contest._compare", stop)
        assert accuracy(*words).exit_code == 130
    before = contents(tmp_path / "out")
    assert {"contest.json", "split.tsv", "models/poor.pth"} <= before.keys()
    for other in (("--seed", "1"), ("--rule", "length-weighted"), ("--split", folder / "model.split.tsv")):
        done = accuracy(*words, *other)
        assert done.exit_code == 2, done.output
        assert "holds split.tsv, models, which another comparison left when it was stopped" in done.stderr
    assert contents(tmp_path / "out") == before
    done = accuracy(*words)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out/contest.json").exists()
    assert accuracy(*words).exit_code == 2, "a whole one is not made again"


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_file_that_is_read_is_never_written_over(folder: Path, tmp_path: Path, force: tuple[str, ...]) -> None:
    given = (folder / "model.split.tsv").read_bytes()
    (tmp_path / "models").mkdir()
    for name in ("split.tsv", "models/good.split.tsv"):
        (tmp_path / name).write_bytes(given)
        done = accuracy(folder / "good.h5", "--split", tmp_path / name, "--out", tmp_path, *force)
        assert done.exit_code == 2, done.output
    words = (folder / "good.h5", f"old={folder / 'good.h5'}@{tmp_path / 'models/good.pth'}", "--out", tmp_path)
    (tmp_path / "models/good.pth").write_bytes((folder / "model.pth").read_bytes())
    before = contents(tmp_path)
    done = accuracy(*words, *force)
    assert done.exit_code == 2, done.output
    assert not force or "is read, and" in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("undrawn")
def test_a_split_that_was_changed_is_not_believed(folder: Path, tmp_path: Path) -> None:
    """Else rows that were trained on would be called rows that were not."""
    model, split = tmp_path / "model.pth", tmp_path / "model.split.tsv"
    model.write_bytes((folder / "model.pth").read_bytes())
    split.write_text((folder / "model.split.tsv").read_text().replace("\ttrain\n", "\ttest\n"))
    words = (folder / "good.h5", "--checkpoint", model, "--out", tmp_path / "out")
    done = accuracy(*words)
    assert done.exit_code == 1
    assert f"{split} is not the split that {model} was trained on" in done.stderr
    assert accuracy(*words, "--all").exit_code == 0


@pytest.mark.usefixtures("undrawn")
def test_an_older_checkpoint_cannot_say_which_split_is_its_own(folder: Path, tmp_path: Path) -> None:
    made = Checkpoint.load(folder / "model.pth")
    older = replace(made, split={key: value for key, value in made.split.items() if key != "file_sha256"})
    older.write(tmp_path / "model.pth")
    (tmp_path / "model.split.tsv").write_bytes((folder / "model.split.tsv").read_bytes())
    done = accuracy(folder / "good.h5", "--checkpoint", tmp_path / "model.pth", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "72 of 360 rows" in done.stdout
    assert "It does not say which split it was trained on; model.split.tsv is taken to be that." in done.stdout


def test_rules_with_a_seed_that_is_too_large() -> None:
    with pytest.raises(UsageError, match="the seed is"):
        CompareOptions(seed=10**23)
