"""Runs a transformer over sequences: batches by token budget, pooling, and the way of the numbers back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
import torch

from vnp.encoders.packing import Attention, Batch, collate, distinct, on_device, plan, segment_means
from vnp.errors import EncoderError

if TYPE_CHECKING:
    from jaxtyping import Float, Float32
    from numpy.typing import NDArray

    from vnp.encoders.spec import EncoderSpec
    from vnp.encoders.tokens.tokenizers import Tokenizer

log = logging.getLogger(__name__)

Precision = Literal["fp32", "fp16", "bf16", "fp8"]
Finish = Callable[[torch.Tensor, Batch], torch.Tensor]
"""What is done to the states of a batch before they leave the device."""

_SLAB = 512  # rows of one matrix product on CPU
_AHEAD = 8  # batches that are queued ahead, so that the GPU goes on while Python is held up


class Model(Protocol):
    """A transformer trunk: rows of tokens in, last hidden states out."""

    vocabulary: int  # tokens that it knows
    width: int  # numbers of one state
    apart_below: int  # sequences with fewer tokens run otherwise, so they share no batch with longer ones

    def __call__(self, batch: Batch) -> Float[torch.Tensor, "rows width"]:
        """Run one batch."""


@dataclass(frozen=True, eq=False)
class Work:
    """Sequences made ready to be embedded; see ``TransformerEncoder.prepare``."""

    ids: Sequence[NDArray[np.integer]]  # tokens of each distinct sequence
    firsts: NDArray[np.int64]  # where each of them comes first in the call
    places: NDArray[np.int64]  # which of them each sequence of the call is


@dataclass(frozen=True, eq=False)
class Answer:
    """A batch's numbers on their way to the host."""

    batch: Batch  # whose they are
    values: torch.Tensor  # the numbers, on the host once ``arrived`` has passed
    begun: torch.cuda.Event | None  # where the GPU's queue was before the batch; None on a CPU
    arrived: torch.cuda.Event | None  # and after it

    @classmethod
    def send(cls, batch: Batch, values: torch.Tensor, begun: torch.cuda.Event | None) -> Answer:
        """Begin to copy numbers to the host, behind what computes them; does not wait."""
        if values.device.type != "cuda":
            return cls(batch, values, None, None)
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        return cls(batch, host, begun, mark(values.device))

    def read(self) -> tuple[NDArray[np.float32], float]:
        """Wait for the numbers; gives them, and for how many seconds the GPU had this batch to work on."""
        seconds = 0.0
        if self.arrived is not None:
            self.arrived.synchronize()
            if self.begun is not None:
                seconds = self.begun.elapsed_time(self.arrived) / 1000
        return cast("NDArray[np.float32]", self.values.numpy()), seconds


class Launched:
    """Batches of one call on their way.

    Attributes:
        gpu_seconds: for how long the GPU had the batches read so far to work on; 0 on a CPU.
    """

    def __init__(self, work: Work, width: int, check: Callable[[NDArray[np.int64], NDArray[np.bool_]], None]) -> None:
        self.gpu_seconds = 0.0
        self._work = work
        self._check = check
        self._out = np.empty((len(work.firsts), width), np.float32)
        self._waiting: deque[Answer] = deque()

    def add(self, answer: Answer) -> None:
        """Take note of a batch that was queued; waits for an earlier one if many are under way."""
        self._waiting.append(answer)
        while len(self._waiting) > _AHEAD:
            self._read()

    def result(self) -> Float32[np.ndarray, "n width"]:
        """Wait for all batches, and give one row a sequence."""
        while self._waiting:
            self._read()
        places = self._work.places
        return self._out if len(self._out) == len(places) else self._out[places]

    def _read(self) -> None:
        answer = self._waiting.popleft()
        means, seconds = answer.read()
        self.gpu_seconds += seconds
        members = answer.batch.members
        self._check(self._work.firsts[members], np.asarray(np.isfinite(means).all(axis=1)))
        self._out[members] = means


def mark(device: torch.device) -> torch.cuda.Event | None:
    """Mark where the GPU's queue is now; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


class TransformerEncoder:
    """Turns sequences into embeddings with a transformer.

    The trunk is on its device and in its precision; the attention also decides between packed and padded batches.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, spec: EncoderSpec, *, attention: Attention,
        device: torch.device, precision: Precision, token_budget: int, kernel: str | None = None,
    ) -> None:  # fmt: skip
        self.spec = spec  # what the encoder is; its pooling is used here
        self.width = model.width  # numbers in one embedding
        self.device = device
        self.precision: str = precision  # of weights and activations
        self.attention = attention
        self.kernel = kernel or attention.name  # name of the kernels in use
        self.token_budget = token_budget  # rows that one batch may have; halved when CUDA runs out of memory
        self.events: list[str] = []  # what happened that a receipt should tell, in plain words
        self.tokens_read = 0  # tokens embedded since it was made
        self.weights_seconds = 0.0  # how long it took to read the weights and bring them to the device
        self._model = model
        self._tokenizer = tokenizer
        self._slab = _SLAB if device.type == "cpu" else None

    def embed(self, sequences: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """Embed residues or bases: one row a sequence, in the order given; those that are the same are embedded once.

        In float32 on a CPU a row depends on its sequence alone, bit for bit.

        Raises:
            EncoderError: a sequence is empty, gives numbers that are not finite, or does not fit in memory.
        """
        return self.launch(self.prepare(sequences)).result()

    def embed_ids(self, ids: Sequence[NDArray[np.integer]]) -> Float32[np.ndarray, "n width"]:
        """Embed token ids, one 1-D integer array a sequence, special tokens included; see ``embed``."""
        return self.launch(self._prepare_ids(ids)).result()

    def prepare(self, sequences: Sequence[str]) -> Work:
        """Do of ``embed`` what needs no GPU: tokens, checks, and which sequences are the same.

        Another thread can do it for the next sequences while these are embedded.
        """
        return self._prepare_ids(self._tokenizer.encode_batch(list(sequences)))

    def launch(self, work: Work) -> Launched:
        """Queue what ``prepare`` made ready on the GPU, and do not wait for the last few batches.

        The next call's batches can so be queued before these are done, and another thread can take the result, which is
        what ``embed`` gives. On a CPU all is done when this returns.
        """
        trim = self.spec.pooling == "residues"
        launched = Launched(work, self.width, self._refuse_broken)
        for answer in self._queue(work.ids, work.firsts, lambda x, batch: segment_means(x.float(), batch, trim=trim)):
            launched.add(answer)
        return launched

    def _prepare_ids(self, ids: Sequence[NDArray[np.integer]]) -> Work:
        self._check(ids)
        if self.spec.pooling == "residues":
            for i, each in enumerate(ids):
                if len(each) < 3:
                    raise EncoderError(f"sequence {i} has no residues: its {len(each)} tokens hold only BOS and EOS")
        firsts, places = distinct(ids)
        return Work([ids[i] for i in firsts], firsts, places)

    def hidden(self, ids: Sequence[NDArray[np.integer]]) -> list[Float32[np.ndarray, "length width"]]:
        """Give the last hidden state of every token, special tokens included; see ``embed_ids``."""
        self._check(ids)
        out: list[NDArray[np.float32]] = [np.empty((0, self.width), np.float32)] * len(ids)
        for answer in self._queue(ids, np.arange(len(ids)), lambda x, _: x.float()):
            batch, (rows, _) = answer.batch, answer.read()
            ends = np.cumsum(batch.borders.lengths)
            each = np.split(rows, ends[:-1])
            self._refuse_broken(batch.members, np.array([bool(np.isfinite(one).all()) for one in each]))
            for member, one in zip(batch.members, each, strict=True):
                out[member] = one.copy()
        return out

    def _queue(self, ids: Sequence[NDArray[np.integer]], names: NDArray[np.int64], finish: Finish) -> Iterator[Answer]:
        """Queue batches, longest sequences first."""
        lengths = np.array([len(each) for each in ids], np.int64)
        self.tokens_read += int(lengths.sum())
        left = np.argsort(-lengths, kind="stable")
        while len(left):
            rows = plan(lengths[left], self.token_budget, self.attention.layout)
            apart = int(np.searchsorted(-lengths[left[: len(rows)]], -self._model.apart_below, side="right"))
            rows = rows[: apart or None]
            answer = self._attempt(ids, left[: len(rows)], finish)
            if answer is None:
                self._shrink(left[: len(rows)], int(rows[-1]), lengths, names)
                continue
            left = left[len(rows) :]
            yield answer

    def _attempt(self, ids: Sequence[NDArray[np.integer]], members: NDArray[np.int64], finish: Finish) -> Answer | None:
        try:
            with torch.inference_mode(), on_device(self.device):
                batch = collate(ids, members, self.attention, self.device, self._slab)
                begun = mark(self.device)
                return Answer.send(batch, finish(batch.tokens_of(self._model(batch)), batch), begun)
        except torch.OutOfMemoryError:
            # Answered outside of the handler: here the failed batch's tensors are still referred to.
            return None

    def _shrink(
        self, members: NDArray[np.int64], rows: int, lengths: NDArray[np.int64], names: NDArray[np.int64]
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(members) == 1:
            tokens = int(lengths[members[0]])
            raise EncoderError(
                f"sequence {int(names[members[0]])} with {tokens} tokens does not fit in the memory of {self.device}; "
                "use a larger GPU, a lower precision, or cut the sequence"
            )
        before = self.token_budget
        while self.token_budget >= rows:
            self.token_budget //= 2
        event = f"CUDA out of memory at {before} tokens: going on with {self.token_budget}"
        self.events.append(event)
        log.warning("%s: %s", self.spec.name, event)

    def _check(self, ids: Sequence[NDArray[np.integer]]) -> None:
        top = self._model.vocabulary
        if all(each.ndim == 1 and len(each) and each.dtype.kind in "iu" for each in ids):
            tokens = np.concatenate(ids) if ids else np.zeros(1, np.int64)
            if tokens.min() >= 0 and tokens.max() < top:
                return
        for i, each in enumerate(ids):
            if each.ndim != 1 or not np.issubdtype(each.dtype, np.integer) or len(each) == 0:
                raise EncoderError(
                    f"sequence {i}: token ids must be a 1-D array of integers with at least one, "
                    f"not {each.dtype} of shape {each.shape}"
                )
            if int(each.min()) < 0 or int(each.max()) >= top:
                raise EncoderError(f"sequence {i} has a token outside 0..{top - 1}, which {self.spec.name} lacks")

    def _refuse_broken(self, members: NDArray[np.int64], fine: NDArray[np.bool_]) -> None:
        if not fine.all():
            worst = ", ".join(str(i) for i in sorted(members[~fine])[:5])
            raise EncoderError(
                f"{self.spec.name} in {self.precision} gave NaN or Inf for {int((~fine).sum())} sequences "
                f"(in this call: {worst}); try --precision bf16 or fp32"
            )
