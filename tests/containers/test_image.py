"""What is in the image, and that it runs in each way that a site may run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import vnp
from jobs._cluster.image import REVISION, VERSION, same_paths
from tests.conftest import REPOSITORY
from tests.containers.box import Box
from tests.test_tree import COMMANDS

pytestmark = pytest.mark.apptainer

SHUT = ["--contain", "--cleanenv", "--no-home"]
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with an input that every user reaches; pytest's own is for one user only."""
    made = Path(tempfile.mkdtemp(prefix="vnp-image-"))
    made.chmod(0o777)
    shutil.copy(next((REPOSITORY / "vnp/sample/viral").glob("*.gz")), made / "reads.fna.gz")
    yield made
    shutil.rmtree(made)


def test_it_tests_itself(box: Box) -> None:
    said = box.apptainer("test")
    assert "fails: " not in said
    assert "vnp predict works" in said.replace("python -m jobs.predict", "vnp predict")
    assert "2 shards: 2 done" in said
    assert said.rstrip().endswith("vnp works in this image")


def test_labels(box: Box) -> None:
    labels = box.labels()
    assert labels[VERSION] == vnp.__version__
    assert re.fullmatch(r"[0-9a-f]{40}", labels[REVISION])
    assert labels["org.opencontainers.image.title"] == "vnp"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    for name in ("base.name", "authors", "description", "vendor"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", labels["org.opencontainers.image.created"])


def test_it_lists_what_is_in_it(box: Box) -> None:
    text = box.exec("cat", box.labels()["vnp.sbom"], options=SHUT)
    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"], found["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "1.6",
        "vnp",
    )
    listed = {one["purl"].partition("@")[0].removeprefix("pkg:") for one in found["components"]}
    # What commands can use: extract, dataset, dedupe, doctor --reference, train --tensorboard.
    for name in ("torch", "h5py", "gb-io", "pyarrow", "pyskani", "transformers", "einops", "tensorboard"):
        assert f"pypi/{name}" in listed
    assert "deb/debian/python3" in listed
    python = os.environ.get("VNP_STANDARDS")
    if not python:
        pytest.skip("VNP_STANDARDS names no Python with the validators")
    words = [python, str(REPOSITORY / "tests/standards/packages.py")]
    done = subprocess.run(words, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        subprocess.run(words, input=text.replace("library", "libary"), capture_output=True, text=True).returncode == 1
    )


def test_help_begins_with_predict_and_shows_commands_that_there_are(box: Box) -> None:
    said = box.apptainer("run-help")
    shown = re.findall(r"apptainer run (?:--nv )?vnp\.sif (\w+)", said)
    assert shown[0] == "predict"
    assert set(shown) <= set(COMMANDS)


def test_versions_are_those_that_are_tested(box: Box) -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))
    listed = box.exec("python", "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check", options=SHUT)
    found = dict(line.lower().replace("_", "-").split("==") for line in listed.split())
    assert {"torch", "numpy", "h5py", "pyarrow", "submitit"} <= set(found)
    del found["pip"], found["vnp"]
    # The part after + says whether it is a build for CPU or CUDA, which comes from the index in use.
    differing = {name: version for name, version in found.items() if version.partition("+")[0] != pins.get(name)}
    brought_by_cuda = {name for name in differing if re.match(r"nvidia-|cuda-|triton$", name)}
    assert not {name: differing[name] for name in differing.keys() - brought_by_cuda}


def test_there_are_no_weights_and_no_traces_of_the_machine_that_built_it(box: Box) -> None:
    names = ["*.safetensors", "pytorch_model*", "pip.conf", "ca.crt"]
    words = [word for name in names for word in ("-o", "-name", name)][1:]
    found = box.exec("find", "/", "-xdev", *words, options=SHUT).split()
    assert [path for path in found if not path.endswith("/vnp/native/model.safetensors")] == [], "but our own"
    assert "PIP_" not in box.exec("env", options=SHUT)


@pytest.mark.parametrize(
    ("options", "user"),
    [
        pytest.param([], None, id="plain"),
        pytest.param(["--nv"], None, id="nv"),
        pytest.param(SHUT, None, id="contained"),
        pytest.param(SHUT, NOBODY, id="ordinary-user"),
    ],
)
def test_the_first_command_runs(box: Box, folder: Path, options: list[str], user: int | None) -> None:
    if user is not None and os.geteuid() != 0:
        user = None
    inside = "/scratch" if options == SHUT else str(folder)
    binds = ["--bind", f"{folder}:{inside}"]
    # Nothing listens there: whatever needs the network fails.
    offline = {"HOME": "/", "APPTAINERENV_https_proxy": "http://127.0.0.1:9"}
    words = ["predict", f"{inside}/reads.fna.gz", "--out", f"{inside}/calls"]
    said = box.apptainer("run", *words, options=[*options, *binds], user=user, given=offline)
    assert "of 1 records are called viral" in said
    assert (folder / "calls/predictions.tsv").stat().st_uid == (user or os.geteuid())


def test_pipeline_with_local_processes(box: Box, folder: Path) -> None:
    asked = ["--out", folder / "run", "--shards", 2, "--dna", "kmer", "--protein", "kmer", "--cluster", "local"]
    said = box.apptainer("run", "pipeline", folder / "reads.fna.gz", *asked, options=["--bind", str(folder)])
    assert "rows of 1664" in said
    assert (folder / "run/features.h5").stat().st_size > 0


def test_binds_reach_what_links_mean(box: Box, folder: Path) -> None:
    """Nothing but the binds is in sight here: a link to a link to a file, each in a folder of its own."""
    for name in "abc":
        (folder / name).mkdir()
    (folder / "reads.fna.gz").rename(folder / "a/reads.fna.gz")
    (folder / "b/reads.fna.gz").symlink_to(folder / "a/reads.fna.gz")
    (folder / "c/reads.fna.gz").symlink_to("../b/reads.fna.gz")
    words = ["head", "-c", "1", str(folder / "c/reads.fna.gz")]
    binds = [word for bind in same_paths([folder / "c/reads.fna.gz"]) for word in ("--bind", bind)]
    box.exec(*words, options=SHUT, code=1)
    box.exec(*words, options=[*SHUT, *binds[:2]], code=1)
    box.exec(*words, options=[*SHUT, *binds])


def test_root_is_read_only(box: Box) -> None:
    said = box.exec("sh", "-c", "touch /opt/vnp/x", options=SHUT, code=1)
    assert "Read-only file system" in said


def test_places_for_caches_can_be_written(box: Box, folder: Path) -> None:
    names = ["HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"]
    make = f"for place in {' '.join(f'${name}' for name in names)}; do mkdir -p $place && echo $place; done"
    for options, start in (
        ([*SHUT, "--bind", f"{folder}:/cache"], "/cache/"),
        (["--contain", "--home", str(folder)], f"{folder}/.cache/vnp/"),
        (["--no-home", "--no-mount", "cwd"], f"/tmp/vnp-cache-{os.geteuid()}/"),
    ):
        places = box.exec("sh", "-c", make, options=options).split()
        assert len(places) == len(names)
        assert all(place.startswith(start) for place in places), places
    assert (folder / "triton").is_dir()
    assert (folder / ".cache/vnp/triton").is_dir()


def test_the_host_does_not_get_in(box: Box) -> None:
    """Neither code in the working directory nor the host's Python settings replace what is in the image."""
    words = ["python", "-c", "import jobs, torch; print(jobs.__file__); print(torch.__file__)"]
    said = box.apptainer(
        "exec", *words, cwd=REPOSITORY, given={"PYTHONPATH": str(REPOSITORY), "PYTHONHOME": "/nowhere"}
    )
    assert all(line.startswith("/opt/vnp/lib/") for line in said.split())


def test_settings_that_a_host_changes(box: Box) -> None:
    own = {"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "HDF5_USE_FILE_LOCKING=FALSE"}
    assert own <= set(box.exec("env", given={"OMP_NUM_THREADS": ""}).splitlines())
    said = box.exec("env", given={"OMP_NUM_THREADS": "5", "APPTAINERENV_HDF5_USE_FILE_LOCKING": "TRUE"})
    assert {"OMP_NUM_THREADS=5", "HDF5_USE_FILE_LOCKING=TRUE"} <= set(said.splitlines())


def test_fetch_is_online_and_nothing_else_is(box: Box) -> None:
    said = box.apptainer(
        "run", "fetch", "dnabert_s", "--weights", "/tmp/vnp-none", code=1, given={"HF_ENDPOINT": "http://127.0.0.1:9"}
    )
    assert "HF_HUB_OFFLINE" not in said
    assert "127.0.0.1:9" in said
