"""Tensors and text in one file, as ``torch.save`` packs them, and checked when they are read.

``torch.load`` compares nothing with anything: a flipped bit becomes a weight. Two things tell. The zip archive that
torch writes has a CRC-32 of each member, whoever wrote it. And what vnp writes carries a digest of its content.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vnp.files.durable import creating, replacing
from vnp.files.hashing import crc32
from vnp.files.records import require_regular

if TYPE_CHECKING:
    import torch

_SEAL = "content_sha256"


def save_tensors(path: Path, content: Mapping[str, Any], *, sealed: bool = True, exclusive: bool = False) -> None:
    """Write tensors, text, numbers, lists and dictionaries of them durably, the same bytes every time.

    ``sealed`` adds the digest, over which programs that look at every name in a file would stumble.

    Raises:
        FileExistsError: ``exclusive`` and the file is there.
        StorageError: the disk is full or cannot be written.
    """
    import torch

    whole = {**content, _SEAL: _digest(content)} if sealed else dict(content)
    # By a file that is open: torch would put the name of any other into it.
    with (creating if exclusive else replacing)(path) as temporary, temporary.open("xb") as file:
        try:
            torch.save(whole, file)
        except RuntimeError as error:
            # torch reports a write that failed as an error of its own and keeps the system's behind it.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def load_tensors(source: Path | bytes, device: str | torch.device = "cpu") -> Any:
    """What a file of torch's holds, or its bytes do; nothing in it can run.

    Returns:
        What was saved, without the digest.

    Raises:
        OSError: the file cannot be read.
        ValueError: it was changed after it was written.
        Exception: anything at all, as torch raises it of what is no file of its own or holds more than data.
    """
    import torch

    require_intact(source)
    opened = source if isinstance(source, Path) else io.BytesIO(source)
    content = torch.load(opened, map_location=device, weights_only=True)
    if isinstance(content, dict) and _SEAL in content:
        seal = content.pop(_SEAL)
        if seal != _digest(content):
            raise ValueError("it was changed after it was written")
    return content


def require_intact(source: Path | bytes) -> None:
    """Compare a zip archive with the sums in it; torch before 1.6 wrote none, and no archive.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    if isinstance(source, Path):
        require_regular(source)
    opened = source if isinstance(source, Path) else io.BytesIO(source)
    if not zipfile.is_zipfile(opened):
        return
    try:
        with zipfile.ZipFile(opened) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    if damaged is not None:
        raise ValueError(f"it is damaged ({damaged} is not what was written)")


def _digest(content: Any) -> str:
    digest = hashlib.sha256()
    _take(content, digest)
    return digest.hexdigest()


def _take(value: Any, digest: Any) -> None:
    import torch

    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{tuple(plain.shape)} {plain.dtype} ".encode())
        digest.update(crc32(plain.reshape(-1).view(torch.uint8).numpy()).to_bytes(4, "little"))
    elif isinstance(value, Mapping):
        digest.update(f"{len(value)} names ".encode())
        for name, one in value.items():
            digest.update(f"{name!r} ".encode())
            _take(one, digest)
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} values ".encode())
        for one in value:
            _take(one, digest)
    else:
        digest.update(f"{value!r} ".encode())
