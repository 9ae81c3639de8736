from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.speed.tiny import tiny_model
from vnp.speed.subject import Subject


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products on many threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def protein() -> Subject:
    return Subject("fastesm2_650", "random weights, small", tiny_model())


@pytest.fixture(scope="session")
def dna() -> Subject:
    return Subject("dnabert_s", "random weights, small", tiny_model(family="dnabert"))
