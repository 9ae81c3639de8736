"""Whether a model's own weights bear bfloat16 on this processor, and are faster in it: measured once, and kept."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vnp.encoders.build import build, read_state
from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.measured import LEAST_COSINE_FP8, LEAST_DIFFERENCE_FP8, cosines, weights_digest
from vnp.encoders.spec import EncoderSpec
from vnp.encoders.tokens.tokenizers import load_tokenizer
from vnp.encoders.weights.folders import read_config
from vnp.errors import RunError, StorageError
from vnp.files.claims import make_folder
from vnp.files.hashing import json_sha256
from vnp.files.machine import cache_folder, processor_name
from vnp.files.records import read_record, write_record

log = logging.getLogger(__name__)

LEAST_TIMES = 1.2
"""Below it, rounding is not worth it."""
_SCHEMA = "vnp-bf16/1"
_LETTERS = {"protein": "ACDEFGHIKLMNPQRSTVWY", "dna": "ACGT"}
_LENGTHS = (34, 50, 67, 80, 99, 100, 120, 150)
_TURNS = 2


@dataclass(frozen=True, slots=True)
class HalfRecord:
    """What was measured."""

    encoder: str  # its name
    weights: str  # digest of the weights and of what in their configuration changes numbers
    processor: str  # its name
    threads: int  # of torch
    torch: str  # its version
    min_cosine: float  # smallest cosine between a sequence's pooled embedding in bfloat16 and that in float32
    min_difference: float  # the smallest, of what sets each embedding apart from the mean of all
    times: float  # as fast as float32, best of turns

    @property
    def passes(self) -> bool:
        """Whether ``auto`` is bfloat16 here."""
        close = self.min_cosine >= LEAST_COSINE_FP8 and self.min_difference >= LEAST_DIFFERENCE_FP8
        return close and self.times >= LEAST_TIMES


def bears_bf16(spec: EncoderSpec, folder: Path) -> bool:
    """Whether a model is computed in bfloat16 on this processor where nobody says; measured if it is not known.

    The spec has the digests of the weights in the folder.
    """
    if spec.family.tokenizer == "none":
        return False
    of = {"weights": weights_digest(spec), "processor": processor_name(), "torch": torch.__version__,
          "threads": torch.get_num_threads()}  # fmt: skip
    path: Path | None = None
    with suppress(StorageError):
        path = cache_folder("bf16") / f"{json_sha256(of)[:32]}.json"
    found = None
    if path is not None:
        with suppress(RunError):
            found = read_record(path, HalfRecord, schema=_SCHEMA, seal="digest")
    if found is None:
        found = measure_half(spec, folder)
        # Where it cannot be kept it is measured again, nothing else.
        with suppress(OSError, StorageError):
            if path is not None:
                make_folder(path.parent)
                write_record(path, found, schema=_SCHEMA, seal="digest")
    log.info(
        "%s in bf16 on %s: smallest cosine %.5f, of differences %.4f, %.2f times as fast as float32: %s",
        spec.name, found.processor, found.min_cosine, found.min_difference, found.times,
        "used" if found.passes else "not used",
    )  # fmt: skip
    return found.passes


def measure_half(spec: EncoderSpec, folder: Path) -> HalfRecord:
    """Embed made-up sequences in float32 and bfloat16, in turns; WeightsError where weights are missing or damaged."""
    state, config = read_state(folder, spec.pins), read_config(folder)
    tokenizer = load_tokenizer(folder, spec.family.tokenizer)

    def made(precision: str) -> TransformerEncoder:
        return build(config, state, tokenizer, spec, device="cpu", precision=precision)

    chance = np.random.default_rng(0)
    letters = list(_LETTERS[spec.molecule])
    scale = 1 if spec.molecule == "protein" else 3
    sequences = ["".join(chance.choice(letters, scale * length)) for length in _LENGTHS]
    encoders = {precision: made(precision) for precision in ("fp32", "bf16")}
    rows, seconds = {}, dict.fromkeys(encoders, np.inf)
    for _ in range(_TURNS + 1):
        for precision, encoder in encoders.items():
            began = time.perf_counter()
            # The first turn warms up, and is slower than those that count.
            rows[precision] = encoder.embed(sequences)
            seconds[precision] = min(seconds[precision], time.perf_counter() - began)
    return HalfRecord(
        spec.name, weights_digest(spec), processor_name(), torch.get_num_threads(), torch.__version__,
        float(cosines(rows["bf16"], rows["fp32"]).min()), float(cosines(rows["bf16"], rows["fp32"], apart=True).min()),
        round(seconds["fp32"] / seconds["bf16"], 3),
    )  # fmt: skip
