"""Tasks inside an Apptainer image: the command that starts them, and what is looked at before they are submitted.

``python -m jobs._cluster.image`` prints the labels that go into an image when it is built: what tells one state of this
code from another, and is compared on submission.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import vnp
from jobs._cli.command import echo
from jobs._cluster.profile import Resources
from vnp.errors import UsageError, VnpError
from vnp.files.hashing import code_digest
from vnp.files.records import parse_json

VERSION = "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"
CODE = "vnp.code"
CACHE = "VNP_CACHE"
"""Variable that names a writable folder for what tasks compile; the image knows it as ``/cache``."""

# To bind these would hide what the image itself needs.
_OWN_FOLDERS = {"/", "/opt", "/run", "/var"}
_OWN_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/opt/vnp", "/proc", "/sbin", "/sys", "/usr")
_LOOK = 'while IFS= read -r path; do if ! [ -r "$path" ]; then printf "%s\\n" "$path"; fi; done'
_MOST_LINKS = 40
_SECONDS_TO_ANSWER = 120


def python_command(wanted: Resources, paths: Sequence[Path]) -> str:
    """Shell text that starts the image's Python, with ``paths`` at the same place inside."""
    gpu = ["--nv"] if wanted.gpus or wanted.gres else []
    cache = _cache(wanted)
    binds = [*same_paths(paths), *([f"{cache}:/cache"] if cache else []), *wanted.binds]
    words = ["apptainer", "exec", *gpu, *_options(binds), image_of(wanted)]
    return " ".join(shlex.quote(word) for word in [*words, "python"])


def image_of(wanted: Resources) -> str:
    if "://" in wanted.image:
        raise UsageError(
            f"image = {wanted.image!r}: every task would fetch it anew; fetch it once with apptainer pull vnp.sif "
            f"{wanted.image}, and name the file"
        )
    return str(Path(wanted.image).expanduser().absolute())


def check_place(wanted: Resources, paths: Sequence[Path] = ()) -> None:
    """Make sure that tasks find there what they need: an image of this code with all paths in sight, or libraries.

    Where Apptainer is on compute nodes only, what it would have to say is not checked.

    Raises:
        UsageError: the image is missing or holds other code, a path is not visible inside, or there is no image and
            this Python, which would run the tasks, lacks the libraries.
    """
    if not wanted.image:
        needed = ("numpy", "h5py", "zstandard", "isal", "jaxtyping")
        if not all(find_spec(name) for name in needed):
            raise UsageError(
                "tasks would run with this Python, which lacks vnp's libraries: name an image in the profile, or "
                "install vnp with its dependencies"
            )
        return
    check_image(image_of(wanted))
    cache = _cache(wanted)
    if cache:
        # What is not there cannot be bound.
        cache.mkdir(parents=True, exist_ok=True)
    if paths and _has_apptainer():
        _require_visible(wanted, paths)


@cache
def check_image(image: str) -> None:
    """Make sure that an image is there and holds this code."""
    if not Path(image).exists():
        raise UsageError(f"there is no image {image}: build it with make image, or correct `image` in the profile")
    if not _has_apptainer():
        echo(f"no apptainer on PATH here: whether {image} fits is not checked", err=True)
        return
    labels = _labels(image)
    version = labels.get(VERSION)
    if version is None or CODE not in labels:
        raise UsageError(f"{image} is no image of vnp: it lacks the labels {VERSION} and {CODE}")
    if version != vnp.__version__:
        raise UsageError(
            f"{image} holds vnp {version}, and this is vnp {vnp.__version__}: submit with the same version, or "
            "build the image anew with make image"
        )
    if labels[CODE] != code_digest():
        raise UsageError(
            f"{image} holds other code than this, though both are vnp {version} (it was built from commit "
            f"{labels.get(REVISION, 'unknown')}): build it anew with make image, or submit from that code"
        )


def _labels(image: str) -> dict[str, str]:
    done = subprocess.run(
        ["apptainer", "inspect", "--json", "--labels", image],
        capture_output=True,
        text=True,
        timeout=_SECONDS_TO_ANSWER,
    )
    try:
        found: dict[str, str] = parse_json(done.stdout)["data"]["attributes"]["labels"] or {}
    except (ValueError, KeyError, TypeError):
        words = done.stderr.strip().splitlines()
        raise UsageError(f"{image} is no image that Apptainer reads: {words[-1] if words else 'no word'}") from None
    return found


def run_in_image(wanted: Resources, paths: Sequence[Path], words: Sequence[str], given: str) -> str:
    """Run a program in an image on this machine, and give what it prints to the input ``given``.

    Its errors and progress go where this process's go.

    Raises:
        SystemExit: it ended with a code of ours, and has said why.
        VnpError: it could not be started.
    """
    command = ["apptainer", "exec", *_binds_here(wanted, paths), image_of(wanted), *words]
    try:
        done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise VnpError(
            f"apptainer cannot be started here ({error.strerror}), and this needs its image: try --plan-job"
        ) from error
    if done.returncode in (1, 2, 3):
        raise SystemExit(done.returncode)
    if done.returncode:
        raise VnpError(f"{shlex.join(command)} ended with {done.returncode}")
    return done.stdout


def same_paths(paths: Iterable[Path]) -> list[str]:
    """What to bind so that paths are the same inside.

    A file's folder is bound, and that of what a link leads to, but never one that the image has: then the file alone.

    Raises:
        UsageError: a folder would hide the image's own, or has a name that cannot be written.
    """
    found = {_place(step) for path in paths for step in _steps(path)}
    for place in found:
        if set(":,") & set(str(place)):
            raise UsageError(f"{place}: Apptainer takes : and , in a path for separators; choose another name")
    return [str(place) for place in sorted(found) if not any(parent in found for parent in place.parents)]


def _steps(path: Path) -> Iterator[Path]:
    """A path and, where it is a link, everything on the way to what it means."""
    step = path.absolute()
    for _ in range(_MOST_LINKS):
        yield step
        if not step.is_symlink():
            break
        step = Path(os.path.normpath(step.parent / step.readlink()))
    yield path.resolve()


def _place(path: Path) -> Path:
    """The folder to bind for a path, or the file itself."""
    folder = path.parent if path.is_file() else path
    text = str(folder)
    if text not in _OWN_FOLDERS and not any(text == tree or text.startswith(f"{tree}/") for tree in _OWN_TREES):
        return folder
    if path.is_file():
        return path
    raise UsageError(f"{path} cannot be used in an image, which has a {folder} of its own: choose another folder")


def _cache(wanted: Resources) -> Path | None:
    name = wanted.environment.get(CACHE) or os.environ.get(CACHE)
    return Path(name).absolute() if name else None


def _options(binds: Iterable[str]) -> list[str]:
    return [word for bind in binds for word in ("--bind", bind)]


def _binds_here(wanted: Resources, paths: Sequence[Path]) -> list[str]:
    """Options for all binds, without those of the site that only compute nodes have."""
    return _options([*same_paths(paths), *(bind for bind in wanted.binds if Path(bind.partition(":")[0]).exists())])


def _require_visible(wanted: Resources, paths: Sequence[Path]) -> None:
    """Look from inside whether paths can be read."""
    done = subprocess.run(
        ["apptainer", "--quiet", "exec", *_binds_here(wanted, paths), image_of(wanted), "sh", "-c", _LOOK],
        input="".join(f"{path.absolute()}\n" for path in paths),
        capture_output=True,
        text=True,
        timeout=_SECONDS_TO_ANSWER,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise UsageError(f"{image_of(wanted)} cannot be started here: {words[-1] if words else 'no word'}")
    hidden = done.stdout.splitlines()
    if hidden:
        raise UsageError(
            f"{hidden[0]} is outside of everything that is bound into {wanted.image}"
            + (f", and so are {len(hidden) - 1} more" if len(hidden) > 1 else "")
            + ": add its folder to `binds` in the profile"
        )


@cache
def _has_apptainer() -> bool:
    return shutil.which("apptainer") is not None


def main() -> None:
    """Print a line for each label: its name, a space, and its value."""
    sys.stdout.write(f"{VERSION} {vnp.__version__}\n{CODE} {code_digest()}\n")


if __name__ == "__main__":
    main()
