"""The definition itself: what is wrong with it is said before anything is built."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DEFINITION = REPOSITORY / "containers" / "Apptainer.def"
TEXT = DEFINITION.read_text()
Refused = Callable[..., str]


@pytest.fixture
def refused(environment: dict[str, str], tmp_path: Path) -> Refused:
    """Tries to build, expects a refusal before the build begins, and returns the words."""

    def build(text: str = TEXT, *options: str) -> str:
        path = tmp_path / "changed.def"
        path.write_text(text)
        done = subprocess.run(
            ["apptainer", "build", *options, str(tmp_path / "vnp.sif"), str(path)],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 0
        assert "Starting build" not in done.stderr
        assert not (tmp_path / "vnp.sif").exists()
        return done.stderr

    return build


@pytest.mark.apptainer
@pytest.mark.parametrize("section", ["%post", "%environment", "%runscript", "%test", "%labels", "%help"])
def test_misspelt_section_is_refused_at_once(refused: Refused, section: str) -> None:
    assert f"\n{section}\n" in TEXT
    misspelt = section[:-1] + "x" + section[-1]
    assert misspelt.removeprefix("%") in refused(TEXT.replace(f"\n{section}\n", f"\n{misspelt}\n"))


@pytest.mark.apptainer
def test_unused_argument_is_refused_at_once(refused: Refused) -> None:
    assert "unused build args: TORCH" in refused(TEXT, "--build-arg", "TORCH=2")


@pytest.mark.apptainer
def test_undefined_argument_is_refused_at_once(refused: Refused) -> None:
    assert "MIROR" in refused(TEXT.replace("{{ MIRROR }}", "{{ MIROR }}"))


def test_production_starts_from_a_cuda_image_with_a_version_in_its_tag() -> None:
    arguments = dict(re.findall(r"^    ([A-Z]+)=(.*)$", TEXT.partition("%arguments")[2].partition("\n%")[0], re.M))
    assert arguments["BOOTSTRAP"] == "docker"
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.\d\d", arguments["FROM"])
    assert set(arguments) == set(re.findall(r"{{ (\w+) }}", TEXT))


def test_what_the_wheel_and_the_list_of_packages_need_is_copied() -> None:
    copied = {line.split()[0] for line in TEXT.partition("%files\n")[2].partition("\n\n")[0].splitlines()}
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "vnp", "jobs", "slurm",
                      "containers/sbom.py"}  # fmt: skip
    assert all((REPOSITORY / name).exists() for name in copied)
