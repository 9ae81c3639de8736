"""Submission with an image, without a real Apptainer or Slurm: stand-ins on PATH play their part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vnp
from jobs._cluster import image as _image
from jobs._cluster.image import CODE, VERSION, check_image, check_place, python_command, same_paths
from jobs._cluster.profile import Profile, Resources
from jobs._cluster.slurm import Slurm
from tests.conftest import REPOSITORY
from tests.light_host import make_light_host
from vnp.errors import UsageError
from vnp.files.hashing import code_digest

# An apptainer that has this Python inside, sees what is bound, and says what its labels are.
APPTAINER = r"""#!{python}
import json, os, subprocess, sys
words = sys.argv[1:]
if "inspect" in words:
    print(json.dumps({{"data": {{"attributes": {{"labels": {labels}}}}}}}))
    sys.exit()
words = words[words.index("exec") + 1:]
binds = []
while words[0].startswith("--"):
    if words.pop(0) == "--bind":
        binds.append(words.pop(0))
image, program, *rest = words
with open("{log}", "a") as log:
    log.write(json.dumps([binds, image, program]) + "\n")
if program == "sh":
    for path in sys.stdin.read().splitlines():
        if not any(path == bind or path.startswith(bind + "/") for bind in binds) or path in {hidden}:
            print(path)
    sys.exit()
sys.exit(subprocess.run(["{python}", *rest]).returncode)
"""
SBATCH = "#!/bin/sh\ncat \"$1\" >> '{log}'\necho Submitted batch job 7\n"


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    _image.check_image.cache_clear()
    _image._has_apptainer.cache_clear()
    monkeypatch.delenv("VNP_CACHE", raising=False)


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts the stand-ins on PATH; returns the image."""

    def make(labels: dict[str, str] | None = None, hidden: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "tools"
        folder.mkdir()
        right = {VERSION: vnp.__version__, CODE: code_digest()}
        text = APPTAINER.format(
            python=sys.executable, labels=right if labels is None else labels, log=folder / "log", hidden=list(hidden)
        )
        program(folder / "apptainer", text)
        program(folder / "sbatch", SBATCH.format(log=folder / "scripts"))
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        (folder / "vnp.sif").touch()
        return folder / "vnp.sif"

    return make


def test_binds_are_folders_once_each_and_what_links_lead_to(tmp_path: Path) -> None:
    for name in ("run/logs", "reads", "store/deep", "weights"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "reads/a.fa").touch()
    (tmp_path / "reads/b.fa").touch()
    (tmp_path / "store/deep/c.fa").touch()
    (tmp_path / "reads/c.fa").symlink_to(tmp_path / "store/deep/c.fa")
    (tmp_path / "between").mkdir()
    (tmp_path / "between/d.fa").symlink_to(tmp_path / "reads/c.fa")
    (tmp_path / "linked").symlink_to(tmp_path / "weights")
    paths = ["run", "run/logs", "reads/a.fa", "reads/b.fa", "reads/c.fa", "between/d.fa", "linked"]
    wanted = ["between", "linked", "reads", "run", "store/deep", "weights"]
    assert same_paths([tmp_path / path for path in paths]) == [str(tmp_path / path) for path in wanted]


def test_what_the_image_has_itself_is_never_hidden() -> None:
    (name,) = same_paths([Path("/etc/hostname")])
    assert name == "/etc/hostname", "the folder /etc would have been bound over the image's own"
    for folder in ("/usr/share", "/", "/opt", "/opt/vnp/lib"):
        with pytest.raises(UsageError, match="of its own"):
            same_paths([Path(folder)])


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_names_that_cannot_be_bound_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="separators"):
        same_paths([tmp_path / name])


def test_command_is_one_shell_text_whatever_the_names(tmp_path: Path) -> None:
    run = tmp_path / "my run's"
    run.mkdir()
    wanted = Resources(image=str(tmp_path / "the image.sif"), gpus=1, binds=("/scratch:/data",))
    text = python_command(wanted, [run])
    words = json.loads(
        subprocess.run(
            ["sh", "-c", f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {text}"],
            capture_output=True,
            check=True,
        ).stdout
    )
    binds = ["--bind", str(run), "--bind", "/scratch:/data"]
    assert words == ["apptainer", "exec", "--nv", *binds, str(tmp_path / "the image.sif"), "python"]
    assert "--nv" not in python_command(Resources(image="vnp.sif"), [run]).split()


def test_folder_for_what_is_compiled_is_made_and_bound(
    tools: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = python_command(Resources(image="vnp.sif", environment={"VNP_CACHE": str(tmp_path / "one")}), [])
    assert f"--bind {tmp_path}/one:/cache" in command
    monkeypatch.setenv("VNP_CACHE", str(tmp_path / "two"))
    assert f"--bind {tmp_path}/two:/cache" in python_command(Resources(image="vnp.sif"), [])
    assert not (tmp_path / "two").exists(), "to show a command must not write anything"
    check_place(Resources(image=str(tools())), [tmp_path])
    assert (tmp_path / "two").is_dir()


def test_right_image_passes(tools: Callable[..., Path], tmp_path: Path) -> None:
    image = tools()
    check_place(Resources(image=str(image)), [tmp_path])
    wanted = Resources(image=str(image))
    Slurm(Profile(wanted, wanted, wanted)).check()


def test_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no image .*make image"):
        check_place(Resources(image=str(tmp_path / "vnp.sif")), [])
    with pytest.raises(UsageError, match="apptainer pull"):
        check_place(Resources(image="docker://somebody/vnp"), [])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({}, "is no image of vnp"),
        ({VERSION: "0.0.1", CODE: "0"}, r"holds vnp 0\.0\.1, and this is vnp .*build the image anew"),
        ({VERSION: vnp.__version__, CODE: "0"}, "holds other code than this"),
    ],
)
def test_image_of_other_code_is_refused(tools: Callable[..., Path], labels: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_image(str(tools(labels)))


def test_input_outside_of_all_binds_is_refused(tools: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "reads.fa"
    path.touch()
    image = tools(hidden=(str(path),))
    with pytest.raises(UsageError, match=rf"{path} is outside .* add its folder to `binds`"):
        check_place(Resources(image=str(image)), [tmp_path / "tools", path])


def test_binds_that_only_compute_nodes_have_are_left_out_of_the_check(
    tools: Callable[..., Path], tmp_path: Path
) -> None:
    image = tools()
    wanted = Resources(image=str(image), binds=("/nowhere-here:/scratch",))
    check_place(wanted, [tmp_path])
    assert "/nowhere-here" not in (tmp_path / "tools/log").read_text()
    assert "/nowhere-here:/scratch" in python_command(wanted, [tmp_path])


def test_code_digest_follows_the_code(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for room in ("vnp", "jobs"):
        for path in (REPOSITORY / room).rglob("*.py"):
            place = copy / path.relative_to(REPOSITORY)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())

    def lines() -> list[str]:
        words = [sys.executable, "-m", "jobs._cluster.image"]
        return subprocess.run(words, cwd=copy, capture_output=True, text=True, check=True).stdout.splitlines()

    assert lines() == [f"{VERSION} {vnp.__version__}", f"{CODE} {code_digest()}"]
    for path in copy.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert lines()[1] == f"{CODE} {code_digest()}", "another machine's line ends"
    with (copy / "vnp/errors.py").open("a") as file:
        file.write("# changed\n")
    assert lines()[1] != f"{CODE} {code_digest()}"


@pytest.fixture(scope="module")
def light_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_light_host(tmp_path_factory.mktemp("light") / "host")


def on_light_host(python: Path, *words: object, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [python, "-m", *map(str, words)],
        cwd=REPOSITORY,
        env={**{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VNP"))}, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def test_light_host_has_no_libraries(light_python: Path) -> None:
    code = "import importlib.util as u; print(*[n for n in ('numpy', 'h5py', 'torch', 'rich') if u.find_spec(n)])"
    done = subprocess.run([light_python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_is_quick_with_click_and_submitit_only(light_python: Path) -> None:
    assert "--shards" in on_light_host(light_python, "jobs.extract", "--help")
    before = os.times()
    on_light_host(light_python, "jobs.extract", "--help")
    after = os.times()
    # Processor time, so that a busy machine cannot make this fail.
    assert after.children_user + after.children_system - before.children_user - before.children_system <= 0.5


def test_light_host_plans_submits_and_looks_through_the_image(
    light_python: Path, tools: Callable[..., Path], tmp_path: Path
) -> None:
    image = tools()
    (tmp_path / "site.toml").write_text(f"image = '{image}'\n[environment]\nHDF5_USE_FILE_LOCKING = 'TRUE'\n")
    out, sample = tmp_path / "run", REPOSITORY / "vnp/sample/samplesheet.csv"
    site = ["--cluster", "slurm", "--profile", tmp_path / "site.toml"]
    asked = ["jobs.extract", sample, "--out", out, "--shards", 2, "--dna", "kmer", "--protein", "kmer", *site]

    said = on_light_host(light_python, *asked, "--dry-run")
    assert "2 shards of" in said
    assert not out.exists()

    said = on_light_host(light_python, *asked)
    assert "in 2 shards" in said
    assert "job 7, 2 tasks" in said
    script = (tmp_path / "tools/scripts").read_text()
    assert "apptainer exec --bind" in script
    assert f" --bind {out} " in script
    assert f"{image} python -P -u -m jobs._cluster.worker " in script
    assert "--array=0-1%" in script
    assert 'OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"' in script
    assert "export APPTAINERENV_HDF5_USE_FILE_LOCKING=TRUE" in script
    said = on_light_host(light_python, "jobs.status", out, code=3, VNP_PROFILE=str(tmp_path / "site.toml"))
    assert "2 shards: 2 " in said
    assert "0 of 1,063 rows" in said
    said = on_light_host(light_python, "jobs.rerun", out, *site)
    assert "job 7, 2 tasks" in said


def test_light_host_says_what_it_needs(light_python: Path, tools: Callable[..., Path], tmp_path: Path) -> None:
    tools()
    out, sample = tmp_path / "run", REPOSITORY / "vnp/sample/samplesheet.csv"
    asked = ["jobs.extract", sample, "--out", out, "--dna", "kmer", "--protein", "kmer"]
    for words in (["--cluster", "slurm"], ["--cluster", "slurm", "--plan-job"]):
        said = on_light_host(light_python, *asked, *words, code=2)
        assert "lacks vnp's libraries: name an image in the profile" in said
        assert not out.exists()
    said = on_light_host(light_python, *asked, "--cluster", "inline", code=1)
    assert "run the command in the image" in said


def test_planning_in_the_image_fails_as_it_does_here(
    light_python: Path, tools: Callable[..., Path], tmp_path: Path
) -> None:
    image = tools()
    (tmp_path / "site.toml").write_text(f"image = '{image}'\n")
    (tmp_path / "empty.fa").touch()
    site = ["--cluster", "slurm", "--profile", tmp_path / "site.toml"]
    asked = ["jobs.extract", tmp_path / "empty.fa", "--out", tmp_path / "run", "--dna", "kmer", "--protein", "kmer"]
    said = on_light_host(light_python, *asked, *site, code=1)
    assert said.count("error: ") == 1
    assert "empty.fa" in said
    assert not (tmp_path / "run").exists()
