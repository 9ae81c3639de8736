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
# Others share what their module makes, and one worker runs a module; but tests of these are long and share nothing.
APART = ("tests/encoders/test_kernels_compiled.py", "tests/crash/test_disk.py", "tests/crash/test_kill.py")
# What takes longest, after the folders above.
LONG = (
    "tests/encoders/test_kernels_compiled.py", "tests/benchmarks/test_migration.py", "tests/crash/test_disk.py",
    "tests/crash/test_kill.py", "tests/crash/test_damage.py", "tests/jobs/test_speed.py", "tests/crash/test_writers.py",
    "tests/finetune/test_training.py", "tests/finetune/test_language.py", "tests/jobs/test_extract.py",
    "tests/benchmarks/test_flips.py", "tests/encoders/test_engine_invariance.py", "tests/jobs/test_tasks.py",
    "tests/jobs/test_accuracy.py", "tests/benchmarks/test_kills.py", "tests/jobs/test_bad_input.py",
    "tests/jobs/test_hostile_files.py", "tests/jobs/test_train.py", "tests/encoders/test_engine_fused.py",
    "tests/jobs/test_training_sets.py", "tests/prediction/test_regions.py", "tests/jobs/test_predict_again.py",
    "tests/runs/test_pipeline.py", "tests/runs/test_reduce.py", "tests/runs/test_going_on.py",
    "tests/encoders/test_engine_goldens.py", "tests/runs/test_changed_inputs.py", "tests/crash/test_pairs.py",
)  # fmt: skip


def scope(nodeid: str) -> str:
    """What of the tests one worker runs as a whole."""
    path = nodeid.partition("::")[0]
    return next((folder for folder in TOGETHER if path.startswith(folder)), nodeid if path in APART else path)


def turn(nodeid: str) -> int:
    """First come folders that one worker runs and that mostly wait, while others work; then what is long."""
    path = nodeid.partition("::")[0]
    return -1 if path.startswith(TOGETHER) else LONG.index(path) if path in LONG else len(LONG)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread modules over workers in the order in which they are collected."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope(nodeid)

    # Else those of many tests are first, however short.
    config.option.loadscopereorder = False
    return ByModule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first."""
    items.sort(key=lambda item: turn(item.nodeid))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and real genomes that is kept beside the project."""
    folder = Path(os.environ.get("VNP_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist (set VNP_SHARED)")
    return folder


@pytest.fixture(scope="session")
def thin_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the default encoders: one layer, as wide as the published ones."""
    from benchmarks.end_to_end import make_folder

    root = tmp_path_factory.mktemp("weights")
    for name in ("fastesm2_650", "dnabert_s"):
        make_folder(root, name, "cpu", full=False)
    return root


@pytest.fixture(scope="module")
def without_plots() -> Iterator[None]:
    """No plots of trainings and comparisons, which take longer than those do; other tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vnp.classifier.train.write_training_plots", lambda *_: [])
        patch.setattr("vnp.comparison.page.comparison_plots", lambda *_: [])
        yield
