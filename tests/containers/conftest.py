from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from jobs._cluster.image import CODE
from tests.containers.box import Box
from vnp.files.hashing import code_digest


def _absent(why: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"cannot be tested, and CI must: {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Variables with which ``apptainer`` is found and runs: that of VNP_APPTAINER, else the one on PATH."""
    found = dict(os.environ)
    folder = os.environ.get("VNP_APPTAINER")
    if folder:
        script = Path(folder) / "environment"
        if not script.is_file():
            _absent(f"VNP_APPTAINER: {script} does not exist; tests/containers/get_apptainer.sh makes it")
        # The file of exports is shell; only a shell can tell what comes out of it.
        words = ["bash", "-c", '. "$0" && env -0', str(script)]
        listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        found = dict(entry.split("=", 1) for entry in listed.split("\0") if entry)
    if shutil.which("apptainer", path=found["PATH"]) is None:
        _absent("no apptainer on PATH; tests/containers/get_apptainer.sh gets one, and VNP_APPTAINER names it")
    return found


@pytest.fixture(scope="session")
def box(environment: dict[str, str]) -> Box:
    """The image that VNP_IMAGE names, made by tests/containers/build_image.sh from this code."""
    name = os.environ.get("VNP_IMAGE")
    if not name:
        _absent("VNP_IMAGE names no image; tests/containers/build_image.sh makes one")
    found = Box(Path(name).absolute(), environment)
    if not found.path.is_file():
        _absent(f"VNP_IMAGE: {found.path} does not exist; tests/containers/build_image.sh makes it")
    if found.labels().get(CODE) != code_digest():
        _absent(f"{found.path} holds other code than this; tests/containers/build_image.sh makes it anew")
    return found
