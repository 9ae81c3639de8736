from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.crash._run", "tests.crash._child")

from tests.crash._run import Tiny, undisturbed  # noqa: E402 - asserts there are explained too


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is such a thing: these tests flush thousands of files to the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("runs")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="vnp-tests-") as folder:
        yield Path(folder)


@pytest.fixture
def room(memory: Path) -> Iterator[Path]:
    """An empty folder for the runs of one test."""
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def tiny(memory: Path) -> Tiny:
    """An undisturbed run to compare with."""
    return undisturbed(memory)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder for the words of forked children, apart from the runs."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder
