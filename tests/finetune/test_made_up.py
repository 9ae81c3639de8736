"""Made-up hosts: what they keep of crops, what they are counted as, and that they come again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.finetune.conftest import recipe
from vnp.encoders.models.sixframe import AMBIGUOUS
from vnp.errors import UsageError
from vnp.finetune.crops import CropSampler, DeviceGenomes
from vnp.finetune.genomes import HOSTS, TRAIN, Genomes
from vnp.finetune.made_up import made_up

CPU = torch.device("cpu")


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(row: np.ndarray) -> np.ndarray:
    """How often each base follows each, as shares."""
    counts = np.bincount(4 * row[:-1].astype(int) + row[1:], minlength=16).reshape(4, 4)
    return np.asarray(counts / counts.sum())


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, np.ndarray]:
    """Crops in which A and C, and G and T, take turns, and what is made of them."""
    random = np.random.default_rng(2)
    first = random.integers(0, 2, (200, 1500)) * 2
    crops = np.stack((first, first + 1), 2).reshape(200, 3000).astype(np.uint8)
    crops[:, 1000] = AMBIGUOUS
    return crops, made_up(torch.from_numpy(crops), generator()).numpy()


def test_half_keep_how_bases_follow_each_other_and_not_their_order(made: tuple[np.ndarray, np.ndarray]) -> None:
    crops, found = made
    assert found.shape == crops.shape
    assert found.max() < AMBIGUOUS
    wanted = pairs(np.where(crops[0] == AMBIGUOUS, 0, crops[0]))
    kept = [row for row in found if np.abs(pairs(row) - wanted).max() < 0.03]
    assert 80 < len(kept) < 120
    assert max((row == crop).mean() for row, crop in zip(found, crops, strict=True)) < 0.9


def test_some_are_repeats_and_some_have_few_letters(made: tuple[np.ndarray, np.ndarray]) -> None:
    found = made[1]
    periodic = [max((row[unit:] == row[:-unit]).mean() for unit in range(1, 200)) for row in found]
    most = np.array([np.bincount(row, minlength=4).max() for row in found]) / found.shape[1]
    assert 25 < (np.array(periodic) > 0.6).sum() < 90
    assert (most > 0.6).sum() > 10


def test_shares_kinds_and_labels_of_a_step(genomes: Genomes) -> None:
    held = DeviceGenomes(genomes, CPU)
    asked = {"bases": 60_000, "lengths": {100: 1.0}, "mutated": 0.0}
    plain, mixed = (CropSampler(held, TRAIN, recipe(**asked, made_up=share)) for share in (0.0, 0.1))
    before, after, again = plain.draw(4), mixed.draw(4), mixed.draw(4)
    assert all(torch.equal(one, other) for one, other in zip(after, again, strict=True))
    changed = (after.bases != before.bases).float().mean(1) > 0.2
    assert 55 < changed.sum() < 62
    assert not after.viral[changed].any()
    assert (after.kinds[changed] == HOSTS).all()
    assert before.viral[changed].any()
    assert torch.equal(after.viral[~changed], before.viral[~changed])
    assert torch.equal(after.used, before.used)
    with pytest.raises(UsageError, match="share"):
        recipe(made_up=1.0)
