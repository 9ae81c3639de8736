"""Looks into pickles without running them."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

VIRNUCPRO_CLASS = ("__main__", "MLPClassifier")
_LEGACY_STREAMS = 4
_MOST_BYTES = 64 << 20


def is_virnucpro(path: Path) -> bool:
    """Whether a file is a classifier that VirNucPro saved: a pickled object of its class in ``__main__``."""
    try:
        with path.open("rb") as file:
            return VIRNUCPRO_CLASS in set(_names(file))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return False


def _names(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Modules and names that the pickles of a torch file mention."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        # PyTorch before 1.6: a number, a version, the system, then the object, each a pickle.
        for _ in range(_LEGACY_STREAMS):
            yield from _names_of_one(file)
        return
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("/data.pkl") and entry.file_size <= _MOST_BYTES:
                with archive.open(entry) as inner:
                    yield from _names_of_one(inner)


def _names_of_one(file: IO[bytes]) -> Iterator[tuple[str, str]]:
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and isinstance(argument, str):
            module, _, name = argument.partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
            yield texts[-2], texts[-1]
        if isinstance(argument, str) and "UNICODE" in opcode.name:
            texts.append(argument)
