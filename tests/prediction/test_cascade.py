from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from jobs.predict import main as predict
from tests.prediction.tiny import SAMPLE
from vnp.classifier.cascade import (
    MOST_WINDOWS,
    Agreement,
    Other,
    cut_windows,
    measure_agreement,
    needed_units,
)
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.scored import scored_part
from vnp.classifier.split import Split, record_sequences
from vnp.features.read import Features
from vnp.features.split import TEST
from vnp.metrics.rules import aggregate
from vnp.native.classifier import digest_of
from vnp.sequences.chunks import Chunking


def held(margin: np.ndarray, unit: np.ndarray, length: int = 300) -> Agreement:
    return Agreement(
        margin.astype(np.float32), np.full(len(margin), length), np.zeros(len(margin)), unit, digest_of(None), "test"
    )


@pytest.mark.parametrize(("units", "cut"), [(98, None), (99, 0.0)])
def test_fewer_units_than_the_risk_allows_settle_nothing(units: int, cut: float | None) -> None:
    assert needed_units(0.01) == 99
    none = np.zeros(units, bool)
    found = held(np.full(units, -5.0), np.arange(units)).cuts(0.01, 300, none, none)
    assert [(one.low, one.high, one.viral, one.viral_units) for one in found] == [(300, 600, cut, units)]
    assert found[0].host is None
    assert found[0].host_units == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_cut_is_the_least_that_conformal_risk_control_allows(seed: int) -> None:
    draw = np.random.default_rng(seed)
    unit, margin = draw.integers(0, 60, 300), draw.normal(0, 2, 300).round(1).astype(np.float32)
    risk, none = 0.1, np.zeros(300, bool)
    cut = held(margin, unit).cuts(risk, 300, none, margin > 0)[0].viral
    assert cut is not None

    def bound(at: float) -> float:
        losses = [(margin[unit == one] >= at).mean() for one in np.unique(unit)]
        return float((sum(losses) + 1) / (len(losses) + 1))

    assert bound(cut) <= risk
    smaller = [one for one in np.unique(margin[margin > 0]).tolist() if one < cut]
    assert all(bound(one) > risk for one in smaller[-5:])
    assert smaller


def test_on_average_no_more_than_the_risk_is_lost() -> None:
    draw, losses = np.random.default_rng(7), []
    none = np.zeros(200, bool)
    for _ in range(200):
        margin = draw.normal(-1, 1.5, 200).astype(np.float32)
        cut = held(margin, np.arange(200)).cuts(0.05, 300, none, margin > 0)[0].viral
        assert cut is not None
        new = draw.normal(-1, 1.5, 2_000).astype(np.float32)
        losses.append(float(((new > 0) & (new >= cut)).mean()))
    assert 0.035 < np.mean(losses) < 0.05 + 3 * np.std(losses) / len(losses) ** 0.5


def test_windows_are_whole_chunks_and_few() -> None:
    bases = np.random.default_rng(0).choice(list(b"ACGT"), 400_000).astype(np.uint8).tobytes()
    sequences = [bases[:200], b"N" * 500, bases[:7_000], bases, b"", bases[:50]]
    found = cut_windows(sequences, 300, 5_000, 100)
    counts = np.bincount(found.owner, minlength=len(sequences)).tolist()
    assert counts == [1, 0, 2, MOST_WINDOWS, 0, 0]
    table = Chunking(300).cut(np.array([7_000]))
    assert found.start[1:3].tolist() == [0, int(table.start[len(table) - 16])]
    assert found.end[1:3].tolist() == [int(table.end[15]), 7_000]
    assert found.number[1:3].tolist() == [1, len(table) - 15]
    assert len(set(found.number[3:].tolist())) == MOST_WINDOWS
    assert found.end[-1] == 400_000
    for at, text in enumerate(found.dna):
        assert text.encode() == sequences[found.owner[at]][found.start[at] : found.end[at]]


def test_training_keeps_what_both_say_of_pieces_of_held_out_records(features: Features) -> None:
    names = sorted(set(features.groups()))
    group = np.array([names.index(one) for one in features.groups()], np.int32)
    split = Split("group", np.full(features.rows, TEST, np.int8), group, names, None)
    probability = np.random.default_rng(1).random(features.rows)

    def lengths(dna: list[str]) -> np.ndarray:
        return np.array([len(one) for one in dna], float)

    part = scored_part(features, split, TEST, features.labels(), probability)
    found = measure_agreement(features, part, Other("x", 10**9, 100, lengths), 3, "test")  # type: ignore[arg-type]
    # As one window is read, its log-odds are its length here.
    assert (found.margin == found.length).all()
    assert set(found.unit.tolist()) <= set(range(len(names)))
    assert {1, 2, 4} <= set((found.length // 300).tolist())
    record = np.concatenate([*features.number_windows("record")])
    whole = aggregate(probability, record)
    lengths_of = {place: len(bases) for place, bases in record_sequences(features, features.records())}
    at = {int(key): float(one) for key, one in zip(whole.key, whole.probability, strict=True)}
    complete = [
        (own, lengths_of[number])
        for number in lengths_of
        for own, size in zip(found.probability, found.length, strict=True)
        if size == lengths_of[number] and own == at.get(number)
    ]
    assert complete, "a piece that is the whole record has its own score"
    again = Agreement.from_tensors(found.to_tensors())
    assert all((getattr(again, name) == getattr(found, name)).all() for name in ("margin", "length", "probability"))


@pytest.fixture(scope="module")
def sure(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same classifier, whose held-out records leave everything up to 9,600 bases to native."""
    units = 5 * 120
    length = np.repeat([300 * 2**power for power in range(5)], 120)
    agreement = Agreement(
        np.tile([-3.0, 3.0], units // 2).astype(np.float32), length, np.tile([0.0, 1.0], units // 2),
        np.arange(units), digest_of(None), "test",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("sure") / "sure.pth"
    replace(Checkpoint.load(checkpoint), agreement=agreement).write(path)
    assert (Checkpoint.load(path).agreement or agreement).length.tolist() == length.tolist()
    return path


@pytest.fixture(scope="module")
def contigs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Contigs of two genomes; one is longer than any that was held out."""
    path = tmp_path_factory.mktemp("contigs") / "contigs.fna"
    pieces = []
    for name in ("viral/hiv_1", "host/escherichia_coli"):
        bases = b"".join(gzip.decompress((SAMPLE / f"{name}.fna.gz").read_bytes()).split(b"\n")[1:])
        pieces += [(f"{name[:4]}_{size}", bases[1_000 : 1_000 + size]) for size in (300, 700, 3_000, 5_500)]
    pieces.append(("long", (bases * 3)[:12_000]))
    path.write_text("".join(f">{name}\n{text.decode()}\n" for name, text in pieces))
    return path


def call(contigs: Path, out: Path, checkpoint: Path, *more: str) -> Result:
    words = [str(contigs), "--out", str(out), "--checkpoint", str(checkpoint), "--cluster", "inline", *more]
    return CliRunner().invoke(predict, words)


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "predictions.tsv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file, delimiter="\t")}


CASCADE = ("--cascade", "native", "--cascade-risk", "0.05")


def test_settled_records_are_called_by_native_and_others_as_without(sure: Path, contigs: Path, tmp_path: Path) -> None:
    for name, more in (("alone", ()), ("one", CASCADE), ("three", (*CASCADE, "--shards", "3"))):
        done = call(contigs, tmp_path / name, sure, *more)
        assert done.exit_code == 0, done.output
    alone, found = table(tmp_path / "alone"), table(tmp_path / "one")
    settled = [name for name, row in found.items() if row["scored_by"] == "native"]
    summary = json.loads((tmp_path / "one/summary.json").read_text())["cascade"]
    assert summary["settled_by_native"] == len(settled) >= 4
    assert summary["risk"] == 0.05
    assert "long" not in settled
    assert f"{len(settled):,} of 9 records" in (tmp_path / "one/report.html").read_text()
    own = ("call", "score", "probability", "scored_by")
    assert all(found[name][one] == alone[name][one] for name in found.keys() - set(settled) for one in own)
    for file in ("predictions.tsv", "chunks.tsv", "frames.tsv", "viral.fna"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "three" / file).read_bytes()
    with (tmp_path / "one/chunks.tsv").open() as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["record"] in settled]
    spans = {row["record"]: (int(row["start"]), int(row["end"])) for row in rows}
    assert all(high - low > 300 for name, (low, high) in spans.items() if "700" in name or "3000" in name)
    frames = (tmp_path / "one/frames.tsv").read_text()
    assert not any(f"{name}_chunk" in frames for name in settled)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--cascade", "native"), "takes 99 held-out units of a length, and"),
        ((*CASCADE, "--no-native"), "--cascade native needs native"),
        ((*CASCADE, "--rule", "mean-logit"), "leave --prevalence and --rule out"),
        ((*CASCADE, "--keep-embeddings"), "--keep-embeddings keeps rows of all"),
        ((*CASCADE, "--pairs"), "--cascade was measured on single records"),
        (("--cascade", "native", "--cascade-risk", "1"), "between 0 and 1, not 1"),
    ],
)
def test_what_does_not_go_with_a_cascade(
    more: tuple[str, ...], message: str, sure: Path, contigs: Path, tmp_path: Path
) -> None:
    done = call(contigs, tmp_path / "out", sure, *more)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())


def test_an_older_checkpoint_is_told_what_it_lacks(checkpoint: Path, contigs: Path, tmp_path: Path) -> None:
    done = call(contigs, tmp_path / "out", checkpoint, *CASCADE)
    assert done.exit_code == 2
    assert "train it anew with python -m jobs.train RUN --cascade" in " ".join(done.output.split())
    done = call(contigs, tmp_path / "out", Path("native"), *CASCADE)
    assert done.exit_code == 2
    assert "goes with checkpoints of train" in done.output


def test_what_was_settled_is_not_called_by_another_threshold(sure: Path, contigs: Path, tmp_path: Path) -> None:
    assert call(contigs, tmp_path / "out", sure, *CASCADE).exit_code == 0
    words = ["--from", str(tmp_path / "out"), "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(predict, [*words, "--max-fdr", "0.9"]).exit_code == 0
    done = CliRunner().invoke(predict, [*words, "--threshold", "0.9"])
    assert done.exit_code == 2
    assert "they were not embedded" in " ".join(done.output.split())
