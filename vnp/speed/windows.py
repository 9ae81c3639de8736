"""Measures the network of six frames: bases a second on windows of some lengths, beside its convolutions alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from vnp.encoders.build import DTYPES
from vnp.encoders.device import choose_precision
from vnp.encoders.models.eight_bits import ByteConvolution, multiplies_bytes
from vnp.encoders.models.sixframe import padded_length
from vnp.encoders.registry import load
from vnp.encoders.spec import spec as lookup
from vnp.encoders.windows import SixFrameEncoder, one_thread_each
from vnp.speed.encoders import LEFT_OUT, ModelReport, Row, Say, SpeedRequest, Sweep, reason
from vnp.speed.measure import Ceiling, Clock, Memory, choose_sample, default_precisions, free, seconds_of, take_time
from vnp.speed.workloads import Workload

_LETTERS = np.frombuffer(b"ACGT", np.uint8)
_LENGTHS = (2000, 1000, 500, 300, 150)
_LAYERS = (nn.Conv2d, nn.Linear, ByteConvolution)


@dataclass(frozen=True, eq=False)
class _Step:
    """One convolution or product of the network, and what it was given."""

    layer: nn.Module
    shape: tuple[int, ...]
    operations: float


def default_windows(bases: int, *, few: bool = False) -> list[Workload]:
    """Windows of one length each, and of contigs of 500 to 2,000 bases, with about so many bases each."""
    lengths = (_LENGTHS[0], _LENGTHS[-1]) if few else _LENGTHS
    made = [
        Workload(f"windows of {each:,} bases", np.full(max(1, bases // each), each, np.int64), "bases")
        for each in lengths
    ]
    if not few:
        drawn = np.exp(np.random.default_rng(0).uniform(math.log(500), math.log(2000), max(1, bases // 1082)))
        made.append(Workload("contigs of 500 to 2,000 bases", drawn.astype(np.int64), "bases"))
    return made


def window_precisions(device: torch.device, *, few: bool = False) -> tuple[str, ...]:
    """The precisions worth measuring, what ``auto`` is first."""
    if device.type == "cuda":
        found = tuple(reversed(default_precisions(device)))
    else:
        found = ("int8", "fp32") if multiplies_bytes() else ("fp32",)
    return found[:1] if few else found


def measure_windows(
    name: str,
    device: torch.device,
    weights: Path | None,
    workloads: Sequence[Workload],
    request: SpeedRequest,
    clock: Clock,
    say: Say,
) -> ModelReport:
    """Measure an encoder that reads windows, in each precision on each workload.

    Letters are codes already, as in a run, where another thread makes them. A token is a base. The clock is shared
    among what is left to measure; all but the first workload are left out once it has run out.

    Raises:
        WeightsError: the weights are damaged or of another encoder.
    """
    exact = _encoder(name, device, weights, "fp32", request.token_budget)
    source = "weights of the package" if weights is None else f"weights of {weights}"
    texts = [_texts(each.lengths) for each in workloads]
    samples = [
        [some[i] for i in choose_sample(each.lengths, request.sample)]
        for each, some in zip(workloads, texts, strict=True)
    ]
    rows: list[Row] = []
    ceilings: list[Ceiling] = []
    interrupted = False
    try:
        for precision in request.precisions:
            say(f"{name}: convolutions alone, {precision}")
            try:
                encoder = _encoder(name, device, weights, precision, request.token_budget)
                top = Ceiling(
                    precision, _windows_of(encoder, _LENGTHS[0]) * _LENGTHS[0], _alone(encoder, request.ceiling_seconds)
                )
            except Exception as error:
                why = reason(error)
                ceilings.append(Ceiling(precision, 0, None, error=why))
                rows += [Row(name, each.name, "vnp", "ours", precision, error=why) for each in workloads]
                continue
            for number, (workload, some, sample) in enumerate(zip(workloads, texts, samples, strict=True)):
                row = Row(name, workload.name, "vnp", "ours", precision)
                if number and not clock.left:
                    rows.append(replace(row, error=LEFT_OUT))
                    continue
                say(f"{name}: vnp, {precision}: {workload.name}")
                own = clock.share(len(request.precisions) * len(workloads) - len(rows))
                try:
                    row = _measured(row, encoder, workload, some, request.repeats, own, top.before)
                    rows.append(row.compared_with(exact.embed(sample), encoder.embed(sample)))
                except Exception as error:
                    rows.append(replace(row, error=reason(error)))
            ceilings.append(replace(top, after=_alone(encoder, request.ceiling_seconds)))
            free(device)
    except KeyboardInterrupt:
        interrupted = True
    channels = exact.network.config
    untuned = "its batches need no tuning"
    return ModelReport(
        name=name,
        source=source,
        size=f"{channels.local} and {channels.context} channels, rows of {channels.width}",
        ceilings=tuple(ceilings),
        workloads=tuple(workloads),
        rows=tuple(rows),
        sweeps=tuple(Sweep("none", each, (), None, untuned) for each in request.precisions if request.tune),
        interrupted=interrupted,
    )


def _encoder(
    name: str, device: torch.device, weights: Path | None, precision: str, budget: int | None
) -> SixFrameEncoder:
    wanted = choose_precision(precision, device)
    found = load(name, molecule=lookup(name).molecule, weights=weights, device=str(device), precision=wanted,
                 token_budget=budget)  # fmt: skip
    assert isinstance(found, SixFrameEncoder)
    return found


def _texts(lengths: Int64[np.ndarray, "n"]) -> list[str]:
    letters = _LETTERS[np.random.default_rng(0).integers(0, 4, int(lengths.sum()))].tobytes().decode()
    ends = np.cumsum(lengths)
    return [letters[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _measured(
    row: Row, encoder: SixFrameEncoder, workload: Workload, texts: Sequence[str], repeats: int, clock: Clock,
    top: float | None,
) -> Row:  # fmt: skip
    work = encoder.prepare(texts)
    memory = Memory(encoder.device)
    began = time.process_time()
    rounds = take_time(lambda: encoder.launch(work).result(), repeats, memory, clock)
    processor = (time.process_time() - began) / (len(rounds) + 1)
    bases = workload.tokens
    sizes, counts = np.unique([padded_length(int(each)) for each in workload.lengths], return_counts=True)
    operations = sum(
        count * sum(step.operations for step in _steps(encoder, size, 1))
        for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)
    )
    row = row.timed(operations, workload.lengths, rounds, memory.peak_gib)
    rate = (
        f"{row.tokens_per_second / 1e6:,.3g} Mbp/s"
        if encoder.device.type == "cuda"
        else f"{bases / processor * 60 / 1e6:,.3g} Mbp a minute of one core's time"
    )
    return replace(
        row,
        note=f"{rate}, {encoder.token_budget:,} bases a batch",
        share=row.tflops / top if top else None,
    )


def _windows_of(encoder: SixFrameEncoder, size: int) -> int:
    return max(1, encoder.token_budget // size)


def _alone(encoder: SixFrameEncoder, seconds: float) -> float:
    """TFLOP/s of the convolutions and products of a batch of the longest windows, each alone, on random numbers.

    On a CPU of as many batches at once as the encoder has in hand.
    """
    dtype, device = DTYPES.get(encoder.precision, torch.float32), encoder.device
    calls: list[Callable[[], Tensor]] = []
    operations = 0.0
    for step in _steps(encoder, _LENGTHS[0], _windows_of(encoder, _LENGTHS[0])):
        if isinstance(step.layer, ByteConvolution):
            x = torch.randint(256, step.shape, dtype=torch.uint8)
        else:
            x = torch.randn(step.shape, device=device).to(dtype)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        calls.append(_call(step.layer, x, dtype))
        operations += step.operations

    def turn(times: int) -> None:
        with torch.inference_mode():
            for _ in range(times):
                for call in calls:
                    call()

    batches = torch.get_num_threads() if device.type == "cpu" else 1

    def on_all_cores(times: int) -> None:
        with one_thread_each() as pool:
            list(pool.map(turn, [times] * batches))

    spent = seconds_of(on_all_cores if device.type == "cpu" else turn, seconds, device)
    calls.clear()
    free(device)
    return operations * batches / spent / 1e12


def _call(layer: nn.Module, x: Tensor, dtype: torch.dtype) -> Callable[[], Tensor]:
    if isinstance(layer, ByteConvolution):
        return lambda: layer(x)
    if isinstance(layer, nn.Conv2d):
        weight = layer.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        return lambda: nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)
    return lambda: nn.functional.linear(x, weight, bias)


def _steps(encoder: SixFrameEncoder, size: int, windows: int) -> Iterator[_Step]:
    """What a batch of windows of one length goes through."""
    found: list[_Step] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        assert isinstance(layer, _LAYERS)
        products = layer.products if isinstance(layer, ByteConvolution) else layer.weight[0].numel()
        found.append(_Step(layer, tuple(given[0].shape), 2.0 * made.numel() * products))

    layers = [layer for layer in encoder.network.modules() if isinstance(layer, _LAYERS)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        # One window tells the shapes; of more they differ in the number of windows alone.
        encoder.logits(["ACGT" * (size // 4) + "ACG"[: size % 4]])
    finally:
        for hook in hooks:
            hook.remove()
    for step in found:
        in_batch = step.shape[0]
        yield _Step(step.layer, (windows, *step.shape[1:]), step.operations * windows / in_batch)
