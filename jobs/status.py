"""How far a run is."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import click

from jobs._cli import options
from jobs._cli.command import command
from jobs._cli.progress import duration
from jobs._cluster.state import Explained, Planning, after_shards, explain, look, planning
from vnp.runs.done.status import ShardStatus, log_tail
from vnp.runs.request import Run

_SHOWN = 40
_TAILS = 3
_TAIL = 4
_WIDTH = 200
_WATCH_SECONDS = 5.0


@command("python -m jobs.status RUN")
@options.run_argument
@click.option("--all", "show_all", is_flag=True, help="List finished shards too.")
@click.option("--watch", is_flag=True, help="Look again every few seconds until all shards are done.")
@options.as_json
@click.pass_context
def main(context: click.Context, run: Path, show_all: bool, watch: bool, as_json: bool) -> None:
    """Show how far RUN is, from its files.

    A shard is done by its receipt alone. Where Slurm answers, it tells waiting from running tasks and how failed ones
    ended. Ends with 0 if all shards are done, else with 3.
    """
    while True:
        unplanned = planning(run.absolute())
        if unplanned is not None:
            text, code = _planning_text(unplanned, run, as_json), 3
        else:
            found = explain(opened := Run.open(run), look(opened))
            text = json.dumps(_as_json(found), indent=2) if as_json else _text(found, run, show_all)
            code = 0 if found.state.complete else 3
        if watch and sys.stdout.isatty():
            # In one piece, from the top left: no flicker.
            click.echo("\x1b[H\x1b[2J", nl=False)
        click.echo(text)
        if not watch or code == 0:
            context.exit(code)
        time.sleep(_WATCH_SECONDS)


def _planning_text(found: Planning, root: Path, as_json: bool) -> str:
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


def _text(found: Explained, root: Path, show_all: bool) -> str:
    state = found.state
    shown = [shard for shard in state.shards if show_all or shard.state != "done"]
    lines = ["shard  state    blocks     rows         attempts  note"] if shown else []
    tails = 0
    for shard in shown if show_all else shown[:_SHOWN]:
        lines.append(_line(shard))
        if shard.state == "failed" and tails < _TAILS:
            tails += 1
            lines += [f"       | {line[:_WIDTH]}" for line in log_tail(shard.log, _TAIL)]
    if not show_all and len(shown) > _SHOWN:
        lines.append(f"… and {len(shown) - _SHOWN} more; --all lists every shard")
    counts = ", ".join(f"{count} {name}" for name, count in state.counts.items())
    lines.append(f"{len(state.shards)} shards: {counts}; {state.rows:,} of {state.rows_planned:,} rows")
    lines += [
        f"job {other.id} ({other.name}) " + (f"waits: {other.reason}" if other.waiting else other.state.lower())
        for other in found.others
    ]
    if state.tokens_per_second:
        lines.append(f"{state.tokens_per_second:,.0f} tokens/s in a task while it embeds")
    return "\n".join([*lines, *_next(found, root)])


def _next(found: Explained, root: Path) -> list[str]:
    state = found.state
    if state.complete:
        return [] if found.others else [f"next: {after_shards(root)}"]
    lines = []
    if state.hours_left is not None:
        lines.append(f"about {duration(state.hours_left * 3600)} left at this pace")
    if any(shard.state == "unknown" for shard in state.shards):
        lines.append("next: mend what keeps files from being read, then look again; nothing says that they are damaged")
    elif any(shard.state not in ("done", "running", "queued") for shard in state.shards):
        lines.append(f"next: python -m jobs.rerun {shlex.quote(str(root))}")
    return lines


def _line(found: ShardStatus) -> str:
    blocks = f"{found.blocks[0]}/{found.blocks[1]}"
    rows = f"{found.receipt.rows:,}" if found.receipt else f"({found.shard.rows:,})"
    note = found.error or ""
    if found.log and found.state != "done":
        note += f" [{found.log}]"
    return f"{found.shard.number:5d}  {found.state:<8} {blocks:<10} {rows:<12} {found.attempts:8d}  {note}".rstrip()


def _as_json(explained: Explained) -> dict[str, object]:
    state = explained.state
    whole = ("complete", "counts", "rows", "rows_planned", "tokens_per_second", "hours_left")
    return {
        **{name: getattr(state, name) for name in whole},
        "shards": [
            {
                "shard": found.shard.number,
                "state": found.state,
                "blocks": found.blocks[0],
                "blocks_planned": found.blocks[1],
                "rows_planned": found.shard.rows,
                "rows": found.receipt.rows if found.receipt else None,
                **{name: getattr(found, name) for name in ("attempts", "error", "log", "job")},
            }
            for found in state.shards
        ],
        "other_jobs": [
            {"job": other.id, "name": other.name, "state": other.state, "reason": other.reason}
            for other in explained.others
        ],
    }


if __name__ == "__main__":
    main()
