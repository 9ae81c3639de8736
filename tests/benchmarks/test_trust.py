from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.trust.distance import distance_table
from benchmarks.trust.measure import mixture, mixture_table
from benchmarks.trust.pairs import best_factor, pairs_table
from tests.finetune.conftest import genomes as genomes
from tests.finetune.conftest import sheet as sheet
from vnp.finetune.calibration import LengthCalibration
from vnp.finetune.genomes import TEST, TRAIN, Genomes
from vnp.finetune.measure import Windows
from vnp.finetune.split import evidence_of, folds, leave_out
from vnp.finetune.trust import Contigs
from vnp.metrics.evidence import fit_evidence


def contigs(viral: bool, random: np.random.Generator, units: range) -> Contigs:
    """As many as 600 of some units, whose log-odds are off by something each."""
    unit = random.choice(units, 600)
    odds = random.normal(2.0 if viral else -2.0, 2.0, 600) + random.normal(0, 0.5, 1000)[unit]
    known = np.full(600, viral), np.full(600, "one"), 1 / (1 + np.exp(-odds)), np.ones(600)
    return Contigs(Windows(unit, unit, np.full(600, 900)), *known, np.full(600, 50, np.float32), np.zeros(600))


def test_mixtures_have_an_interval_that_holds_their_share() -> None:
    random = np.random.default_rng(2)
    held = [contigs(viral, random, range(100 * viral, 100 * viral + 30)) for viral in (True, False)]
    columns = (np.concatenate([getattr(one, name) for one in held]) for name in ("probability", "viral"))
    chance, viral = columns
    unit = np.concatenate([one.pieces.record for one in held])
    evidence = fit_evidence(chance, np.full(1200, 900), viral, unit)
    kinds = (("viral", True), ("eukaryotic", False), ("other", False))
    pool = {name: contigs(viral, random, range(300 + 50 * at, 340 + 50 * at)) for at, (name, viral) in enumerate(kinds)}
    row = mixture(pool, np.arange(1000, dtype=np.int32), evidence, 0.2, 0.5, 400, draws=8)
    assert row.low < 0.2 < row.high
    assert row.covered >= 0.75
    assert row.refused == 0
    assert row.after["promised"] == pytest.approx(row.after["seen"], abs=0.06)
    assert "| 20% | 50% |" in mixture_table([row])


def test_contigs_are_told_apart_by_their_distance(genomes: Genomes) -> None:
    pytest.importorskip("pyskani")
    # Nothing is trained on but the hosts' own genomes: these are near, and viruses, rich in A and T, are far.
    part = np.where(genomes.viral, TEST, TRAIN).astype(np.int8)
    record = np.arange(len(genomes.unit))
    count = len(record)
    known = genomes.viral, np.full(count, "one"), np.where(genomes.viral, 0.9, 0.6), np.ones(count)
    pieces = Windows(record, genomes.starts[record], np.full(count, 800))
    contigs = Contigs(pieces, *known, np.full(count, 50, np.float32), np.zeros(count))
    lines = distance_table(replace(genomes, part=part), contigs).splitlines()
    assert lines[3].startswith("| viral | farther, or none | 12 | 12 | 1.000 | - |")
    assert lines[4].startswith("| host | 99 to 100 % | 24 | 24 | 0.000 | - |")


def test_nothing_is_fitted_on_units_of_a_group_that_was_left_out(genomes: Genomes) -> None:
    without = leave_out(genomes, ["plasmid"])
    group = np.array(without.groups)[without.group]
    for fitted in (folds(without) >= 0, evidence_of(without)):
        assert not fitted[group == "plasmid"].any()
        assert fitted[group == "bacteria"].any()
        assert not fitted[without.part == TRAIN].any()
        assert (fitted & (without.part == TEST)).any()


def test_the_factor_of_mates_is_that_which_makes_them_calibrated() -> None:
    random = np.random.default_rng(4)
    viral = random.random(20_000) < 0.5
    # Two independent voices: their log-odds are right when added.
    odds = random.normal(np.where(viral, 1.0, -1.0)[:, None], 2**0.5, (20_000, 2))
    as_it_is = LengthCalibration((150, 300), (1.0, 1.0), (0.0, 0.0))
    assert best_factor(odds, viral, as_it_is, 300) == pytest.approx(2, abs=0.1)
    lines = pairs_table({150: (odds, viral)}, as_it_is).splitlines()
    errors = {line.split(" | ")[2]: float(line.split(" | ")[4].rstrip(" |")) for line in lines[2:5]}
    assert errors["2.00"] < errors["1.41"] < errors["1.00"]
