from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from jobs._cluster.profile import KINDS, Resources, load_profile, parse_minutes
from tests.conftest import REPOSITORY
from vnp.errors import UsageError

EVERYTHING = """
partition = "p"
account = "a"
qos = "q"
constraint = "c"
cpus = 3
mem = "5G"
time = "1-02:03:04"
parallelism = 7
retries = 0
grace = 33
memory_growth = 2
memory_cap = "20G"
time_growth = 1.25
time_cap = "2-00"
exclude = ["n7"]
image = "/images/vnp.sif"
binds = ["/data", "/scratch:/tmp"]
setup = ["module load cuda", "ulimit -c 0"]
extra = ["--mail-type=FAIL", "--exclusive"]
[environment]
A = "1"
[gpu]
gres = "gpu:a100:2"
[cpu]
partition = "cpus"
time = 30
[cpu.environment]
B = "2"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "site.toml"
    path.write_text(text)
    return str(path)


def test_every_key_is_read(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, EVERYTHING))
    assert profile.gpu == Resources(
        partition="p", account="a", qos="q", constraint="c", gpus=None, gres="gpu:a100:2", cpus=3, mem="5G",
        time="1-02:03:04", parallelism=7, retries=0, grace=33, image="/images/vnp.sif",
        memory_growth=2, memory_cap="20G", time_growth=1.25, time_cap="2-00", exclude=("n7",),
        binds=("/data", "/scratch:/tmp"), environment={"A": "1"}, setup=("module load cuda", "ulimit -c 0"),
        extra=("--mail-type=FAIL", "--exclusive"),
    )  # fmt: skip
    assert profile.gpu.minutes == 24 * 60 + 2 * 60 + 3 + 1
    assert profile.cpu.partition == "cpus"
    assert profile.cpu.minutes == 30
    assert profile.cpu.environment == {"A": "1", "B": "2"}
    assert profile.reduce.partition == "p"
    # GPUs are for the jobs that embed on them.
    assert (profile.cpu.gres, profile.cpu.gpus, profile.reduce.gres, profile.reduce.gpus) == (None,) * 4
    assert {field.name for field in fields(Resources)} <= set(EVERYTHING.replace("[", " ").split()) | {
        "gpus", "environment", "scheduler", "parallel_environment", "memory_resource", "gpu_resource"
    } | {"environment]"}  # fmt: skip


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this machine's keeper nor who runs the tests has a say."""
    monkeypatch.delenv("VNP_PROFILE", raising=False)
    for variable in ("VNP_CONFIG", "VNP_PROFILE_PATH"):
        monkeypatch.setenv(variable, str(tmp_path / "nothing"))


def test_without_a_profile_a_gpu_job_has_one_gpu() -> None:
    profile = load_profile(None)
    assert (profile.gpu.gpus, profile.cpu.gpus, profile.reduce.gpus) == (1, None, None)
    assert profile.gpu.partition is None


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "slurm").glob("*.toml")))
def test_bundled_profiles_can_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    profile = load_profile(name)
    assert all(profile.of(kind).minutes > 0 for kind in KINDS)


def test_profile_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VNP_PROFILE", write(tmp_path, 'partition = "here"'))
    assert load_profile(None).cpu.partition == "here"


def test_a_name_means_the_users_file_over_the_sites_over_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: tmp_path / name for name in ("slurm", "user", "site", "second")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VNP_CONFIG", str(folders["user"]))
    monkeypatch.setenv("VNP_PROFILE_PATH", f"{folders['site']}:{folders['second']}:")
    assert load_profile("example").cpu.partition == "cpu", "the one that comes with vnp"
    for place in reversed(folders):
        folders[place].mkdir()
        (folders[place] / "example.toml").write_text(f"partition = '{place}'")
        assert load_profile("example").gpu.partition == place
    (folders["site"] / "example.toml").write_text("partitoin = 'p'")
    assert load_profile("example").gpu.partition == "slurm"
    for place in ("slurm", "user"):
        (folders[place] / "example.toml").unlink()
    with pytest.raises(UsageError, match=rf"{folders['site']}/example.toml: unknown key 'partitoin'"):
        load_profile("example")
    with pytest.raises(UsageError, match=rf"no profile 'nowhere'; there are .*example.* in slurm, {folders['user']}, "):
        load_profile("nowhere")


def test_who_names_no_profile_has_the_default_of_user_or_site_and_never_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("slurm", "site", "user"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "default.toml").write_text(f"partition = '{place}'")
    assert load_profile(None).cpu.partition is None
    monkeypatch.setenv("VNP_PROFILE_PATH", str(tmp_path / "site"))
    assert load_profile(None).cpu.partition == "site"
    monkeypatch.setenv("VNP_CONFIG", str(tmp_path / "user"))
    assert load_profile(None).cpu.partition == "user"
    assert load_profile("default").cpu.partition == "slurm", "named, it may be any"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('partitoin = "p"', ["unknown key 'partitoin'", "parallelism", "gpu, cpu, reduce"]),
        ("[gpu]\nmemory = '3G'", ["unknown key 'memory'"]),
        ("gpu = 1", ["gpu must be a table"]),
        ("cpus = '3'", ["cpus must be int, not '3'"]),
        ("mem = 'much'", ["mem must be a size such as 48G, not 'much'"]),
        ("memory_cap = '1 elephant'", ["memory_cap must be a size"]),
        ("memory_growth = 0.5", ["memory_growth must be at least 1, not 0.5"]),
        ("time_cap = 'long'", ["time must be minutes"]),
        ("cpus = true", ["cpus must be int"]),
        ("mem = 32", ["mem must be str"]),
        ("time = 1.5", ["time must be"]),
        ("time = '2 hours'", ["time must be minutes, HH:MM:SS or D-HH:MM:SS"]),
        ("time = 0", ["time must be at least 1"]),
        ("cpus = 0", ["cpus must be at least 1"]),
        ("retries = -1", ["retries must be at least 0"]),
        ("binds = '/data'", ["binds must be a list of text"]),
        ("extra = ['-p gpu']", ["extra holds options", "'-p gpu'"]),
        ("extra = ['--mail-type FAIL']", ["extra holds options"]),
        ("extra = ['--array=1-3']", ["extra must not hold --array"]),
        ("[environment]\nA = 1", ["environment must be a table of text"]),
        ("[environment]\n'A B' = '1'", ["'A B' is no name of a variable"]),
        ("partition = ", ["is no TOML"]),
    ],
)
def test_mistakes_are_named(text: str, said: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_profile(path)
    message = str(caught.value)
    assert message.startswith(path)
    assert all(words in message for words in said), message


def test_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match="there is no profile /nowhere"):
        load_profile("/nowhere.toml")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [(5, 5), ("90", 90), ("1:30", 2), ("02:00:00", 120), ("1:00:01", 61), ("1-0", 1440), ("2-12", 3600),
     ("1-01:30", 1530), ("0-00:00:30", 1)],
)  # fmt: skip
def test_times(text: str | int, minutes: int) -> None:
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "UNLIMITED", "1-", "-5", "1:2:3:4", "1-1:2:3:4", "5 m"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_minutes(text)
