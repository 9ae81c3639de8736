"""The doctor looks at a machine and says what would fail there, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

from vnp.encoders.weights.folders import weights_root
from vnp.errors import one_line

State = Literal["ok", "warning", "fails", "not here"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the doctor's table."""

    about: str  # what was looked at
    # ``ok``; ``warning``, works but could be better; ``fails``, something that is needed does not work; ``not here``,
    # absent and not needed
    state: State
    found: str  # what was seen
    mend: str = ""  # what to do about it; empty if nothing


def healthy(findings: Iterable[Finding]) -> bool:
    """Say whether nothing that is needed fails."""
    return all(one.state != "fails" for one in findings)


def fetching(name: str, weights: Path | None) -> str:
    """The command that brings an encoder's weights."""
    return f"python -m jobs.fetch {name} --weights {quote(str(weights_root(weights)))}"


def guarded(about: str, look: Callable[[], Finding], mend: str) -> Finding:
    """Look, and make a finding of whatever goes wrong: a doctor must get to the end of the list."""
    try:
        return look()
    # Broken drivers and libraries fail in ways that no list of types covers.
    except Exception as error:
        return Finding(about, "fails", one_line(error), mend)
