"""Plots of how a classifier does: the same input gives the same bytes, on any day and any display.

Every ``draw_*`` function fills axes that it is given; ``figure`` makes some, and ``save`` or ``as_svg`` write them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64, Int8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from vnp.errors import UsageError
from vnp.files.durable import replacing
from vnp.metrics.metrics import ECE_BINS, METRICS, THRESHOLD, binary_metrics, ece_bin, expected_calibration_error

# Okabe and Ito's colours, which people with any colour vision tell apart, without yellow, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_MOST_POINTS = 500
_PARTS = ("train", "validation", "test")
_TITLES = {metric.name: metric.title for metric in METRICS}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vnp",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.dpi": 100.0,
    "savefig.dpi": 150.0,
}


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Predictions to draw."""

    name: str
    label: Int8[np.ndarray, "n"]
    probability: Float64[np.ndarray, "n"]


def figure(rows: int, columns: int, *, width: float = 4.4, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """A figure of panels, in reading order; width and height are those of a panel, in inches."""
    with mpl.rc_context(_STYLE):
        made = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(made)
        axes = made.subplots(rows, columns, squeeze=False)
    return made, list(axes.flat)


def draw_history(axes: Axes, history: Sequence[Mapping[str, float | None]], metric: str, best_epoch: int = 0) -> None:
    """One metric over the epochs of training, a line for each part of the data: values named ``PART_METRIC``.

    The best epoch, counted from 1, is marked.
    """
    if best_epoch:
        axes.axvline(best_epoch, color="#999999", linewidth=0.8, linestyle="--", label=f"best: {best_epoch}")
    parts = [part for part in _PARTS if any(row.get(f"{part}_{metric}") is not None for row in history)]
    for part in parts:
        known = [(row["epoch"], value) for row in history if (value := row.get(f"{part}_{metric}")) is not None]
        epochs, values = zip(*known, strict=True)
        axes.plot(epochs, values, label=part, **_line(_PARTS.index(part)))
    axes.set_xlabel("epoch")
    axes.set_ylabel(_TITLES.get(metric, metric.replace("_", " ")))
    if parts:
        _legend(axes)


def draw_roc(axes: Axes, series: Sequence[Series]) -> None:
    """Receiver operating characteristics; series with one class only have none and are left out."""
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for index, one in enumerate(series):
        if _both(one):
            false, true, _ = roc_curve(one.label, one.probability)
            area = roc_auc_score(one.label, one.probability)
            axes.plot(*_thin(false, true), label=f"{one.name}: {area:.3f}", **_line(index))
    _unit_square(axes, "false positive rate", "true positive rate (recall)", "ROC, with area")


def draw_precision_recall(axes: Axes, series: Sequence[Series]) -> None:
    """Precision over recall, and the precision of calling everything viral."""
    for index, one in enumerate(series):
        if _both(one):
            precision, recall, _ = precision_recall_curve(one.label, one.probability)
            area = average_precision_score(one.label, one.probability)
            axes.plot(*_thin(recall, precision), label=f"{one.name}: {area:.3f}", **_line(index))
    if series and _both(series[0]):
        axes.axhline(float(np.mean(series[0].label)), color="#999999", linewidth=0.8)
    _unit_square(axes, "recall", "precision", "precision and recall, with area")


def draw_reliability(axes: Axes, series: Sequence[Series]) -> None:
    """Observed share of viral in bins of the predicted one; the diagonal is a calibrated classifier."""
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for index, one in enumerate(series):
        if len(one.label):
            place = ece_bin(one.probability)
            count = np.bincount(place, minlength=ECE_BINS)
            filled = count > 0
            predicted = np.bincount(place, weights=one.probability, minlength=ECE_BINS)[filled] / count[filled]
            observed = np.bincount(place, weights=one.label, minlength=ECE_BINS)[filled] / count[filled]
            error = expected_calibration_error(one.label, one.probability)
            line = _line(index)
            axes.plot(predicted, observed, marker="o", markersize=3, label=f"{one.name}: {error:.3f}", **line)
    _unit_square(axes, "predicted probability of viral", "observed share of viral", "reliability, with ECE")


def draw_confusion(axes: Axes, one: Series, threshold: float = THRESHOLD) -> None:
    """Counts of labels against calls."""
    found = binary_metrics(one.label, one.probability, threshold)
    counts = np.array(
        [[found.true_negatives, found.false_positives], [found.false_negatives, found.true_positives]], np.int64
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{count:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks([0, 1], ["host", "viral"])
    axes.set_yticks([0, 1], ["host", "viral"])
    axes.set_xlabel(f"call (viral from {threshold:g})")
    axes.set_ylabel("label")
    axes.grid(visible=False)
    axes.set_title(one.name, fontsize=9)


def draw_scores(axes: Axes, one: Series) -> None:
    """How the probabilities of viral and of host are spread."""
    bins = np.linspace(0, 1, 51)
    for label, name in ((0, "host"), (1, "viral")):
        values = one.probability[one.label == label]
        if len(values):
            shape: dict[str, Any] = {"histtype": "stepfilled", "color": COLOURS[label], "alpha": 0.6}
            axes.hist(values, bins=list(bins), label=f"{name} ({len(values):,})", **shape)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability of viral")
    axes.set_ylabel("number")
    axes.set_title(one.name, fontsize=9)
    _legend(axes)


def draw_differences(
    axes: Axes, names: Sequence[str], differences: Mapping[str, Sequence[tuple[float, float, float]]]
) -> None:
    """Differences with both ends of their intervals, metric by metric, the pairs of each below each other."""
    axes.axvline(0, color="#999999", linewidth=0.8)
    height = len(differences)
    for index, name in enumerate(names):
        found = np.array([one[index] for one in differences.values()])
        value, low, high = found.T
        place = height - np.arange(height) - (index + 0.5) / len(names)
        spread = np.nan_to_num(np.maximum(0.0, [value - low, high - value]))
        line = _line(index)
        axes.errorbar(value, place, xerr=spread, fmt="o", color=line["color"], markersize=4, capsize=2, label=name)
    axes.set_yticks(list(height - np.arange(height) - 0.5), list(differences))
    axes.set_ylim(0, height)
    axes.set_xlabel("difference, with 95 % interval")
    axes.set_title("second - first", fontsize=9)
    _legend(axes)


def draw_by_class(
    axes: Axes, classes: Sequence[str], lines: Mapping[str, Sequence[tuple[int, float, float, float]]], title: str
) -> None:
    """A line a name over classes in their order: number of the class, share, and both ends of its interval."""
    for index, (name, points) in enumerate(lines.items()):
        place, share, low, high = (np.array(column) for column in zip(*points, strict=True))
        axes.errorbar(place, share, yerr=(share - low, high - share), label=name, capsize=2, marker="o", **_line(index))
    axes.set_xticks(range(len(classes)), classes, rotation=20, fontsize=7)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(title, fontsize=9)
    if lines:
        _legend(axes)


def write_training_plots(
    folder: Path,
    history: Sequence[Mapping[str, float | None]],
    series: Sequence[Series],
    threshold: float = THRESHOLD,
    best_epoch: int = 0,
) -> list[Path]:
    """All plots of one training, each as SVG and as PNG in a folder, which is made.

    The files are ``curves_M`` of every metric ``M`` of the history, ``roc``, ``precision_recall``, ``reliability``, and
    of each part ``P`` of the data, the most important first, ``scores_P`` and ``confusion_P`` at the threshold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = {key.partition("_")[::2] for row in history for key, value in row.items() if value is not None}
    metrics = sorted({metric for part, metric in keys if part in _PARTS}, key=_metric_order)
    panels: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
        f"curves_{metric}": (draw_history, (history, metric, best_epoch)) for metric in metrics
    }
    panels |= {"roc": (draw_roc, (series,)), "precision_recall": (draw_precision_recall, (series,))}
    panels["reliability"] = (draw_reliability, (series,))
    for one in series:
        panels[f"scores_{one.name}"] = (draw_scores, (one,))
        panels[f"confusion_{one.name}"] = (draw_confusion, (one, threshold))
    written = []
    for name, (draw, what) in panels.items():
        made, (axes,) = figure(1, 1)
        draw(axes, *what)
        written += [save(made, folder / f"{name}{suffix}") for suffix in (".svg", ".png")]
    return written


def comparison_plots(
    series: Sequence[Series], names: Sequence[str], differences: Mapping[str, Sequence[tuple[float, float, float]]]
) -> list[str]:
    """All plots of a comparison on one level, as ``<svg>`` elements to put into a page.

    ``names`` are of pairs of classifiers; ``differences`` has for each metric, by its title, the difference of each
    pair and the ends of its interval.
    """
    drawn = [_panel(draw, series) for draw in (draw_roc, draw_precision_recall, draw_reliability)]
    drawn += [_panel(draw_scores, one) for one in series]
    if names:
        drawn.append(_panel(draw_differences, names, differences))
    return drawn


def _panel(draw: Callable[..., None], *what: Any) -> str:
    """A drawing of its own, which a narrow screen shows whole."""
    made, panels = figure(1, 1)
    draw(panels[0], *what)
    return as_svg(made)


def save(made: Figure, path: Path) -> Path:
    """Write a figure as the suffix says, ``.svg`` or ``.png``, in place of what is there."""
    image = _image(made, path.suffix.lower())
    with replacing(path) as temporary:
        temporary.write_bytes(image)
    return path


def as_svg(made: Figure) -> str:
    """A figure as an ``<svg>`` element to put into a page."""
    text = _image(made, ".svg").decode()
    return text[text.index("<svg") :]


def _image(made: Figure, suffix: str) -> bytes:
    if suffix not in (".svg", ".png"):
        raise UsageError(f"a plot is written as .svg or .png, not {suffix!r}")
    buffer = io.BytesIO()
    about = {"Date": None} if suffix == ".svg" else {"Software": None}
    with mpl.rc_context(_STYLE):
        made.savefig(buffer, format=suffix[1:], metadata=about)
    return buffer.getvalue()


def _metric_order(name: str) -> tuple[int, str]:
    usual = ("loss", "accuracy", "f1", "roc_auc", "auc")
    return (usual.index(name) if name in usual else len(usual), name)


def _line(index: int) -> dict[str, Any]:
    style = _STYLES[index // len(COLOURS) % len(_STYLES)]
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": style, "linewidth": 1.4}


def _both(one: Series) -> bool:
    return len(one.label) > 0 and bool(one.label.min() != one.label.max())


def _thin(
    across: Float64[np.ndarray, "n"], up: Float64[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """Some hundred points of a curve, evenly along it: a million would make a file that no browser shows."""
    if len(across) <= _MOST_POINTS:
        return across, up
    along = np.r_[0.0, np.cumsum(np.hypot(np.diff(across), np.diff(up)))]
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _MOST_POINTS)))
    return across[kept], up[kept]


def _unit_square(axes: Axes, across: str, up: str, title: str) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="best")
