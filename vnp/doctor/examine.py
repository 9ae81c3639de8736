"""The whole examination, and its cheap parts: Python, cores, disks, file locking, scheduler, container, torch."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from vnp import __version__
from vnp.doctor import Finding, fetching, guarded
from vnp.encoders.spec import EncoderSpec, spec, weighted
from vnp.encoders.weights.folders import CONFIG_NAME, find_folder, locate, weights_root
from vnp.errors import WeightsError
from vnp.files.machine import existing

OLDEST_PYTHON = (3, 11)
LIBRARIES = ("numpy", "scipy", "h5py", "scikit-learn", "tokenizers", "safetensors", "submitit", "isal")
LITTLE_SPACE = 10 << 30
NO_SPACE = 256 << 20


def examine(
    run: Path | None = None,
    weights: Path | None = None,
    *,
    named: Collection[str] = (),
    others: Collection[str] = (),
    full: bool = False,
) -> Iterator[Finding]:
    """Look at everything that a run needs, cheap things first.

    Args:
        run: where the run is or would go; None for the working directory.
        named: encoders that are needed; the weights of others may be missing.
        others: encoders that are no registered ones: their folders, or the names of these among the weights.
        full: hash every weight file again.
    """
    folder = Path.cwd() if run is None else run
    temporary = Path(tempfile.gettempdir())
    looks = (
        ("Python", python, ""),
        ("libraries", libraries, ""),
        ("cores", cores, ""),
        ("disk (run)", partial(space, folder, "run"), ""),
        ("disk (temporary files)", partial(space, temporary, "temporary files"), "set TMPDIR"),
        ("HDF5", partial(hdf5, folder), "pip install h5py"),
        ("scheduler", scheduler, ""),
        ("container", container, ""),
    )
    for about, look, mend in looks:
        yield guarded(about, look, mend)
    # From here on late, because these load numpy and torch, which may be what is broken.
    first = guarded("torch", torch_itself, "install torch for this machine (https://pytorch.org/get-started/locally)")
    yield first
    if first.state != "fails":
        from vnp.doctor import engine

        yield from engine.gpus_and_kernels()
    yield from look_at_weights(weights, named, full=full)
    for name in others:
        yield look_at_folder(name, weights, full=full)


def python() -> Finding:
    """Look at Python and this package."""
    found = f"Python {platform.python_version()}, vnp {__version__}, {platform.system()} {platform.machine()}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", "fails", found, f"needs Python {'.'.join(map(str, OLDEST_PYTHON))} or later")
    return Finding("Python", "ok", found)


def libraries() -> Finding:
    """Look at the libraries that every command needs."""
    there, missing = [], []
    for name in LIBRARIES:
        try:
            there.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("libraries", "fails", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding("libraries", "ok", ", ".join(there))


def cores() -> Finding:
    """Look at how many cores this process may use, and whether thread settings fit."""
    usable = len(os.sched_getaffinity(0))
    found = f"{usable} of {os.cpu_count()} cores usable"
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads:
        found += f", OMP_NUM_THREADS={threads}"
    if threads.isdigit() and int(threads) > usable:
        return Finding("cores", "warning", found, f"set OMP_NUM_THREADS to {usable} or unset it")
    return Finding("cores", "ok", found)


def space(folder: Path, what: str) -> Finding:
    """Look at the free space of a folder, and whether it can be written."""
    about = f"disk ({what})"
    place = existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"vnp")
    except OSError as error:
        return Finding(about, "fails", f"{place} cannot be written: {error.strerror}", "choose another folder")
    free = shutil.disk_usage(place).free
    found = f"{place}: {free / 1e9:,.1f} GB free"
    if free < NO_SPACE:
        return Finding(about, "fails", found, "free some space or choose another disk")
    if free < LITTLE_SPACE:
        return Finding(about, "warning", found, "a million frames need about 3.5 GB at 1664 numbers in float16")
    return Finding(about, "ok", found)


def hdf5(folder: Path) -> Finding:
    """Write and read an HDF5 file where the run would go, with the locks that HDF5 takes."""
    import h5py

    place = existing(folder)
    library = f"h5py {h5py.version.version}, HDF5 {h5py.version.hdf5_version}"
    setting = os.environ.get("HDF5_USE_FILE_LOCKING")
    if setting is not None:
        library += f", HDF5_USE_FILE_LOCKING={setting}"
    with tempfile.TemporaryDirectory(prefix=".vnp-doctor-", dir=place) as name:
        path = Path(name) / "check.h5"
        problem = _write_and_read(path, None)
        if problem is None:
            return Finding("HDF5", "ok", f"{library}; {_locks(Path(name) / 'lock')} in {place}")
        if _write_and_read(path, False) is None:
            return Finding(
                "HDF5",
                "fails",
                f"{library}; {place} cannot lock files ({problem})",
                "export HDF5_USE_FILE_LOCKING=FALSE (safe here: no two processes write one file)",
            )
    return Finding("HDF5", "fails", f"{library}; in {place}: {problem}", "choose another disk for the run")


def _write_and_read(path: Path, locking: bool | None) -> str | None:
    """Write a small file and read it back; returns what went wrong, if anything."""
    import h5py

    try:
        with h5py.File(path, "w", locking=locking) as file:
            file["values"] = [1, 2, 3]
        with h5py.File(path, "r", locking=locking) as file:
            return None if file["values"][:].tolist() == [1, 2, 3] else "what was written is not what is read"
    except OSError as error:
        return str(error).splitlines()[0]


def _locks(path: Path) -> str:
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"file locks do not work ({error.strerror}), HDF5 goes on without"
    return "file locks work"


# What submits, lists the queue and says how jobs ended, each asked for its version or whether it reaches its master.
_SCHEDULERS = {
    "Slurm": ("sbatch --version", "squeue --version", "sacct --version"),
    "Grid Engine": ("qconf -sss", "qstat -help", "qacct -help"),
    "PBS": ("pbsnodes --version", "qsub --version", "qstat --version"),
    "LSF": ("bsub -V", "bjobs -V", "bparams -V"),
}


def scheduler() -> Finding:
    """Look for a scheduler."""
    name = next((name for name, commands in _SCHEDULERS.items() if shutil.which(commands[0].split()[0])), None)
    if name is None:
        return Finding("scheduler", "not here", f"no {', '.join(_SCHEDULERS)} on PATH: jobs run as local processes")
    found: list[str] = []
    missing: list[str] = []
    for words in map(str.split, _SCHEDULERS[name]):
        version = _first_line(words)
        (missing if version is None else found).append(f"{words[0]}: {version}" if version else words[0])
    if missing:
        mend = "status works from receipts; load the scheduler's module for explanations of failed jobs"
        found += [f"{command} does not answer" for command in missing]
        return Finding("scheduler", "warning", f"{name}: {', '.join(found)}", mend)
    return Finding("scheduler", "ok", f"{name}: {', '.join(found)}")


def container() -> Finding:
    """Say whether this runs in a container, or could."""
    inside = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    if inside:
        return Finding("container", "ok", f"inside {inside}")
    for command in ("apptainer", "singularity"):
        if shutil.which(command):
            return Finding("container", "ok", f"outside; {_first_line([command, '--version']) or command} on PATH")
    return Finding("container", "not here", "no apptainer on PATH: commands run in this Python")


def _first_line(command: list[str]) -> str | None:
    """Run a command and return the first line it prints; None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else None


def torch_itself() -> Finding:
    """Look at torch, and whether it sees the GPUs that are here."""
    import torch

    build = "CPU build" if torch.version.cuda is None else f"CUDA {torch.version.cuda} build"
    found = f"torch {torch.__version__} ({build}), {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Finding("torch", "ok", f"{found}, {torch.cuda.device_count()} GPU(s)")
    if shutil.which("nvidia-smi"):
        mend = (
            "install a CUDA build of torch"
            if torch.version.cuda is None
            else "see nvidia-smi: is the driver new enough for this CUDA? is CUDA_VISIBLE_DEVICES empty?"
        )
        return Finding("torch", "warning", f"{found}; nvidia-smi is here, but torch sees no GPU", mend)
    return Finding("torch", "ok", f"{found}; no GPU here: encoders run on the CPU")


def look_at_weights(root: Path | None, named: Collection[str], *, full: bool = False) -> list[Finding]:
    """Look at the weights of each encoder: are they here, and are they those that the lock and the pins name?"""
    return [
        _bundled(root if "sixframe" in named else None),
        *(_weights(one, root, one.name in named, full) for one in weighted()),
    ]


def look_at_folder(name: str, root: Path | None, *, full: bool = False) -> Finding:
    """Look at an encoder that is no registered one: its files, and how it was fine-tuned."""
    from vnp.encoders.weights.lock import LOCK_NAME, find_lock, resolve
    from vnp.encoders.weights.provenance import read_provenance

    try:
        one, given = locate(name, None, root)
        folder = find_folder(one, given)
        found = resolve(one, folder, full=full)
        entry, made = find_lock(one.name, folder), read_provenance(folder)
    except WeightsError as error:
        mend = "bring back what is damaged or missing, or make the folder again"
        return Finding(f"weights {name}", "fails", str(error).splitlines()[0], mend)
    digest = next(iter(found.weights.values()))[:12]
    seen = f"{folder}: {found.width} numbers, sha256 {digest}…" + ("" if entry is None else f" as in {LOCK_NAME}")
    return Finding(f"weights {one.name}", "ok", seen if made is None else f"{seen}; {made}")


def _bundled(root: Path | None) -> Finding:
    """The encoder whose weights come with the package, or those that were trained to take their place."""
    from vnp.encoders.weights.lock import resolve

    one = spec("sixframe")
    try:
        folder = find_folder(one, root)
        digest = resolve(one, folder).weights["model.safetensors"]
    except WeightsError as error:
        return Finding("weights sixframe", "fails", str(error), "leave out --weights, or install vnp again")
    whose = "of this version of vnp" if digest == one.pins["model.safetensors"] else "trained by jobs.finetune"
    return Finding("weights sixframe", "ok", f"{folder}: {whose}, sha256 {digest[:12]}…")


def _weights(one: EncoderSpec, root: Path | None, needed: bool, full: bool) -> Finding:
    from vnp.encoders.weights.lock import LOCK_NAME, check_fit, find_lock, resolve

    about = f"weights {one.name}"
    place = weights_root(root)
    how = fetching(one.name, root)
    if (place / CONFIG_NAME).is_file() and not needed:
        try:
            check_fit(one, place)
        except WeightsError:
            return Finding(about, "not here", f"{place} holds another model", how)
    if not (place / one.name).is_dir() and not (place / CONFIG_NAME).is_file():
        return Finding(about, "fails" if needed else "not here", f"not fetched ({place / one.name})", how)
    try:
        folder = find_folder(one, root)
        found = resolve(one, folder, full=full)
        entry = find_lock(one.name, folder)
    except WeightsError as error:
        return Finding(about, "fails", str(error).splitlines()[0], how)
    revision = (found.revision or "unknown")[:12]
    seen = f"{folder}: revision {revision}, licence {found.licence or 'unknown'}, sha256 as "
    if entry is not None:
        return Finding(about, "ok", seen + LOCK_NAME)
    if one.pins:
        return Finding(about, "ok", seen + "pinned")
    return Finding(about, "warning", f"{folder}: not in {LOCK_NAME}, so nothing to compare with", how)
