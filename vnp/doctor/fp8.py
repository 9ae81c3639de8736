"""What 8-bit products cost an encoder's own weights: pooled embeddings beside those in float32."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vnp.doctor.finding import Finding, guarded
from vnp.encoders.spec import spec
from vnp.encoders.weights.check import resolve
from vnp.encoders.weights.folders import find_folder
from vnp.encoders.weights.fp8_record import LEAST_COSINE, Fp8Record, weights_digest, write_record
from vnp.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Float32

_LENGTHS = (10, 16, 25, 33, 50, 75, 100, 133, 166, 200, 300, 400, 600, 800, 1000, 1500, 2000)
_OF_EACH = 16
_EXACT_BUDGET = 16_384
_GENOMES = ("viral", "host")


def fp8(name: str, weights: Path | None, device: str = "cuda") -> Finding:
    """Measure what 8 bits cost an encoder's weights, and keep the result where loading looks for it.

    Args:
        name: an ESM2 encoder.
        weights: as in ``vnp.encoders.load``.
        device: a GPU.

    Returns:
        What was found: it fails where the smallest cosine is below ``LEAST_COSINE``.

    Raises:
        UsageError: the encoder has no 8-bit form.
    """
    one = spec(name)
    if one.family != "esm2":
        raise UsageError(f"{name} has no 8-bit form; --precision fp8 runs it in fp16")
    about = f"fp8 {name}"

    def look() -> Finding:
        folder = find_folder(one, weights)
        record = measure(name, folder, device)
        path = write_record(record, folder)
        found = (
            f"smallest cosine to float32 {record.min_cosine:.6f} (at least {LEAST_COSINE}), median "
            f"{record.median_cosine:.6f}, over {record.sequences} sequences on {record.device}; kept in {path}"
        )
        if record.passes:
            return Finding(about, "ok", found)
        return Finding(about, "fails", found, "use --precision fp16 with these weights")

    return guarded(about, look, "8 bits need a Hopper GPU or newer, Triton, and the encoder's weights")


def measure(name: str, folder: Path, device: str) -> Fp8Record:
    """Compare an encoder in 8 bits with padded float32 on the same device.

    Args:
        name: the encoder.
        folder: of its weights.
        device: a GPU.

    Raises:
        EncoderError: 8 bits do not run here.
        WeightsError: the weights are missing, damaged or not the pinned ones.
    """
    import torch

    from vnp import __version__
    from vnp.encoders import from_folder

    one = resolve(spec(name), folder)
    sequences = proteins()
    eight = from_folder(folder, device=device, precision="fp8")
    got = eight.embed(sequences)
    tokens, place = eight.tokens_read, str(eight.device)  # type: ignore[attr-defined]
    del eight
    want = from_folder(folder, device=device, precision="fp32", attention="padded", token_budget=16_384).embed(
        sequences
    )
    cosine = _cosine(got, want)
    return Fp8Record(
        encoder=name,
        weights=weights_digest(one),
        sequences=len(sequences),
        tokens=tokens,
        min_cosine=float(cosine.min()),
        median_cosine=float(np.median(cosine)),
        device=str(torch.cuda.get_device_name(place)),
        torch=torch.__version__,
        code=__version__,
    )


def proteins() -> list[str]:
    """Make proteins of 10 to 2,000 residues from the open frames of the bundled genomes, joined end to end."""
    from vnp.sequences.chunks import Chunking
    from vnp.sequences.frames import open_frames
    from vnp.sequences.reading import read_records

    text = []
    for kind in _GENOMES:
        for path in sorted(Path(str(files("vnp") / "sample" / kind)).iterdir()):
            bases = [record.sequence for record in read_records(path) if record.problem is None]
            frames = open_frames(bases, Chunking(500).cut(np.array([len(each) for each in bases], np.int64)))
            text += [protein.replace("X", "") for protein in frames.proteins()]
    whole = "".join(text)
    steps = np.random.default_rng(0).integers(0, len(whole) - max(_LENGTHS), (len(_LENGTHS), _OF_EACH))
    return [
        whole[start : start + length]
        for length, starts in zip(_LENGTHS, steps.tolist(), strict=True)
        for start in starts
    ]


def _cosine(got: Float32[np.ndarray, "n width"], want: Float32[np.ndarray, "n width"]) -> Float32[np.ndarray, " n"]:
    size = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    cosine: Float32[np.ndarray, " n"] = (got * want).sum(axis=1) / size
    return cosine
