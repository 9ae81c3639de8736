"""A Python like that of a login node: it has what the extra ``submit`` names, and nothing else."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.test_packaging import closure

EXTRA = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]["submit"]


def make_light_host(folder: Path) -> Path:
    """Make an environment with links to the extra's packages; takes a fraction of a second and no network.

    Returns:
        Its Python. The code is found from the repository as working directory.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    for name, version in closure(EXTRA).items():
        assert version is not None, f"{name} is not installed"
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (packages / top).exists():
                (packages / top).symlink_to(source)
    return folder / "bin" / "python"
