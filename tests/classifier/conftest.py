from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.classifier.making import both_classes, write_features
from vnp.features.read import Features, open_features


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small take longer on two threads that wait for each other than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def features(tmp_path: Path) -> Features:
    return open_features(write_features(tmp_path / "features.h5", groups=both_classes()))
