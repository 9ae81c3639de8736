"""Charts as SVG text, drawn with the colours of the page that they are put into."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from vnp.report.pages import short

WIDTH, HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 14, 16, 46
_PLOT_WIDTH = WIDTH - _LEFT - _RIGHT
_PLOT_HEIGHT = HEIGHT - _TOP - _BOTTOM
_BASE = HEIGHT - _BOTTOM


class Bar(NamedTuple):
    """One row of a chart of shares: its name, and for each class of CSS how many."""

    name: str
    counts: dict[str, int]


def histogram(counts: Int64[np.ndarray, "bins"], threshold: float, title: str) -> str:
    """Counts over the interval from 0 to 1 on a logarithmic axis, coloured by the side of the threshold."""
    most = max(int(counts.max(initial=0)), 1)
    decades = max(1, math.ceil(math.log10(most + 1)))

    def height(count: float) -> float:
        return _PLOT_HEIGHT * math.log10(count + 1) / math.log10(10**decades + 1)

    parts = [
        _grid_y(_BASE - height(10**power), short(10**power)) for power in range(0, decades + 1, max(1, decades // 4))
    ]
    step = _PLOT_WIDTH / len(counts)
    for place, count in enumerate(counts.tolist()):
        low, high = place / len(counts), (place + 1) / len(counts)
        kind = "viral" if (low + high) / 2 >= threshold else "host"
        tall = height(count) if count else 0.0
        parts.append(
            f'<rect class="{kind}" x="{_LEFT + place * step + 0.6:.1f}" y="{_BASE - tall:.1f}" '
            f'width="{step - 1.2:.1f}" height="{tall:.1f}"><title>{low:.2f} to {high:.2f}: {count:,}</title></rect>'
        )
    across = _LEFT + _PLOT_WIDTH * threshold
    anchor = "end" if threshold > 0.5 else "start"
    shift = -5 if threshold > 0.5 else 5
    parts.append(f'<line class="mark" x1="{across:.1f}" x2="{across:.1f}" y1="{_TOP - 6}" y2="{_BASE}"/>')
    parts.append(
        f'<text class="note" x="{across + shift:.1f}" y="{_TOP + 2}" text-anchor="{anchor}">'
        f"threshold {threshold:g}</text>"
    )
    parts += [_tick_x(_LEFT + _PLOT_WIDTH * share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    return _svg(parts, title, "probability of viral", "records, log scale")


def curve(x: Float64[np.ndarray, "n"], y: Float64[np.ndarray, "n"], mark: int, title: str) -> str:
    """A false discovery rate against a rising number of records, with the place of ``mark`` records."""
    most = max(float(x[-1]) if len(x) else 1.0, 1.0)
    top = _ceiling(float(y.max(initial=0.0)))
    points = " ".join(
        f"{_LEFT + _PLOT_WIDTH * a / most:.1f},{_BASE - _PLOT_HEIGHT * b / top:.1f}"
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    )
    parts = [_grid_y(_BASE - _PLOT_HEIGHT * share / 4, f"{top * share / 4:.3g}") for share in range(5)]
    parts += [_tick_x(_LEFT + _PLOT_WIDTH * value / most, short(value)) for value in _round_steps(most)]
    if mark and len(x):
        at = _LEFT + _PLOT_WIDTH * mark / most
        rate = float(np.interp(mark, x, y))
        anchor, shift = ("end", -6) if mark > most / 2 else ("start", 6)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 6}" y2="{_BASE}"/>')
        parts.append(
            f'<text class="note" x="{at + shift:.1f}" y="{_TOP + 2}" text-anchor="{anchor}">'
            f"{mark:,} called, FDR {rate:.3g}</text>"
        )
    parts.append(f'<polyline class="line" points="{points}"/>')
    return _svg(parts, title, "records called, most probable first", "false discovery rate")


def heat(
    counts: Int64[np.ndarray, "across up"], x_ticks: Sequence[tuple[float, str]], threshold: float, title: str
) -> str:
    """Counts over a grid, the darker the more on a logarithmic scale; the upright axis runs from 0 to 1."""
    across, up = counts.shape
    # Whole numbers, so that neighbours share an edge and no seam shows between them.
    x_edges = np.rint(_LEFT + np.arange(across + 1) * _PLOT_WIDTH / across).astype(int).tolist()
    y_edges = np.rint(_BASE - np.arange(up + 1) * _PLOT_HEIGHT / up).astype(int).tolist()
    most = math.log1p(int(counts.max(initial=1)))
    parts = [_grid_y(_BASE - _PLOT_HEIGHT * share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts.append('<g class="cells">')
    for column, row in np.argwhere(counts > 0).tolist():
        count = int(counts[column, row])
        kind = "viral" if (row + 0.5) / up >= threshold else "host"
        parts.append(
            f'<rect class="{kind}" x="{x_edges[column]}" y="{y_edges[row + 1]}" '
            f'width="{x_edges[column + 1] - x_edges[column]}" height="{y_edges[row] - y_edges[row + 1]}" '
            f'opacity="{0.18 + 0.82 * math.log1p(count) / most:.2f}">'
            f"<title>{count:,}</title></rect>"
        )
    parts.append("</g>")
    level = _BASE - _PLOT_HEIGHT * threshold
    parts.append(f'<line class="mark" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
    parts += [_tick_x(_LEFT + _PLOT_WIDTH * place, text) for place, text in x_ticks]
    return _svg(parts, title, "length in bases, log scale", "probability of viral")


def shares(bars: Sequence[Bar], title: str) -> str:
    """Rows that each show how their records are divided."""
    left, right = 104, 66
    pitch = min(34.0, (HEIGHT - 30) / max(len(bars), 1))
    height = round(pitch * len(bars) + 14)
    parts = []
    for place, bar in enumerate(bars):
        y = 6 + place * pitch
        middle = y + pitch * 0.36 + 4.5
        total = sum(bar.counts.values())
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(f'<text x="{WIDTH - right + 8}" y="{middle:.1f}">{short(total)}</text>')
        parts.append(
            f'<rect class="empty" x="{left}" y="{y:.1f}" width="{WIDTH - left - right}" height="{pitch * 0.72:.1f}"/>'
        )
        x = float(left)
        for kind, count in bar.counts.items():
            wide = (WIDTH - left - right) * count / total if total else 0.0
            if wide:
                parts.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{pitch * 0.72:.1f}">'
                    f"<title>{escape(bar.name)}: {count:,}, {count / total:.1%}</title></rect>"
                )
            x += wide
    return _figure(parts, title, height)


def _ceiling(value: float) -> float:
    """The next round share above a rate, for the top of an axis."""
    for top in (0.01, 0.02, 0.04, 0.1, 0.2, 0.4):
        if value <= top:
            return top
    return 1.0


def _round_steps(most: float) -> list[float]:
    step = 10 ** math.floor(math.log10(most)) if most >= 1 else 1.0
    while most / step > 5:
        step *= 2
    while most / step < 2.5 and step > 1:
        step /= 2
    step = max(1.0, step)
    return [step * place for place in range(int(most / step) + 1)]


def _grid_y(y: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _tick_x(x: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_BASE}" y2="{_BASE + 4}"/>'
        f'<text x="{x:.1f}" y="{_BASE + 17}" text-anchor="middle">{text}</text>'
    )


def _svg(parts: list[str], title: str, x_name: str, y_name: str) -> str:
    middle = _TOP + _PLOT_HEIGHT / 2
    names = [
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{_BASE}" y2="{_BASE}"/>',
        f'<text class="name" x="{_LEFT + _PLOT_WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>',
        f'<text class="name" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{y_name}</text>",
    ]
    return _figure([*parts, *names], title, HEIGHT)


def _figure(parts: list[str], title: str, height: int) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
