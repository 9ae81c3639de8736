"""Measures encoders: each precision on each set of lengths, beside the rate of the matrix products alone.

Whatever fails says why in its place, and does not end the rest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier

import numpy as np
import torch

from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.measured import cosines
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.files.machine import available_memory
from vnp.speed.measure import Ceiling, Clock, Memory, ceiling_rows, choose_sample, free, measure_ceiling, take_time
from vnp.speed.workloads import Workload

Say = Callable[[str], None]

LEFT_OUT = "left out: the time was used up"
_INTERRUPTED = "interrupted"
SWEPT_LENGTH, _SWEPT_ROUNDS, _PAST = 102, 3, 2
_GPU_BUDGETS = (4096, 8192, 16384, 32768, 65536, 131072, 262144)
_CPU_BUDGETS = (512, 1024, 2048, 4096, 8192)
_WITHIN, _TUNING_SECONDS = 0.01, 25.0  # a point of the largest models takes five more
_SPLIT_SECONDS, _SPLIT_SEQUENCES = 15.0, 5  # one slab of the engine on a CPU
_RESERVE = 0.9  # of a GPU's memory; the rest is for its context and for what batches leave in pieces
MEMORIES = (24, 40, 80, 141)  # GB, as GPUs are sold
_FULL = 0.998  # a little less than whole batches, so that no token is left for one more


@dataclass(frozen=True)
class SpeedRequest:
    """What to measure."""

    precisions: tuple[str, ...]  # of the engine, the most important first
    token_budget: int | None = None  # tokens of its batches; None for the default
    repeats: int = 5  # rounds; the median counts
    ceiling_seconds: float = 1.0  # that the products of one precision may take, each time
    sample: int = 200  # sequences of each workload whose numbers are compared
    tune: bool = False  # measure larger and larger batches in every precision, to choose the best


@dataclass(frozen=True, eq=False)
class Course:
    """One workload, ready to run: all token ids, those whose numbers are compared, and exact numbers of these."""

    workload: Workload
    ids: list[np.ndarray]
    sample: list[np.ndarray]
    exact: np.ndarray | None


@dataclass(frozen=True)
class Row:
    """One way to run a model on one workload."""

    model: str  # the encoder
    workload: str  # its name
    contestant: str  # ``vnp``, or the name of another way
    kind: str  # ``ours``; ``rival`` is another program at its best; ``loop`` is VirNucPro's way
    precision: str  # it ran in
    note: str = ""  # what was chosen, such as the kernel or the batch
    sequences: int = 0  # of one round
    tokens: int = 0  # of one round
    rounds: tuple[float, ...] = ()  # seconds of each
    sequences_per_second: float = 0.0  # by the median round
    tokens_per_second: float = 0.0  # by the median round
    tflops: float = 0.0  # floating-point operations of matrix products and attention, by the median round
    share: float | None = None  # of the rate of the matrix products alone
    peak_gib: float | None = None  # GPU memory, weights included
    weights_gib: float | None = None  # GPU memory of the weights alone
    token_bytes: float | None = None  # GPU memory of one token more in a batch, from the peak of this one
    least_cosine: float | None = None  # the smallest between pooled embeddings and those of plain layers in float32
    least_difference: float | None = None  # the same of what sets each embedding apart from the mean of all compared
    compared: int = 0  # sequences that the cosine is of
    times_rival: float | None = None  # how many times more tokens a second than the best rival, if it is ours
    times_loop: float | None = None  # how many times more than VirNucPro's way, if it is ours
    error: str | None = None  # why there are no figures

    def timed(self, operations: float, lengths: np.ndarray, rounds: Sequence[float], peak_gib: float | None) -> Row:
        """The row with what rounds over sequences of these tokens, of so many operations, tell."""
        seconds = statistics.median(rounds)
        tokens = int(lengths.sum())
        return replace(
            self,
            sequences=len(lengths),
            tokens=tokens,
            rounds=tuple(rounds),
            sequences_per_second=len(lengths) / seconds,
            tokens_per_second=tokens / seconds,
            tflops=operations / seconds / 1e12,
            peak_gib=peak_gib,
        )

    def compared_with(self, exact: np.ndarray | None, got: np.ndarray) -> Row:
        """The row with its smallest cosines."""
        if exact is None:
            return self
        apart = float(cosines(got, exact, apart=True).min()) if len(exact) > 1 else None
        least = float(cosines(got, exact).min())
        return replace(self, least_cosine=least, least_difference=apart, compared=len(exact))

    def fitting(self, gigabytes: float) -> int | None:
        """Tokens of a batch that a GPU with so much memory holds, reckoned from this one; None where none was used."""
        if not self.token_bytes or self.weights_gib is None:
            return None
        return max(0, int((_RESERVE * gigabytes * 1e9 - self.weights_gib * 2**30) / self.token_bytes))


@dataclass(frozen=True)
class Point:
    """The engine on sequences of one length with one size of batch."""

    length: int
    budget: int
    sequences_per_second: float = 0.0
    tokens_per_second: float = 0.0
    tflops: float = 0.0
    peak_gib: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Split:
    """A CPU's cores in groups that work side by side, as tasks do: each with threads of its own."""

    tasks: int
    threads: int  # of each
    tokens_per_second: float  # of all together


@dataclass(frozen=True)
class Sweep:
    """Points over ``length`` or ``budget`` (``none`` if it failed); best is the smallest budget near the best rate."""

    over: str
    precision: str
    points: tuple[Point, ...]
    best: int | None
    error: str | None = None
    seconds: float = 0.0  # that it took, with loading the encoder
    splits: tuple[Split, ...] = ()  # on a CPU, with the best budget

    @property
    def best_split(self) -> Split | None:
        """The one with the fewest tasks, each of which holds the weights, that is nearly as fast as the best."""
        enough = (1 - _WITHIN) * max((each.tokens_per_second for each in self.splits), default=0.0)
        return next((each for each in self.splits if each.tokens_per_second >= enough), None)


@dataclass(frozen=True)
class ModelReport:
    """All of one model."""

    name: str  # the encoder
    source: str  # where its weights came from
    size: str  # layers and width, in words
    ceilings: tuple[Ceiling, ...]  # of each precision that ran
    workloads: tuple[Workload, ...]  # what was run
    rows: tuple[Row, ...]  # everything on every workload
    sweeps: tuple[Sweep, ...]  # over budgets, or lengths
    reference_error: str | None = None  # why numbers could not be compared, if so
    interrupted: bool = False  # whether somebody ended it early


def measure_model(
    model: BareModel,
    workloads: Sequence[Workload],
    request: SpeedRequest,
    clock: Clock,
    say: Say,
    others: Callable[[Sequence[Course]], Iterable[Row]] = lambda _: (),
) -> ModelReport:
    """Measure a model, and then ``others`` ways to run it.

    What is left of the clock is shared among what is left to measure. Once it has run out, no further round is begun,
    and all but the first workload are left out. Where an interruption (``KeyboardInterrupt``) comes meanwhile, what
    was found by then is the result.
    """
    say(f"{model.name}: matrix products")
    ceilings = [_ceiling(model, precision, request.ceiling_seconds) for precision in request.precisions]
    say(f"{model.name}: exact numbers")
    courses, fault = _courses(model, workloads, request.sample, clock.share(2))
    rows: list[Row] = []
    sweeps: list[Sweep] = []
    interrupted = False
    try:
        left = len(request.precisions) * len(courses)
        for precision in request.precisions:
            for row in _ours(model, precision, courses, request, clock, left - len(rows), say):
                rows.append(row)
        for row in others(courses):
            rows.append(row)
        for precision in request.precisions if request.tune else ():
            say(f"{model.name}: larger and larger batches, {precision}")
            sweeps.append(_tuned(model, precision, request.token_budget))
        say(f"{model.name}: matrix products again")
        ceilings = [_again(model, ceiling, request.ceiling_seconds) for ceiling in ceilings]
    except KeyboardInterrupt:
        interrupted = True
        for precision in request.precisions:
            done = {row.workload for row in rows if row.kind == "ours" and row.precision == precision}
            missing = [course for course in courses if course.workload.name not in done]
            rows += [empty_row(model, course, precision, error=_INTERRUPTED) for course in missing]
    return ModelReport(
        name=model.name,
        source=model.source,
        size=model.size,
        ceilings=tuple(ceilings),
        workloads=tuple(workloads),
        rows=tuple(_placed(row, rows, ceilings) for row in rows),
        sweeps=tuple(sweeps),
        reference_error=fault,
        interrupted=interrupted,
    )


def _ceiling(model: BareModel, precision: str, seconds: float) -> Ceiling:
    rows = ceiling_rows(model, precision)
    try:
        return Ceiling(precision, rows, measure_ceiling(model, precision, seconds))
    except Exception as error:
        return Ceiling(precision, rows, None, error=reason(error))


def _again(model: BareModel, found: Ceiling, seconds: float) -> Ceiling:
    again = found if found.before is None else _ceiling(model, found.precision, seconds)
    return replace(found, after=None if again is found else again.before, error=found.error or again.error)


def _courses(
    model: BareModel, workloads: Sequence[Workload], sample: int, clock: Clock
) -> tuple[list[Course], str | None]:
    """Draw sequences, and embed the ones that numbers are compared on with plain padded layers in float32."""
    encoder: TransformerEncoder | None = None
    fault = None
    try:
        encoder = model.encoder("fp32", "padded")
    except Exception as error:
        fault = reason(error)
    courses: list[Course] = []
    for workload in workloads:
        ids = model.sequences(workload.lengths)
        some = [ids[i] for i in choose_sample(workload.lengths, sample)]
        exact = None
        if encoder is not None and (clock.left or not courses):
            try:
                exact = encoder.embed_ids(some)
            except Exception as error:
                fault = reason(error)
        courses.append(Course(workload, ids, some, exact))
    del encoder
    free(model.device)
    return courses, fault


def _ours(
    model: BareModel,
    precision: str,
    courses: Sequence[Course],
    request: SpeedRequest,
    clock: Clock,
    left: int,
    say: Say,
) -> Iterator[Row]:
    """Run the engine on everything, a row each, of so many that are left; it is gone from the device afterwards."""
    say(f"{model.name}: vnp, {precision}")
    memory = Memory(model.device)
    try:
        encoder = model.encoder(precision, token_budget=request.token_budget)
    except Exception as error:
        why = reason(error)
        yield from (empty_row(model, course, precision, error=why) for course in courses)
        return
    for number, course in enumerate(courses):
        if number and not clock.left:
            yield empty_row(model, course, precision, error=LEFT_OUT)
            continue
        say(f"{model.name}: vnp, {precision}: {course.workload.name}")
        try:
            yield _measure(model, encoder, course, request.repeats, memory, clock.share(left - number))
        except Exception as error:
            yield empty_row(model, course, precision, error=reason(error))
        free(model.device)
    del encoder
    free(model.device)


def _measure(
    model: BareModel, encoder: TransformerEncoder, course: Course, repeats: int, memory: Memory, clock: Clock
) -> Row:
    rounds = take_time(lambda: encoder.embed_ids(course.ids), repeats, memory, clock)
    lengths = course.workload.lengths
    row = empty_row(model, course, encoder.precision).timed(model.operations(lengths), lengths, rounds, memory.peak_gib)
    note = f"{encoder.kernel}, {encoder.token_budget:,} tokens a batch"
    if memory.peak_gib is not None and memory.held_gib is not None:
        held = memory.held_gib
        used = (memory.peak_gib - held) * 2**30 / min(encoder.token_budget, course.workload.tokens)
        row = replace(row, weights_gib=held, token_bytes=used)
    return replace(row, note=note).compared_with(course.exact, encoder.embed_ids(course.sample))


def empty_row(
    model: BareModel, course: Course, precision: str, contestant: str = "vnp", kind: str = "ours",
    error: str | None = None,
) -> Row:  # fmt: skip
    """A row without figures."""
    return Row(model.name, course.workload.name, contestant, kind, precision, error=error)


def _placed(row: Row, rows: Sequence[Row], ceilings: Sequence[Ceiling]) -> Row:
    """The row with its share of the ceiling and, if it is ours, how many times faster it is than the others."""
    if row.error is not None:
        return row
    top = next((each.tflops for each in ceilings if each.precision == row.precision), None)
    share = row.tflops / top if top else None
    if row.kind != "ours":
        return replace(row, share=share)

    def times(kind: str) -> float | None:
        # Of tokens: the part of a workload that a rival is timed on may have longer sequences.
        same = [each for each in rows if each.kind == kind and each.workload == row.workload and each.error is None]
        return row.tokens_per_second / max(each.tokens_per_second for each in same) if same else None

    return replace(row, share=share, times_rival=times("rival"), times_loop=times("loop"))


def _tuned(model: BareModel, precision: str, token_budget: int | None) -> Sweep:
    memory, clock = Memory(model.device), Clock(_TUNING_SECONDS)
    began = time.perf_counter()
    try:
        encoder = model.encoder(precision, token_budget=token_budget)
        steps = [(SWEPT_LENGTH, budget) for budget in budgets_of(model.device) if budget >= SWEPT_LENGTH]
        points = sweep(model, encoder, memory, steps, clock)
        splits = () if model.device.type == "cuda" else tuple(_splits(model, encoder, Clock(_SPLIT_SECONDS)))
        spent = time.perf_counter() - began
        return Sweep("budget", precision, tuple(points), best_budget(points), seconds=spent, splits=splits)
    except Exception as error:
        return Sweep("none", precision, (), None, error=reason(error))
    finally:
        free(model.device)


def budgets_of(device: torch.device) -> tuple[int, ...]:
    """Tokens of a batch that are worth measuring on a device, from small to large."""
    return _GPU_BUDGETS if device.type == "cuda" else _CPU_BUDGETS


def best_budget(points: Iterable[Point]) -> int | None:
    """The smallest budget that is nearly as fast as the best; None if nothing was measured."""
    good = [point for point in points if point.error is None]
    enough = (1 - _WITHIN) * max((point.tokens_per_second for point in good), default=0.0)
    return min((point.budget for point in good if point.tokens_per_second >= enough), default=None)


def sweep(
    model: BareModel, encoder: TransformerEncoder, memory: Memory, steps: Iterable[tuple[int, int]],
    clock: Clock | None = None,
) -> list[Point]:  # fmt: skip
    """Measure the engine with (tokens of a sequence, tokens of a batch) step after step.

    That is until one fails; with a clock also until two in a row are slower than one before them, or it has run out.
    """
    before = encoder.token_budget
    points: list[Point] = []
    try:
        for length, budget in steps:
            points.append(_point(model, encoder, memory, length, budget))
            rates = [point.tokens_per_second for point in points]
            past_best = len(rates) - rates.index(max(rates)) > _PAST
            if points[-1].error is not None or (clock is not None and (past_best or not clock.left)):
                break
    finally:
        encoder.token_budget = before
    return points


def _splits(model: BareModel, encoder: TransformerEncoder, clock: Clock) -> Iterator[Split]:
    """One task with all threads, two with half of them, and on until two in a row are slower or time or memory ends."""
    cores = torch.get_num_threads()
    ids = model.sequences(np.full(_SPLIT_SEQUENCES, SWEPT_LENGTH, np.int64))
    room = available_memory()
    weights = sum(each.nbytes for each in model.state.values())
    rates: list[float] = []
    tasks = 1
    try:
        while tasks <= cores and (not rates or len(rates) - rates.index(max(rates)) <= _PAST):
            ready = Barrier(tasks)

            def work(_: int, threads: int = cores // tasks, ready: Barrier = ready) -> None:
                torch.set_num_threads(threads)
                ready.wait()
                encoder.embed_ids(ids)

            began = time.perf_counter()
            with ThreadPoolExecutor(tasks) as pool:
                list(pool.map(work, range(tasks)))
            rates.append(tasks * _SPLIT_SEQUENCES * SWEPT_LENGTH / (time.perf_counter() - began))
            yield Split(tasks, cores // tasks, rates[-1])
            tasks *= 2
            if not clock.left or (room is not None and tasks * weights > room / 2):
                break
    finally:
        torch.set_num_threads(cores)


def _point(model: BareModel, encoder: TransformerEncoder, memory: Memory, length: int, budget: int) -> Point:
    encoder.token_budget = budget
    # Whole batches alone, so that a last one that is nearly empty does not count against a large budget; enough of
    # them that small ones are not lost in the noise.
    batches = max(1, -(-(131_072 if model.device.type == "cuda" else 512) // budget))
    lengths = np.full(batches * max(1, int(budget * _FULL) // length), length, np.int64)
    ids = model.sequences(lengths)
    try:
        seconds = statistics.median(take_time(lambda: encoder.embed_ids(ids), _SWEPT_ROUNDS, memory))
    except (EncoderError, torch.OutOfMemoryError) as error:
        scarce = isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)
        return Point(length, budget, error="out of memory" if scarce else str(error))
    if encoder.token_budget != budget:
        # The engine goes on with smaller batches by itself, which would be another measurement.
        return Point(length, budget, error="out of memory")
    rates = (len(ids) / seconds, float(lengths.sum()) / seconds, model.operations(lengths) / seconds / 1e12)
    return Point(length, budget, *rates, memory.peak_gib)


def reason(error: BaseException) -> str:
    """Why something could not run, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if isinstance(error, EncoderError) else f"{type(error).__name__}: {first}"
