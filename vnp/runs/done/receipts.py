"""Receipts: what proves that a shard is done.

A receipt is written last, once, after its shard file is safe on the disk. Its bytes are the one spelling of its
content and carry a digest of it, so that any damaged bit shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vnp.errors import DamagedShardError
from vnp.files.records import canonical_json, write_json

SCHEMA = "vnp-receipt/1"
_DIGEST_LINE = re.compile(rb'^  "digest": "([0-9a-f]{64})",\n', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one sealed shard is and how it came about.

    Args:
        run: digest of the run's request.
        shard: its number.
        file: name of the shard file.
        size: its bytes.
        sha256: of its bytes.
        rows: rows in it.
        records: input records it speaks of.
        units: chunks it covers.
        skipped: entries without a row by reason.
        ids_sha256: of the ids, a line feed after each.
        start: place of its first unit.
        widths: columns of each number array.
        dtype: of the numbers.
        projections: name of the projection of each array that is one.
        encoders: identities of both encoders as they ran, precision included.
        attempt: which attempt finished it, 1-based.
        host: name of the machine.
        job: Slurm or local job id, if any.
        devices: names of the GPUs that its blocks were embedded on, or ``cpu``.
        kernels: the attention kernel of each encoder.
        seconds: time of each phase, summed over its blocks whichever attempt made them, and of sealing; those
            of ``weights`` and ``gpu`` are part of others.
        tokens: tokens that each encoder read.
        events: what happened on the way, such as a halved token budget.
        started: UTC, ISO 8601.
        finished: UTC, ISO 8601.
        versions: of vnp and the libraries.
    """

    run: str
    shard: int
    file: str
    size: int
    sha256: str
    rows: int
    records: int
    units: int
    skipped: dict[str, int]
    ids_sha256: str
    start: dict[str, int]
    widths: dict[str, int]
    dtype: str
    projections: dict[str, str]
    encoders: dict[str, dict[str, Any]]
    attempt: int
    host: str
    job: str | None
    devices: list[str]
    kernels: dict[str, str]
    seconds: dict[str, float]
    tokens: dict[str, int]
    events: list[str]
    started: str
    finished: str
    versions: dict[str, str]

    def write(self, path: Path) -> None:
        """Write the receipt durably; the first writer wins.

        Raises:
            FileExistsError: there is one.
            StorageError: the disk is full or cannot be written.
        """
        body = {"schema": SCHEMA, **asdict(self)}
        write_json(path, {**body, "digest": _digest(body)}, exclusive=True)

    @classmethod
    def read(cls, path: Path) -> Receipt | None:
        """Read a receipt.

        Returns:
            The receipt, or None if there is none.

        Raises:
            DamagedShardError: the file is not a receipt as it was written.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        # The digest stands in a line of its own, and is that of the file without the line.
        before, found, digest, after = _split(content)
        if not found or hashlib.sha256(before + after).hexdigest().encode() != digest:
            raise DamagedShardError(f"{path} is damaged")
        body = json.loads(content)
        del body["digest"]
        if body.pop("schema") != SCHEMA:
            raise DamagedShardError(f"{path} is of another version of vnp")
        return cls(**body)


def _split(content: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """What is before the line with the digest, the line, the digest, and what is after; empty where there is none."""
    match = _DIGEST_LINE.search(content)
    return (content[: match.start()], match[0], match[1], content[match.end() :]) if match else (b"", b"", b"", b"")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
