"""Pages made of the templates in ``page/``; style, script and charts are in the file, which needs nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **content: Any) -> str:
    """A page as text. Text is escaped, but for drawings."""
    return _environment().get_template(template).render(**content)


def short(number: float) -> str:
    """``1.2M`` for 1,200,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("vnp.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters |= {
        "whole": "{:,}".format,
        "short": short,
        "percent": _percent,
        # What a column is sorted by: numbers that there are not come last.
        "exact": lambda value: "-1" if value != value else f"{value:.9g}",
        "share": _share,
    }
    return made


def _percent(value: float, decimals: int = 0) -> str:
    return f"{value:.{decimals}%}"


def _share(value: float) -> str:
    if value != value:
        return "-"
    return "< 0.0001" if 0 < value < 0.0001 else f"{value:.4f}"
