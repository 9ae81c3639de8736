"""What a measurement on the user's own weights said of 8-bit products, and the refusal to use them without one.

Rounding to 8 bits costs each model's weights something else, and random weights say nothing of it. So ``doctor --fp8``
compares pooled embeddings in 8 bits with those in float32 and keeps the result beside the weights, tied to their
SHA-256; without a result that passes, an encoder is not loaded in 8 bits.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from vnp.encoders.spec import EncoderSpec
from vnp.errors import EncoderError, StorageError
from vnp.files.records import canonical_json, write_json

SCHEMA = "vnp-fp8/1"
FILE_NAME = "fp8.json"
LEAST_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class Fp8Record:
    """What was measured.

    Attributes:
        encoder: its name.
        weights: digest of the weights and of what in their configuration changes numbers.
        sequences: how many were compared.
        tokens: how many those had.
        min_cosine: smallest cosine between a sequence's pooled embedding in 8 bits and that in float32.
        median_cosine: the median.
        device: name of the GPU.
        torch: its version.
        code: version of vnp.
    """

    encoder: str
    weights: str
    sequences: int
    tokens: int
    min_cosine: float
    median_cosine: float
    device: str
    torch: str
    code: str

    @property
    def passes(self) -> bool:
        """Whether the encoder may be used in 8 bits."""
        return self.min_cosine >= LEAST_COSINE


def weights_digest(spec: EncoderSpec) -> str:
    """Digest of what a resolved encoder computes with: weight files and configuration."""
    return hashlib.sha256(canonical_json({"weights": dict(spec.weights), "config": spec.config_digest})).hexdigest()


def write_record(record: Fp8Record, folder: Path) -> Path:
    """Keep a measurement: beside the weights or, where that folder cannot be written, in the user's cache.

    Returns:
        The file.

    Raises:
        StorageError: neither can be written.
    """
    body = {"schema": SCHEMA, **asdict(record)}
    beside, own = _places(folder, record.weights)
    try:
        write_json(beside, body)
    except (StorageError, OSError):
        own.parent.mkdir(parents=True, exist_ok=True)
        write_json(own, body)
        return own
    return beside


def require_record(spec: EncoderSpec, folder: Path) -> None:
    """Make sure that a measurement on these weights allows 8 bits.

    Args:
        spec: the encoder, with the digests of its weights.
        folder: of its weights.

    Raises:
        EncoderError: there is none, or it does not pass; the message says what to run or to use.
    """
    digest = weights_digest(spec)
    found = [record for path in _places(folder, digest) if (record := _read(path)) and record.weights == digest]
    if not found:
        raise EncoderError(
            f"{spec.name}: nobody measured what 8 bits cost these weights. On a machine with a Hopper GPU or newer "
            f"run: python -m jobs.doctor --fp8 {spec.name}, or use --precision fp16"
        )
    if not any(record.passes for record in found):
        worst = min(record.min_cosine for record in found)
        raise EncoderError(
            f"{spec.name}: with these weights 8 bits give a smallest cosine to float32 of {worst:.5f}, "
            f"below {LEAST_COSINE}: use --precision fp16"
        )


def _places(folder: Path, digest: str) -> tuple[Path, Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vnp" / "fp8"
    return folder / FILE_NAME, cache / f"{digest}.json"


def _read(path: Path) -> Fp8Record | None:
    """A record that is there and whole; what is damaged counts as none."""
    try:
        stored = json.loads(path.read_bytes())
        if stored.pop("schema") != SCHEMA:
            return None
        record = Fp8Record(**stored)
        return record if isinstance(record.min_cosine, float) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
