"""The bundled model: whole, small, and able to tell what it should."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vnp.encoders.models.sixframe import KINDS
from vnp.errors import WeightsError
from vnp.finetune.folder import CONFIG, METRICS, PRESETS, WEIGHTS, read_folder
from vnp.native.model import (
    FOLDER,
    SHORTEST_RECORD,
    WEIGHTS_SHA256,
    RecordScorer,
    load_native,
)


def test_weights_are_small_and_the_ones_that_were_measured() -> None:
    assert (FOLDER / WEIGHTS).stat().st_size <= 20_000_000
    config = json.loads((FOLDER / CONFIG).read_text())
    assert config["weights_sha256"] == WEIGHTS_SHA256
    assert set(load_native().thresholds) == set(PRESETS)
    assert sorted(load_native().thresholds.values()) == [load_native().thresholds[name] for name in PRESETS]


def test_metrics_are_what_the_card_promises() -> None:
    metrics = json.loads((FOLDER / METRICS).read_text())
    wanted = {"1": [0.84, 0.92, 0.96, 0.98, 0.995, 0.999], "2": [0.0, 0.0, 0.91, 0.94, 0.96, 0.97]}
    for sample, floors in wanted.items():
        found = [metrics["windows"][sample][str(length)]["roc_auc"] for length in (150, 300, 500, 1000, 3000, 10000)]
        assert all(value >= floor for value, floor in zip(found, floors, strict=True)), found


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    for name in (WEIGHTS, CONFIG):
        shutil.copy(FOLDER / name, tmp_path / name)
        (tmp_path / name).chmod(0o644)
    read_folder(tmp_path, weights_sha256=WEIGHTS_SHA256)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        read_folder(tmp_path)
    with pytest.raises(WeightsError, match="another training"):
        read_folder(FOLDER, weights_sha256="0" * 64)


def test_every_record_that_can_be_read_has_a_score() -> None:
    bases = "".join(np.random.default_rng(2).choice(list("ACGT"), 5001))
    records = [bases, bases[:2000], bases[:SHORTEST_RECORD], bases[: SHORTEST_RECORD - 1], "N" * 500, "", bases.lower()]
    found = RecordScorer().score(records)
    assert found.scored.tolist() == [True, True, True, False, False, False, True]
    assert found.windows.tolist() == [3, 1, 1, 0, 0, 0, 3]
    assert np.isfinite(found.probability).tolist() == found.scored.tolist()
    assert ((found.kind >= 0) == found.scored).all()
    assert found.logit[0] == found.logit[6]
    viral = found.probability[found.scored] > 0.5
    assert ((found.kind[found.scored] < KINDS.index("bacteria")) == viral).all()


def test_score_is_that_of_the_record_and_its_strand_alone() -> None:
    random = np.random.default_rng(4)
    records = ["".join(random.choice(list("ACGT"), size)) for size in (120, 700, 2500, 4100)]
    scorer = RecordScorer()
    together = scorer.score(records)
    for at, record in enumerate(records):
        turned = record.translate(str.maketrans("ACGT", "TGCA"))[::-1]
        for alone in (scorer.score([record]), scorer.score([turned])):
            np.testing.assert_allclose(alone.logit[0], together.logit[at], rtol=1e-12)
