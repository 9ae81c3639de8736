"""Measures one model: its ceilings, all contestants on all workloads, and the sweeps; whatever fails says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.models.bare import BareModel
from vnp.errors import EncoderError
from vnp.speed.measure import (
    Ceiling,
    Clock,
    Memory,
    Pieces,
    Run,
    ceiling_rows,
    choose_sample,
    embed_in_pieces,
    free,
    least_cosine,
    measure_ceiling,
    take_time,
)
from vnp.speed.results import ModelReport, Row, Sweep
from vnp.speed.sweeps import best_budget, by_budget, by_length, ranges
from vnp.speed.workloads import Workload

Kind = Literal["ours", "rival", "loop"]
Say = Callable[[str], None]

_SWEEP_SEQUENCE = 102
_LEFT_OUT = "left out: the time was used up"
_INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class SpeedRequest:
    """What to measure.

    Attributes:
        precisions: of the engine, the most important first.
        token_budget: tokens of its batches; None for the default.
        repeats: rounds; the median counts.
        rival_seconds: that another program may take for one workload.
        ceiling_seconds: that the products of one precision may take, each time.
        sample: sequences of each workload whose numbers are compared.
        sweeps: measure against length and against tokens of a batch.
        tune: measure against tokens of a batch in every precision, to choose the best.
    """

    precisions: tuple[str, ...]
    token_budget: int | None = None
    repeats: int = 5
    rival_seconds: float = 5.0
    ceiling_seconds: float = 1.0
    sample: int = 200
    sweeps: bool = True
    tune: bool = False


@dataclass(frozen=True, eq=False)
class Entry:
    """A contestant that is ready for one workload.

    Attributes:
        run: embeds one piece.
        pieces: what it works through in turn.
        note: what was chosen, such as the kernel or the batch.
    """

    run: Run
    pieces: Pieces
    note: str


@dataclass(frozen=True, eq=False)
class Ready:
    """A contestant whose model is on its device.

    Attributes:
        prepare: makes it ready for a workload, given token ids and seconds that it may spend on choosing.
        encoder: the engine, if it is ours.
    """

    prepare: Callable[[Sequence[np.ndarray], float], Entry]
    encoder: TransformerEncoder | None = None


@dataclass(frozen=True)
class Contestant:
    """One that takes part.

    Attributes:
        name: in words.
        kind: ``ours``; ``rival`` is another program at its best; ``loop`` is VirNucPro's way.
        precision: it runs in.
        build: puts the model on its device; raises what is wrong.
    """

    name: str
    kind: Kind
    precision: str
    build: Callable[[BareModel], Ready]


@dataclass(frozen=True, eq=False)
class _Course:
    """One workload, ready for all contestants."""

    workload: Workload
    ids: list[np.ndarray]
    sample: list[np.ndarray]
    exact: np.ndarray | None


def ours(precision: str, token_budget: int | None) -> Contestant:
    """The engine in one precision."""

    def build(model: BareModel) -> Ready:
        encoder = model.encoder(precision, token_budget=token_budget)

        def prepare(ids: Sequence[np.ndarray], _: float) -> Entry:
            note = f"{encoder.kernel}, {encoder.token_budget:,} tokens a batch"
            return Entry(encoder.embed_ids, [np.arange(len(ids))], note)

        return Ready(prepare, encoder)

    return Contestant("vnp", "ours", precision, build)


def compare(
    model: BareModel,
    workloads: Sequence[Workload],
    request: SpeedRequest,
    clock: Clock,
    say: Say,
    others: Sequence[Contestant] = (),
) -> ModelReport:
    """Measure a model.

    Args:
        model: to measure.
        workloads: what to run.
        request: what to measure.
        clock: others and sweeps that have not begun when it has run out are left out; ours never are.
        say: told what comes next, in a few words.
        others: ways to run the model besides the engine.

    Returns:
        What was found. Where an interruption (``KeyboardInterrupt``) comes while contestants are measured, that is
        what was found by then.
    """
    own = [ours(precision, request.token_budget) for precision in request.precisions]
    field = [*own, *others]
    say(f"{model.name}: matrix products")
    ceilings = {each.precision: _before(model, each.precision, request.ceiling_seconds) for each in field}
    say(f"{model.name}: exact numbers")
    courses, fault = _courses(model, workloads, request)
    measured: dict[Contestant, list[Row]] = {each: [] for each in field}
    sweeps: list[Sweep] = []
    interrupted = False
    try:
        # Ours in the most important precision, then the others, which have a time limit, then ours in further ones.
        for each in [*own[:1], *others, *own[1:]]:
            for row in _contest(model, each, courses, request, clock, say):
                measured[each].append(row)
        for number, contestant in enumerate(own):
            lengths = request.sweeps and number == 0
            if request.tune or lengths:
                for sweep in _sweeps(model, contestant, request, clock, say, lengths=lengths):
                    sweeps.append(sweep)
        say(f"{model.name}: matrix products again")
        for name, ceiling in list(ceilings.items()):
            ceilings[name] = _after(model, ceiling, request.ceiling_seconds)
    except KeyboardInterrupt:
        interrupted = True
        for each, found in measured.items():
            found += [_row(model, each, course, error=_INTERRUPTED) for course in courses[len(found) :]]
    rows = [row for each in field for row in measured[each]]
    return ModelReport(
        name=model.name,
        source=model.source,
        size=model.size,
        ceilings=tuple(ceilings.values()),
        workloads=tuple(workloads),
        rows=tuple(_placed(row, rows, ceilings) for row in rows),
        sweeps=tuple(sweeps),
        reference_error=fault,
        interrupted=interrupted,
    )


def _before(model: BareModel, precision: str, seconds: float) -> Ceiling:
    rows = ceiling_rows(model, precision)
    try:
        return Ceiling(precision, rows, measure_ceiling(model, precision, seconds))
    except Exception as error:
        return Ceiling(precision, rows, None, error=reason(error))


def _after(model: BareModel, found: Ceiling, seconds: float) -> Ceiling:
    if found.before is None:
        return found
    try:
        return replace(found, after=measure_ceiling(model, found.precision, seconds))
    except Exception as error:
        return replace(found, error=reason(error))


def _courses(
    model: BareModel, workloads: Sequence[Workload], request: SpeedRequest
) -> tuple[list[_Course], str | None]:
    """Draw sequences, and embed the ones that numbers are compared on with plain padded layers in float32."""
    encoder: TransformerEncoder | None = None
    fault = None
    try:
        encoder = model.encoder("fp32", "padded")
    except Exception as error:
        fault = reason(error)
    courses = []
    for workload in workloads:
        ids = model.sequences(workload.lengths)
        sample = [ids[i] for i in choose_sample(workload.lengths, request.sample)]
        exact = None
        if encoder is not None:
            try:
                exact = encoder.embed_ids(sample)
            except Exception as error:
                fault = reason(error)
        courses.append(_Course(workload, ids, sample, exact))
    del encoder
    free(model.device)
    return courses, fault


def _contest(
    model: BareModel, contestant: Contestant, courses: Sequence[_Course], request: SpeedRequest, clock: Clock, say: Say
) -> Iterator[Row]:
    """Run one contestant on everything, a row each; its model is gone from the device afterwards."""
    told = f"{model.name}: {contestant.name}, {contestant.precision}"
    if contestant.kind != "ours" and not clock.left:
        yield from (_row(model, contestant, course, error=_LEFT_OUT) for course in courses)
        return
    say(told)
    memory = Memory(model.device)
    try:
        ready = contestant.build(model)
    except Exception as error:
        why = reason(error)
        yield from (_row(model, contestant, course, error=why) for course in courses)
        return
    for course in courses:
        if contestant.kind != "ours" and not clock.left:
            yield _row(model, contestant, course, error=_LEFT_OUT)
            continue
        say(f"{told}: {course.workload.name}")
        try:
            row = _measure(model, contestant, ready, course, request, memory, clock)
        except Exception as error:
            row = _row(model, contestant, course, error=reason(error))
        free(model.device)
        yield row
    del ready
    free(model.device)


def _measure(
    model: BareModel, contestant: Contestant, ready: Ready, course: _Course, request: SpeedRequest, memory: Memory,
    clock: Clock,
) -> Row:  # fmt: skip
    entry = ready.prepare(course.ids, request.rival_seconds)
    timing = take_time(
        entry.run, course.ids, entry.pieces, repeats=request.repeats, memory=memory, clock=clock,
        seconds=None if contestant.kind == "ours" else request.rival_seconds,
    )  # fmt: skip
    cosine = None
    if course.exact is not None:
        got = embed_in_pieces(entry.run, course.sample, sample_pieces(entry, contestant.kind, course.sample))
        cosine = least_cosine(got, course.exact)
    seconds = timing.median
    tokens = int(timing.lengths.sum())
    return replace(
        _row(model, contestant, course),
        note=entry.note,
        sequences=timing.sequences,
        tokens=tokens,
        rounds=timing.seconds,
        sequences_per_second=timing.sequences / seconds,
        tokens_per_second=tokens / seconds,
        tflops=model.operations(timing.lengths) / seconds / 1e12,
        peak_gib=timing.peak_gib,
        least_cosine=cosine,
        compared=0 if cosine is None else len(course.sample),
    )


def _row(model: BareModel, contestant: Contestant, course: _Course, error: str | None = None) -> Row:
    """A row without figures."""
    return Row(model.name, course.workload.name, contestant.name, contestant.kind, contestant.precision, error=error)


def _sweeps(
    model: BareModel, contestant: Contestant, request: SpeedRequest, clock: Clock, say: Say, *, lengths: bool
) -> Iterator[Sweep]:
    # What was asked for by name is measured however late it is.
    if not (request.tune or clock.left):
        yield Sweep("none", contestant.precision, (), None, error=_LEFT_OUT)
        return
    by_name = Clock(math.inf) if request.tune else clock
    memory = Memory(model.device)
    try:
        encoder = contestant.build(model).encoder
        assert encoder is not None
        several, budgets = ranges(model.device)
        if lengths:
            say(f"{model.name}: length after length")
            points = by_length(model, encoder, memory, several, clock)
            yield Sweep("length", contestant.precision, tuple(points), None)
        say(f"{model.name}: larger and larger batches, {contestant.precision}")
        points = by_budget(model, encoder, memory, _SWEEP_SEQUENCE, budgets, by_name)
        best = best_budget(points)
        yield Sweep("budget", contestant.precision, tuple(points), None if best is None else best.budget)
        del encoder
    except Exception as error:
        yield Sweep("none", contestant.precision, (), None, error=reason(error))
    free(model.device)


def _placed(row: Row, rows: Sequence[Row], ceilings: Mapping[str, Ceiling]) -> Row:
    """The row with its share of the ceiling and, if it is ours, how many times faster it is than the others."""
    if row.error is not None:
        return row
    top = ceilings[row.precision].tflops
    share = None if not top else row.tflops / top
    if row.kind != "ours":
        return replace(row, share=share)

    def times(kind: Kind) -> float | None:
        # Of tokens: the part of a workload that a rival is timed on may have longer sequences.
        same = [each for each in rows if each.kind == kind and each.workload == row.workload and each.error is None]
        return row.tokens_per_second / max(each.tokens_per_second for each in same) if same else None

    return replace(row, share=share, times_rival=times("rival"), times_loop=times("loop"))


def sample_pieces(entry: Entry, kind: Kind, ids: Sequence[np.ndarray]) -> Pieces:
    """How a contestant takes the sequences that numbers are compared on: ours all at once, others in small batches."""
    if kind == "ours":
        return [np.arange(len(ids))]
    return sorted_batches(lengths_of(ids), max(1, min(32, len(entry.pieces[0]))))


def sorted_batches(lengths: np.ndarray, batch: int) -> Pieces:
    """Batches of so many sequences, longest first."""
    return in_batches(np.argsort(-lengths, kind="stable"), batch)


def in_batches(order: np.ndarray, batch: int) -> Pieces:
    """Batches of so many sequences in this order."""
    return [order[first : first + batch] for first in range(0, len(order), batch)]


def lengths_of(ids: Sequence[np.ndarray]) -> np.ndarray:
    """Tokens of each sequence."""
    return np.array([len(each) for each in ids], np.int64)


def reason(error: BaseException) -> str:
    """Why a contestant could not run, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if isinstance(error, EncoderError) else f"{type(error).__name__}: {first}"
