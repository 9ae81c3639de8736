"""``python -m jobs`` and ``vnp``: lists the commands, and runs one by name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import click

import jobs
from vnp import __version__

_LONG = 400


class Commands(click.Group):
    """Every module in this folder without an underscore is a command of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        """Name the commands."""
        return sorted(module.name for module in pkgutil.iter_modules(jobs.__path__) if not module.name.startswith("_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name each command with the whole first sentence of its help."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(_LONG)) for name, one in commands if one is not None])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; the others stay unread, so that help is quick."""
        names = self.list_commands(ctx)
        if cmd_name not in names:
            near = difflib.get_close_matches(cmd_name, names, 1)
            ctx.fail(f"There is no command {cmd_name!r}.{f' Did you mean {near[0]}?' if near else ''}")
        found: Any = importlib.import_module(f"jobs.{cmd_name}").main
        return found if isinstance(found, click.Command) else None


def every_command() -> Iterator[click.Command]:
    """All commands, and those that others consist of."""
    context = click.Context(main)
    for name in main.list_commands(context):
        found = main.get_command(context, name)
        if isinstance(found, click.Group):
            yield from found.commands.values()
        elif found is not None:
            yield found


@click.command(
    cls=Commands,
    context_settings={"max_content_width": 100},
    epilog="Begin with: vnp demo, or vnp predict contigs.fna --out CALLS",
)
@click.version_option(__version__, prog_name="vnp")
def main() -> None:
    """Find viral sequences: embeddings of DNA and six-frame protein, made on a cluster or on one machine."""


if __name__ == "__main__":
    main(prog_name="python -m jobs")
