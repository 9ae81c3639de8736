"""Measures one model: its ceilings, all contestants on all workloads, and the sweeps; whatever fails says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vnp.encoders.engine import TransformerEncoder
from vnp.speed.ceiling import Ceiling, ceiling_rows, measure_ceiling
from vnp.speed.contestants import Contestant, Ready, contestants, reason, sample_pieces
from vnp.speed.measure import Clock, Memory, choose_sample, embed_in_pieces, free, least_cosine, take_time
from vnp.speed.results import ModelReport, Row, Sweep
from vnp.speed.subject import Subject
from vnp.speed.sweeps import best_budget, by_budget, by_length, ranges
from vnp.speed.workloads import Workload

Say = Callable[[str], None]

_SWEEP_SEQUENCE = 102
_LEFT_OUT = "left out: the time was used up"
_INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Asked:
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
class _Course:
    """One workload, ready for all contestants."""

    workload: Workload
    ids: list[np.ndarray]
    sample: list[np.ndarray]
    exact: np.ndarray | None


def compare(subject: Subject, workloads: Sequence[Workload], asked: Asked, clock: Clock, say: Say) -> ModelReport:
    """Measure a model.

    Args:
        subject: the model.
        workloads: what to run.
        asked: what to measure.
        clock: rivals and sweeps that have not begun when it has run out are left out; ours never are.
        say: told what comes next, in a few words.

    Returns:
        What was found. Where an interruption (``KeyboardInterrupt``) comes while contestants are measured, that is
        what was found by then.
    """
    field = contestants(subject, asked.precisions, asked.token_budget)
    precisions = list(dict.fromkeys(each.precision for each in field))
    say(f"{subject.name}: matrix products")
    ceilings = {each: _before(subject, each, asked.ceiling_seconds) for each in precisions}
    say(f"{subject.name}: exact numbers")
    courses, fault = _courses(subject, workloads, asked)
    measured: dict[Contestant, list[Row]] = {each: [] for each in field}
    sweeps: list[Sweep] = []
    interrupted = False
    try:
        for each in _in_turn(field):
            for row in _contest(subject, each, courses, asked, clock, say):
                measured[each].append(row)
        for number, contestant in enumerate(each for each in field if each.kind == "ours"):
            if asked.tune or (asked.sweeps and number == 0):
                lengths = asked.sweeps and number == 0
                for sweep in _sweeps(subject, contestant, asked, clock, say, lengths=lengths):
                    sweeps.append(sweep)
        say(f"{subject.name}: matrix products again")
        for name, ceiling in list(ceilings.items()):
            ceilings[name] = _after(subject, ceiling, asked.ceiling_seconds)
    except KeyboardInterrupt:
        interrupted = True
        for each, found in measured.items():
            found += [_failed(subject, each, course, _INTERRUPTED) for course in courses[len(found) :]]
    rows = [row for each in field for row in measured[each]]
    return ModelReport(
        name=subject.name,
        source=subject.source,
        size=subject.size,
        ceilings=tuple(ceilings.values()),
        workloads=tuple(workloads),
        rows=tuple(_placed(row, rows, ceilings) for row in rows),
        sweeps=tuple(sweeps),
        reference_error=fault,
        interrupted=interrupted,
    )


def _in_turn(field: Sequence[Contestant]) -> list[Contestant]:
    """Ours in the most important precision, then the others, which have a time limit, then ours in further ones."""
    ours = [each for each in field if each.kind == "ours"]
    return [*ours[:1], *(each for each in field if each.kind != "ours"), *ours[1:]]


def _before(subject: Subject, precision: str, seconds: float) -> Ceiling:
    rows = ceiling_rows(subject, precision)
    try:
        return Ceiling(precision, rows, measure_ceiling(subject, precision, seconds))
    except Exception as error:
        return Ceiling(precision, rows, None, error=reason(error))


def _after(subject: Subject, found: Ceiling, seconds: float) -> Ceiling:
    if found.before is None:
        return found
    try:
        return replace(found, after=measure_ceiling(subject, found.precision, seconds))
    except Exception as error:
        return replace(found, error=reason(error))


def _courses(subject: Subject, workloads: Sequence[Workload], asked: Asked) -> tuple[list[_Course], str | None]:
    """Draw sequences, and embed the ones that numbers are compared on with plain padded layers in float32."""
    encoder: TransformerEncoder | None = None
    fault = None
    try:
        encoder = subject.encoder("fp32", "padded")
    except Exception as error:
        fault = reason(error)
    courses = []
    for workload in workloads:
        ids = subject.sequences(workload.lengths)
        sample = [ids[i] for i in choose_sample(workload.lengths, asked.sample)]
        exact = None
        if encoder is not None:
            try:
                exact = encoder.embed_ids(sample)
            except Exception as error:
                fault = reason(error)
        courses.append(_Course(workload, ids, sample, exact))
    del encoder
    free(subject.device)
    return courses, fault


def _contest(
    subject: Subject, contestant: Contestant, courses: Sequence[_Course], asked: Asked, clock: Clock, say: Say
) -> Iterator[Row]:
    """Run one contestant on everything, a row each; its model is gone from the device afterwards."""
    told = f"{subject.name}: {contestant.name}, {contestant.precision}"
    if contestant.kind != "ours" and not clock.left:
        yield from (_failed(subject, contestant, course, _LEFT_OUT) for course in courses)
        return
    say(told)
    memory = Memory(subject.device)
    try:
        ready = contestant.build(subject)
    except Exception as error:
        why = reason(error)
        yield from (_failed(subject, contestant, course, why) for course in courses)
        return
    for course in courses:
        if contestant.kind != "ours" and not clock.left:
            yield _failed(subject, contestant, course, _LEFT_OUT)
            continue
        say(f"{told}: {course.workload.name}")
        try:
            row = _measure(subject, contestant, ready, course, asked, memory, clock)
        except Exception as error:
            row = _failed(subject, contestant, course, reason(error))
        free(subject.device)
        yield row
    del ready
    free(subject.device)


def _measure(
    subject: Subject, contestant: Contestant, ready: Ready, course: _Course, asked: Asked, memory: Memory, clock: Clock
) -> Row:
    ours = contestant.kind == "ours"
    entry = ready.prepare(course.ids, asked.rival_seconds)
    timing = take_time(
        entry.run, course.ids, entry.pieces,
        repeats=asked.repeats, memory=memory, clock=clock, seconds=None if ours else asked.rival_seconds,
    )  # fmt: skip
    cosine = None
    if course.exact is not None:
        got = embed_in_pieces(entry.run, course.sample, sample_pieces(entry, contestant.kind, course.sample))
        cosine = least_cosine(got, course.exact)
    seconds = timing.median
    tokens = int(timing.lengths.sum())
    return Row(
        model=subject.name,
        workload=course.workload.name,
        contestant=contestant.name,
        kind=contestant.kind,
        precision=contestant.precision,
        note=entry.note,
        sequences=timing.sequences,
        tokens=tokens,
        rounds=timing.seconds,
        sequences_per_second=timing.sequences / seconds,
        tokens_per_second=tokens / seconds,
        tflops=subject.operations(timing.lengths) / seconds / 1e12,
        peak_gib=timing.peak_gib,
        least_cosine=cosine,
        compared=0 if cosine is None else len(course.sample),
    )


def _failed(subject: Subject, contestant: Contestant, course: _Course, why: str) -> Row:
    return Row(
        model=subject.name,
        workload=course.workload.name,
        contestant=contestant.name,
        kind=contestant.kind,
        precision=contestant.precision,
        error=why,
    )


def _sweeps(
    subject: Subject, contestant: Contestant, asked: Asked, clock: Clock, say: Say, *, lengths: bool
) -> Iterator[Sweep]:
    # What was asked for by name is measured however late it is.
    if not (asked.tune or clock.left):
        yield Sweep("none", contestant.precision, (), None, error=_LEFT_OUT)
        return
    by_name = Clock(math.inf) if asked.tune else clock
    memory = Memory(subject.device)
    try:
        encoder = contestant.build(subject).encoder
        assert encoder is not None
        several, budgets = ranges(subject.device)
        if lengths:
            say(f"{subject.name}: length after length")
            points = by_length(subject, encoder, memory, several, clock)
            yield Sweep("length", contestant.precision, tuple(points), None)
        say(f"{subject.name}: larger and larger batches, {contestant.precision}")
        points = by_budget(subject, encoder, memory, _SWEEP_SEQUENCE, budgets, by_name)
        best = best_budget(points)
        yield Sweep("budget", contestant.precision, tuple(points), None if best is None else best.budget)
        del encoder
    except Exception as error:
        yield Sweep("none", contestant.precision, (), None, error=reason(error))
    free(subject.device)


def _placed(row: Row, rows: Sequence[Row], ceilings: Mapping[str, Ceiling]) -> Row:
    """The row with its share of the ceiling and, if it is ours, how many times faster it is than the others."""
    if row.error is not None:
        return row
    top = ceilings[row.precision].tflops
    share = None if not top else row.tflops / top
    if row.kind != "ours":
        return replace(row, share=share)

    def times(kind: str) -> float | None:
        # Of tokens: the part of a workload that a rival is timed on may have longer sequences.
        speeds = [
            each.tokens_per_second
            for each in rows
            if each.kind == kind and each.workload == row.workload and each.error is None
        ]
        return row.tokens_per_second / max(speeds) if speeds else None

    return replace(row, share=share, times_rival=times("rival"), times_loop=times("loop"))
