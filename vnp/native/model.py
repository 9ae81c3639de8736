"""Loads the bundled network."""

from __future__ import annotations

from pathlib import Path

from vnp.encoders.spec import spec
from vnp.errors import WeightsError
from vnp.finetune.folder import Trained, read_folder

FOLDER = Path(__file__).parent
WEIGHTS_SHA256 = spec("sixframe").pins["model.safetensors"]


def load_native() -> Trained:
    """Read the bundled network, a new one for each caller; WeightsError where a file is missing or damaged."""
    try:
        return read_folder(FOLDER, weights_sha256=WEIGHTS_SHA256)
    except WeightsError as error:
        raise WeightsError(f"{error}\nThis file came with vnp: install vnp again") from error
