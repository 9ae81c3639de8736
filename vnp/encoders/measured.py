"""What was measured on a user's machine and is kept: token budgets, and what 8 bits cost an encoder's own weights.

Budgets are in one JSON file of the user's, by name of the GPU or processor, encoder and precision: ``benchmark speed
--tune`` writes them, encoders read them. A file that is damaged counts as none: a budget changes how fast an encoder
is, and never what it computes beyond rounding.

Rounding to 8 bits costs each model's weights something else, and random weights say nothing of it. So ``doctor --fp8``
compares pooled embeddings in 8 bits with those in float32 and keeps the result beside the weights, tied to their
SHA-256; without a result that passes, an encoder is not loaded in 8 bits. What embeddings have in common is most of
them, and tells a classifier nothing, so what sets each apart from their mean is compared as well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import numpy as np
from jaxtyping import Float32, Float64

from vnp.encoders.spec import EncoderSpec
from vnp.errors import EncoderError, RunError, StorageError
from vnp.files.claims import make_folder
from vnp.files.hashing import json_sha256
from vnp.files.machine import cache_folder, settings_folder
from vnp.files.records import read_record, write_record

log = logging.getLogger(__name__)

BUDGETS_NAME = "token_budgets.json"
_BUDGETS_SCHEMA = "vnp-token-budgets/1"
RECORD_NAME = "fp8.json"
_RECORD_SCHEMA = "vnp-fp8/2"
LEAST_COSINE_FP8, LEAST_DIFFERENCE_FP8 = 0.999, 0.99


@dataclass(frozen=True, slots=True)
class TunedBudget:
    """What was found best."""

    tokens: int  # of a batch
    tokens_per_second: float  # that it gave
    peak_gib: float | None  # memory that it took, weights included; None where that is not known
    measured: str  # when, in UTC, ISO 8601
    torch: str  # version that it was measured with
    threads: int | None = None  # of a task on a CPU, when tasks share out its cores; None where that was not measured


@dataclass(frozen=True, slots=True)
class _Budgets:
    budgets: dict[str, dict[str, dict[str, TunedBudget]]]


def tuned_path() -> Path:
    """Say where budgets are kept: ``token_budgets.json`` in the user's folder of settings."""
    return settings_folder() / BUDGETS_NAME


def read_tuned(device_name: str, encoder: str, precision: str) -> int | None:
    """Tokens of a batch that were measured as best, or None if nobody did; a file that cannot be used is a warning."""
    found = _read_budgets(tuned_path()).get(device_name, {}).get(encoder, {}).get(precision)
    return None if found is None else found.tokens


def read_tuned_threads(device_name: str, encoder: str, precision: str) -> TunedBudget | None:
    """What was measured of how many threads a task on a CPU should have; of any precision, the latest, for ``auto``."""
    found = _read_budgets(tuned_path()).get(device_name, {}).get(encoder, {})
    good = [one for name, one in found.items() if one.threads and precision in (name, "auto")]
    return max(good, key=lambda one: one.measured, default=None)


def write_tuned(device_name: str, encoder: str, precision: str, budget: TunedBudget) -> Path:
    """Keep a budget; what is known of other devices, encoders and precisions stays."""
    path = tuned_path()
    make_folder(path.parent)
    budgets = _read_budgets(path)
    budgets.setdefault(device_name, {}).setdefault(encoder, {})[precision] = budget
    write_record(path, _Budgets(budgets), schema=_BUDGETS_SCHEMA, seal="digest")
    return path


def _read_budgets(path: Path) -> dict[str, dict[str, dict[str, TunedBudget]]]:
    """The budgets of a file; empty if there is none or it cannot be used."""
    try:
        found = read_record(path, _Budgets, schema=_BUDGETS_SCHEMA, seal="digest", older=True, remedy="measure again")
        budgets = {} if found is None else found.budgets
        if any(
            one.tokens < 1 or (one.threads or 1) < 1
            for named in budgets.values()
            for kinds in named.values()
            for one in kinds.values()
        ):
            raise RunError(f"{path}: a budget in it is not a number of tokens")
    except RunError as error:
        log.warning("%s is ignored (%s): measure again with python -m jobs.benchmark speed --tune", path, error)
        return {}
    return budgets


@dataclass(frozen=True, slots=True)
class Fp8Record:
    """What was measured."""

    encoder: str  # its name
    weights: str  # digest of the weights and of what in their configuration changes numbers
    sequences: int  # how many were compared
    tokens: int  # how many those had
    min_cosine: float  # smallest cosine between a sequence's pooled embedding in 8 bits and that in float32
    median_cosine: float  # the median
    min_difference: float  # the smallest, of what sets each embedding apart from the mean of all
    device: str  # name of the GPU
    torch: str  # its version
    code: str  # version of vnp

    @property
    def passes(self) -> bool:
        """Whether the encoder may be used in 8 bits."""
        return self.min_cosine >= LEAST_COSINE_FP8 and self.min_difference >= LEAST_DIFFERENCE_FP8


def cosines(
    got: Float32[np.ndarray, "n width"], want: Float32[np.ndarray, "n width"], *, apart: bool = False
) -> Float64[np.ndarray, " n"]:
    """Cosine between rows of the same number; NaN where a number is not finite.

    With ``apart``, between what sets each row apart from the mean of its own: what a classifier sees.
    """
    a, b = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        if apart:
            a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        found: Float64[np.ndarray, " n"] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return found


def weights_digest(spec: EncoderSpec) -> str:
    """Digest of what a resolved encoder computes with: weight files and configuration."""
    return json_sha256({"weights": dict(spec.weights), "config": spec.config_digest})


def keep_fp8_record(record: Fp8Record, folder: Path) -> Path:
    """Keep a measurement beside the weights, else in the user's cache; StorageError where neither can be written."""
    beside, own = _places(folder, record.weights)
    try:
        write_record(beside, record, schema=_RECORD_SCHEMA, seal="digest")
    except (StorageError, OSError):
        make_folder(own.parent)
        write_record(own, record, schema=_RECORD_SCHEMA, seal="digest")
        return own
    return beside


def require_fp8_record(spec: EncoderSpec, folder: Path) -> None:
    """Make sure that a measurement on these weights, whose digests the spec has, allows 8 bits.

    Raises:
        EncoderError: there is none, or it does not pass; the message says what to run or to use.
    """
    digest = weights_digest(spec)
    found = [
        record for path in _places(folder, digest) if (record := _read_fp8_record(path)) and record.weights == digest
    ]
    if not found:
        name = spec.name if spec.hub_id else quote(str(folder))
        raise EncoderError(
            f"{spec.name}: nobody measured what 8 bits cost these weights. On a machine with a Hopper GPU or newer "
            f"run: python -m jobs.doctor --fp8 {name}, or use --precision fp16"
        )
    if not any(record.passes for record in found):
        worst = min(found, key=lambda record: record.min_cosine)
        raise EncoderError(
            f"{spec.name}: with these weights 8 bits give a smallest cosine to float32 of {worst.min_cosine:.5f} (at "
            f"least {LEAST_COSINE_FP8}), of what sets sequences apart {worst.min_difference:.4f} (at least "
            f"{LEAST_DIFFERENCE_FP8}): use --precision fp16"
        )


def _places(folder: Path, digest: str) -> tuple[Path, Path]:
    return folder / RECORD_NAME, cache_folder("fp8") / f"{digest}.json"


def _read_fp8_record(path: Path) -> Fp8Record | None:
    """A record that is there and whole; what is damaged counts as none."""
    try:
        return read_record(path, Fp8Record, schema=_RECORD_SCHEMA, seal="digest", older=True)
    except RunError:
        return None
