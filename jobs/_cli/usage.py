"""The page of ``status --efficiency``, 80 columns wide."""

from __future__ import annotations

import textwrap

from jobs._cli.ending import WORDS_WHOLE
from vnp.runs.done.efficiency import Efficiency, Usage, size_text

_WIDTH = 80
_SHOWN = 20
_NAME = 15


def usage_page(found: Efficiency, root: str, shards: int) -> str:
    """What a run's tasks used of what they were given."""
    whole = found.run
    if not whole.tasks:
        return f"{root}: no task has begun yet"
    failed = f", {whole.failed} of which failed" if whole.failed else ""
    limit = f" of {_short(whole.seconds_asked)}" if whole.seconds_asked else ""
    lines = [
        *_wrapped(f"{root}: {whole.shards} of {shards} shards done by {_tasks(whole.tasks)}{failed}"),
        f"{whole.gpu_hours:,.2f} GPU-hours, {whole.hours:,.2f} hours of tasks, of which the longest took "
        f"{_short(whole.seconds)}{limit}",
        _columns(
            "", "tasks", "GPU-h" if whole.gpu_hours else "hours", "busy", "tokens/s", "memory", "GPU", "cores", "waited"
        ),
        _row("run", whole),
    ]
    for title, group in (("node", found.nodes), ("GPU", found.gpus)):
        lines += [
            _row("no GPU", one) if one.name == "cpu" else _row(one.name, one, f"{title} ") for one in group[:_SHOWN]
        ]
        if len(group) > _SHOWN:
            lines.append(f"… and {len(group) - _SHOWN} more; --json has them all")
    if whole.failed:
        failed = ", ".join(f"{one.failed} of {one.tasks} on {one.name}" for one in found.nodes if one.failed)
        lines += _wrapped(f"failed tasks: {failed}")
    if found.stragglers:
        lines.append(f"stragglers, slower than half of the usual {found.stragglers[0].median:,.1f} blocks a minute:")
        lines += [f"  shard {one.shard} on {one.node}: {one.rate:,.1f}" for one in found.stragglers[:_SHOWN]]
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


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", **WORDS_WHOLE)
