"""What all commands share: options from ``vnp.toml``, errors as one message, and exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jobs._cli.config import Configured, config_option
from vnp.errors import VnpError, storage_error

# What a signed number of eight bytes holds.
_LARGEST = 2**63 - 1


class Command(Configured):
    """A command that takes its defaults from ``vnp.toml`` and never ends in a traceback that a user caused."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the options and what ``vnp.toml`` has of them, where a mistake is one message too."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except VnpError as error:
            _say(error)
            sys.exit(error.exit_code)

    def call(self, **values: Any) -> None:
        """Do what the command does, from within another one; where it fails, the process ends as it would by itself.

        Args:
            values: by the names of its parameters; all others are as ``vnp.toml`` or the command itself has them.
        """
        try:
            with self.make_context(self.name, [], default_map=values) as context:
                self.invoke(context)
        except click.exceptions.Exit as end:
            if end.exit_code:
                sys.exit(end.exit_code)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options, and refuse whole numbers that no array or file can hold."""
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            value = ctx.params.get(parameter.name or "")
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int) and abs(number) > _LARGEST:
                    raise click.BadParameter(f"{number} is out of range.", ctx, parameter)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn what a user can mend into one message."""
        try:
            return super().invoke(ctx)
        except VnpError as error:
            _say(error)
            ctx.exit(error.exit_code)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library in ("", "vnp", "jobs"):
                raise
            _say(
                f"this needs {library}, which {sys.executable} does not have: install vnp with its dependencies, or "
                f"run the command in the image: apptainer run IMAGE {self.name} …"
            )
            ctx.exit(1)
        except BrokenPipeError:
            # The reader of our output has gone, as `head` does; Python must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            if error.errno is None:
                raise
            _say(storage_error(error, error.filename or self.name or "vnp"))
            ctx.exit(1)


def command(example: str, group: click.Group | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function; its docstring is the help, with one example below.

    Args:
        example: a command line that works.
        group: the command that it is a part of, if any; it is called after the function then, else after its module.
    """

    def decorate(function: Callable[..., Any]) -> Command:
        module = _module_name(function)
        made = click.command(function.__name__ if group else module, cls=Command, **_shown(example))(
            config_option(function)
        )
        made.table = (module, function.__name__) if group else (module,)
        if group:
            group.add_command(made)
        functools.update_wrapper(made, function, assigned=("__module__", "__doc__"), updated=())
        return made

    return decorate


def group(example: str) -> Callable[[Callable[..., Any]], click.Group]:
    """Make a command that consists of commands; its docstring is the help, with one example below."""

    def decorate(function: Callable[..., Any]) -> click.Group:
        made: click.Group = click.group(_module_name(function), cls=click.Group, **_shown(example))(function)
        return made

    return decorate


def _module_name(function: Callable[..., Any]) -> str:
    name = function.__module__.rpartition(".")[2]
    return Path(sys.argv[0]).stem if name == "__main__" else name


def _shown(example: str) -> dict[str, Any]:
    settings = {"show_default": True, "max_content_width": 100}
    return {"epilog": f"\b\nExample:\n  {example}", "context_settings": settings}


def _say(error: Exception | str) -> None:
    click.echo(f"error: {error}", err=True)
