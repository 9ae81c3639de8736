"""Protein encoders learn on: what is computed and written, what a killed training comes back to, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

import vnp.finetune.language.loop as loop
from jobs.finetune import main
from tests.encoders._folders import ESM2_CONFIG, esm2_state, write_folder
from tests.encoders._models import Golden
from tests.runs.datasets import Genome, made_up, write_dataset
from vnp.encoders import describe, from_folder
from vnp.encoders.packing import collate
from vnp.encoders.tokens.tokenizers import Esm2Tokenizer
from vnp.encoders.weights.provenance import read_provenance
from vnp.errors import EncoderError, FeatureError, InputError, StorageError, UsageError, WeightsError
from vnp.finetune.language.batches import Order, masked, pieces
from vnp.finetune.language.examples import Examples, read_examples
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.objectives import Objective, supervised_contrast
from vnp.finetune.language.recipe import TuningRecipe, trained_layers
from vnp.finetune.language.tuning import Tuning, run_tuning
from vnp.finetune.pace import learning_rate

CPU = torch.device("cpu")
TRAINS = ("head", "lora", "top:1", "all")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("set") / "set", made_up(), lengths=(90,))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def examples(dataset: Path) -> Examples:
    return read_examples(dataset, Esm2Tokenizer())


def tuning(dataset: Path, base: Path, **more: Any) -> Tuning:
    recipe = {"train": "lora", "steps": 6, "tokens": 400, "rate": 5e-3, "warm_up": 1, **more.pop("recipe", {})}
    plain = {"watch_every": 3, "save_every": 2, "token_budget": 200}
    return Tuning(dataset, str(base), CPU, **{**plain, **more}, recipe=recipe)


def network(recipe: TuningRecipe, state: dict[str, Tensor] | None = None) -> TunedEsm2:
    return TunedEsm2(ESM2_CONFIG, esm2_state() if state is None else state, recipe, CPU, torch.float32)


def shaken(recipe: TuningRecipe) -> TunedEsm2:
    """A network whose every trained number was moved."""
    made = network(recipe)
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=chance))
    return made


@pytest.mark.parametrize("name", ["esm2_tiny", "fastesm2_tiny"])
@pytest.mark.parametrize("train", TRAINS)
def test_begins_as_the_published_model(shared: Path, name: str, train: str) -> None:
    golden = Golden.read(shared / "goldens" / name)
    made = TunedEsm2(golden.config, golden.state, TuningRecipe(train=train), CPU, torch.float32)
    # Each batch is padded to its longest.
    for part in (slice(7), slice(7, 9), slice(9, None)):
        ids = golden.ids[part]
        batch = collate(ids, np.arange(len(ids)), made.attention, CPU, None)
        with torch.no_grad():
            np.testing.assert_allclose(made.hidden(batch), np.concatenate(golden.hidden[part]), atol=2e-5)
            np.testing.assert_allclose(made.pooled(batch), np.stack(golden.means[part]), atol=2e-5)


@pytest.mark.parametrize("objective", ["labels", "mlm"])
@pytest.mark.parametrize("train", TRAINS)
def test_merging_costs_nothing(examples: Examples, tmp_path: Path, train: str, objective: str) -> None:
    made = shaken(TuningRecipe(objective=objective, train=train, rank=3, alpha=5))  # type: ignore[arg-type]
    rows = examples.rows(0)[:9]
    ids = [examples.ids(row).astype(np.int64) for row in rows.tolist()]
    made.training = False
    with torch.no_grad():
        expected = made.pooled(collate(ids, np.arange(len(ids)), made.attention, CPU, None)).numpy()
    found = cast(Any, from_folder(write_folder(tmp_path / "merged", made.merged()))).embed_ids(ids)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    plain = cast(Any, from_folder(write_folder(tmp_path / "plain"))).embed_ids(ids)
    assert (np.abs(plain - expected).max() > 1e-3) == (train != "head")


@pytest.mark.parametrize("objective", ["labels", "mlm", "contrastive"])
def test_gradient_is_that_of_the_whole_step_however_it_is_cut(examples: Examples, objective: str) -> None:
    found = []
    for budget, checkpointing in ((10_000, False), (150, False), (150, True)):
        made = shaken(TuningRecipe(objective=objective, train="all"))  # type: ignore[arg-type]
        made.checkpointing = checkpointing
        asked = Objective(made, examples)
        cut = asked.cut(examples.rows(0)[:12], budget, 1)
        assert (len(cut) > 1) == (budget == 150)
        weight = asked.weight(cut)
        for piece in cut:
            (asked.loss(piece) / weight).backward()  # type: ignore[no-untyped-call]
        found.append({name: one.grad.clone() for name, one in made.trained.items() if one.grad is not None})
    # A contrastive loss is among the rows of a piece.
    first = found[1] if objective == "contrastive" else found[0]
    for other in found[1:]:
        assert other.keys() == first.keys()
        for name, gradient in first.items():
            torch.testing.assert_close(other[name], gradient, atol=2e-6, rtol=1e-4)
    assert sum(float(gradient.abs().sum()) for gradient in first.values()) > 0


def test_trains_what_is_asked(examples: Examples) -> None:
    state = {name.replace("layer.0", f"layer.{layer}"): one for name, one in esm2_state().items() for layer in (0, 1)}
    config = {**ESM2_CONFIG, "num_hidden_layers": 2}
    names = {}
    for train in TRAINS:
        names[train] = set(TunedEsm2(config, state, TuningRecipe(train=train), CPU, torch.float32).trained)
    heads = {"head.weight", "head.bias"}
    assert names["head"] == heads
    assert names["lora"] - heads == {
        f"encoder.layer.{layer}.{piece}.{factor}" for layer in (0, 1) for piece in ("qkv", "out") for factor in "ab"
    }
    assert not any("layer.0" in name for name in names["top:1"])
    assert any("layer.1.down" in name for name in names["top:1"])
    assert names["all"] > names["top:1"] | {"embeddings.word_embeddings.weight"}
    for wrong in ("top", "top:0", "some"):
        with pytest.raises(UsageError, match="--train"):
            trained_layers(wrong, 4)


def test_contrast_is_that_of_the_formula() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = torch.tensor([0, 1, 0, 1, 2])
    unit = rows / rows.norm(dim=1, keepdim=True)
    found = supervised_contrast(rows, label, 0.5)
    for one in range(5):
        others = [other for other in range(5) if other != one]
        total = sum(np.exp(float(unit[one] @ unit[other]) / 0.5) for other in others)
        same = [other for other in others if label[other] == label[one]]
        terms = [-np.log(np.exp(float(unit[one] @ unit[other]) / 0.5) / total) for other in same]
        assert float(found[one]) == pytest.approx(np.mean(terms) if terms else 0.0)


def test_masks_as_esm2_did(examples: Examples) -> None:
    rows = np.repeat(examples.rows(0), 20)
    shown, places = masked(examples, rows, 0.15, seed=1, step=3)
    again, _ = masked(examples, rows, 0.15, seed=1, step=3)
    assert all(np.array_equal(one, other) for one, other in zip(shown, again, strict=True))
    truth = [examples.ids(row) for row in rows.tolist()]
    guessed = np.concatenate([one[at] for one, at in zip(shown, places, strict=True)])
    was = np.concatenate([one[at] for one, at in zip(truth, places, strict=True)])
    assert np.mean(guessed == 32) == pytest.approx(0.8, abs=0.03)
    assert np.mean(guessed == was) == pytest.approx(0.1 + 0.1 / 20, abs=0.03)
    for one, other, at in zip(shown, truth, places, strict=True):
        rest = np.setdiff1d(np.arange(len(one)), at)
        assert np.array_equal(one[rest], other[rest])
        assert at.min() >= 1
        assert at.max() <= len(one) - 2
    assert sum(map(len, places)) / (sum(map(len, truth)) - 2 * len(truth)) == pytest.approx(0.15, abs=0.03)


def test_order_sees_every_protein_once_an_epoch() -> None:
    lengths = np.random.default_rng(2).integers(5, 60, 40)
    rows = np.arange(3, 33)
    order = Order(rows, lengths, 100, seed=1)
    seen: list[int] = []
    while len(seen) < len(rows):
        step = order.step()
        assert lengths[step].sum() <= 100
        seen += step.tolist()
    assert sorted(seen) == rows.tolist()
    following = order.step()
    assert np.array_equal(Order(rows, lengths, 100, 1, 1, 0).step(), following)
    for budget in (60, 100, 1000):
        cut = list(pieces(lengths, budget))
        assert [place for one in cut for place in range(one.start, one.stop)] == list(range(40))
        assert max(int(lengths[one].sum()) for one in cut) <= budget


def test_set_is_read_as_it_was_dealt(dataset: Path, examples: Examples) -> None:
    parts = {genome.unit: genome.part for genome in made_up()}
    assert examples.part_of_unit() == {unit: parts[unit] for unit in examples.units}
    assert {examples.units[unit][-1] for unit in examples.unit[examples.label == 1]} == {"v"}
    assert (examples.tokens[examples.starts[:-1]] == 0).all()
    assert (examples.tokens[examples.starts[1:] - 1] == 2).all()


@pytest.mark.parametrize("objective", ["labels", "mlm", "contrastive"])
def test_learns_and_writes_an_encoder(dataset: Path, base: Path, tmp_path: Path, objective: str) -> None:
    asked = tuning(dataset, base, recipe={"objective": objective, "train": "all", "steps": 30}, watch_every=10)
    _, provenance = run_tuning(asked, tmp_path / "tuned")
    looks = [json.loads(line) for line in (tmp_path / "tuned/log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in looks if "loss" in entry]
    assert losses[-1] < losses[0]
    if objective == "labels":
        assert provenance.result["validation"]["roc_auc"] > 0.8
    folder = tmp_path / "tuned"
    assert from_folder(folder).embed(["MKTAYIAK", "MSDNE"]).shape == (2, 16)
    mine, theirs = (describe(str(one), "protein") for one in (folder, base))
    assert mine["weights"] != theirs["weights"]
    assert mine["config"] == theirs["config"]
    assert mine["trained_on"] == provenance.split_sha256
    assert provenance.base["weights"] == theirs["weights"]
    assert provenance == read_provenance(folder)
    units = dict(line.split("\t") for line in (folder / "split.tsv").read_text().splitlines()[1:])
    assert units["unit 3h"] == "validation"
    assert units["unit 4v"] == "test"
    assert (folder / "training.png").stat().st_size > 1000
    # And it learns on from there, with the head that it has.
    _, after = run_tuning(tuning(dataset, folder, recipe={"objective": objective, "steps": 1}), tmp_path / "more")
    assert after.base["trained_on"] == provenance.split_sha256
    assert ("lm_head.bias" in load_file(folder / "model.safetensors")) == (objective == "mlm")


def test_head_alone_leaves_the_encoder_as_it_is(dataset: Path, base: Path, tmp_path: Path) -> None:
    run_tuning(tuning(dataset, base, recipe={"train": "head", "steps": 4}), tmp_path / "tuned")
    sequences = ["MKTAYIAK", "MSDNE"]
    np.testing.assert_array_equal(from_folder(tmp_path / "tuned").embed(sequences), from_folder(base).embed(sequences))
    assert load_file(tmp_path / "tuned/head.safetensors")["head.weight"].shape == (1, 16)


@pytest.mark.parametrize(
    ("recipe", "death"),
    [
        ({"train": "lora", "dropout": 0.2}, 1),
        ({"train": "lora", "dropout": 0.2}, 5),
        ({"train": "all", "objective": "mlm"}, 5),
        ({"train": "top:1", "objective": "contrastive"}, 5),
    ],
)
def test_killed_training_goes_on_to_the_same_bytes(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], death: int
) -> None:
    asked = tuning(dataset, base, recipe=recipe)
    run_tuning(asked, tmp_path / "whole")
    monkeypatch.setattr(loop, "learning_rate", dying(death))
    with pytest.raises(KeyboardInterrupt):
        run_tuning(asked, tmp_path / "killed")
    monkeypatch.undo()
    run_tuning(asked, tmp_path / "killed")
    for name in ("model.safetensors", "split.tsv", "provenance.json", "log.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert not (tmp_path / "killed/state.pt").exists()


@pytest.mark.parametrize("objective", ["labels", "contrastive"])
def test_kept_rows_do_not_depend_on_when_they_are_computed(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    real = TunedEsm2.pooled
    monkeypatch.setattr("vnp.finetune.language.objectives._BLOCK", 150)

    def rounding(self: TunedEsm2, batch: Any) -> Tensor:
        moved: Tensor = 1e-3 * batch.borders.rows * torch.linspace(0, 1, self.width)
        return real(self, batch) + moved

    monkeypatch.setattr(TunedEsm2, "pooled", rounding)
    recipe = {"train": "head", "objective": objective, "steps": 40, "tokens": 2000}
    for name, death in (("whole", None), ("killed", 37)):
        if death is not None:
            monkeypatch.setattr(loop, "learning_rate", dying(death))
            with pytest.raises(KeyboardInterrupt):
                run_tuning(tuning(dataset, base, recipe=recipe), tmp_path / name)
            monkeypatch.setattr(loop, "learning_rate", learning_rate)
        run_tuning(tuning(dataset, base, recipe=recipe), tmp_path / name)
    assert (tmp_path / "whole/head.safetensors").read_bytes() == (tmp_path / "killed/head.safetensors").read_bytes()


def dying(death: int) -> Callable[[int, object], float]:
    """A learning rate that ends the training before a step."""

    def rate(step: int, asked: object) -> float:
        if step == death:
            raise KeyboardInterrupt
        return learning_rate(step, asked)

    return rate


def test_state_of_another_training_is_refused(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vnp.finetune.language.tuning.write_folder", _killed)
    with pytest.raises(KeyboardInterrupt):
        run_tuning(tuning(dataset, base), tmp_path)
    monkeypatch.undo()
    with pytest.raises(FeatureError, match="another training"):
        run_tuning(tuning(dataset, base, recipe={"seed": 2}), tmp_path)
    # Adapters of one base are nothing to another of the same shape.
    other = write_folder(tmp_path / "other", esm2_state(seed=5))
    with pytest.raises(FeatureError, match="another training"):
        run_tuning(tuning(dataset, other), tmp_path)


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_out_of_memory_halves_and_in_the_end_says_so(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Objective.loss
    room = 60

    def scarce(self: Objective, piece: Any) -> Tensor:
        if piece.tokens > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, piece)

    plain, _ = run_tuning(tuning(dataset, base, token_budget=60), tmp_path / "plain")
    monkeypatch.setattr(Objective, "loss", scarce)
    said: list[str] = []
    tuned, _ = run_tuning(tuning(dataset, base, token_budget=240), tmp_path / "tuned", say=said.append)
    assert tuned.budget <= 60
    assert tuned.network.checkpointing
    assert any("out of memory at 240 tokens" in line for line in said)
    for name, tensor in plain.network.merged().items():
        torch.testing.assert_close(tuned.network.merged()[name], tensor, atol=1e-4, rtol=1e-3)
    room = 5
    with pytest.raises(EncoderError, match=r"a protein of \d+ tokens does not fit"):
        run_tuning(tuning(dataset, base, token_budget=240), tmp_path / "never")


def test_loss_that_is_no_number_keeps_the_last_good(
    dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Objective.loss
    broken = 5

    def breaking(self: Objective, piece: Any) -> Tensor:
        return real(self, piece) * (torch.nan if torch.is_grad_enabled() and calls() >= broken else 1.0)

    steps = iter(range(1000))

    def calls() -> int:
        return next(steps)

    monkeypatch.setattr(Objective, "loss", breaking)
    plain = ["--objective", "labels", "--steps", "9", "--tokens", "400", "--watch-every", "2", "--device", "cpu"]
    words = [str(dataset), "--encoder", str(base), "--out", str(tmp_path / "tuned"), "--token-budget", "400"]
    done = CliRunner().invoke(main, [*words, *plain])
    assert done.exit_code == 1
    assert "not a number any more at step 6" in done.output
    assert "holds what was best" in done.output
    provenance = read_provenance(tmp_path / "tuned")
    assert provenance is not None
    assert provenance.result["best_step"] in (2, 4)
    assert all(bool(one.isfinite().all()) for one in load_file(tmp_path / "tuned/model.safetensors").values())
    steps = iter(range(100, 200))
    done = CliRunner().invoke(main, [*words[:4], str(tmp_path / "other"), *words[5:], *plain])
    assert done.exit_code == 1
    assert "before anything good was kept" in done.output
    assert not (tmp_path / "other/model.safetensors").exists()


def test_stops_when_validation_units_say_so(dataset: Path, base: Path, tmp_path: Path) -> None:
    recipe = {"steps": 40, "patience": 2, "rate": 1.0, "train": "all"}
    tuned, provenance = run_tuning(tuning(dataset, base, recipe=recipe, watch_every=1), tmp_path / "tuned")
    assert tuned.steps < 40
    assert "no better on validation units" in provenance.result["stopped"]


def test_units_of_the_base_go_along_and_must_not_be_kept_apart(dataset: Path, base: Path, tmp_path: Path) -> None:
    run_tuning(tuning(dataset, base, recipe={"steps": 1}), tmp_path / "first")
    moved = [Genome(one.name, one.sequence, one.viral, one.unit, (one.part + 1) % 3) for one in made_up()]
    other = write_dataset(tmp_path / "other", moved, lengths=(90,))
    with pytest.raises(FeatureError, match="units that this set keeps apart"):
        run_tuning(tuning(other, tmp_path / "first"), tmp_path / "second")
    fresh = [Genome(f"n{one.name}", one.sequence, one.viral, f"new {one.unit}", one.part) for one in made_up()]
    more = write_dataset(tmp_path / "more", fresh, lengths=(90,))
    run_tuning(tuning(more, tmp_path / "first", recipe={"steps": 1}), tmp_path / "second")
    units = dict(line.split("\t") for line in (tmp_path / "second/split.tsv").read_text().splitlines()[1:])
    assert units["unit 0v"] == units["new unit 0v"] == "train"
    assert units["new unit 4v"] == "test"


def test_what_cannot_be_trained_on_is_refused(dataset: Path, base: Path, tmp_path: Path) -> None:
    hosts = write_dataset(tmp_path / "hosts", made_up(classes=1), lengths=(90,))
    with pytest.raises(FeatureError, match="only host proteins, and labels needs both"):
        run_tuning(tuning(hosts, base), tmp_path / "a")
    run_tuning(tuning(hosts, base, recipe={"objective": "mlm", "steps": 1}), tmp_path / "b")
    seen = [Genome(one.name, one.sequence, one.viral, one.unit, 0) for one in made_up()]
    for objective in ("labels", "mlm"):
        unwatched = write_dataset(tmp_path / f"unwatched {objective}", seen, lengths=(90,))
        with pytest.raises(FeatureError, match="the part validation has no protein"):
            run_tuning(tuning(unwatched, base, recipe={"objective": objective}), tmp_path / "f")
    # TAA in every frame of both strands.
    stops = [Genome(one.name, b"TTAATTAATTAA" * 75, one.viral, one.unit, one.part) for one in made_up(4)]
    with pytest.raises(InputError, match="nothing was chosen"):
        run_tuning(tuning(write_dataset(tmp_path / "stops", stops, lengths=(90,)), base), tmp_path / "g")
    (tmp_path / "x.fna").write_text(">x\nACGT\n")
    with pytest.raises(InputError, match="not a training set"):
        run_tuning(tuning(tmp_path / "x.fna", base), tmp_path / "c")
    with pytest.raises(UsageError, match="no ESM2 model"):
        run_tuning(Tuning(dataset, "kmer", CPU), tmp_path / "d")
    with pytest.raises(UsageError, match="is read"):
        run_tuning(tuning(dataset, tmp_path / "b"), tmp_path / "b", force=True)
    done = CliRunner().invoke(main, [str(dataset), "--out", str(tmp_path / "e"), "--objective", "mlm"])
    assert done.exit_code == 2
    assert "--objective says nothing to a training of sixframe" in done.output
    done = CliRunner().invoke(main, [str(dataset), "--encoder", str(base), "--out", str(tmp_path / "b")])
    assert done.exit_code == 2
    assert "already there" in done.output


def test_changed_weights_and_units_are_noticed(dataset: Path, base: Path, tmp_path: Path) -> None:
    run_tuning(tuning(dataset, base, recipe={"steps": 1}), tmp_path / "tuned")
    for name in ("model.safetensors", "split.tsv"):
        damaged = tmp_path / name / "tuned"
        shutil.copytree(tmp_path / "tuned", damaged)
        content = bytearray((damaged / name).read_bytes())
        content[-2] ^= 1
        (damaged / name).write_bytes(content)
        with pytest.raises(WeightsError):
            describe(str(damaged), "protein")


def test_disk_that_fills_says_so(dataset: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(StorageError, match="no space left"):
        run_tuning(tuning(dataset, base), tmp_path / "tuned")
    monkeypatch.undo()
    # In the end: what was trained is kept, and the same command with room writes it.
    monkeypatch.setattr("vnp.finetune.language.folder.save_file", full)
    with pytest.raises(StorageError, match="no space left"):
        run_tuning(tuning(dataset, base), tmp_path / "tuned")
    monkeypatch.undo()
    run_tuning(tuning(dataset, base), tmp_path / "tuned")
    assert from_folder(tmp_path / "tuned").embed(["MKT"]).shape == (1, 16)
