from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.crash._run", "tests.crash._child")

from tests.crash._run import Tiny, undisturbed  # noqa: E402 - asserts there are explained too


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """An undisturbed run to compare with."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder for the words of forked children, apart from the runs."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder
