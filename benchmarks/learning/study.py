"""The command: masked residues first, then labels, then a classifier on everybody's rows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks import MOST, Cases
from benchmarks._commands import command
from benchmarks.learning.measures import choose, classify, kmer_rows, network_rows, unigram_perplexity
from benchmarks.learning.packed import pack, read_sets
from vnp.encoders.device import choose_device
from vnp.encoders.models.esm2 import Esm2, Esm2Config
from vnp.errors import EncoderError, UsageError
from vnp.features.split import TEST, TRAIN, VALIDATION
from vnp.files.claims import make_folder
from vnp.finetune.language.examples import Examples
from vnp.finetune.language.loop import Tuned, tune
from vnp.finetune.language.network import TunedEsm2
from vnp.finetune.language.objectives import Objective
from vnp.finetune.language.recipe import TuningRecipe
from vnp.finetune.pace import Pace
from vnp.speed.measure import Clock, describe_machine, free

SHAPES = {"tiny": (2, 32, 4, 64), "8m": (6, 320, 20, 1280), "35m": (12, 480, 20, 1920)}
"""Layers, width, heads and inner width; the last two as published."""
_NEVER = 1 << 30
_RATES = {"mlm": 1e-3, "lora": 1e-3, "all": 2e-4}
_WAYS = ("random", "mlm", "mlm + lora", "mlm + all", "all alone")


@dataclass(frozen=True, slots=True)
class Study:
    """What all cases share."""

    sets: Sequence[Examples]
    device: torch.device
    folder: Path
    tokens: int
    steps: Mapping[str, int]  # of mlm and of labels
    most: int
    seed: int
    clock: Clock


@command("python -m benchmarks learning SET500 SET300 --out LEARNING")
@click.argument("sets", metavar="SET...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pack", "packed", is_flag=True, help="Write each set to OUT as one file of arrays, and nothing else.")
@click.option("--device", default="auto", help="Where to train.")
@click.option("--shape", type=click.Choice(list(SHAPES)), multiple=True, default=("8m", "35m"), help="Of the model.")
@click.option("--mlm-steps", type=click.IntRange(1, MOST), default=2000, help="On masked residues.")
@click.option("--label-steps", type=click.IntRange(1, MOST), default=300, help="On labels.")
@click.option("--tokens", type=click.IntRange(16, MOST), default=32_768, help="In a step.")
@click.option("--most", type=click.IntRange(10, MOST), default=40_000, help="Proteins of a part in a classifier.")
@click.option("--seconds", type=click.IntRange(1, MOST), default=400, help="After which no further case begins.")
@click.option("--seed", type=click.IntRange(0, MOST), default=1, help="Of everything.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the figures.")
def main(
    sets: tuple[Path, ...], packed: bool, device: str, shape: tuple[str, ...], mlm_steps: int, label_steps: int,
    tokens: int, most: int, seconds: int, seed: int, out: Path,
) -> None:  # fmt: skip
    """Train ESM2 of small shapes from random weights on the proteins of sets, and measure on held-out units.

    Masked residues of the first SET's training units; then, on each SET, labels by adapters and whole. Perplexity on
    test units beside that of guessing by how common residues are; ROC-AUC of VirNucPro's network on the rows of the
    frames from all of these, from random weights, and from counts of words. Writes learning.jsonl as it goes, and
    learning.md.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    clock = Clock(seconds)
    place = choose_device(device)
    make_folder(out)
    found = read_sets(list(sets))
    if packed:
        for source, one in zip(sets, found, strict=True):
            pack(one, out / f"{source.name}.npz")
            click.echo(f"{out / source.name}.npz: {len(one):,} proteins of {int(one.lengths.sum()):,} tokens")
        return
    for source, one in zip(sets, found, strict=True):
        one.require("labels", source)
        if not len(one.rows(TEST)):
            raise UsageError(f"{source} keeps no unit for the test")
    cases = Cases(out / "learning.jsonl", partial(click.echo, err=True))
    cases.add("machine", partial(describe_machine, place))
    for number, one in enumerate(found):
        cases.add(f"set {number}", partial(_about, one))
    study = Study(found, place, out, tokens, {"mlm": mlm_steps, "labels": label_steps}, most, seed, clock)
    for number in range(len(found)):
        cases.add(f"kmer set {number}", partial(_kmer, study, number))
    for name in shape:
        _learn(study, cases, name)
    text = table(cases.found)
    (out / "learning.md").write_text(text, encoding="utf-8")
    click.echo(text)
    sys.exit(1 if any("error" in one for one in cases.found) else 0)


def _learn(study: Study, cases: Cases, shape: str) -> None:
    """All cases of one shape; one that fails leaves those out that go on from it."""
    config, first = random_base(shape, study.seed)
    states: dict[str, Mapping[str, Tensor]] = {"random": first}

    def mlm() -> Mapping[str, object]:
        tuned, figures = _tune(study, config, first, "mlm", "all", study.sets[0], f"{shape}-mlm")
        states["mlm"] = tuned.network.merged()
        rows = choose(study.sets[0], TEST, 4 * 4000, study.seed)
        objective = Objective(tuned.network, study.sets[0])
        look = objective.look(rows, study.tokens)
        unigram = unigram_perplexity(study.sets[0], rows, tuned.network.recipe)
        return {**figures, "test_perplexity": look["perplexity"], "unigram_perplexity": unigram}

    cases.add(f"{shape} mlm", mlm)
    for number, one in enumerate(study.sets):
        for way in _WAYS:
            name = f"{shape} {way} set {number}"
            if not study.clock.left:
                cases.add(name, lambda: {"left_out": "no time left"})
                continue
            base = "random" if way in ("random", "all alone") else "mlm"
            if base not in states:
                cases.add(name, lambda: {"left_out": "there is no base"})
                continue
            cases.add(name, partial(_case, study, config, states[base], way, one, f"{shape}-{number}-{way}"))


def _case(
    study: Study, config: Mapping[str, object], base: Mapping[str, Tensor], way: str, one: Examples, name: str
) -> dict[str, object]:
    if way in ("random", "mlm"):
        recipe = TuningRecipe(objective="labels", train="head", seed=study.seed)
        network = TunedEsm2(config, base, recipe, study.device, _half(study.device))
        figures: dict[str, object] = {}
    else:
        train = "lora" if "lora" in way else "all"
        tuned, figures = _tune(study, config, base, "labels", train, one, name.replace(" ", ""))
        network = tuned.network
        look = Objective(network, one).look(choose(one, TEST, study.most, study.seed), study.tokens)
        figures |= {"own_head_auc": look["roc_auc"], "own_head_unit_auc": look["unit_roc_auc"]}
    chosen = {part: choose(one, part, study.most, study.seed) for part in (TRAIN, VALIDATION, TEST)}
    rows = {part: network_rows(network, one, each, study.tokens) for part, each in chosen.items()}
    auc = classify(rows, {part: one.label[each] for part, each in chosen.items()}, study.device, study.seed)
    return {**figures, "auc": auc}


def _kmer(study: Study, number: int) -> dict[str, object]:
    one = study.sets[number]
    chosen = {part: choose(one, part, study.most, study.seed) for part in (TRAIN, VALIDATION, TEST)}
    rows = {part: kmer_rows(one, each) for part, each in chosen.items()}
    return {"auc": classify(rows, {part: one.label[each] for part, each in chosen.items()}, study.device, study.seed)}


def _tune(
    study: Study, config: Mapping[str, object], base: Mapping[str, Tensor], objective: str, train: str,
    examples: Examples, name: str,
) -> tuple[Tuned, dict[str, object]]:  # fmt: skip
    steps = study.steps[objective]
    recipe = TuningRecipe(
        objective=objective,  # type: ignore[arg-type]
        train=train,
        steps=steps,
        tokens=study.tokens,
        rate=_RATES["mlm" if objective == "mlm" else train],
        warm_up=max(1, min(100, steps // 10)),
        seed=study.seed,
    )
    free(study.device)
    network = TunedEsm2(config, base, recipe, study.device, _half(study.device))
    folder = study.folder / name
    make_folder(folder)
    watch = max(1, steps // 6)
    pace = replace(Pace(), log=max(1, steps // 30), save=_NEVER, watch=watch, windows=4000)
    tuned = tune(network, examples, folder, {"shape": name}, pace=pace, say=partial(click.echo, err=True))
    if tuned.failed:
        raise EncoderError(tuned.stopped)
    return tuned, {
        "steps": tuned.steps,
        "best_step": tuned.best,
        "tokens_per_second": tuned.tokens_per_second,
        "tokens_at_once": tuned.budget,
        "peak_gib": tuned.peak_bytes / 2**30,
        "validation": (tuned.looks or {}).get(tuned.best, {}),
    }


def random_base(shape: str, seed: int) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Configuration and weights of a shape, as a training begins: matrices of small numbers, norms that do nothing."""
    depth, width, heads, inner = SHAPES[shape]
    config: dict[str, object] = {
        **Esm2.published,
        "num_hidden_layers": depth,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }
    chance = torch.Generator().manual_seed(seed)
    state = {}
    for name, size in Esm2Config.read(config).tensors().items():
        if len(size) == 2:
            state[name] = 0.02 * torch.randn(size, generator=chance)
        else:
            state[name] = torch.ones(size) if name.endswith("weight") else torch.zeros(size)
    return config, state


def _half(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _about(examples: Examples) -> dict[str, object]:
    return {**examples.describe(), "residues": float(np.median(examples.lengths)) - 2}


def table(found: Sequence[Mapping[str, object]]) -> str:
    """The figures in Markdown."""
    names = ("auc", "own_head_auc", "own_head_unit_auc", "test_perplexity", "unigram_perplexity")
    lines = [
        "| case | AUC of rows | AUC of its own head | of units | perplexity | unigram | tokens/s |",
        f"|{'---|' * 7}",
    ]
    for one in found:
        if any(name in one for name in names):
            rate = one.get("tokens_per_second")
            cells = [f"{one[name]:.4f}" if name in one else "" for name in names]
            lines.append(f"| {one['case']} | {' | '.join(cells)} | {'' if rate is None else f'{rate:,.0f}'} |")
    return "\n".join(lines) + "\n"
