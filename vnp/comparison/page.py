"""The page of a comparison: which is better, by how much, and whether that is certain; then how it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vnp.comparison.comparison import Compared, Measured, Pair
from vnp.comparison.results import Results
from vnp.metrics.metrics import METRICS, Interval
from vnp.metrics.rules import RULES
from vnp.report.measured import (
    INTERVAL,
    LEVEL_TERMS,
    METRIC_TERMS,
    Cell,
    Part,
    Table,
    joined,
    measured_page,
    number,
    span,
)  # fmt: skip
from vnp.report.plots import comparison_plots

PAIRED = [metric for metric in METRICS if metric.paired]
TITLES = {metric.name: metric.title for metric in METRICS}
BY_CHUNK = ("accuracy", "roc_auc", "f1", "mcc")
_MOST_DISAGREEMENTS = 200
_LOWER_IS_BETTER = {"brier", "ece"}
_LEAST_SHOWN = 0.0005
_SPOKEN_OF = ("roc_auc", "accuracy", "brier")
_CALLED = {
    "both_viral": "both viral",
    "first_viral": "only first viral",
    "second_viral": "only second viral",
    "both_host": "both host",
}
_TERMS = [
    INTERVAL,
    ("difference", "the second less the first, on the same records; it is certain where its interval does not hold 0"),
    (
        "McNemar p",
        "how probable it is that of two that are as good as each other, one would be right alone so much more often as "
        "the counts behind it say. It takes records to be independent, which those of one genome are not",
    ),
    ("same call", "share that both call alike; kappa is that beyond chance"),
]


def page(results: Results) -> str:
    """One HTML page that needs nothing else: words, tables, and the plots as SVG."""
    *others, records = results.compared
    names = list(records.measured)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    whole = records.measured[names[0]][0]
    parts = [_level(results, records)]
    parts += [
        Part(section.heading, [Table(section.header, section.rows)], section.plots, section.hint)
        for section in results.sections
    ]
    if differing := _differing(results, names):
        parts.append(differing)
    parts += [_level(results, one, folded=True) for one in others]
    return measured_page(
        f"Accuracy of {names[0]}" if len(names) == 1 else "Accuracy: " + ", ".join(names[:4]) + more,
        f"{whole.metrics.count:,} held-out records of {whole.groups:,} groups, {whole.metrics.viral:,} of them viral",
        list(in_words(records)),
        results.notes,
        parts,
        [*METRIC_TERMS, *_TERMS, *LEVEL_TERMS],
        list(_facts(results.about)),
        [
            ("accuracy.tsv", "every number and interval"),
            ("accuracy.json", "the same, with how it was made"),
            ("disagreements.tsv", "records on which calls differ"),
        ],
    )


def in_words(compared: Compared) -> Iterator[str]:
    """What came out, a sentence each: how good each is, which is better, by how much, and whether that is certain."""
    measured = {name: found[0] for name, found in compared.measured.items()}
    yield from (_alone(name, one) for name, one in measured.items())
    if len(measured) == 1:
        return
    metrics = [name for name in _SPOKEN_OF if all(one.metrics[name] == one.metrics[name] for one in measured.values())]
    best = max(measured, key=lambda name: _sign(metrics[0]) * measured[name].metrics[metrics[0]])
    yield from (_compared(compared.pairs, metrics, best, name) for name in measured if name != best)


def _alone(name: str, one: Measured) -> str:
    found, auc = one.metrics, joined(value_of(one, "roc_auc"))
    area = f", and a ROC-AUC of {auc}" if found["roc_auc"] == found["roc_auc"] else ""
    return (
        f"{name} calls {found['accuracy']:.1%} of {found.count:,} held-out records right{area}: "
        f"{found.false_negatives:,} of {found.viral:,} viral ones are called host, {found.false_positives:,} of "
        f"{found.count - found.viral:,} hosts are called viral."
    )


def _sign(metric: str) -> int:
    return -1 if metric in _LOWER_IS_BETTER else 1


def _compared(pairs: Sequence[Pair], metrics: Sequence[str], best: str, other: str) -> str:
    """How the best by the first metric compares with another one, by all of them."""
    pair = next(one for one in pairs if {one.first, one.second} == {best, other})
    turned = 1 if pair.second == best else -1
    told, behind, verdict = [], [], ""
    for metric in metrics:
        found = pair.second_minus_first[metric]
        ahead = turned * found.value
        low, high = sorted((turned * found.interval.low, turned * found.interval.high))
        unit = "; less is better" if _sign(metric) < 0 else ""
        within = span(Interval(low, high), "+").replace("]", f"{unit}]")
        told.append(f"{TITLES[metric]} {number(ahead, '+')} {within}".rstrip())
        if _sign(metric) * ahead < 0:
            behind.append(TITLES[metric])
        if not verdict:
            verdict = _verdict(best, other, ahead, low, high)
    against = f" By {' and '.join(behind)}, {other} is ahead." if behind else ""
    return f"{verdict} The difference, with its 95 % interval: {', '.join(told)}.{against}"


def _verdict(best: str, other: str, ahead: float, low: float, high: float) -> str:
    if abs(ahead) < _LEAST_SHOWN:
        return f"{best} and {other} are as good as each other."
    if low != low:
        return f"{best} is better than {other} here; how certain that is cannot be told from so few groups."
    if low <= 0 <= high:
        return f"{best} is better than {other} here, but that is not certain: on other genomes it may be the other way."
    return f"{best} is better than {other}, and that is certain."


def _level(results: Results, compared: Compared, *, folded: bool = False) -> Part:
    names = [_names(pair) for pair in compared.pairs]
    differences = {
        metric.title: [
            (one.value, one.interval.low, one.interval.high)
            for one in (pair.second_minus_first[metric.name] for pair in compared.pairs)
        ]
        for metric in PAIRED
    }
    plots = comparison_plots(results.series[compared.level], names, differences)
    return Part(f"By {compared.level}", list(_tables(compared)), plots, folded=folded)


def _tables(compared: Compared) -> Iterator[Table]:
    whole = {name: found[0] for name, found in compared.measured.items()}
    # One pair stands beside its two, more have a table of their own.
    beside = compared.pairs if len(compared.pairs) == 1 else []
    of_pairs: list[list[Cell]] = [["" for _ in beside]] * 2
    of_pairs += [[difference(pair, name) for pair in beside] for name in TITLES]
    rows = [
        [*row, *more] for row, more in zip(measured_rows(list(whole.values()), list(TITLES)), of_pairs, strict=True)
    ]
    yield Table(["", *whole, *map(_names, beside)], rows)
    if compared.pairs:
        yield _pair_table(compared.pairs)
    yield from _by_chunk(compared)
    if any(len(found) > 1 for found in compared.measured.values()):
        yield _parts_table(compared)


def measured_rows(columns: Sequence[Measured], metrics: Sequence[str]) -> list[list[Cell]]:
    """A column for each that was measured: what it is of, and metrics by their names."""
    rows: list[list[Cell]] = [
        ["number", *(f"{one.metrics.count:,}" for one in columns)],
        ["groups", *(f"{one.groups:,}" for one in columns)],
    ]
    return rows + [[TITLES[name], *(value_of(one, name) for one in columns)] for name in metrics]


def _pair_table(pairs: Sequence[Pair]) -> Table:
    rows: list[list[Cell]] = []
    if len(pairs) > 1:
        rows += [[metric.title, *(difference(pair, metric.name) for pair in pairs)] for metric in PAIRED]
    rows += [
        ["McNemar p", *map(mcnemar_cell, pairs)],
        ["same call", *((f"{pair.agreement.share:.1%}", f"kappa {number(pair.agreement.kappa)}") for pair in pairs)],
    ]
    rows += [[title, *(f"{getattr(pair.agreement, name):,}" for pair in pairs)] for name, title in _CALLED.items()]
    return Table(["second - first", *map(_names, pairs)], rows, "Differences" if len(pairs) > 1 else "Agreement")


def mcnemar_cell(pair: Pair) -> Cell:
    """The p-value, and the counts that it rests on."""
    found = pair.mcnemar
    return f"{found.p_value:.2g}", f"({found.first_only:,} : {found.second_only:,})"


def _by_chunk(compared: Compared) -> Iterator[Table]:
    by_chunk = list(of_chunks(compared))
    if by_chunk:
        rows: list[list[Cell]] = [
            [f"{name}, {one.stratum}", f"{one.metrics.count:,}", f"{one.groups:,}"]
            + [value_of(one, metric) for metric in BY_CHUNK]
            for name, one in by_chunk
        ]
        yield Table(["", "number", "groups", *(TITLES[name] for name in BY_CHUNK)], rows, "By length of chunk")
    if compared.pairs_by_chunk:
        rows = [
            [f"{pair.stratum}: {_names(pair)}", *(difference(pair, metric.name) for metric in PAIRED)]
            for pair in compared.pairs_by_chunk
        ]
        yield Table(["second - first", *(metric.title for metric in PAIRED)], rows)


def _parts_table(compared: Compared) -> Table:
    """Accuracy of every classifier in every part, and beside it the ROC-AUC where a part has both classes."""
    first = next(iter(compared.measured.values()))
    rows: list[list[Cell]] = []
    for place, one in enumerate(first[1:], start=1):
        cells: list[Cell] = []
        for found in compared.measured.values():
            own = found[place]
            cells += [value_of(own, "accuracy"), number(own.metrics["roc_auc"])]
        rows.append([(one.stratum, one.by), f"{one.metrics.count:,}", f"{one.groups:,}", *cells])
    titles = [f"{name} {what}" for name in compared.measured for what in ("right", "ROC-AUC")]
    return Table(["", "number", "groups", *titles], rows, "Part by part")


def _differing(results: Results, names: list[str]) -> Part | None:
    if len(names) < 2:
        return None
    found = results.disagreements
    rows = [
        [one.name, f"{one.length:,}", "viral" if one.label else "host", one.organism]
        + [f"{one.probabilities[name]:.3f} {'viral' if one.calls[name] else 'host'}" for name in names]
        for one in found[:_MOST_DISAGREEMENTS]
    ]
    all_in = f"The first {_MOST_DISAGREEMENTS}; all are in disagreements.tsv."
    return Part(
        f"Records on which calls differ: {len(found):,} of {results.records:,}",
        [Table(["record", "bases", "label", "organisms", *names], rows)] if rows else [],
        hint=all_in if len(found) > _MOST_DISAGREEMENTS else "",
        folded=len(found) > 20,
    )


def _facts(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in about["contestants"]:
        training = one["training"]
        trained = f"the checkpoint {one['checkpoint']}" if one["checkpoint"] else "trained here"
        epochs = f", best of {training['epochs']} epochs: {training['best_epoch']}" if "best_epoch" in training else ""
        yield (
            one["name"],
            f"{one['rows']:,} rows of {one['features']} ({one['layout']}, chunks of {one['chunk']} bases); "
            f"{trained}{epochs}; viral from {one['threshold']:g}; calibration {one['calibration']['kind']}",
        )
    if split := about["split"]:
        parts = ", ".join(
            f"{name} {part['rows']:,} rows of {part['groups']:,} groups" for name, part in split["parts"].items()
        )
        yield "split", f"by {split['kind']}: {parts}"
    yield "rule", f"{about['rule']}, how the frames of a chunk or record decide: {RULES[about['rule']].meaning}"
    yield "intervals", f"of {about['replicates']:,} draws of groups, seed {about['seed']}"
    yield "versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())


def of_chunks(compared: Compared) -> Iterator[tuple[str, Measured]]:
    """What was measured on each length of chunk, where chunks differ in it."""
    for name, measured in compared.measured.items():
        yield from ((name, one) for one in measured if one.by == "chunk")


def _names(pair: Pair) -> str:
    return f"{pair.second} - {pair.first}"


def difference(pair: Pair, metric: str) -> Cell:
    """What the second has more than the first, and the interval of that."""
    found = pair.second_minus_first[metric]
    return (number(found.value, "+"), span(found.interval, "+")) if found.value == found.value else "-"


def value_of(one: Measured, metric: str) -> tuple[str, str]:
    """A metric, and its interval."""
    return number(one.metrics[metric]), span(one.intervals[metric])
