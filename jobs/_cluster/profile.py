"""Site profiles: what a cluster wants to be told, in TOML.

Keys on the top level hold for every job; the tables ``[gpu]``, ``[cpu]`` and ``[reduce]`` change them for the jobs that
embed on a GPU, those that need none, and the merging. Of ``environment`` both are set; any other key is replaced.

A name means the first ``NAME.toml`` of the working directory's ``slurm/``, the user's settings, the site's folders
(``VNP_PROFILE_PATH``, else ``/etc/vnp``) and those that come with the program. One file counts, whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from vnp.errors import StorageError, UsageError
from vnp.files.machine import SIZE, bytes_of, settings_folder
from vnp.files.records import read_toml

JobKind = Literal["gpu", "cpu", "reduce"]
_OPTION = re.compile(r"--([a-z][a-z-]*)(?:=.+)?$")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""What no line of a batch script may hold."""
_OURS = {"array", "dependency", "error", "open-mode", "output", "requeue", "no-requeue", "signal", "wrap"}
KINDS: tuple[JobKind, ...] = ("gpu", "cpu", "reduce")
VARIABLE = "VNP_PROFILE"
PATH_VARIABLE = "VNP_PROFILE_PATH"
SITE_FOLDER = "/etc/vnp"
DEFAULT = "default"
"""The profile of who names none, in the user's settings or the site's folders: no other folder may decide unasked."""
_TIME = re.compile(r"^(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?$")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one job asks of the scheduler. Each is an option of Slurm's ``sbatch`` unless said otherwise.

    What the others make of it is in docs/schedulers.md.
    """

    scheduler: str | None = None  # what the profile is for, as --cluster has it; any, if left out
    partition: str | None = None  # the queue, where that is the word
    account: str | None = None  # the project, where that is the word
    qos: str | None = None
    constraint: str | None = None  # features that a node must have
    gpus: int | None = None  # GPUs of a task: a number, for ``--gpus-per-node``
    gres: str | None = None  # instead of ``gpus``, such as ``gpu:a100:1``
    cpus: int = 4
    mem: str = "16G"  # of a task, such as ``32G``
    time: str | int = 240  # limit of a task: minutes, or ``HH:MM:SS``, or ``D-HH:MM:SS``
    parallelism: int = 64  # tasks of an array that may run at once
    retries: int = 5  # how often a task that was preempted, ran out of time or was killed is queued again
    memory_growth: float = 1.5  # so many times the memory for a task that ran out of it
    memory_cap: str = ""  # but not more than this, such as ``192G``; four times ``mem`` if empty
    time_growth: float = 1.5  # so many times the time for a task that made no block in it
    time_cap: str | int = ""  # but not more than this; four times ``time`` if empty
    exclude: tuple[str, ...] = ()  # nodes to leave out
    grace: int = 120  # seconds before the time limit at which a task is told to finish its block and end
    image: str = ""  # Apptainer image that tasks run in; none if empty
    binds: tuple[str, ...] = ()  # more folders to bind into the image, as ``HOST`` or ``HOST:INSIDE``
    environment: dict[str, str] = field(default_factory=dict)  # variables to set
    setup: tuple[str, ...] = ()  # shell lines that run before the task, such as ``module load``
    extra: tuple[str, ...] = ()  # more options of ``sbatch``, such as ``--mail-type=FAIL``
    # Grid Engine's names for more than one core of a node, memory, and GPUs; every site has its own.
    parallel_environment: str = "smp"
    memory_resource: str = "mem_free"
    gpu_resource: str = "gpu"

    @property
    def minutes(self) -> int:
        return parse_minutes(self.time)

    @property
    def megabytes(self) -> int:
        """The memory of a task in MiB."""
        return max(1, bytes_of(self.mem) >> 20)


_DEFAULTS: dict[JobKind, dict[str, Any]] = {
    "gpu": {"gpus": 1, "cpus": 8, "mem": "48G"},
    "cpu": {"cpus": 2, "mem": "8G"},
    "reduce": {"cpus": 2, "mem": "8G"},
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The resources of each kind of job: embedding on a GPU, what needs none, and merging."""

    gpu: Resources
    cpu: Resources
    reduce: Resources

    def of(self, kind: JobKind) -> Resources:
        found: Resources = getattr(self, kind)
        return found

    @property
    def scheduler(self) -> str | None:
        """What it is for, as --cluster has it; None for any."""
        return self.gpu.scheduler

    def changed(self, **values: Any) -> Profile:
        """The same with other values for all kinds; None leaves a value as it is."""
        given = {name: value for name, value in values.items() if value is not None}
        return Profile(*(replace(self.of(kind), **given) for kind in KINDS))


def load_profile(name: str | None) -> Profile:
    """Read a profile.

    Args:
        name: a name, looked for as ``NAME.toml`` in the folders above, or a path; None takes ``VNP_PROFILE``, without
            that the profile ``default`` of the user or the site, and without that the scheduler's own defaults.

    Raises:
        UsageError: there is no such profile, or it has an unknown key or a wrong value; the message names the file and
            lists the keys.
    """
    name = name or os.environ.get(VARIABLE) or None
    path = _find(name) if name else _first(DEFAULT, [*_user_folders(), *_site_folders()])
    return _make(str(path), read_toml(path)) if path else _make("the scheduler's defaults", {})


def _find(name: str) -> Path:
    if name.endswith(".toml") or "/" in name:
        if Path(name).is_file():
            return Path(name)
        raise UsageError(f"there is no profile {name}")
    here = Path(__file__).resolve().parent.parent
    folders = [Path("slurm"), *_user_folders(), *_site_folders(), here / "slurm", here.parent / "slurm"]
    if found := _first(name, folders):
        return found
    there = [folder for folder in folders if folder.is_dir()]
    known = sorted({path.stem for folder in there for path in folder.glob("*.toml")})
    raise UsageError(
        f"there is no profile {name!r}; there are {', '.join(known) or 'none'} in {', '.join(map(str, there))}: name "
        "one of these, or give a path"
    )


def _first(name: str, folders: Sequence[Path]) -> Path | None:
    return next((path for path in (folder / f"{name}.toml" for folder in folders) if path.is_file()), None)


def _user_folders() -> list[Path]:
    try:
        return [settings_folder()]
    except StorageError:
        # Some services run without a home.
        return []


def _site_folders() -> list[Path]:
    return [Path(entry) for entry in (os.environ.get(PATH_VARIABLE) or SITE_FOLDER).split(os.pathsep) if entry]


def _make(name: str, content: dict[str, Any]) -> Profile:
    general = {key: value for key, value in content.items() if key not in KINDS}
    return Profile(*(_resources(name, kind, _combined(name, kind, general, content)) for kind in KINDS))


def _combined(name: str, kind: JobKind, general: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """A kind's own values over the general ones over the defaults; variables of both are set."""
    own = content.get(kind, {})
    if not isinstance(own, dict):
        raise UsageError(f"{name}: {kind} must be a table, [{kind}], not {own!r}")
    if "scheduler" in own:
        raise UsageError(f"{name}: scheduler belongs on the top level, for all kinds of jobs")
    values = {**_DEFAULTS[kind], **general, **own}
    both = [part["environment"] for part in (general, own) if isinstance(part.get("environment"), dict)]
    if len(both) == 2:
        values["environment"] = {**both[0], **both[1]}
    return values


def _resources(name: str, kind: JobKind, values: dict[str, Any]) -> Resources:
    known = {entry.name: entry for entry in fields(Resources)}
    for key, value in values.items():
        if key not in known:
            keys = ", ".join(sorted(known))
            raise UsageError(
                f"{name}: unknown key {key!r}; the keys are {keys}, on the top level or in {', '.join(KINDS)}"
            )
        _require_type(name, key, value, str(known[key].type))
        _require_plain(name, key, value)
    if kind != "gpu":
        values = {**values, "gpus": None, "gres": None}
    elif values.get("gres"):
        values = {**values, "gpus": None}
    frozen: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    made = Resources(**frozen)
    _check(name, made)
    return made


def _check(name: str, made: Resources) -> None:
    """Refuse here what would otherwise be noticed at submission, or not at all."""
    try:
        minutes = made.minutes
        if made.time_cap:
            parse_minutes(made.time_cap)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    for key, size in (("mem", made.mem), ("memory_cap", made.memory_cap)):
        if size and not SIZE.fullmatch(size):
            raise UsageError(f"{name}: {key} must be a size such as 48G, not {size!r}")
    for key, growth in (("memory_growth", made.memory_growth), ("time_growth", made.time_growth)):
        if growth < 1:
            raise UsageError(f"{name}: {key} must be at least 1, not {growth}")
    for key, value, least in (
        ("time", minutes, 1), ("cpus", made.cpus, 1), ("parallelism", made.parallelism, 1),
        ("gpus", made.gpus or 0, 0), ("retries", made.retries, 0), ("grace", made.grace, 0),
    ):  # fmt: skip
        if value < least:
            raise UsageError(f"{name}: {key} must be at least {least}, not {value}")
    for variable in made.environment:
        if not _VARIABLE.fullmatch(variable):
            raise UsageError(f"{name}: environment: {variable!r} is no name of a variable")
    for option in made.extra:
        if made.scheduler not in (None, "slurm"):
            if not option.startswith("-"):
                raise UsageError(f"{name}: extra holds options of {made.scheduler}, such as -M me@site, not {option!r}")
            continue
        match = _OPTION.match(option)
        if match is None:
            raise UsageError(f"{name}: extra holds options of sbatch as --name=value or --name, not {option!r}")
        if match[1] in _OURS:
            raise UsageError(f"{name}: extra must not hold --{match[1]}, which vnp sets itself")


def _require_type(name: str, key: str, value: Any, declared: str) -> None:
    fits = {
        "int": type(value) is int,
        "float": type(value) in (int, float),
        "str": isinstance(value, str),
        "str | int": isinstance(value, str) or type(value) is int,
        "str | None": isinstance(value, str),
        "int | None": value is None or type(value) is int,
        "tuple[str, ...]": isinstance(value, list) and all(isinstance(item, str) for item in value),
        "dict[str, str]": isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
    }[declared]
    if not fits:
        wanted = declared.replace("tuple[str, ...]", "a list of text").replace("dict[str, str]", "a table of text")
        raise UsageError(f"{name}: {key} must be {wanted.removesuffix(' | None')}, not {value!r}")


def _require_plain(name: str, key: str, value: Any) -> None:
    """Refuse control characters; what ``setup`` holds is shell text, of many lines if need be."""
    texts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    for text in texts if key != "setup" else ():
        if isinstance(text, str) and CONTROL.search(text):
            raise UsageError(f"{name}: {key} has a control character, such as a line break: {text!r}")


def parse_minutes(time: str | int) -> int:
    """Whole minutes, rounded up, of minutes, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM`` or ``D-HH:MM:SS``."""
    match = _TIME.match(str(time).strip())
    if match is None:
        raise UsageError(f"time must be minutes, HH:MM:SS or D-HH:MM:SS, not {time!r}")
    first, second, third = (int(match[part] or 0) for part in ("first", "second", "third"))
    if match["days"] is not None:
        seconds = ((int(match["days"]) * 24 + first) * 60 + second) * 60 + third
    elif match["third"] is not None:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    return -(-seconds // 60)
