"""What a process has: folders of the user's, memory, what a scheduler gave it; and which processes still run."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import resource
import stat
import sys
import time
from pathlib import Path

from vnp.errors import StorageError
from vnp.files.durable import process_start

_CGROUPS = Path("/sys/fs/cgroup")
IGNORE_DISK = "VNP_IGNORE_DISK"
_STATUS = Path("/proc/self/status")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def cpu_fact(name: str) -> str:
    """What the system says of the first processor, such as ``model name`` or ``flags``; empty where it says nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def processor_name() -> str:
    """What the processor is called."""
    return cpu_fact("model name") or platform.processor() or platform.machine()


def cache_folder(part: str) -> Path:
    """Say where a part of what can be made again is kept: ``weights``, ``checked``, ``fp8``, ``kernels``.

    Returns:
        ``vnp/PART`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``; it may not be there yet.

    Raises:
        StorageError: the user has no home.
    """
    return _folder("XDG_CACHE_HOME", ".cache") / part


def settings_folder() -> Path:
    """Say where the user's settings are kept.

    Returns:
        ``$VNP_CONFIG``, else ``vnp`` in ``$XDG_CONFIG_HOME``, else in ``~/.config``; it may not be there yet.

    Raises:
        StorageError: the user has no home.
    """
    if os.environ.get("VNP_CONFIG"):
        return Path(os.environ["VNP_CONFIG"]).expanduser()
    return _folder("XDG_CONFIG_HOME", ".config")


def _folder(variable: str, name: str) -> Path:
    if os.environ.get(variable):
        return Path(os.environ[variable]) / "vnp"
    try:
        return Path.home() / name / "vnp"
    except RuntimeError as error:
        raise StorageError(f"there is no home folder for what vnp keeps; set {variable}") from error


def private_folder(path: Path) -> bool:
    """Make a folder for what will be run as code, and tell whether nobody else can put something there.

    It must be the user's own, and neither it nor a folder above may be written to by others; above, the system's count
    as well, and those where each may remove only what is his, such as ``/tmp``.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    own, *above = [folder.stat() for folder in (path.resolve(), *path.resolve().parents)]
    shared = stat.S_IWGRP | stat.S_IWOTH
    return (
        own.st_uid == os.getuid()
        and not own.st_mode & shared
        and all(
            one.st_uid in (0, os.getuid()) and (not one.st_mode & shared or one.st_mode & stat.S_ISVTX) for one in above
        )
    )


def existing(folder: Path) -> Path:
    """The nearest folder above (or at) a path that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def require_room(folder: Path, needed: float) -> str:
    """Make sure that the disk of a folder, which need not be there yet, has room for what will be written.

    What a quota leaves nobody says, so it can run out all the same. Where ``$VNP_IGNORE_DISK`` is set, and where the
    system does not say how large the disk is, nothing is refused.

    ``needed`` is in bytes, about.

    Returns:
        Both numbers, for people.

    Raises:
        StorageError: there is less.
    """
    disk = os.statvfs(existing(folder))
    free = disk.f_bavail * disk.f_frsize
    said = f"about {_size(needed)} needed in {folder}, {_size(free)} free"
    if disk.f_blocks and free < needed and not os.environ.get(IGNORE_DISK):
        raise StorageError(f"disk: {said}. Free some or choose another; --ignore-disk begins all the same")
    return f"disk: {said}"


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{max(1, math.ceil(count / 1e6))} MB"


def available_memory() -> int | None:
    """Bytes that can be allocated before something is killed; None where the system does not say.

    The least of what the kernel estimates for the machine, what the control groups (a Slurm job, a container)
    leave, and the limit of the shell (``ulimit -v``).
    """
    found = [_machine(), _address_space(), *(_group(folder) for folder in _group_folders())]
    known = [size for size in found if size is not None]
    return max(0, min(known)) if known else None


def peak_memory() -> int | None:
    """Most bytes that this process has held so far; None where the system does not say.

    ``getrusage`` would not do: its figure is handed down from the process that started this one.
    """
    return _field(_STATUS, "VmHWM:", 1024)


def peak_gpu_memory() -> tuple[int | None, int | None]:
    """Most bytes that this process has held of its GPU so far, and bytes that this has; None twice without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None, None
    return int(torch.cuda.max_memory_reserved()), int(torch.cuda.get_device_properties(0).total_memory)


def memory_kills() -> int:
    """How often the kernel ended a process of this job, or container, because it was out of memory; 0 if it hides that.

    The nearest control group that has a limit counts (version 2).
    """
    for folder in _group_folders():
        with contextlib.suppress(OSError):
            if (folder / "memory.max").read_text().strip() != "max":
                return _field(folder / "memory.events", "oom_kill", 1) or 0
    return 0


def process_began() -> float:
    """When this process began, seconds since 1970."""
    with contextlib.suppress(OSError, ValueError):
        up = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - up + int(process_start(os.getpid())) / os.sysconf("SC_CLK_TCK")
    return time.time()


def asked(begun: float) -> dict[str, float]:
    """What this task was given, as its script says in ``VNP_ASKED`` (``mem=48G cpus=8``) and ``VNP_END_TIME``.

    ``begun`` is when its process began, in seconds since 1970.
    """
    found: dict[str, float] = {}
    words = [word.partition("=") for word in os.environ.get("VNP_ASKED", "").split()]
    with contextlib.suppress(ValueError):
        found = {name: bytes_of(value) if name == "mem" else float(value) for name, _, value in words}
        found["seconds"] = round(float(os.environ.get("VNP_END_TIME", "")) - begun)
    return found


def bytes_of(size: str) -> int:
    """Bytes of ``48G``, ``500M`` or ``1.5T``; plain numbers are megabytes. ``ValueError`` where it is no such size."""
    found = SIZE.fullmatch(size.strip())
    if found is None:
        raise ValueError(f"{size!r} is no size such as 48G")
    return round(float(found[1]) * 1024.0 ** ("KMGT".index((found[2] or "M").upper()) + 1))


def _machine() -> int | None:
    return _field(Path("/proc/meminfo"), "MemAvailable:", 1024)


def _address_space() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _field(_STATUS, "VmSize:", 1024)
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used


def _group_folders() -> list[Path]:
    """This process's control group and those around it (version 2)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, _, name = line.split(":", 2)
            if number == "0":
                folder = _CGROUPS / name.lstrip("/")
                return [folder, *(above for above in folder.parents if above.is_relative_to(_CGROUPS))]
    return []


def _group(folder: Path) -> int | None:
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    # Cached files are counted as used, and given back when memory is short.
    cached = _field(folder / "memory.stat", "inactive_file", 1) or 0
    return int(limit) - used + cached


def _field(path: Path, name: str, unit: int) -> int | None:
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if words and words[0] == name:
                return int(words[1]) * unit
    except (OSError, ValueError, IndexError):
        pass
    return None
