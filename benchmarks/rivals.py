"""Encoders beside other ways to run the same models, with the same weights: transformers, and VirNucPro's loops.

What VirNucPro does was read off its published program (github.com/Li-Jing-1997/VirNucPro, ``units.py``): DNABERT-S
gets one sequence at a time in float32; ESM2-3B gets batches of at most 2,048 padded tokens, sequences sorted by length,
in float32. A loop of that kind around FastESM2_650 takes batches of 16 in the order of the file, in half precision. In
all of them every sequence's mean is copied to the host by itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from jobs._cli import options
from jobs._cli.command import command
from jobs._cli.speed import SpeedOptions, measure_speed, speed_options, speed_out
from vnp.encoders.build import DTYPES
from vnp.encoders.kernels.attention import Padded
from vnp.encoders.models.bare import BareModel
from vnp.encoders.models.dnabert import MosaicBert
from vnp.encoders.packing import AttentionShape, collate
from vnp.errors import EncoderError
from vnp.speed.compare import Contestant, Entry, Ready, in_batches, lengths_of, sorted_batches
from vnp.speed.measure import Pieces, free

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GPU_BATCHES, _CPU_BATCHES = (64, 128, 256, 512), (1, 4, 8, 16, 32, 64)
_LOOP_BATCH = 16
_LOOP_TOKENS = 2048
_TRIAL_SHARE = 0.4  # of a rival's time goes into finding its best batch
_PADDING = 1
_PROBES = (0.25, 0.5, 0.75)
_KEYS = (
    *("vocab_size", "mask_token_id", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("layer_norm_eps", "token_dropout", "emb_layer_norm_before", "position_embedding_type", "max_position_embeddings"),
)


class EsmModel:
    """transformers' EsmModel with a model's weights, fed with padded batches.

    Args:
        model: of proteins.
        precision: of weights and activations.
        copy_each: copy every sequence's mean by itself, instead of a batch's together.

    Attributes:
        device: where it runs.

    Raises:
        EncoderError: transformers is missing, or its model is another.
    """

    def __init__(self, model: BareModel, precision: str, *, copy_each: bool) -> None:
        try:
            from transformers import EsmConfig
            from transformers import EsmModel as Published
        except ImportError as error:
            raise EncoderError("transformers is not installed: pip install 'vnp[reference]'") from error
        options: dict[str, Any] = {key: model.config[key] for key in _KEYS if key in model.config}
        options |= {"pad_token_id": _PADDING, "attn_implementation": "sdpa"}
        config = EsmConfig(**options)
        with model.device:
            published: Any = Published(config, add_pooling_layer=False)
        self._load(published, model.state)
        # As from_pretrained does it: weights in the precision that was asked for, rotary frequencies in float32.
        for weight in published.parameters():
            weight.data = weight.data.to(DTYPES[precision])
        self._model = published.eval()
        self.device = model.device
        self._copy_each = copy_each

    @staticmethod
    def _load(model: Any, state: Mapping[str, torch.Tensor]) -> None:
        left = model.load_state_dict(state, strict=False).missing_keys
        computed = re.compile(r"(.*\.)?(inv_freq|position_ids|position_embeddings\.weight)|contact_head\..*")
        unknown = [name for name in left if not computed.fullmatch(name)]
        if unknown:
            raise EncoderError(f"transformers' EsmModel wants tensors that the weights lack, such as {unknown[0]}")

    @torch.inference_mode()
    def run(self, ids: Sequence[NDArray[np.int64]]) -> Float32[np.ndarray, "n width"]:
        """Embed one batch: the mean over residues of each sequence, in float32."""
        longest = max(len(each) for each in ids)
        padded = np.full((len(ids), longest), _PADDING, np.int64)
        for row, each in enumerate(ids):
            padded[row, : len(each)] = each
        tokens = torch.from_numpy(padded).to(self.device)
        hidden = self._model(input_ids=tokens, attention_mask=(tokens != _PADDING).long()).last_hidden_state
        if self._copy_each:
            means = [hidden[row, 1 : len(each) - 1].float().mean(0).cpu().numpy() for row, each in enumerate(ids)]
            return np.stack(means)
        lengths = torch.tensor([len(each) for each in ids], device=self.device)[:, None]
        places = torch.arange(longest, device=self.device)
        inside = ((places > 0) & (places < lengths - 1)).float()
        sums = torch.bmm(inside[:, None], hidden.float())[:, 0]
        return (sums / (lengths - 2)).cpu().numpy()


class OneByOne:
    """DNABERT-S with plain layers in float32, for one sequence at a time.

    Args:
        model: of DNA.
    """

    def __init__(self, model: BareModel) -> None:
        self._model = MosaicBert(model.config, model.state, model.device, torch.float32)
        plain = self._model
        shape = AttentionShape(plain.heads, plain.head, plain.slopes, torch.float32, model.device)
        self._attention = Padded(shape)
        self._device = model.device

    @torch.inference_mode()
    def run(self, ids: Sequence[NDArray[np.int64]]) -> Float32[np.ndarray, "n width"]:
        """Embed sequences: the mean over all tokens of each, copied to the host before the next one begins."""
        found = []
        for each in ids:
            batch = collate([each], np.zeros(1, np.int64), self._attention, self._device, None)
            found.append(self._model(batch).mean(dim=0).cpu().numpy())
        return np.stack(found)


def best_batch(
    model: EsmModel, ids: Sequence[NDArray[np.int64]], batches: Sequence[int], seconds: float
) -> tuple[int, Pieces]:
    """Find the batch that is fastest on these sequences, sorted by length.

    Args:
        model: to run.
        ids: of the workload.
        batches: sequences of a batch, to be tried from the smallest on.
        seconds: after which no larger one is tried.

    Returns:
        The best batch, and the batches that it makes of all sequences.

    Raises:
        EncoderError: not even the smallest fits in memory.
    """
    lengths = np.array([len(each) for each in ids], np.int64)
    ended = time.monotonic() + seconds
    best: tuple[float, int] | None = None
    for batch in batches:
        if best is not None and (time.monotonic() > ended or batch >= 2 * len(ids)):
            break
        pieces = sorted_batches(lengths, batch)
        probes = [pieces[int(where * (len(pieces) - 1))] for where in _PROBES]
        try:
            rate = _rate(model, ids, probes)
        except torch.OutOfMemoryError:
            break
        if best is None or rate > best[0]:
            best = rate, batch
    free(model.device)
    if best is None:
        raise EncoderError(f"a batch of {batches[0]} does not fit in memory")
    return best[1], sorted_batches(lengths, best[1])


def _rate(model: EsmModel, ids: Sequence[NDArray[np.int64]], pieces: Pieces) -> float:
    several = [[ids[i] for i in piece] for piece in pieces]
    for each in several:
        model.run(each)
    began = time.perf_counter()
    for each in several:
        model.run(each)
    return sum(len(one) for each in several for one in each) / (time.perf_counter() - began)


def token_batches(lengths: Int64[np.ndarray, "n"], tokens: int) -> Pieces:
    """Batches of at most so many padded tokens, shortest first; a longer sequence goes alone."""
    pieces: Pieces = []
    members: list[int] = []
    for i in np.argsort(lengths, kind="stable").tolist():
        if members and (len(members) + 1) * int(lengths[i]) > tokens:
            pieces.append(np.array(members, np.int64))
            members = []
        members.append(i)
    return [*pieces, np.array(members, np.int64)]


def rivals(model: BareModel, precisions: Sequence[str]) -> list[Contestant]:
    """List the other ways to run a model.

    Args:
        model: the model.
        precisions: of ours; rivals run in the first that they know.
    """
    if model.spec.molecule == "dna":
        return [Contestant("VirNucPro's way: one sequence at a time", "loop", "fp32", _one_by_one)]
    known = [each for each in precisions if each != "fp8"]
    precision = known[0] if known else ("fp16" if model.device.type == "cuda" else "fp32")
    best = Contestant("transformers EsmModel, SDPA, sorted", "rival", precision, _transformers(precision))
    if model.name == "esm2_3b":
        name = f"VirNucPro's way: sorted, {_LOOP_TOKENS:,} tokens a batch"
        return [best, Contestant(name, "loop", "fp32", _loop_of_tokens)]
    name = f"VirNucPro's way: unsorted, batch {_LOOP_BATCH}, a copy a sequence"
    return [best, Contestant(name, "loop", precision, _loop(precision))]


def _transformers(precision: str) -> Callable[[BareModel], Ready]:
    def build(model: BareModel) -> Ready:
        other = EsmModel(model, precision, copy_each=False)
        batches = _GPU_BATCHES if model.device.type == "cuda" else _CPU_BATCHES

        def prepare(ids: Sequence[np.ndarray], seconds: float) -> Entry:
            batch, pieces = best_batch(other, ids, batches, seconds * _TRIAL_SHARE)
            return Entry(other.run, pieces, f"batch {batch}, the best of {batches[0]} to {batches[-1]}")

        return Ready(prepare)

    return build


def _loop(precision: str) -> Callable[[BareModel], Ready]:
    def build(model: BareModel) -> Ready:
        other = EsmModel(model, precision, copy_each=True)
        return Ready(
            lambda ids, _: Entry(other.run, in_batches(np.arange(len(ids)), _LOOP_BATCH), f"batch {_LOOP_BATCH}")
        )

    return build


def _loop_of_tokens(model: BareModel) -> Ready:
    other = EsmModel(model, "fp32", copy_each=True)
    return Ready(lambda ids, _: Entry(other.run, token_batches(lengths_of(ids), _LOOP_TOKENS), "sorted by length"))


def _one_by_one(model: BareModel) -> Ready:
    other = OneByOne(model)
    return Ready(lambda ids, _: Entry(other.run, in_batches(np.arange(len(ids)), 1), "plain layers"))


@command("python -m benchmarks rivals --out SPEED")
@speed_options
@speed_out
@options.as_json
def main(**given: Any) -> None:
    """Time encoders beside other programs with the same weights, in one run.

    As ``benchmark speed``, which has the encoders alone; a rival that cannot run says why.
    """
    measure_speed(SpeedOptions.of(given), rivals)
