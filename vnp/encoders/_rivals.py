"""What the engine is measured against: its own matrix products alone, and other ways to run the same model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vnp.encoders._random import RandomModel
from vnp.encoders.build import DTYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vnp.encoders.engine import TransformerEncoder

_SECONDS = 1.0


def ceiling(model: RandomModel, precision: str, rows: int) -> float:
    """Measure one layer's matrix products alone, in turn, on random numbers, for a second after warming up.

    Args:
        model: whose shapes.
        precision: of the numbers.
        rows: tokens of the batch.

    Returns:
        TFLOP/s.
    """
    dtype, generator = DTYPES[precision], torch.Generator(device=model.device).manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, device=model.device).to(dtype)

    products = []
    for out, into in model.products():
        x, weight = draw(rows, into), draw(out, into) * into**-0.5
        products.append((x, weight.T, torch.empty(rows, out, dtype=dtype, device=model.device)))

    def layer() -> None:
        for x, weight, out in products:
            torch.mm(x, weight, out=out)

    def turn(times: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            layer()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    turn(3)
    times = max(3, int(_SECONDS * 10 / turn(10)))
    turn(times // 3)
    operations = 2 * rows * sum(out * into for out, into in model.products())
    return operations * times / turn(times) / 1e12


class Transformers:
    """transformers' EsmModel (SDPA, padded batches) with the weights of a random ESM2."""

    def __init__(self, model: RandomModel, precision: str) -> None:
        from transformers import EsmConfig, EsmModel

        options: dict[str, Any] = {**model.config, "pad_token_id": 1, "attn_implementation": "sdpa"}
        with torch.device(model.device):
            rival: Any = EsmModel(EsmConfig(**options), add_pooling_layer=False)
        rival.load_state_dict(model.state, strict=False)
        self._rival: Any = rival.to(DTYPES[precision]).eval()
        self._model = model

    def speed(
        self, ids: Sequence[NDArray[np.int64]], ours: TransformerEncoder, *, batch: int, ordered: bool
    ) -> Mapping[str, object]:
        """Time it.

        Args:
            ids: token ids.
            ours: compared with in cosine.
            batch: sequences of one batch.
            ordered: sorted by length, with one copy to the host a batch; else in the order given, with a copy a
                sequence, as VirNucPro runs FastESM2.

        Returns:
            Sequences and tokens a second, TFLOP/s, and the smallest cosine to ours.
        """
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i])) if ordered else list(range(len(ids)))
        self._run(ids, order[:batch], batch, ordered)
        seconds, got = _timed(lambda: self._run(ids, order, batch, ordered))
        want = ours.embed_ids(ids)
        cosine = (got * want).sum(1) / (np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1))
        lengths = np.array([len(each) for each in ids])
        return _record(self._model, lengths, seconds) | {"min_cosine_to_ours": float(cosine.min())}

    @torch.inference_mode()
    def _run(
        self, ids: Sequence[NDArray[np.int64]], order: Sequence[int], batch: int, together: bool
    ) -> NDArray[np.float32]:
        found: dict[int, NDArray[np.float32]] = {}
        for first in range(0, len(order), batch):
            members = order[first : first + batch]
            longest = max(len(ids[i]) for i in members)
            tokens = np.full((len(members), longest), 1, np.int64)
            for row, i in enumerate(members):
                tokens[row, : len(ids[i])] = ids[i]
            given = torch.from_numpy(tokens).to(self._model.device)
            hidden = self._rival(input_ids=given, attention_mask=(given != 1).long()).last_hidden_state.float()
            if together:
                lengths = torch.tensor([len(ids[i]) for i in members], device=given.device)[:, None]
                places = torch.arange(longest, device=given.device)
                inside = (places > 0) & (places < lengths - 1)
                means = (hidden * inside[..., None]).sum(1) / (lengths - 2)
                found.update(zip(members, means.cpu().numpy(), strict=True))
            else:
                for row, i in enumerate(members):
                    found[i] = hidden[row, 1 : len(ids[i]) - 1].mean(0).cpu().numpy()
        return np.stack([found[i] for i in sorted(found)])


def one_by_one(model: RandomModel, ids: Iterable[NDArray[np.int64]]) -> Mapping[str, object]:
    """Run each sequence alone through plain padded layers in float32, its mean copied before the next one starts."""
    encoder = model.encoder("fp32", "padded")
    several = list(ids)
    encoder.embed_ids(several[:1])
    seconds, _ = _timed(lambda: np.concatenate([encoder.embed_ids([each]) for each in several]))
    return _record(model, np.array([len(each) for each in several]), seconds)


def _timed(function: Callable[[], NDArray[np.float32]]) -> tuple[float, NDArray[np.float32]]:
    torch.cuda.synchronize()
    began = time.perf_counter()
    out = function()
    torch.cuda.synchronize()
    return time.perf_counter() - began, out


def _record(model: RandomModel, lengths: NDArray[np.int64], seconds: float) -> dict[str, object]:
    return {
        "sequences_per_second": len(lengths) / seconds,
        "tokens_per_second": float(lengths.sum()) / seconds,
        "tflops": model.operations(lengths) / seconds / 1e12,
    }
