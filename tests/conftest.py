from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and real genomes that is kept beside the project."""
    folder = Path(os.environ.get("VNP_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist (set VNP_SHARED)")
    return folder
