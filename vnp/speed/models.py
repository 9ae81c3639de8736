"""The models that are measured: of random weights, or the user's, alone or in a folder that extract can use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vnp.encoders.models.bare import BareModel, random_model
from vnp.encoders.spec import spec as lookup
from vnp.encoders.weights.folders import find_folder, read_config
from vnp.encoders.weights.lock import check_fit
from vnp.encoders.weights.state import read_state
from vnp.errors import WeightsError


def find_model(name: str, device: str, *, weights: Path | None, full: bool, seed: int = 0) -> BareModel:
    """Make a model ready to be measured.

    Its tensors stay on the CPU, so that what a contestant takes of a GPU's memory is its own.

    Args:
        name: of an encoder with weights.
        device: such as ``cuda:0``.
        weights: a folder of weights, as for ``vnp.encoders.load``; None for the default one, which is looked at only
            for the published size.
        full: without weights, the published size instead of a small one.
        seed: of random weights.

    Returns:
        The model, with real weights where they are there.

    Raises:
        WeightsError: the folder that was named is not there, or what is in it is damaged.
    """
    spec = lookup(name)
    try:
        folder = find_folder(spec, weights)
    except WeightsError:
        # A folder without this model is no mistake; one that is not there, or half a model, is.
        if weights is not None and (not weights.is_dir() or (weights / name).exists()):
            raise
        folder = None
    if folder is None or (weights is None and not full):
        model = random_model(device, spec, full=full, seed=seed)
        return replace(model, state={key: tensor.cpu() for key, tensor in model.state.items()})
    check_fit(spec, folder)
    model = BareModel(spec, read_config(folder), {}, torch.device(device), f"weights of {folder}")
    state = {key.removeprefix(model.trunk.prefix): tensor for key, tensor in read_state(folder, spec.pins).items()}
    needed = model.sizes.tensors()
    missing = [key for key in needed if key not in state]
    if missing:
        raise WeightsError(f"{folder} lacks the tensor {missing[0]}; fetch it again: python -m jobs.fetch {name}")
    return replace(model, state={key: state[key] for key in needed})
