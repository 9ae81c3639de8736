"""What users install: the dependencies, the tested versions, the wheel, the console script."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vnp

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

# A CUDA build of torch names the exact versions of its own libraries, so constraints.txt need not.
BROUGHT_BY_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")


def closure(requirements: Iterable[str]) -> dict[str, str | None]:
    """Every distribution the requirements lead to, with its version, or None if it is not installed."""
    found: dict[str, str | None] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(text), frozenset({""})) for text in requirements]
    while waiting:
        requirement, parent_extras = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in parent_extras):
            continue
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras) | {""}
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            continue
        found[name] = distribution.version
        waiting += [(Requirement(text), extras) for text in distribution.requires or []]
    return found


@pytest.fixture(scope="module")
def dependencies() -> dict[str, str | None]:
    everything = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        everything += extra
    return closure(everything)


def test_closure_follows_indirect_dependencies_and_extras() -> None:
    found = closure(["scikit-learn", "transformers", "huggingface_hub ; python_version < '3'"])
    assert {"scikit-learn", "joblib", "transformers", "tokenizers"} <= set(found)
    assert "numpy" not in closure(["numpy ; python_version < '3'"])
    assert "pytest" not in closure(["numpy"])


def test_fair_esm_is_no_dependency(dependencies: dict[str, str | None]) -> None:
    assert dependencies["torch"], "not installed, so its own requirements were not followed"
    assert {"submitit", "sympy"} <= set(dependencies), "the walk did not reach what it must"
    assert not {"fair-esm", "esm"} & set(dependencies)


def test_constraints_pin_every_dependency(dependencies: dict[str, str | None]) -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line]
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = {canonicalize_name(pin.name) for pin in pins}
    assert len(pinned) == len(pins), "a package is pinned twice"
    assert all(re.fullmatch(r"==[\w.!]+", str(pin.specifier)) for pin in pins), "every line is NAME==VERSION"
    installed = {name for name, version in dependencies.items() if version is not None}
    assert {name for name in installed if not BROUGHT_BY_CUDA.fullmatch(name)} <= pinned
    assert "vnp" not in pinned
    assert {"pytest", "hatchling"} <= pinned


def run(arguments: list[str | Path], cwd: Path, site: Path | None = None) -> str:
    """Run a program outside the repository and return its output; fail with its messages if it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["COLUMNS"] = "100"
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder with the wheel installed in it, and nothing else."""
    folder = wheel.parent / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run([*pip, "--target", folder, wheel], wheel.parent)
    return folder


def test_wheel_holds_the_packages_the_sample_and_the_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [path for room in ("vnp", "jobs") for path in (REPOSITORY / room).rglob("*.py")]
    assert {path.relative_to(REPOSITORY).as_posix() for path in sources} <= names
    sample = [path for path in (REPOSITORY / "vnp/sample").rglob("*") if path.is_file()]
    assert {path.relative_to(REPOSITORY).as_posix() for path in sample} <= names
    assert {"vnp/py.typed", "jobs/py.typed"} <= names
    folders = {name.split("/")[0] for name in names}
    assert folders == {"vnp", "jobs", f"vnp-{vnp.__version__}.dist-info"}


def test_installed_wheel_runs_by_module_and_by_script(site: Path, tmp_path: Path) -> None:
    where = run([sys.executable, "-c", "import jobs, vnp; print(jobs.__file__, vnp.__file__)"], tmp_path, site)
    assert where.count(str(site)) == 2, "another copy of the package was imported"
    by_module = run([sys.executable, "-m", "jobs.extract", "--help"], tmp_path, site)
    assert "--shards" in by_module
    assert "--out" in by_module
    by_script = run([site / "bin" / "vnp", "extract", "--help"], tmp_path, site)
    assert without_program_name(by_script) == without_program_name(by_module)


OFFLINE = """
import socket

def refuse(*_given):
    raise OSError("there is no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def test_installed_wheel_calls_the_sample_without_a_network(site: Path, tmp_path: Path) -> None:
    (site / "sitecustomize.py").write_text(OFFLINE)
    try:
        reached: list[str | Path] = [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"]
        with pytest.raises(AssertionError, match="there is no network"):
            run(reached, tmp_path, site)
        said = run([site / "bin" / "vnp", "demo", "--native-only", "--out", "calls"], tmp_path, site)
    finally:
        (site / "sitecustomize.py").unlink()
    assert "records are called viral" in said
    lines = (tmp_path / "calls" / "native" / "predictions.tsv").read_text().splitlines()
    sheet = (site / "vnp" / "sample" / "heldout.csv").read_text().splitlines()
    assert len(lines) == len(sheet) > 1
    # Nothing of the repository took part: the code that planned the run is the installed one.
    request = json.loads((tmp_path / "calls" / "native" / "run.json").read_text())
    assert all(entry["path"].startswith(str(site)) for entry in request["inputs"])


def without_program_name(help_text: str) -> str:
    """The words of a help, in which commands are named alike however they were called."""
    return " ".join(re.sub(r"\b(vnp |python -m jobs\.|jobs\.)(?=[a-z])", "", help_text).split())


def test_console_script_is_the_command_list() -> None:
    assert PROJECT["scripts"] == {"vnp": "jobs.__main__:main"}


def test_version_is_said_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", vnp.__version__)
    assert "version" in PROJECT["dynamic"]
    assert f'\n__version__ = "{vnp.__version__}"\n' in (REPOSITORY / "vnp/__init__.py").read_text()
    assert f"\nversion: {vnp.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()
    assert f"\n## {vnp.__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text()
