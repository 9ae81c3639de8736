from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.configuration import Wishes
from tests.slurm.site import ENCODING, Case, Site

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "sacct")
MakeCase = Callable[..., Case]


def require_programs(*names: str) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    why = f"{', '.join(missing)} not installed" if missing else "not root" if os.geteuid() != 0 else ""
    if why and os.environ.get("CI") == "true":
        pytest.fail(f"a test cluster cannot be started: {why}")
    if why:
        pytest.skip(f"a test cluster cannot be started: {why}")


def started(kind: type[Site] = Site, **wishes: Any) -> Iterator[Site]:
    if kind is Site:
        require_programs(*NEEDED, *(NEEDED_FOR_ACCOUNTING if wishes.get("accounting", True) else ()))
    # Not pytest's own folder: munge wants to be reached by all.
    root = Path(tempfile.mkdtemp(prefix="vnp-cluster-"))
    root.chmod(0o755)
    site = kind.start(Wishes(str(root), clean=True, **wishes))
    try:
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Two nodes with accounting."""
    yield from started()


@pytest.fixture(scope="session")
def small_site() -> Iterator[Site]:
    """Two nodes without accounting, with small arrays, that forgets jobs soon, and ends what takes too much memory."""
    yield from started(accounting=False, max_array_size=4, remembered=2, memory=True)


@pytest.fixture(scope="session")
def fasta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slurm-input") / "records.fasta"
    letters = random.Random(20)
    path.write_text("".join(f">record{i}\n{''.join(letters.choices('ACGT', k=1500 + 130 * i))}\n" for i in range(32)))
    return path


@pytest.fixture(scope="session")
def reference(fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Merged features of a run that nothing disturbed, made in one process."""
    from click.testing import CliRunner

    from jobs import extract, reduce

    run = tmp_path_factory.mktemp("slurm-reference") / "run"
    for command, words in (
        (extract.main, [str(fasta), "--out", str(run), "--shards", "3", *ENCODING, "--cluster", "inline"]),
        (reduce.main, [str(run)]),
    ):
        result = CliRunner().invoke(command, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return run / "features.h5"


@pytest.fixture(scope="session")
def make_case(fasta: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeCase:
    def make(site: Site, name: str = "run", *profile: str) -> Case:
        return Case(site, tmp_path_factory.mktemp("case") / "case", fasta, name, profile)

    return make
