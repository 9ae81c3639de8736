"""``python -m benchmarks``: lists the measurements, and runs one by name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import click

import benchmarks


class Measurements(click.Group):
    """Every module in this folder without an underscore is a measurement of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        """Name the measurements."""
        found = pkgutil.iter_modules(benchmarks.__path__)
        return sorted(module.name for module in found if not module.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one of them; the others stay unread."""
        if cmd_name not in self.list_commands(ctx):
            return None
        found: Any = importlib.import_module(f"benchmarks.{cmd_name}").main
        return found if isinstance(found, click.Command) else None


@click.command(cls=Measurements, context_settings={"max_content_width": 100})
def main() -> None:
    """Time parts of vnp on this machine, for whoever works on them."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
