"""Small HDF5 files, built in memory and written in one piece.

On a full disk HDF5 prints tracebacks of its own and can crash the process while it closes the file. Plain writing
only raises ``OSError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


@contextmanager
def whole_file(path: Path) -> Iterator[h5py.File]:
    """Make a new file; it is written when the block ends well.

    Args:
        path: file to create.

    Yields:
        The file to fill. It must fit into memory.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    with path.open("xb") as written:
        written.write(image)
