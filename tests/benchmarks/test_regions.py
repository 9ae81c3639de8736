"""Where phages were put, and how regions are compared with that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.regions.cells import print_weights
from benchmarks.regions.genomes import LONGEST, SHORTEST, Genome, plant, reverse_complement, without_phages
from benchmarks.regions.measure import compare, flanked
from vnp.encoders.models.sixframe import KINDS, VIRAL_KINDS
from vnp.finetune.genomes import TEST, Genomes
from vnp.native.classifier import NativeClassifier


def genomes() -> Genomes:
    random = np.random.default_rng(5)
    sizes = [250_000, 120_000, 200_000, 15_000, 90_000, 12_000]
    viral = np.array([False] * 3 + [True] * 3)
    starts = np.cumsum([0, *sizes])
    return Genomes(
        codes=random.integers(0, 4, starts[-1]).astype(np.uint8),
        starts=starts,
        unit=np.arange(6, dtype=np.int32),
        group=np.where(viral, 1, 0).astype(np.int32),
        sample=np.zeros(6, np.int32),
        kinds=np.ones(6, np.uint8),
        viral=viral,
        part=np.full(6, TEST, np.int8),
        ignored=np.array([[starts[1] + 70_000, 1_000]]),
        groups=("bacteria", "phage"),
        units=tuple("abcdef"),
        samples=("one",),
    )


def test_phages_stand_where_it_says() -> None:
    held = genomes()
    one, two, three = plant(held, TEST)
    assert len(one.viral) == 0
    assert (one.codes == held.record(0)).all()
    whole = [held.record(at) for at in (3, 4, 5)]
    for host, genome in ((1, two), (2, three)):
        rest = genome.codes
        for start, end in genome.viral[::-1].tolist():
            assert SHORTEST <= end - start <= LONGEST
            phage, rest = rest[start:end], np.delete(rest, slice(start, end))
            texts = [piece.tobytes() for piece in (phage, reverse_complement(phage))]
            assert any(text in record.tobytes() for text in texts for record in whole)
        assert (rest == held.record(host)).all()
    assert len(two.viral) + len(three.viral) == 3
    # What is unknown moves with what stands in front of it.
    ((start, end),) = two.unknown.tolist()
    assert (two.codes[start:end] == held.record(1)[70_000:71_000]).all()
    again = list(plant(held, TEST))
    assert all((a.codes == b.codes).all() for a, b in zip((one, two, three), again, strict=True))


def test_what_is_unknown_ends_with_its_record() -> None:
    held = genomes()
    border = int(held.starts[1])
    one, two, _ = plant(replace(held, ignored=np.array([[border - 2_000, 5_000]])), TEST)
    assert one.unknown.tolist() == [[248_000, 250_000]]
    assert two.unknown.tolist() == [[0, 3_000]]


def test_figures_are_counted_by_base() -> None:
    genome = Genome(
        "a", np.zeros(100_000, np.uint8), np.array([[10_000, 30_000], [90_000, 100_000]]), np.zeros((0, 2), int)
    )
    free = Genome("b", np.zeros(900_000, np.uint8), np.zeros((0, 2), int), np.array([[500_000, 600_000]]))
    called = {"a": [(10_400, 31_000)], "b": [(100_000, 110_000), (510_000, 590_000)]}
    found = compare([genome, free], called)
    there, wrong = 19_600, 1_000 + 10_000
    assert found.found == round(there / 30_000, 4)
    assert found.right == round(there / (there + wrong), 4)
    assert (found.phages, found.missed, found.regions, found.false) == (2, 1, 3, 1)
    assert found.host_bases == 100_000 - 30_000 + 800_000
    assert found.false_a_mbp == round(1 / 0.87, 4)
    assert found.border == 700
    perfect = compare([genome], {"a": [(10_000, 30_000), (90_000, 100_000)]})
    assert (perfect.mcc, perfect.found, perfect.right, perfect.border) == (1, 1, 1, 0)


def test_a_region_between_two_copies_is_told_from_others() -> None:
    codes = np.random.default_rng(8).integers(0, 4, 60_000).astype(np.uint8)
    assert not flanked(codes, 20_000, 40_000)
    codes[41_500:41_520] = codes[18_700:18_720]
    assert flanked(codes, 20_000, 40_000)
    # They are as far from a border as that may be off.
    assert not flanked(codes, 20_000, 46_000)
    # What cannot be read is no copy, and the other strand is none.
    codes[18_700:18_720] = codes[41_500:41_520] = 4
    assert not flanked(codes, 20_000, 40_000)
    codes[18_700:18_720] = reverse_complement(codes[41_600:41_620])
    assert not flanked(codes, 20_000, 40_000)
    genome = Genome("a", codes, np.zeros((0, 2), int), np.zeros((0, 2), int))
    codes[41_500:41_520] = codes[19_900:19_920]
    found = compare([genome], {"a": [(20_000, 40_000), (1_000, 9_000)]})
    assert (found.false, found.flanked) == (2, 1)


def test_hosts_without_phages_are_those_that_get_none() -> None:
    held = genomes()
    assert not list(without_phages(held, TEST))
    short = replace(
        held,
        group=np.array([0, 0, 0, 1, 1, 1], np.int32),
        starts=np.cumsum([0, 250_000, 99_000, 9_000, 9_000, 9_000, 9_000]),
    )
    (one,) = without_phages(short, TEST)
    assert (one.codes == held.codes[250_000:349_000]).all()
    assert len(one.viral) == 0
    assert one.unknown.tolist() == [[70_000, 71_000]]


def test_what_cells_say_is_fitted_to_kept_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = genomes()
    phages = held.codes[held.starts[3] :]
    phages[phages == 0] = 2
    asked: list[int] = []

    def score(windows: Sequence[str]) -> np.ndarray:
        asked.append(len(windows))
        # Phages have no A, or no T.
        share = np.array([min(one.count("A"), one.count("T")) / len(one) for one in windows])
        logits = np.zeros((len(windows), len(KINDS)))
        logits[:, :VIRAL_KINDS] = (5 - 40 * share)[:, None]
        return logits

    monkeypatch.setattr(NativeClassifier, "windows", lambda self, device: score)
    print_weights(held, tmp_path, "native", "cpu")
    said = capsys.readouterr().out
    assert "cells of 2 genomes" in said
    assert float(re.search(r"left out: ([0-9.]+)", said)[1]) < 0.35  # type: ignore[index]
    assert float(re.search(r"finer windows ([-+.0-9]+)", said)[1]) > 0.1  # type: ignore[index]
    count = len(asked)
    print_weights(held, tmp_path, "native", "cpu")
    assert (len(asked), capsys.readouterr().out) == (count, said)
