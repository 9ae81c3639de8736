"""What tells one state of this code from another, written into an image when it is built and compared on submission.

``python -m jobs._cluster.labels`` prints the lines that go into the image.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import jobs
import vnp

VERSION = "org.opencontainers.image.version"
REVISION = "org.opencontainers.image.revision"
CODE = "vnp.code"


def code_digest() -> str:
    """SHA-256 over the names and bytes of all Python files of ``vnp`` and ``jobs``, wherever they are installed."""
    digest = hashlib.sha256()
    for package in (Path(vnp.__file__).parent, Path(jobs.__file__).parent):
        for path in sorted(package.rglob("*.py")):
            content = path.read_bytes()
            name = path.relative_to(package.parent).as_posix()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def main() -> None:
    """Print a line for each label: its name, a space, and its value."""
    sys.stdout.write(f"{VERSION} {vnp.__version__}\n{CODE} {code_digest()}\n")


if __name__ == "__main__":
    main()
