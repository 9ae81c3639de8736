"""How far a run is."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from shlex import quote

import click

from jobs._cli import options
from jobs._cli.command import command, counted, echo
from jobs._cli.ending import WORDS_WHOLE
from jobs._cli.progress import duration
from jobs._cluster.chain import after_shards
from jobs._cluster.executor import Element, Executor, Submitted, scheduler, submitted
from jobs._cluster.planning import look
from vnp.files.durable import write_text
from vnp.runs.done.efficiency import Efficiency, Usage, efficiency, size_text
from vnp.runs.done.prometheus import metrics_text, require_metrics_file
from vnp.runs.done.status import RunStatus, ShardStatus, last_words, log_tails
from vnp.runs.request import Run

_SHOWN = 40
_NODES = 20
_NAME = 15
_WIDTH = 80
_EXPLAINED = 1000
_WATCH_SECONDS = 5.0


@command("python -m jobs.status RUN")
@options.run_argument
@click.option("--all", "show_all", is_flag=True, help="List finished shards too.")
@click.option("--watch", is_flag=True, help="Look again every few seconds until all shards are done.")
@click.option(
    "--efficiency",
    "used",
    is_flag=True,
    help="Show what the tasks used of what they were given, by node and kind of GPU, and what to ask for instead.",
)
@click.option(
    "--prometheus",
    "metrics",
    type=options.FILE,
    metavar="FILE.prom",
    help="Also write the numbers of the run there, for the textfile collector of Prometheus's node_exporter; what an "
    "earlier look wrote is replaced. With --efficiency, what the tasks used too.",
)
@options.as_json
@click.pass_context
def main(
    context: click.Context, run: Path, show_all: bool, watch: bool, used: bool, metrics: Path | None, as_json: bool
) -> None:
    """Show how far RUN is, from its files.

    A shard is done by its receipt alone. Where the scheduler answers, it tells waiting from running tasks and how
    failed ones ended. Ends with 0 if all shards are done, else with 3.
    """
    if metrics is not None:
        require_metrics_file(metrics)
    while True:
        state, found, unplanned = None, None, _planning(run.absolute())
        if unplanned is not None:
            text, code = _planning_text(unplanned, run, as_json), 3
        else:
            state, others = _explain(opened := Run.open(run), look(opened))
            if used:
                found, text = _efficiency(opened, state, as_json)
            else:
                text = _json_text(state, others) if as_json else _text(state, others, run, show_all)
            code = 0 if state.complete else 3
        if metrics is not None:
            write_text(metrics, metrics_text(run.absolute(), state, found.run if found else None))
        if watch and sys.stdout.isatty():
            click.clear()
        echo(text)
        if not watch or code == 0:
            context.exit(code)
        time.sleep(_WATCH_SECONDS)


def _efficiency(run: Run, state: RunStatus, as_json: bool) -> tuple[Efficiency, str]:
    root = run.paths.root
    submissions = {entry.job: datetime.fromisoformat(entry.at).timestamp() for entry in submitted(root)}
    found = efficiency(run, state, submissions)
    return found, json.dumps(asdict(found), indent=2) if as_json else usage_page(found, str(root), len(state.shards))


def _planning_text(found: _Planning, root: Path, as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {"complete": False, "planning": found.state, "job": found.job, "error": found.error}, indent=2
        )
    note = f": {found.error}" if found.error else ""
    lines = [f"{root} is not planned yet: its planning, job {found.job}, {found.state}{note}"]
    if found.log:
        lines.append(f"log: {found.log}")
    if found.state == "ended":
        lines.append("next: mend that, then extract or pipeline again, as before")
    return "\n".join(lines)


def _text(state: RunStatus, others: list[Element], root: Path, show_all: bool) -> str:
    shown = [shard for shard in state.shards if show_all or shard.state != "done"]
    lines = ["shard  state    blocks     rows         attempts  note"] if shown else []
    tails = log_tails(shown)
    for shard in shown if show_all else shown[:_SHOWN]:
        lines += [_line(shard), *tails.get(shard.shard.number, [])]
    if not show_all and len(shown) > _SHOWN:
        lines.append(f"… and {len(shown) - _SHOWN} more; --all lists every shard")
    counts = ", ".join(f"{count} {name}" for name, count in state.counts.items())
    lines.append(
        f"{counted(len(state.shards), 'shard')}: {counts}; {state.rows_embedded:,} of {state.rows_planned:,} rows"
    )
    # Tasks that share the shards are told of by their array.
    words = Counter(
        f"job {other.job if other.shares else other.id} ({other.name}) "
        + (f"waits: {other.reason}" if other.waiting else other.state.lower())
        for other in others
    )
    lines += [f"{text}, {count} tasks" if count > 1 else text for text, count in words.items()]
    if state.tokens_per_second:
        lines.append(f"{state.tokens_per_second:,.0f} tokens/s in a task while it embeds")
    return "\n".join([*lines, *_next(state, others, root)])


def _next(state: RunStatus, others: list[Element], root: Path) -> list[str]:
    if state.complete:
        return [] if others else [f"next: {after_shards(Run.open(root), root)}"]
    lines = []
    if state.hours_left is not None:
        lines.append(f"about {duration(state.hours_left * 3600)} left at this pace")
    if any(shard.state == "unknown" for shard in state.shards):
        lines.append("next: mend what keeps files from being read, then look again; nothing says that they are damaged")
    elif any(shard.state not in ("done", "running", "queued") for shard in state.shards):
        going = any(shard.state in ("running", "queued") for shard in state.shards)
        when = "when no task runs or waits any more, " if going else ""
        lines.append(f"next: {when}python -m jobs.rerun {quote(str(root))}")
    return lines


def _line(found: ShardStatus) -> str:
    blocks = f"{found.blocks[0]}/{found.blocks[1]}"
    rows = f"{found.receipt.rows:,}" if found.receipt else f"({found.shard.rows:,})"
    held = f"on {found.host}" if found.state == "running" and found.host else ""
    note = " ".join([held, *(found.error or "").splitlines()]).strip()
    if found.log and found.state != "done":
        note += f" [{found.log}]"
    line = f"{found.shard.number:5d}  {found.state:<8} {blocks:<10} {rows:<12} {found.attempts:8d}  {note}".rstrip()
    if len(line) <= _WIDTH:
        return line
    below = textwrap.wrap(note, _WIDTH - 7, **WORDS_WHOLE)
    return "\n       ".join([line[: len(line) - len(note)].rstrip(), *below])


def _json_text(state: RunStatus, others: list[Element]) -> str:
    plain = ("complete", "counts", "rows", "rows_embedded", "rows_planned", "tokens_per_second", "hours_left")
    whole = {
        **{name: getattr(state, name) for name in plain},
        "shards": [
            {
                "shard": found.shard.number,
                "state": found.state,
                "blocks": found.blocks[0],
                "blocks_planned": found.blocks[1],
                "rows_planned": found.shard.rows,
                "rows": found.receipt.rows if found.receipt else None,
                **{name: getattr(found, name) for name in ("attempts", "error", "log", "job", "host")},
            }
            for found in state.shards
        ],
        "other_jobs": [
            {"job": other.id, "name": other.name, "state": other.state, "reason": other.reason} for other in others
        ],
    }
    return json.dumps(whole, indent=2)


@dataclass(frozen=True, slots=True)
class _Planning:
    """The job that plans a run which is not planned yet."""

    job: str
    state: str  # ``waits``, ``runs``, ``ended``, or ``was submitted`` if the scheduler does not answer
    error: str | None  # why it waits, or the last line of its log
    log: str | None


def _planning(root: Path) -> _Planning | None:
    """How the planning of a run is, where that is a job and not done; None otherwise."""
    if (root / "run.json").exists():
        return None
    jobs = [entry for entry in submitted(root) if entry.name.endswith("-plan")]
    if not jobs:
        return None
    executor, last = scheduler(root), jobs[-1].job
    path = root / "logs" / executor.log(last, None)
    log = str(path) if path.exists() else None
    queue = executor.state(root)
    element = next((found for found in queue or [] if found.id == last), None)
    if element is not None:
        return _Planning(last, "waits" if element.waiting else "runs", element.reason if element.waiting else None, log)
    words, how = last_words(log), executor.ended([last]).get(last)
    if how:
        words = f"{words or 'no word'} ({executor.title}: {how})"
    return _Planning(last, "was submitted" if queue is None else "ended", words, log)


def _explain(run: Run, state: RunStatus) -> tuple[RunStatus, list[Element]]:
    """Tell waiting from running from vanished tasks, where the scheduler answers; what is done stays done.

    Returns:
        The state, and the run's jobs in the queue that make no shard, such as the merging.
    """
    jobs, executor = submitted(run.paths.root), scheduler(run.paths.root)
    queue = executor.state(run.paths.root) if jobs and not state.complete else []
    sharing = any(element.shares and not element.ending for element in queue or [])
    by_shard = {element.shard: element for element in queue or [] if element.shard is not None}
    known = {entry.job for entry in jobs}
    last = {shard: entry for entry in jobs for shard in entry.shards}
    logs = _files(run.paths.logs) if last else {}
    shards = []
    for found in state.shards:
        number = found.shard.number
        element, entry = by_shard.get(number), last.get(number)
        if found.state in ("done", "damaged", "unknown"):
            shards.append(found)
        elif element is not None:
            shards.append(_in_queue(found, element, run.paths.logs))
        elif entry is not None:
            shards.append(_out_of_queue(found, entry, executor, known, queue is not None, logs))
        elif found.state == "missing" and sharing:
            shards.append(replace(found, state="queued", error="no task has taken it yet"))
        else:
            shards.append(found)
    others = [element for element in queue or [] if element.shard is None]
    return replace(state, shards=_with_reasons(shards, executor)), others


def _files(folder: Path) -> dict[str, str]:
    try:
        return {entry.name: entry.path for entry in os.scandir(folder)}
    except OSError:
        return {}


def _in_queue(found: ShardStatus, element: Element, logs: Path) -> ShardStatus:
    if element.waiting:
        before = f"; before: {found.error}" if found.error else ""
        return replace(found, state="queued", error=f"waits: {element.reason}{before}", job=element.id)
    if element.ending and found.state != "running":
        return found
    error = None if found.state == "running" else "starting"
    return replace(found, state="running", error=error, job=element.id, log=str(logs / element.log))


def _out_of_queue(
    found: ShardStatus, entry: Submitted, executor: Executor, known: set[str], answered: bool, logs: dict[str, str]
) -> ShardStatus:
    """A shard that was submitted, whose job the queue does not have, or of which it could not be asked."""
    own = executor.job_of(found.job or "")
    if found.state == "running":
        # Its own sign of life counts for more than the queue of what may be another cluster.
        elsewhere = answered and own in known and not found.here
        return replace(found, error="not in the queue here") if elsewhere else found
    if found.attempts and (own == entry.job or own not in known):
        return found
    # The last job for it never began the shard: what there is to say of that is in the job's log.
    index = executor.index(entry, found.shard.number)
    log, job = logs.get(executor.log(entry.job, index)), executor.task_id(entry.job, index)
    if log is None:
        words = "its job ended or was cancelled before it started" if answered else "submitted, no sign of it yet"
        return replace(found, error=words, job=job)
    words = last_words(log) or "its task ended before it began the shard"
    return replace(found, state="failed" if answered else found.state, error=words, log=log, job=job)


def _with_reasons(shards: list[ShardStatus], executor: Executor) -> list[ShardStatus]:
    """Add how the scheduler says that failed tasks ended."""
    unexplained = [found.job for found in shards if found.state in ("failed", "missing", "stopped") and found.job]
    words = executor.ended(unexplained[:_EXPLAINED])
    return [
        replace(found, error=f"{found.error or 'the task vanished'} ({executor.title}: {words[found.job]})")
        if found.state in ("failed", "missing", "stopped") and found.job in words
        else found
        for found in shards
    ]


def usage_page(found: Efficiency, root: str, shards: int) -> str:
    """What a run's tasks used of what they were given."""
    whole = found.run
    if not whole.tasks:
        return f"{root}: no task has begun yet"
    failed = f", {whole.failed} of which failed" if whole.failed else ""
    limit = f" of {_short(whole.seconds_asked)}" if whole.seconds_asked else ""
    lines = [
        *_wrapped(f"{root}: {whole.shards} of {shards} shards done by {_task_count(whole.tasks)}{failed}"),
        f"{whole.gpu_hours:,.2f} GPU-hours, {whole.hours:,.2f} hours of tasks, of which the longest took "
        f"{_short(whole.seconds)}{limit}",
        _columns(
            "", "tasks", "GPU-h" if whole.gpu_hours else "hours", "busy", "tokens/s", "memory", "GPU", "cores", "waited"
        ),
        _row("run", whole),
    ]
    for title, group in (("node", found.nodes), ("GPU", found.gpus)):
        lines += [
            _row("no GPU", one) if one.name == "cpu" else _row(one.name, one, f"{title} ") for one in group[:_NODES]
        ]
        if len(group) > _NODES:
            lines.append(f"… and {len(group) - _NODES} more; --json has them all")
    if whole.failed:
        failed = ", ".join(f"{one.failed} of {one.tasks} on {one.name}" for one in found.nodes if one.failed)
        lines += _wrapped(f"failed tasks: {failed}")
    if found.stragglers:
        lines.append(f"stragglers, slower than half of the usual {found.stragglers[0].median:,.1f} blocks a minute:")
        lines += [f"  shard {one.shard} on {one.node}: {one.rate:,.1f}" for one in found.stragglers[:_NODES]]
    for node, why in found.bad_nodes.items():
        lines += _wrapped(f"bad node {node}: {why}")
    for sentence in found.advice:
        lines += _wrapped(f"advice: {sentence}")
    if found.earlier:
        lines += _wrapped(
            f"{found.earlier} shards were made by an earlier version: their memory, cores, blocks and failed tasks are "
            "not known"
        )
    return "\n".join(lines)


def _columns(name: str, *columns: str) -> str:
    widths = (5, 6, 4, 8, 10, 9, 7, 8)
    return " ".join([f"{name:<{_NAME}}", *map(str.rjust, columns, widths)])


def _row(name: str, of: Usage, title: str = "") -> str:
    room = _NAME - len(title)
    kept = title + (name if len(name) <= room else f"…{name[1 - room :]}")
    cores = "-" if of.cores is None else f"{of.cores:.1f}"
    if of.cores is not None and of.cores_asked:
        cores += f"/{of.cores_asked:.0f}"
    return _columns(
        kept,
        str(of.tasks),
        f"{of.gpu_hours or of.hours:,.2f}"[:6].rstrip("."),
        "-" if of.busy is None else f"{of.busy:.0%}",
        "-" if of.tokens_per_second is None else _thousands(of.tokens_per_second),
        _part(of.memory, of.memory_asked),
        _part(of.gpu_memory, of.gpu_size),
        cores,
        "-" if of.waited is None else _short(of.waited),
    )


def _thousands(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.1f}M"


def _part(used: int | None, given: int | None) -> str:
    if used is None:
        return "-"
    return size_text(used) if given is None else f"{size_text(used)}/{size_text(given)}"


def _short(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _task_count(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", **WORDS_WHOLE)


if __name__ == "__main__":
    main()
