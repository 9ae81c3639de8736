"""How far a run is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs import _options
from jobs._command import command
from jobs._progress import duration

if TYPE_CHECKING:
    from vnp.runs.request import Run
    from vnp.runs.state import RunState, ShardState

_SHOWN = 40
_WATCH_SECONDS = 5.0


@command("python -m jobs.status RUN")
@_options.run_argument
@click.option("--all", "show_all", is_flag=True, help="List finished shards too.")
@click.option("--watch", is_flag=True, help="Look again every few seconds until all shards are done.")
@_options.as_json
@click.pass_context
def main(context: click.Context, run: Path, show_all: bool, watch: bool, as_json: bool) -> None:
    """Show how far RUN is, from its files.

    A shard is done by its receipt alone. Where Slurm answers, it tells waiting from running tasks and how failed ones
    ended. Ends with 0 if all shards are done, else with 3.
    """
    from vnp.runs.request import Run

    opened = Run.open(run)
    state = _look(opened)
    while watch and not state.complete:
        click.clear()
        _show(state, run, show_all)
        time.sleep(_WATCH_SECONDS)
        state = _look(opened)
    if as_json:
        click.echo(json.dumps(_as_json(state), indent=2))
    else:
        _show(state, run, show_all)
    context.exit(0 if state.complete else 3)


def _look(run: Run) -> RunState:
    from jobs._live import explain
    from vnp.runs.state import run_state

    return explain(run, run_state(run))


def _show(state: RunState, root: Path, show_all: bool) -> None:
    shown = [found for found in state.shards if show_all or found.state != "done"]
    if shown:
        click.echo("shard  state    blocks     rows         attempts  note")
    for found in shown if show_all else shown[:_SHOWN]:
        click.echo(_line(found))
    if not show_all and len(shown) > _SHOWN:
        click.echo(f"… and {len(shown) - _SHOWN} more; --all lists every shard")
    counts = ", ".join(f"{count} {name}" for name, count in state.counts.items())
    click.echo(f"{len(state.shards)} shards: {counts}; {state.rows:,} of {state.rows_planned:,} rows")
    if state.tokens_per_second:
        click.echo(f"{state.tokens_per_second:,.0f} tokens/s in a task while it embeds")
    if state.complete:
        click.echo(f"next: python -m jobs.reduce {root}")
        return
    if state.hours_left is not None:
        click.echo(f"about {duration(state.hours_left * 3600)} left at this pace")
    if any(found.state not in ("done", "running", "queued") for found in state.shards):
        click.echo(f"next: python -m jobs.rerun {root}")


def _line(found: ShardState) -> str:
    blocks = f"{found.blocks[0]}/{found.blocks[1]}"
    rows = f"{found.receipt.rows:,}" if found.receipt else f"({found.shard.rows:,})"
    note = found.error or ""
    if found.log and found.state != "done":
        note += f" [{found.log}]"
    return f"{found.shard.number:5d}  {found.state:<8} {blocks:<10} {rows:<12} {found.attempts:8d}  {note}".rstrip()


def _as_json(state: RunState) -> dict[str, object]:
    return {
        "complete": state.complete,
        "counts": state.counts,
        "rows": state.rows,
        "rows_planned": state.rows_planned,
        "tokens_per_second": state.tokens_per_second,
        "hours_left": state.hours_left,
        "shards": [
            {
                "shard": found.shard.number,
                "state": found.state,
                "blocks": found.blocks[0],
                "blocks_planned": found.blocks[1],
                "rows_planned": found.shard.rows,
                "rows": found.receipt.rows if found.receipt else None,
                "attempts": found.attempts,
                "error": found.error,
                "log": found.log,
                "job": found.job,
            }
            for found in state.shards
        ],
    }


if __name__ == "__main__":
    main()
