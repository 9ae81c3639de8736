"""Encoders beside other ways to run the same models, with the same weights: transformers, and VirNucPro's loops.

What VirNucPro does was read off its published program (github.com/Li-Jing-1997/VirNucPro, ``units.py``): DNABERT-S
gets one sequence at a time in float32; ESM2-3B gets batches of at most 2,048 padded tokens, sequences sorted by length,
in float32. A loop of that kind around FastESM2_650 takes batches of 16 in the order of the file, in half precision. In
all of them every sequence's mean is copied to the host by itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64

from benchmarks._commands import command, options
from jobs._cli.speed import SpeedOptions, measure_speed, speed_options, speed_out
from vnp.encoders.build import DTYPES
from vnp.encoders.kernels.attention import Padded
from vnp.encoders.models.bare import BareModel
from vnp.encoders.models.dnabert import MosaicBert
from vnp.encoders.packing import AttentionShape, collate
from vnp.errors import EncoderError
from vnp.files.extras import install
from vnp.speed.encoders import LEFT_OUT, Course, Row, SpeedRequest, empty_row, reason
from vnp.speed.measure import Clock, Memory, free, take_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pieces = list[Int64[np.ndarray, "members"]]
Run = Callable[[Sequence["NDArray[np.int64]"]], "Float32[np.ndarray, 'n width']"]
Prepare = Callable[[Sequence[np.ndarray], float], tuple[Run, Pieces, str]]

_GPU_BATCHES, _CPU_BATCHES = (64, 128, 256, 512), (1, 4, 8, 16, 32, 64)
_LOOP_BATCH = 16
_LOOP_TOKENS = 2048
_TRIAL_SHARE = 0.4  # of a rival's time goes into finding its best batch
_FEWEST_PIECES = 4
_PADDING = 1
_PROBES = (0.25, 0.5, 0.75)
_KEYS = (
    *("vocab_size", "mask_token_id", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("layer_norm_eps", "token_dropout", "emb_layer_norm_before", "position_embedding_type", "max_position_embeddings"),
)


def published_model(model: BareModel) -> Any:
    """The EsmModel of transformers with a model's weights, in float32; EncoderError where it is missing."""
    try:
        from transformers import EsmConfig
        from transformers import EsmModel as Published
    except ImportError as error:
        raise EncoderError(f"transformers is not installed: {install('reference')}") from error
    options: dict[str, Any] = {key: model.config[key] for key in _KEYS if key in model.config}
    options |= {"pad_token_id": _PADDING, "attn_implementation": "sdpa"}
    # As ESM2 was published; it tells in training alone.
    options |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = EsmConfig(**options)
    with model.device:
        published: Any = Published(config, add_pooling_layer=False)
    left = published.load_state_dict(model.state, strict=False).missing_keys
    computed = re.compile(r"(.*\.)?(inv_freq|position_ids|position_embeddings\.weight)|contact_head\..*")
    unknown = [name for name in left if not computed.fullmatch(name)]
    if unknown:
        raise EncoderError(f"transformers' EsmModel wants tensors that the weights lack, such as {unknown[0]}")
    return published


class EsmModel:
    """transformers' EsmModel with a model's weights, fed with padded batches, on ``device``.

    With ``copy_each`` every sequence's mean is copied by itself, instead of a batch's together.

    Raises:
        EncoderError: transformers is missing, or its model is another.
    """

    def __init__(self, model: BareModel, precision: str, *, copy_each: bool) -> None:
        published = published_model(model)
        # As from_pretrained does it: weights in the precision that was asked for, rotary frequencies in float32.
        for weight in published.parameters():
            weight.data = weight.data.to(DTYPES[precision])
        self._model = published.eval()
        self.device = model.device
        self._copy_each = copy_each

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
    """DNABERT-S with plain layers in float32, for one sequence at a time."""

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
    """The batch that is fastest on sequences, sorted by length, and the batches that it makes of all of them.

    Batches are tried from the smallest on, no larger one after so many seconds.

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


class Rival(NamedTuple):
    """Another way: its name in words, ``rival`` or ``loop``, its precision, and what puts it on its device.

    That gives a function of token ids, and of seconds that it may spend on choosing: what embeds one piece, the pieces
    that it works through in turn, and what was chosen.
    """

    name: str
    kind: str
    precision: str
    build: Callable[[BareModel], Prepare]


def rivals_of(model: BareModel, precisions: Sequence[str]) -> list[Rival]:
    """List the other ways to run a model; they run in the first of our precisions that they know."""
    if model.spec.molecule == "dna":
        return [Rival("VirNucPro's way: one sequence at a time", "loop", "fp32", _one_by_one)]
    known = [each for each in precisions if each != "fp8"]
    precision = known[0] if known else ("fp16" if model.device.type == "cuda" else "fp32")
    best = Rival("transformers EsmModel, SDPA, sorted", "rival", precision, _transformers(precision))
    if model.name == "esm2_3b":
        name = f"VirNucPro's way: sorted, {_LOOP_TOKENS:,} tokens a batch"
        return [best, Rival(name, "loop", "fp32", _loop_of_tokens)]
    name = f"VirNucPro's way: unsorted, batch {_LOOP_BATCH}, a copy a sequence"
    return [best, Rival(name, "loop", precision, _loop(precision))]


def _transformers(precision: str) -> Callable[[BareModel], Prepare]:
    def build(model: BareModel) -> Prepare:
        other = EsmModel(model, precision, copy_each=False)
        batches = _GPU_BATCHES if model.device.type == "cuda" else _CPU_BATCHES

        def prepare(ids: Sequence[np.ndarray], seconds: float) -> tuple[Run, Pieces, str]:
            batch, pieces = best_batch(other, ids, batches, seconds * _TRIAL_SHARE)
            return other.run, pieces, f"batch {batch}, the best of {batches[0]} to {batches[-1]}"

        return prepare

    return build


def _loop(precision: str) -> Callable[[BareModel], Prepare]:
    def build(model: BareModel) -> Prepare:
        other = EsmModel(model, precision, copy_each=True)
        return lambda ids, _: (other.run, in_batches(np.arange(len(ids)), _LOOP_BATCH), f"batch {_LOOP_BATCH}")

    return build


def _loop_of_tokens(model: BareModel) -> Prepare:
    other = EsmModel(model, "fp32", copy_each=True)
    return lambda ids, _: (other.run, token_batches(lengths_of(ids), _LOOP_TOKENS), "sorted by length")


def _one_by_one(model: BareModel) -> Prepare:
    other = OneByOne(model)
    return lambda ids, _: (other.run, in_batches(np.arange(len(ids)), 1), "plain layers")


def sorted_batches(lengths: Int64[np.ndarray, "n"], batch: int) -> Pieces:
    """Batches of so many sequences, longest first."""
    return in_batches(np.argsort(-lengths, kind="stable"), batch)


def in_batches(order: Int64[np.ndarray, "n"], batch: int) -> Pieces:
    """Batches of so many sequences in this order."""
    return [order[first : first + batch] for first in range(0, len(order), batch)]


def lengths_of(ids: Sequence[np.ndarray]) -> Int64[np.ndarray, "n"]:
    """Tokens of each sequence."""
    return np.array([len(each) for each in ids], np.int64)


def embed_in_pieces(run: Run, ids: Sequence[np.ndarray], pieces: Pieces) -> Float32[np.ndarray, "n width"]:
    """Embed all sequences piece by piece, and put the rows into the order of the sequences."""
    rows = np.concatenate([run([ids[i] for i in piece]) for piece in pieces])
    found = np.empty_like(rows)
    found[np.concatenate(pieces)] = rows
    return found


def measure_rivals(
    model: BareModel, request: SpeedRequest, clock: Clock, say: Callable[[str], None], courses: Sequence[Course]
) -> Iterator[Row]:
    """Run the other ways on all workloads, a row each; what has not begun when the time is used up is left out."""
    for rival in rivals_of(model, request.precisions):
        empty = [empty_row(model, course, rival.precision, rival.name, rival.kind) for course in courses]
        if not clock.left:
            yield from (replace(row, error=LEFT_OUT) for row in empty)
            continue
        say(f"{model.name}: {rival.name}, {rival.precision}")
        memory = Memory(model.device)
        try:
            prepare = rival.build(model)
        except Exception as error:
            why = reason(error)
            yield from (replace(row, error=why) for row in empty)
            continue
        for course, row in zip(courses, empty, strict=True):
            if not clock.left:
                yield replace(row, error=LEFT_OUT)
                continue
            say(f"{model.name}: {rival.name}, {rival.precision}: {course.workload.name}")
            try:
                yield _measure(model, prepare, course, row, request, memory, clock)
            except Exception as error:
                yield replace(row, error=reason(error))
            free(model.device)
        del prepare
        free(model.device)


def _measure(
    model: BareModel, prepare: Prepare, course: Course, row: Row, request: SpeedRequest, memory: Memory, clock: Clock
) -> Row:
    """Time all pieces of a workload, or some, evenly spaced through them, where there is no time for all."""
    seconds = 5 * request.ceiling_seconds
    run, pieces, note = prepare(course.ids, seconds)
    together = [[course.ids[i] for i in piece] for piece in pieces]
    if len(together) > _FEWEST_PIECES:
        run(together[0])
        probes = _spread(together, _FEWEST_PIECES)
        began = time.perf_counter()
        for piece in probes:
            run(piece)
        cost = (time.perf_counter() - began) / len(probes)
        together = _spread(together, max(_FEWEST_PIECES, int(seconds / (request.repeats * cost))))
    rounds = take_time(lambda: [run(piece) for piece in together], request.repeats, memory, clock)
    lengths = lengths_of([each for piece in together for each in piece])
    size = max(1, min(32, len(pieces[0])))
    got = embed_in_pieces(run, course.sample, sorted_batches(lengths_of(course.sample), size))
    return (
        replace(row, note=note)
        .timed(model.operations(lengths), lengths, rounds, memory.peak_gib)
        .compared_with(course.exact, got)
    )


def _spread(pieces: list[list[np.ndarray]], count: int) -> list[list[np.ndarray]]:
    """So many of the pieces, evenly spaced."""
    places = np.unique(np.linspace(0, len(pieces) - 1, min(count, len(pieces))).round().astype(np.int64))
    return [pieces[i] for i in places]


@command("python -m benchmarks rivals --out SPEED")
@speed_options
@speed_out
@options.as_json
def main(**given: Any) -> None:
    """Time encoders beside other programs with the same weights, in one run.

    As ``benchmark speed``, which has the encoders alone; a rival that cannot run says why.
    """
    measure_speed(SpeedOptions(**given), measure_rivals)
