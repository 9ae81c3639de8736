from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

# On Intel's CPUs without AVX-512 the last bits of MKL's products depend on the number of threads, unless it is told
# otherwise before it is loaded; docs/architecture.md says so. Tests of equal bits hold there with that setting.
_CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
if "GenuineIntel" in _CPU and "avx512f" not in _CPU:
    os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
# The arrays of tests are small and workers share the cores: threads would mostly wait for one another, and take several
# times as long. Tests of several threads ask for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test fails because the machine is busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
# What a shell puts into its background ignores Ctrl-C, and so would every command that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests of these folders share something that takes long to make: with several workers, one of them runs a folder.
TOGETHER = ("tests/slurm/", "tests/containers/", "tests/grid_engine/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread tests over workers one by one, and whole folders where a folder is one thing."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid)

    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders that one worker runs and that mostly wait: the others work meanwhile, and none is last."""
    items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and real genomes that is kept beside the project."""
    folder = Path(os.environ.get("VNP_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist (set VNP_SHARED)")
    return folder


@pytest.fixture(scope="module")
def without_plots() -> Iterator[None]:
    """No plots of trainings and comparisons, which take longer than those do; other tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vnp.classifier.train.write_training_plots", lambda *_: [])
        patch.setattr("vnp.comparison.page.comparison_plots", lambda *_: [])
        yield
