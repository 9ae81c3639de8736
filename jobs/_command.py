"""What all commands share: options from ``vnp.toml``, errors as one message, and exit codes."""

from __future__ import annotations

import functools
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vnp.errors import UsageError, VnpError, storage_error

CONFIG = "vnp.toml"
_OTHER_NAMES = {"out": "run"}


class Command(click.Command):
    """A command that takes its defaults from ``vnp.toml`` and never ends in a traceback that a user caused."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the configuration before the options are parsed, so that it can supply even required ones."""
        if not _asks_for_help(args):
            try:
                extra["default_map"] = {**read_config(_config_path(args), self), **(extra.get("default_map") or {})}
            except VnpError as error:
                _say(error)
                sys.exit(error.exit_code)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn what a user can mend into one message."""
        try:
            return super().invoke(ctx)
        except VnpError as error:
            _say(error)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            # The reader of our output has gone, as `head` does; Python must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            if error.errno is None:
                raise
            _say(storage_error(error, error.filename or self.name or "vnp"))
            ctx.exit(1)


def command(example: str) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function; its docstring is the help, with one example below.

    Args:
        example: a command line that works.
    """

    def decorate(function: Callable[..., Any]) -> Command:
        name = function.__module__.rpartition(".")[2]
        if name == "__main__":
            name = Path(sys.argv[0]).stem
        config = click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"File with defaults for the options.  [default: {CONFIG} in the working directory, if there is one]",
            expose_value=False,
        )
        made = click.command(
            name,
            cls=Command,
            epilog=f"\b\nExample:\n  {example}",
            context_settings={"show_default": True, "max_content_width": 100},
        )(config(function))
        functools.update_wrapper(made, function, assigned=("__module__", "__doc__"), updated=())
        return made

    return decorate


def read_config(path: Path | None, target: click.Command) -> dict[str, Any]:
    """Defaults for a command's options.

    The file's top level holds options of any command, a table such as ``[extract]`` those of one; names are the
    options' without the dashes in front.

    Args:
        path: named by the user, or None for ``vnp.toml`` where there is one.
        target: the command.

    Raises:
        UsageError: the file is missing, is no TOML, or names an option that the command does not have.
    """
    if path is None:
        path = Path(CONFIG)
        if not path.exists():
            return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    known = {parameter.name for parameter in target.params if parameter.name} - {"config"}
    general = {key: value for key, value in content.items() if not isinstance(value, dict)}
    own = content.get(target.name or "", {})
    found = {}
    for key, value in {**general, **own}.items():
        name = key.replace("-", "_")
        if name not in known:
            name = _OTHER_NAMES.get(name, name)
        if name in known:
            found[name] = value
        elif key in own:
            names = ", ".join(sorted(name.replace("_", "-") for name in known))
            raise UsageError(f"{path}: [{target.name}] has no option {key!r}; there are {names}")
    return found


def _config_path(args: list[str]) -> Path | None:
    for index, argument in enumerate(args):
        if argument == "--config" and index + 1 < len(args):
            return Path(args[index + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _asks_for_help(args: list[str]) -> bool:
    return "--help" in args


def _say(error: Exception) -> None:
    click.echo(f"error: {error}", err=True)
