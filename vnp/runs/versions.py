"""Versions of what decides numbers, for receipts and provenance."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from vnp import __version__

_PACKAGES = ("torch", "numpy", "scipy", "h5py", "scikit-learn", "tokenizers")


def versions() -> dict[str, str]:
    """Versions of vnp, Python and the libraries that are installed; imports none of them."""
    return dict(_found())


@cache
def _found() -> dict[str, str]:
    found = {"vnp": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
