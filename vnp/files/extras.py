"""Libraries that only some commands need, and how to install them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from shlex import quote
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

from vnp.errors import UsageError
from vnp.files.records import parse_json

_HERE = Path(__file__).resolve().parents[2]
Extra = Literal["parquet", "dedupe", "dataset", "tensorboard", "reference"]
EXTRAS: dict[Extra, tuple[str, ...]] = {
    "parquet": ("pyarrow.parquet",),
    "dedupe": ("pyskani",),
    "dataset": ("gb_io", "pyarrow.parquet", "pyskani"),
    "tensorboard": ("torch.utils.tensorboard",),
    "reference": ("transformers", "einops"),
}
"""Modules that each extra of the package brings."""
assert set(EXTRAS) == set(get_args(Extra))


def require_extra(extra: Extra, asked_by: str, otherwise: str = "", needs: Sequence[str] = ()) -> None:
    """Make sure that libraries of an extra are here: the modules that it ``needs``, or all of the extra's.

    ``asked_by`` is what needs it, an option or a file; ``otherwise`` stands behind the command that installs it.

    Raises:
        UsageError: some are not; it names all of them, and a command that can be typed as it stands.
    """
    missing = []
    for name in needs or EXTRAS[extra]:
        try:
            import_module(name)
        except ImportError:
            missing.append(name.partition(".")[0] if extra != "tensorboard" else extra)
    if missing:
        raise UsageError(f"{asked_by} needs {' and '.join(missing)}, not installed here: {install(extra)}{otherwise}")


def install(extra: Extra) -> str:
    """The command that installs an extra: of this checkout, of what vnp was installed from, or by its name."""
    source = "vnp"
    if (_HERE / "pyproject.toml").is_file():
        source = "." if _HERE.samefile(".") else str(_HERE)
    else:
        try:
            text = distribution("vnp").read_text("direct_url.json")
        except PackageNotFoundError:
            text = None
        parts = urlsplit(parse_json(text)["url"] if text else "")
        if parts.scheme == "file" and Path(unquote(parts.path)).exists():
            source = unquote(parts.path)
    return f"pip install {quote(f'{source}[{extra}]')}"
