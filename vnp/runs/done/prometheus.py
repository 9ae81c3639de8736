"""How far a run is, for a site's monitoring: status's own numbers in Prometheus's text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vnp.errors import UsageError
from vnp.files.claims import require_free
from vnp.files.records import open_regular
from vnp.runs.done.status import STATES, RunStatus

if TYPE_CHECKING:
    from vnp.runs.done.efficiency import Usage

SUFFIX = ".prom"
_BEGINNING = b"# HELP vnp_run_"
# https://prometheus.io/docs/instrumenting/exposition_formats/
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def require_metrics_file(path: Path) -> None:
    """Make sure that metrics may be written there.

    Raises:
        UsageError: node_exporter would not read a file of this name.
        RunExistsError: what stands there was not written by this.
    """
    if path.suffix != SUFFIX:
        raise UsageError(f"{path} must end in {SUFFIX}: node_exporter reads no other names")
    try:
        with open_regular(path) as file:
            ours = file.read(len(_BEGINNING)) == _BEGINNING
    except FileNotFoundError:
        return
    except OSError:
        ours = False
    require_free([path], force=False, ours=ours, why="already there, and no metrics of vnp", remedy="Choose another")


def metrics_text(root: Path, state: RunStatus | None, used: Usage | None = None) -> str:
    """The metrics of a run, of whose state nothing is known before it is planned; what is not known has no line."""
    run = f'run="{str(root).translate(_ESCAPED)}"'
    families: list[tuple[str, str, Iterable[tuple[str, float | None]]]] = [
        ("complete", "Whether all shards are done: 1 or 0.", [("", int(state is not None and state.complete))]),
    ]
    if state is not None:
        seconds = None if state.hours_left is None else state.hours_left * 3600
        families += [
            ("shards", "Shards by state.", [(f',state="{one}"', state.counts.get(one, 0)) for one in STATES]),
            ("attempts", "Tasks that began a shard, of all shards.", [("", sum(one.attempts for one in state.shards))]),
            ("rows", "Rows of shards that are done.", [("", state.rows)]),
            ("rows_embedded", "Rows of shards that are done, and about those of finished blocks.",
             [("", state.rows_embedded)]),
            ("rows_planned", "Rows in all.", [("", state.rows_planned)]),
            ("tokens_per_second", "Tokens of all encoders in a task while it embeds.", [("", state.tokens_per_second)]),
            ("seconds_left", "Estimate until all shards are done, at the pace so far.", [("", seconds)]),
        ]  # fmt: skip
    if used is not None:
        families += [
            ("task_seconds", "Time of all tasks.", [("", used.hours * 3600)]),
            ("gpu_seconds", "Time in which tasks held a GPU.", [("", used.gpu_hours * 3600)]),
            ("gpu_busy", "Share of it in which the GPU had work, 0 to 1.", [("", used.busy)]),
            ("memory_bytes", "Most host memory of a task.", [("", used.memory)]),
            ("memory_asked_bytes", "Host memory that tasks were given.", [("", used.memory_asked)]),
            ("gpu_memory_bytes", "Most memory on a GPU.", [("", used.gpu_memory)]),
            ("waited_seconds", "Time of tasks in the queue, median.", [("", used.waited)]),
        ]
    lines = []
    for name, words, samples in families:
        known = [f"vnp_run_{name}{{{run}{labels}}} {value}" for labels, value in samples if value is not None]
        if known:
            lines += [f"# HELP vnp_run_{name} {words}", f"# TYPE vnp_run_{name} gauge", *known]
    return "\n".join(lines) + "\n"
