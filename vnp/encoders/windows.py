"""Runs the network of six frames over sequences: base codes, batches of one length, rows on their way from a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from vnp.encoders.engine import mark
from vnp.encoders.models.eight_bits import in_bytes
from vnp.encoders.models.sixframe import (
    BASE_CODES,
    COMMON_LENGTHS,
    KINDS,
    SHORTEST,
    SixFrame,
    SixFrameConfig,
    codon_ids,
    padded_length,
)
from vnp.encoders.packing import to_device
from vnp.encoders.spec import EncoderSpec
from vnp.errors import EncoderError, WeightsError

# On a CPU a batch's activations stay in the caches of a core; on a GPU they take so many bytes for each base, and some
# tasks share its memory.
_CPU_BASES = 1 << 11
_GPU_BASES = 1 << 22
_BYTES_A_BASE = 4096
_SHARE = 4
# Windows of a batch on a GPU are a multiple of this, so that few shapes come up.
_ROUND = 32


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """n sequences as base codes, one after the other, with a margin behind the last."""

    codes: UInt8[np.ndarray, " bases"]
    start: Int64[np.ndarray, " n"]
    length: Int64[np.ndarray, " n"]

    def classes(self) -> Iterator[tuple[int, Int64[np.ndarray, " m"]]]:
        """Each padded length, and which sequences go by it; those that are too short are left out."""
        lengths, which = np.unique(self.length, return_inverse=True)
        sizes = np.array([padded_length(int(one)) if one >= SHORTEST else 0 for one in lengths], np.int64)[which]
        order = np.argsort(sizes, kind="stable")
        borders = np.flatnonzero(np.diff(sizes[order])) + 1
        for members in np.split(order, borders):
            if len(members) and sizes[members[0]]:
                yield int(sizes[members[0]]), members

    def letters(self, members: Int64[np.ndarray, " m"], size: int) -> UInt8[np.ndarray, "m size"]:
        """The codes of some sequences, each followed by whatever stands behind it."""
        # A window is one element of so many bytes, which numpy copies at the speed of memory.
        element = np.dtype((np.void, size))
        every: np.ndarray = np.ndarray(len(self.codes) - size + 1, element, self.codes, strides=(1,))
        found: UInt8[np.ndarray, "m size"] = every[self.start[members]].view(np.uint8).reshape(len(members), size)
        return found


@dataclass(slots=True, eq=False)
class OnTheirWay:
    """Rows that a GPU may still be at."""

    out: Float32[np.ndarray, "n width"]
    parts: list[tuple[Int64[np.ndarray, " m"], Tensor]] = field(default_factory=list)
    begun: Any = None  # events of the GPU
    ended: Any = None
    gpu_seconds: float = 0.0

    def result(self) -> Float32[np.ndarray, "n width"]:
        """Wait for the rows, in input order."""
        if self.ended is not None:
            self.ended.synchronize()
            self.gpu_seconds = self.begun.elapsed_time(self.ended) / 1000
        for members, values in self.parts:
            self.out[members] = values.cpu().numpy()[: len(members)]
        self.parts.clear()
        return self.out


class SixFrameEncoder:
    """Turns DNA into rows, or into logits of ``KINDS``.

    Sequences whose lengths round up to the same number go together. On a CPU every array that reaches the network has a
    shape that follows from the length of one sequence alone: so many at a time, the last ones filled up. So a row does
    not depend on what else is asked for, to the last bit.

    Args:
        network: trained; it is folded.
        spec: what the encoder is; None where nobody asks.
        device: such as ``cpu`` or ``cuda:0``.
        precision: ``fp32``, ``fp16`` or ``bf16``; ``int8`` on a CPU.
        token_budget: bases in a batch; None for what suits the device.

    Raises:
        EncoderError: ``int8`` is asked of a GPU.
    """

    def __init__(
        self,
        network: SixFrame,
        spec: Any = None,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        token_budget: int | None = None,
    ) -> None:
        self.spec: Any = spec
        self.device = torch.device(device)
        self.network = network.fold().to(self.device)
        if precision == "int8":
            if self.device.type != "cpu":
                raise EncoderError("--precision int8 is for CPUs: use bf16, fp16 or fp32")
            self.network = in_bytes(self.network)
        self.width: int = network.config.width
        self.precision: str = precision
        self.token_budget: int = token_budget or _budget(self.device)
        self.events: list[str] = []
        self.kernel: str = "convolutions"
        self.tokens_read: int = 0
        self.weights_seconds = 0.0
        self._half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        state: Mapping[str, Tensor],
        spec: EncoderSpec,
        *,
        device: torch.device,
        precision: str,
        token_budget: int | None = None,
    ) -> SixFrameEncoder:
        """Make one of what lies in a folder.

        Args:
            config: the content of ``config.json``.
            state: the weights, normalisation folded into them.
            spec: what the encoder is.
            device: where it runs.
            precision: as above.
            token_budget: bases in a batch; None for what suits the device.

        Raises:
            WeightsError: weights and configuration do not fit each other.
            EncoderError: ``int8`` is asked of a GPU.
        """
        network = SixFrame(SixFrameConfig.from_json(config.get("network") or {})).fold()
        try:
            network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        except RuntimeError as error:
            raise WeightsError(f"the weights of {spec.name} do not fit its configuration: {error}") from error
        return cls(network, spec, device=device, precision=precision, token_budget=token_budget)

    def prepare(self, sequences: Sequence[str]) -> Windows:
        """Turn letters of either case into codes."""
        text = "".join(sequences).encode("latin-1", "replace")
        length = np.fromiter(map(len, sequences), np.int64, len(sequences))
        margin = padded_length(int(length.max(initial=0))) * b"\x04"
        start = np.cumsum(length) - length
        return Windows(np.frombuffer(text.translate(BASE_CODES) + margin, np.uint8), start, length)

    def launch(self, work: Windows) -> OnTheirWay:
        """Queue what ``prepare`` gave on the GPU, and do not wait for it; on a CPU all is done when this returns."""
        return self._run(work, self.network.rows, self.width)

    def embed(self, sequences: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """Embed sequences, in input order; one too short for a codon in every frame is a row of zeros."""
        return self.launch(self.prepare(sequences)).result()

    def logits(self, sequences: Sequence[str]) -> Float32[np.ndarray, "n 7"]:
        """Give each sequence's logits of ``KINDS``, in input order; zeros where it is too short for any."""
        return self._run(self.prepare(sequences), self.network, len(KINDS)).result()

    def _run(self, work: Windows, function: Callable[..., Tensor], width: int) -> OnTheirWay:
        found = OnTheirWay(np.zeros((len(work.length), width), np.float32), begun=mark(self.device))
        self.tokens_read += int(work.length.sum())
        if self.device.type == "cpu":
            self._run_on_cores(work, function, found.out)
            return found
        for size, members in work.classes():
            done = 0
            while done < len(members):
                count = self._count(size, len(members) - done)
                some = members[done : done + count]
                try:
                    found.parts.append((some, self._network(work, some, size, function)))
                except torch.cuda.OutOfMemoryError as error:
                    self._halve(size, error)
                    continue
                done += len(some)
        found.ended = mark(self.device)
        return found

    def _run_on_cores(self, work: Windows, function: Callable[..., Tensor], out: Float32[np.ndarray, "n w"]) -> None:
        def run(size: int, some: Int64[np.ndarray, " m"]) -> None:
            out[some] = self._network(work, some, size, function).numpy()[: len(some)]

        with one_thread_each() as pool:
            running = [
                pool.submit(run, size, members[first : first + count])
                for size, members in work.classes()
                for count in (self._count(size, len(members)),)
                for first in range(0, len(members), count)
            ]
            for one in running:
                one.result()

    def _count(self, size: int, left: int) -> int:
        """Windows of the next batch."""
        most = max(1, self.token_budget // size)
        if self.device.type == "cpu" or left <= most:
            return most
        # As many as in any other batch that is still to come.
        each = -(-left // -(-left // most))
        return min(most, -(-each // _ROUND) * _ROUND)

    def _halve(self, size: int, error: Exception) -> None:
        torch.cuda.empty_cache()
        if self.token_budget <= size:
            raise EncoderError(
                f"a window of {size:,} bases does not fit in the memory of {torch.cuda.get_device_name(self.device)}: "
                "use a smaller --chunk, or --device cpu"
            ) from error
        self.token_budget = max(size, self.token_budget // 2)
        self.events.append(f"token budget halved to {self.token_budget:,} bases: GPU memory was full")

    @torch.inference_mode()
    def _network(
        self, work: Windows, some: Int64[np.ndarray, " m"], size: int, function: Callable[..., Tensor]
    ) -> Tensor:
        """What the network says of windows of one padded length; on a CPU of as many as any batch of it has."""
        if self.device.type == "cpu":
            some = np.resize(some, max(1, self.token_budget // size))
        bases, lengths = (to_device(each, self.device) for each in (work.letters(some, size), work.length[some]))
        # No other length is rounded up to a common one, so there nothing is padded and nothing needs to be masked.
        full = size in COMMON_LENGTHS
        ids = codon_ids(bases, None if full else lengths)
        codons = None if full else (lengths - 2) // 3
        with torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None):
            result: Tensor = function(ids, codons)
        return result.float()


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch uses, each of which it runs in alone.

    Convolutions of a batch that fits in caches lose more by being shared out than they win.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield pool
            except BaseException:
                # Somebody wants an end: what has not begun is not waited for.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


def _budget(device: torch.device) -> int:
    """Bases of a batch that use the device well and fit in its memory."""
    if device.type != "cuda":
        return _CPU_BASES
    return min(_GPU_BASES, torch.cuda.get_device_properties(device).total_memory // (_BYTES_A_BASE * _SHARE))
