"""The training of ``sixframe``, from top to bottom; the same seed on the same machine gives the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from vnp.encoders.models.sixframe import KINDS, VIRAL_KINDS, SixFrame, codon_ids, viral_logit
from vnp.files.hashing import json_sha256
from vnp.files.processes import Report, work_through
from vnp.files.tensors import save_tensors
from vnp.finetune.crops import Crops, CropSampler, DeviceGenomes
from vnp.finetune.genomes import PROKARYOTES, TRAIN, Genomes, load_genomes
from vnp.finetune.measure import looks_viral, watch
from vnp.finetune.pace import LOG, STATE, Log, Pace, adamw, be_reproducible, damage, learning_rate, read_state
from vnp.finetune.split import leave_out
from vnp.finetune.team import Team, joined

_FADE_IN = 20.0  # steps in which the average follows the weights more closely


def train(
    genomes: Genomes,
    recipe: Any,
    folder: Path,
    device: torch.device,
    *,
    team: Team | None = None,
    pace: Pace | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> SixFrame:
    """Train a network, or go on where a killed training of the same genomes and recipe was.

    Args:
        genomes: split, with what is ignored marked.
        recipe: what to do.
        folder: that is there; holds the log and the state.
        device: where.
        team: what trains together, of which this is one; the recipe's ``bases`` are those of all.
        pace: how often to log, save and watch.
        say: told one line at a time what happens, by the first of a team.

    Returns:
        The average of the weights over the last steps, in float32 on the device.

    Raises:
        EncoderError: the loss is not a number any more.
        FeatureError: the state in the folder is of another training.
    """
    pace, team = pace or Pace(), team or Team()
    be_reproducible()
    identity = json_sha256({"recipe": recipe.to_json(), "genomes": genomes.digest()})
    torch.manual_seed(recipe.seed)
    network = SixFrame(recipe.network).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = SixFrame(recipe.network).to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    average.load_state_dict(network.state_dict())
    # Telling units apart makes rows hold more than the label asks for; it is of no use afterwards.
    units = nn.Linear(recipe.network.width, len(genomes.units)).to(device)
    trained = [*network.parameters(), *units.parameters()]
    optimiser = adamw(trained, recipe.rate, recipe.decay)
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    slow = [one for one, _ in pairs if one.is_floating_point()]
    fast = [other for one, other in pairs if one.is_floating_point()]
    held = DeviceGenomes(genomes, device)
    parts = {"network": network, "average": average, "units": units, "optimiser": optimiser}
    step, aside = _restore(folder / STATE, identity, parts, device)
    sampler = CropSampler(held, TRAIN, recipe, team)
    if aside is not None:
        held.ignore(aside)
    searches = {round(part * recipe.steps): logit for part, logit in recipe.set_aside.items()}
    log = Log(folder / LOG, step) if team.leads else None
    statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    half = device.type == "cuda"
    network.train()
    started, first = time.perf_counter(), step
    while step < recipe.steps:
        crops = sampler.draw(step)
        torch.manual_seed(recipe.seed * 1_000_003 + step + (team.rank << 40))
        ids = sampler.hide(codon_ids(crops.bases))
        rate = learning_rate(step, recipe)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            rows = network.rows(ids)
            logits = network.head(rows)
            unit = units(F.dropout(network.head[0](rows), recipe.network.dropout))
        loss, binary = losses(logits.float(), crops, recipe)
        loss = loss + recipe.unit_weight * unit_loss(unit.float(), crops)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        team.average([*(weight.grad for weight in trained if weight.grad is not None), *statistics, binary])
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimiser.step()
        nearness = 1 - min(recipe.average, (1 + step) / (_FADE_IN + step))
        torch._foreach_lerp_(slow, fast, nearness)
        step += 1
        if step in searches:
            mine = looks_viral(average, held, searches[step]) if team.leads else np.zeros((0, 2), np.int64)
            aside = team.first_ones(torch.from_numpy(mine).to(device)).cpu().numpy()
            held.ignore(aside)
        if log is None:
            continue
        log.add(crops.bases.shape[1], binary)
        pace.told(step, recipe.steps)
        if step in searches and aside is not None:
            say(f"step {step}: {int(aside[:, 1].sum()):,} bases of hosts look viral and are set aside")
        if step % pace.log == 0 or step == recipe.steps:
            speed = (step - first) * recipe.bases / 1e6 / (time.perf_counter() - started)
            say(f"{log.write(step, rate)}, {speed:.1f} Mb/s")
        if step % pace.watch == 0 and step < recipe.steps:
            found = watch(average, held, pace.windows, recipe.window)
            log.note({"step": step, "validation": found})
            say(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        if step % pace.save == 0 or step == recipe.steps:
            _save(folder / STATE, identity, step, aside, parts)
    return average  # type: ignore[no-any-return]


def train_together(
    packed: Path,
    left_out: Collection[str],
    recipe: Any,
    folder: Path,
    devices: Sequence[torch.device],
    *,
    pace: Pace,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train on several devices of this machine, a process each; ``train`` with the same arguments then has the network.

    Args:
        packed: a set of genomes, as ``prepare`` leaves it.
        left_out: groups to keep for the test as a whole.
        recipe: what to do; ``bases`` of a step are shared out among the devices.
        folder: that is there; holds the log and the state.
        devices: one of each process, of one kind.

    Raises:
        EncoderError: the loss is not a number any more, or the processes do not reach each other.
        FeatureError: the state in the folder is of another training.
        RunError: a process was killed.
    """
    steps = 0

    def progress(amount: int) -> None:
        nonlocal steps
        steps += amount
        pace.told(steps, recipe.steps)

    with TemporaryDirectory() as scratch:
        plain = replace(pace, told=_quiet)
        member = partial(_be_member, packed, left_out, recipe, folder, devices, Path(scratch) / "meeting", plain)
        remedy = "the same command goes on where it was"
        work_through(
            [str(device) for device in devices], member, workers=len(devices), remedy=remedy, fresh=True,
            progress=progress, say=say,
        )  # fmt: skip


def _quiet(_steps: int, _of: int) -> None:
    """What a process can be given, as no lambda can."""


def _be_member(
    packed: Path, left_out: Collection[str], recipe: Any, folder: Path, devices: Sequence[torch.device], meeting: Path,
    pace: Pace, rank: int, report: Report,
) -> None:  # fmt: skip
    genomes = leave_out(load_genomes(packed), left_out)
    steps = 0

    def told(now: int, _of: int) -> None:
        nonlocal steps
        report(now - steps)
        steps = now

    with joined(rank, len(devices), meeting, devices[rank]) as team:
        train(genomes, recipe, folder, devices[rank], team=team, pace=replace(pace, told=told), say=report)


def losses(logits: Tensor, crops: Crops, recipe: Any) -> tuple[Tensor, Tensor]:
    """What training makes small, and of it what tells viruses from hosts.

    The probability of a label is the sum of those of its kinds; where a crop may be of several kinds, any of them is
    right, and where it may be all of its label's, nothing is asked. With doubt, a host that looks viral counts less,
    as it may be a prophage (generalized cross entropy: Zhang and Sabuncu, NeurIPS 2018).
    """
    target = crops.viral.float() * (1 - 2 * recipe.smoothing) + recipe.smoothing
    binary = F.binary_cross_entropy_with_logits(viral_logit(logits), target, reduction="none")
    bits = torch.arange(len(KINDS), device=logits.device)
    possible = (crops.kinds[:, None].long() >> bits & 1).bool()
    of_label = (bits < VIRAL_KINDS) == crops.viral[:, None]
    among = logits.masked_fill(~of_label, -1e4).logsumexp(1) - logits.masked_fill(~possible, -1e4).logsumexp(1)
    weight = crops.used.float()
    if recipe.doubt:
        prokaryote = crops.kinds & (0xFF - PROKARYOTES) == 0
        weight = torch.where(prokaryote, weight * torch.sigmoid(-viral_logit(logits.detach())) ** recipe.doubt, weight)
    weight = weight / weight.sum().clamp(min=1)
    binary = (binary * weight).sum()
    return binary + recipe.kind_weight * (among * weight).sum(), binary.detach()


def unit_loss(logits: Tensor, crops: Crops) -> Tensor:
    """How badly the units of crops are told; 0 where there is none to tell."""
    asked = crops.used & (crops.unit >= 0)
    told = F.cross_entropy(logits, crops.unit.clamp(min=0), reduction="none")
    return (told * asked).sum() / asked.sum().clamp(min=1)


_Parts = Mapping[str, nn.Module | torch.optim.Optimizer]
"""What a training goes on with, by its name in the state."""


def _save(path: Path, identity: str, step: int, aside: np.ndarray | None, parts: _Parts) -> None:
    state = {
        "identity": identity,
        "step": step,
        "aside": None if aside is None else torch.from_numpy(aside),
        **{name: part.state_dict() for name, part in parts.items()},
    }
    save_tensors(path, state)


def _restore(path: Path, identity: str, parts: _Parts, device: torch.device) -> tuple[int, np.ndarray | None]:
    state = read_state(path, identity, device)
    if state is None:
        return 0, None
    with damage(path):
        for name, part in parts.items():
            part.load_state_dict(state[name])
    aside = state["aside"]
    return int(state["step"]), None if aside is None else aside.cpu().numpy()
