"""One fine-tuning from a set and a base to a folder: what ``finetune`` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vnp.encoders.build import read_state
from vnp.encoders.registry import describe
from vnp.encoders.spec import ESM2
from vnp.encoders.tokens.tokenizers import load_tokenizer
from vnp.encoders.weights.folders import find_folder, locate, read_config
from vnp.encoders.weights.provenance import Provenance
from vnp.errors import UsageError
from vnp.features.split import TRAIN
from vnp.files.claims import alone, make_folder, require_free
from vnp.files.machine import require_room
from vnp.finetune.language.examples import read_examples
from vnp.finetune.language.folder import MADE, units_of, write_folder
from vnp.finetune.language.loop import TUNING_PACE, Tuned, tune
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.recipe import RATES, TuningRecipe
from vnp.finetune.pace import STATE


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is asked of a fine-tuning."""

    source: Path  # the set
    encoder: str  # the base, by its name or folder
    device: torch.device
    epochs: float = 1.0  # passes over the set, where ``recipe`` has no steps
    watch_every: int = TUNING_PACE.watch  # steps between looks at the validation units
    save_every: int = TUNING_PACE.save  # steps between states
    token_budget: int | None = None  # tokens at once; None for what fits
    weights: Path | None = None  # folder of weights
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what of ``TuningRecipe`` is not as usual


def run_tuning(
    tuning: Tuning,
    out: Path,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
    told: Callable[[int, int], None] = lambda _steps, _of: None,
) -> tuple[Tuned, Provenance]:
    """Train and write the folder, or go on where a killed training was.

    ``say`` is told one line at a time what happens; ``told`` after each step how many are done, and of how many.

    Raises:
        UsageError: the encoder is none of ESM2's kind, or the recipe cannot be.
        WeightsError: the base's weights are missing, damaged or not the pinned ones.
        InputError: the set cannot be used.
        FeatureError: it lacks what the objective needs, or the base was trained on units that it keeps apart.
        RunExistsError: something stands there that this training did not leave.
        EncoderError: a protein does not fit into memory, or the loss is no number.
        StorageError: the disk is full or cannot be written.
    """
    recipe = TuningRecipe(**tuning.recipe)
    if "rate" not in tuning.recipe:
        recipe = replace(recipe, rate=RATES[recipe.train.partition(":")[0]])
    spec, given = locate(tuning.encoder, "protein", tuning.weights)
    if spec.family is not ESM2:
        raise UsageError(f"{tuning.encoder} is no ESM2 model; finetune trains sixframe and models of ESM2's kind")
    base = find_folder(spec, given or tuning.weights)
    if out.resolve() == base.resolve():
        raise UsageError(f"{out} is the encoder that is read: choose another --out")
    identity = {name: value for name, value in describe(str(base), "protein").items() if name != "precision"}
    made = [out / name for name in MADE]
    require_free(made, force=force, ours=(out / STATE).exists())
    make_folder(out)
    with alone(out, "training", ["*"]):
        require_free(made, force=force, ours=(out / STATE).exists())
        examples = read_examples(tuning.source, load_tokenizer(base, spec.family.tokenizer))
        examples.require(recipe.objective, tuning.source)
        units_of(examples, base)
        seen = examples.rows(TRAIN)
        tokens = int(examples.lengths[seen].sum())
        if "steps" not in tuning.recipe:
            recipe = replace(recipe, steps=max(1, round(tuning.epochs * tokens / recipe.tokens)))
        recipe = replace(recipe, warm_up=min(recipe.warm_up, max(1, recipe.steps // 5)))
        say(f"{len(seen):,} proteins of {tokens:,} tokens to train on; {recipe.steps:,} steps of {recipe.tokens:,}")
        half = torch.bfloat16 if tuning.device.type == "cuda" else torch.float32
        network = TunedEsm2(read_config(base), read_state(base, spec.pins), recipe, tuning.device, half)
        trained = sum(one.numel() for one in network.parameters())
        say(f"{trained:,} numbers are trained, by {network.attention.name}")
        # The state has them four times, with the optimiser's and the best; a new one and the old one are there at once.
        say(require_room(out, 8 * 4 * trained + 2 * sum(file.stat().st_size for file in base.glob("*.*"))))
        pace = replace(TUNING_PACE, watch=tuning.watch_every, save=tuning.save_every, told=told)
        tuned = tune(network, examples, out, identity, budget=tuning.token_budget, pace=pace, say=say)
        provenance = write_folder(out, tuned, examples, spec, base, identity)
        (out / STATE).unlink(missing_ok=True)
    return tuned, provenance
