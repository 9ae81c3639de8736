from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.speed.tiny import tiny_model
from vnp.encoders.models.bare import BareModel
from vnp.encoders.spec import spec


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products on many threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def protein() -> BareModel:
    return tiny_model()


@pytest.fixture(scope="session")
def dna() -> BareModel:
    return tiny_model(like=spec("dnabert_s"))
