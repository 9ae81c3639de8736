"""The published model beside ours: the same sequences, the same numbers?

This is the one place that runs code from a model repository (``trust_remote_code=True``), and only when asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vnp.doctor.finding import Finding, guarded
from vnp.encoders.spec import EncoderSpec, spec
from vnp.encoders.weights.check import resolve
from vnp.encoders.weights.folders import find_folder, read_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float32

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
    """Compare the engine with the published model, in float32.

    Args:
        name: the encoder.
        weights: as in ``vnp.encoders.load``.
        device: where both run.

    Returns:
        What was found: it fails if a pooled value differs by more than ``TOLERANCE`` or a cosine is below
        ``LEAST_COSINE``.

    Raises:
        UsageError: no encoder has this name, or it exists for both molecules.
    """
    one = spec(name)
    mend = "pip install 'vnp[reference]'; models whose code is not in the weights folder need internet"
    return guarded(f"reference {name}", lambda: compare(one, find_folder(one, weights), device), mend)


def compare(one: EncoderSpec, folder: Path, device: str = "cpu") -> Finding:
    """Compare the engine with the published model in a folder.

    Args:
        one: the encoder; its folder must fit it.
        folder: the model's folder.
        device: where both run.

    Returns:
        As ``reference``.

    Raises:
        VnpError: our encoder cannot be loaded.
    """
    from vnp.encoders import from_folder

    sequences = _SEQUENCES[one.molecule]
    ours = from_folder(folder, device=device, precision="fp32").embed(sequences)
    theirs = _published(resolve(one, folder), folder, sequences, device)
    largest = float(np.abs(ours - theirs).max())
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(axis=1) / norms).min())
    found = (
        f"largest difference {largest:.1e} (allowed {TOLERANCE:.0e}), smallest cosine {cosine:.7f} "
        f"(at least {LEAST_COSINE}) over {len(sequences)} sequences"
    )
    good = largest <= TOLERANCE and cosine >= LEAST_COSINE
    mend = "" if good else "do not use these weights with this version; please report it with this line"
    return Finding(f"reference {one.name}", "ok" if good else "fails", found, mend)


def _published(one: EncoderSpec, folder: Path, sequences: Sequence[str], device: str) -> Float32[np.ndarray, "n width"]:
    """Pool the published model's last hidden states, one sequence at a time so that nothing is padded."""
    import torch
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
