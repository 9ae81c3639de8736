from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tests.classifier.making import both_classes, write_features
from vnp.classifier.calibration import shown_odds
from vnp.classifier.fit import Fitted, Stepper, class_weights, epoch_order, fit
from vnp.classifier.model import MLPClassifier
from vnp.classifier.recipe import ADAMW, RECIPES, VIRNUCPRO, Recipe
from vnp.classifier.rows import Memory, RowStore, open_rows
from vnp.classifier.split import Split, split_groups
from vnp.errors import FeatureError, UsageError
from vnp.features.read import Features, open_features

CPU = torch.device("cpu")
SHORT = replace(VIRNUCPRO, epochs=4, rate=0.01)


def open_store(features: Features, memory: Memory = "auto") -> tuple[RowStore, Split]:
    label = features.labels()
    return open_rows(features, label, CPU, memory), split_groups(label, features.groups(), seed=2)


def same(one: Fitted, other: Fitted) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        one.weights[name].numpy().tobytes() == other.weights[name].numpy().tobytes() for name in one.weights
    )


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def test_the_recipe_is_virnucpros() -> None:
    """SGD with momentum 0.9, batches of 32, rate 0.0002 times 0.85 every ten epochs, patience 5, up to 200 epochs."""
    recipe = RECIPES["virnucpro"]
    assert (recipe.optimiser, recipe.momentum, recipe.batch, recipe.rate) == ("sgd", 0.9, 32, 2e-4)
    assert (recipe.patience, recipe.epochs, recipe.dropout, recipe.balance) == (5, 200, 0.5, "none")
    network = MLPClassifier(20)
    optimiser = torch.optim.SGD(network.parameters(), lr=2e-4, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=10, gamma=0.85)
    for epoch in range(35):
        assert recipe.rate_of(epoch) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimiser.step()
        schedule.step()


def test_steps_are_those_of_a_plain_loop(features: Features) -> None:
    """The same weights, order and dropout as a loop written with nothing but PyTorch's own parts."""
    store, split = open_store(features)
    order = epoch_order(split.rows(0), store.label, SHORT, 5, 0)
    values, classes = (
        torch.from_numpy(array) for array in (features.mapped().astype(np.float32), store.label.astype(np.int64))
    )
    torch.manual_seed(0)
    plain = MLPClassifier(20)
    ours = MLPClassifier(20)
    ours.load_state_dict(plain.state_dict())
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    torch.manual_seed(1)
    losses = []
    for low in range(0, len(order), 32):
        batch = torch.from_numpy(order[low : low + 32])
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain(values[batch]), classes[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses += [float(loss.detach())] * len(batch)
    torch.manual_seed(1)
    mean = Stepper(ours, SHORT, None, graph=True).run(store.pools(order, 32))
    assert mean == pytest.approx(np.mean(losses), rel=1e-5)
    for (name, one), other in zip(plain.state_dict().items(), ours.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), other.double(), atol=1e-6), name


def test_training_learns_and_keeps_the_best_epoch(features: Features) -> None:
    store, split = open_store(features)
    fitted = fit(store, split, replace(VIRNUCPRO, rate=0.01, epochs=12, patience=3), 1)
    losses = [row["validation_loss"] for row in fitted.history]
    assert fitted.history[-1]["validation_roc_auc"] > 0.8
    assert min(losses) < 0.6 * np.log(2)
    assert fitted.best_epoch == 1 + int(np.argmin(losses))
    assert [row["epoch"] for row in fitted.history] == list(range(1, len(losses) + 1))
    until = fit(store, split, replace(VIRNUCPRO, rate=0.01, epochs=fitted.best_epoch), 1)
    assert same(fitted, until), "the weights are those of the best epoch, not of the last"


def test_it_stops_when_the_validation_loss_no_longer_falls(features: Features) -> None:
    store, split = open_store(features)
    fitted = fit(store, split, replace(VIRNUCPRO, rate=0.3, patience=2, epochs=200), 1)
    assert fitted.stopped_early
    assert len(fitted.history) == fitted.best_epoch + 2 < 200


@pytest.mark.parametrize("recipe", [SHORT, replace(ADAMW, batch=64, epochs=4)])
def test_the_same_seed_gives_the_same_bytes(features: Features, recipe: Recipe) -> None:
    store, split = open_store(features)
    one, again, other = (fit(store, split, recipe, seed) for seed in (7, 7, 8))
    assert same(one, again)
    assert without_times(one.history) == without_times(again.history)
    assert not same(one, other)


@pytest.mark.parametrize("recipe", [SHORT, replace(ADAMW, batch=64, epochs=4)])
@pytest.mark.parametrize("done", [1, 3])
def test_a_killed_training_goes_on_to_the_same_bytes(
    features: Features, tmp_path: Path, recipe: Recipe, done: int
) -> None:
    store, split = open_store(features)
    whole = fit(store, split, recipe, 3)

    def kill(history: list[dict[str, Any]]) -> None:
        if len(history) == done:
            raise KeyboardInterrupt

    state = tmp_path / "state.pth"
    with pytest.raises(KeyboardInterrupt):
        fit(store, split, recipe, 3, state=state, digest="a", each_epoch=kill)
    resumed = fit(store, split, recipe, 3, state=state, digest="a")
    assert resumed.resumed_after == done
    assert same(whole, resumed)
    assert without_times(whole.history) == without_times(resumed.history)


@pytest.mark.parametrize("spoil", ["digest", "truncated", "garbage"])
def test_a_state_of_another_training_or_a_damaged_one_is_not_used(
    features: Features, tmp_path: Path, spoil: str
) -> None:
    store, split = open_store(features)
    state = tmp_path / "state.pth"
    short = replace(SHORT, epochs=2)
    fit(store, split, short, 3, state=state, digest="a")
    if spoil == "truncated":
        state.write_bytes(state.read_bytes()[:5000])
    elif spoil == "garbage":
        state.write_bytes(b"not a state")
    fitted = fit(store, split, short, 4, state=state, digest="b" if spoil == "digest" else "a")
    assert fitted.resumed_after == 0
    assert same(fitted, fit(store, split, short, 4))


def test_streamed_rows_teach_the_same_bytes(tmp_path: Path) -> None:
    features = open_features(write_features(tmp_path / "f.h5", groups=both_classes(8, 33), dtype=np.float32))
    (memory, split), (disk, _) = open_store(features, "resident"), open_store(features, "stream")
    assert (memory.resident, disk.resident) == (True, False)
    order = np.random.default_rng(0).permutation(len(disk))
    pools = [pool.order.numpy() for pool in disk.pools(order, 10, pool_bytes=20 * 20 * 4)]
    assert [len(pool) for pool in pools[:-1]] == [20] * (len(pools) - 1), "whole batches only"
    together = torch.cat([pool.features[pool.order] for pool in disk.pools(order, 10, pool_bytes=20 * 20 * 4)])
    assert np.array_equal(together.numpy(), features.mapped()[order])
    assert same(fit(memory, split, SHORT, 3), fit(disk, split, SHORT, 3))


def test_rows_that_change_between_epochs_are_never_taught(tmp_path: Path) -> None:
    """Wherever a bit turns over once the rows were checked, and however late."""
    path = write_features(tmp_path / "f.h5", groups=both_classes(8, 33), dtype=np.float32)
    features = open_features(path)
    with h5py.File(path, "r") as file:
        place, size = file["features"].id.get_offset(), file["features"].id.get_storage_size()
    content = path.read_bytes()
    for seed in range(20):
        (memory, _), (disk, split) = open_store(features, "resident"), open_store(features, "stream")
        order = np.random.default_rng(seed).permutation(split.rows(0))
        assert len([*disk.pools(order, 10, pool_bytes=20 * 20 * 4)]) > 1
        at = place + int(np.random.default_rng(seed).integers(size))
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ 1 << seed % 8]))
        row = (at - place) // (4 * features.width)
        with pytest.raises(FeatureError, match=rf"f\.h5: row {row} has changed since the training began"):
            disk.take(np.arange(len(disk)))
        if row in order:
            with pytest.raises(FeatureError, match="has changed"):
                [*disk.pools(order, 10, pool_bytes=20 * 20 * 4)]
        # What is in memory is as it was checked.
        assert len(memory.take(np.arange(len(memory)))) == len(memory)
        path.write_bytes(content)


def test_a_last_batch_of_one_row_is_left_out(features: Features) -> None:
    store, _ = open_store(features)
    stepper = Stepper(MLPClassifier(20), VIRNUCPRO, None, graph=False)
    assert np.isfinite(stepper.run(store.pools(np.arange(33), 32)))
    assert stepper.run(store.pools(np.arange(1), 32)) == 0


def test_sampling_shows_both_classes_alike_and_weights_count_them_alike() -> None:
    label = np.array([1] * 50 + [0] * 950, np.int8)
    rows = np.arange(0, 1000, 2)
    recipe = replace(VIRNUCPRO, balance="sampling")
    order = epoch_order(rows, label, recipe, 0, 0)
    assert len(order) == 500
    assert set(order.tolist()) <= set(rows.tolist())
    assert (label[order] == 1).sum() == 250
    assert not np.array_equal(order, epoch_order(rows, label, recipe, 0, 1))
    host, viral = class_weights(label, replace(VIRNUCPRO, balance="label"))
    assert viral * 50 == pytest.approx(host * 950)
    assert (viral * 50 + host * 950) / 1000 == pytest.approx(1)
    assert shown_odds(label, recipe) == pytest.approx(np.log(950 / 50))
    assert shown_odds(label, VIRNUCPRO) == 0


def test_organism_groups_of_a_class_are_shown_alike() -> None:
    label = np.array([1] * 100 + [0] * 900, np.int8)
    organism = np.array([7] * 100 + [1] * 850 + [2] * 40 + [3] * 10)
    recipe = replace(VIRNUCPRO, balance="group")
    order = epoch_order(np.arange(1000), label, recipe, 0, 0, organism)
    numbers, counts = np.unique(organism[order], return_counts=True)
    assert dict(zip(numbers.tolist(), counts.tolist(), strict=True)) == {1: 166, 2: 167, 3: 167, 7: 500}
    assert shown_odds(label, recipe) == pytest.approx(np.log(9))


@pytest.mark.parametrize("balance", ["label", "sampling"])
def test_balanced_training_is_readier_to_call_a_rare_class(tmp_path: Path, balance: Any) -> None:
    groups = {f"v{n}": [1] * 4 for n in range(12)} | {f"h{n}": [0] * 60 for n in range(12)}
    store, split = open_store(open_features(write_features(tmp_path / "f.h5", groups=groups)))
    recipe = replace(VIRNUCPRO, rate=0.003, epochs=3)
    plain, balanced = fit(store, split, recipe, 1), fit(store, split, replace(recipe, balance=balance), 1)
    neutral = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 20)).astype(np.float32))
    means = []
    for fitted in (plain, balanced):
        network = MLPClassifier(20)
        network.load_state_dict(fitted.weights)
        with torch.inference_mode():
            logits = network.eval()(neutral)
        means.append(float((logits[:, 1] - logits[:, 0]).mean()))
    assert means[1] > means[0] + 0.5


def test_a_rate_that_breaks_training_is_said(features: Features) -> None:
    store, split = open_store(features)
    with pytest.raises(FeatureError, match=r"no longer a number in epoch \d+.*smaller --rate"):
        fit(store, split, replace(VIRNUCPRO, rate=99.0, momentum=1e30), 1)


@pytest.mark.parametrize(
    "change", [{"batch": 1}, {"epochs": 0}, {"patience": 0}, {"rate": 0}, {"rate": float("nan")}, {"dropout": 1.0}]
)
def test_recipes_that_cannot_work_are_wrong_use(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(VIRNUCPRO, **change)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_graphs_change_no_result() -> None:
    from benchmarks.train import graph_difference

    losses, _ = graph_difference(256, torch.device("cuda"), 1)
    assert losses < 1e-4
