"""An encoder's numbers beside others: those of the published model, and in 8 bits those in float32.

``reference`` is the one place that runs code from a model repository (``trust_remote_code=True``), and only when asked.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vnp import __version__
from vnp.doctor import Finding, fetching, guarded
from vnp.encoders import from_folder
from vnp.encoders.measured import (
    LEAST_COSINE_FP8,
    LEAST_DIFFERENCE_FP8,
    Fp8Record,
    cosines,
    keep_fp8_record,
    weights_digest,
)
from vnp.encoders.spec import EncoderSpec, spec
from vnp.encoders.weights.folders import find_folder, locate_weighted, read_config
from vnp.encoders.weights.lock import resolve
from vnp.errors import UsageError, WeightsError
from vnp.files.extras import install
from vnp.sequences.chunks import Chunking
from vnp.sequences.frames import open_frames
from vnp.sequences.reading import read_records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

_LENGTHS = (10, 16, 25, 33, 50, 75, 100, 133, 166, 200, 300, 400, 600, 800, 1000, 1500, 2000)
_OF_EACH = 16
_EXACT_BUDGET = 16_384
_GENOMES = ("viral", "host")
# Two float32 implementations of 33 layers differ by rounding only; pooled values are around 0.1 to 10.
TOLERANCE = 1e-3
LEAST_COSINE = 0.99999

_SEQUENCES = {
    "protein": (
        "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKR",
        "MSDNEXKLAV",
        "GAVLIPFWMSTCYNQDEKRH" * 12,
    ),
    "dna": (
        "ATGAAAACCGCGTATATTGCGAAACAGCGTCAGATTAGCTTTGTGAAAAGCCATTTTAGC",
        "GATTACANNNRYACGT",
        "ACGTTGCAAGCTTGACCTGATCGGATATCC" * 17,
    ),
}


def reference(name: str, weights: Path | None, device: str = "cpu") -> Finding:
    """Compare the engine with the published model, in float32; see ``TOLERANCE`` and ``LEAST_COSINE``."""
    one = spec(name)
    about = f"reference {name}"
    try:
        folder = find_folder(one, weights)
    except WeightsError as error:
        return Finding(about, "fails", str(error).partition(". ")[0], fetching(name, weights))
    mend = f"{install('reference')}; models whose code is not in the weights folder need internet"
    return guarded(about, lambda: compare(one, folder, device), mend)


def compare(one: EncoderSpec, folder: Path, device: str = "cpu") -> Finding:
    """Compare the engine with the published model in a folder."""
    sequences = _SEQUENCES[one.molecule]
    ours = from_folder(folder, device=device, precision="fp32").embed(sequences)
    theirs = _published(resolve(one, folder), folder, sequences, device)
    largest = float(np.abs(ours - theirs).max())
    cosine = float(cosines(ours, theirs).min())
    found = (
        f"largest difference {largest:.1e} (allowed {TOLERANCE:.0e}), smallest cosine {cosine:.7f} "
        f"(at least {LEAST_COSINE}) over {len(sequences)} sequences"
    )
    good = largest <= TOLERANCE and cosine >= LEAST_COSINE
    mend = "" if good else "do not use these weights with this version; please report it with this line"
    return Finding(f"reference {one.name}", "ok" if good else "fails", found, mend)


def _published(one: EncoderSpec, folder: Path, sequences: Sequence[str], device: str) -> Float32[np.ndarray, "n width"]:
    """Pool the published model's last hidden states, one sequence at a time so that nothing is padded."""
    from transformers import AutoModel, AutoTokenizer

    # A model with code of its own is loaded from where that code is: beside its weights, else on the hub.
    has_code = "auto_map" not in read_config(folder) or any(folder.glob("*.py"))
    source = str(folder) if has_code or one.hub_id is None else one.hub_id
    revision = None if source == str(folder) else one.revision
    options = {"trust_remote_code": True, **({} if revision is None else {"revision": revision})}
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    model = AutoModel.from_pretrained(source, **options).float().to(device).eval()
    rows = []
    with torch.inference_mode():
        for sequence in sequences:
            ids = torch.tensor([tokenizer(sequence)["input_ids"]], device=device)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
            hidden = output[0][0].float()
            kept = hidden[1:-1] if one.pooling == "residues" else hidden
            rows.append(kept.mean(dim=0).cpu().numpy())
    return np.stack(rows)


def fp8(name: str, weights: Path | None, device: str = "cuda") -> Finding:
    """Measure what 8 bits cost an encoder's weights, and keep the result where loading looks for it.

    ``name`` is that of the encoder, or its folder; ``device`` is a GPU.

    Raises:
        UsageError: there is no such encoder, or it has no 8-bit form.
    """
    with suppress(WeightsError):
        if locate_weighted(name, weights)[0].family.eight_bits is None:
            raise UsageError(f"{name} has no 8-bit form; --precision fp8 runs it in fp16")
    about = f"fp8 {name}"

    def look() -> Finding:
        one, given = locate_weighted(name, weights)
        folder = find_folder(one, given or weights)
        record = measure(resolve(one, folder), folder, device)
        path = keep_fp8_record(record, folder)
        found = (
            f"smallest cosine to float32 {record.min_cosine:.6f} (at least {LEAST_COSINE_FP8}), median "
            f"{record.median_cosine:.6f}, smallest of what sets sequences apart {record.min_difference:.5f} (at least "
            f"{LEAST_DIFFERENCE_FP8}), over {record.sequences} sequences on {record.device}; kept in {path}"
        )
        if record.passes:
            return Finding(about, "ok", found)
        return Finding(about, "fails", found, "use --precision fp16 with these weights")

    return guarded(about, look, "8 bits need a Hopper GPU or newer, Triton, and the encoder's weights")


def measure(one: EncoderSpec, folder: Path, device: str) -> Fp8Record:
    """Compare an encoder, with the digests of its weights, in 8 bits with padded float32 on the same device."""
    sequences = proteins()
    eight = from_folder(folder, device=device, precision="fp8")
    got = eight.embed(sequences)
    tokens, place = eight.tokens_read, str(eight.device)  # type: ignore[attr-defined]
    del eight
    exact = from_folder(folder, device=device, precision="fp32", attention="padded", token_budget=_EXACT_BUDGET)
    want = exact.embed(sequences)
    cosine = cosines(got, want)
    return Fp8Record(
        encoder=one.name,
        weights=weights_digest(one),
        sequences=len(sequences),
        tokens=tokens,
        min_cosine=float(cosine.min()),
        median_cosine=float(np.median(cosine)),
        min_difference=float(cosines(got, want, apart=True).min()),
        device=str(torch.cuda.get_device_name(place)),
        torch=torch.__version__,
        code=__version__,
    )


def proteins() -> list[str]:
    """Make proteins of 10 to 2,000 residues from the open frames of the bundled genomes, joined end to end."""
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
