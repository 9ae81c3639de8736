"""What all commands share: options from ``vnp.toml``, errors as one message, and exit codes."""

from __future__ import annotations

import functools
import os
import sys
import tomllib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import click

from vnp.errors import UsageError, VnpError, storage_error

CONFIG = "vnp.toml"
_OTHER_NAMES = {"out": "run"}
_SETTINGS = {"show_default": True, "max_content_width": 100}


class Command(click.Command):
    """A command that takes its defaults from ``vnp.toml`` and never ends in a traceback that a user caused."""

    table: tuple[str, ...] = ()
    """Names of its table in ``vnp.toml``, from the outside in: ``[extract]`` or ``[benchmark.merge]``."""

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
        config = click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"File with defaults for the options.  [default: {CONFIG} in the working directory, if there is one]",
            expose_value=False,
        )
        made = click.command(
            function.__name__ if group else module, cls=Command, epilog=_epilog(example), context_settings=_SETTINGS
        )(config(function))
        made.table = (module, function.__name__) if group else (module,)
        if group:
            group.add_command(made)
        functools.update_wrapper(made, function, assigned=("__module__", "__doc__"), updated=())
        return made

    return decorate


def group(example: str) -> Callable[[Callable[..., Any]], click.Group]:
    """Make a command that consists of commands; its docstring is the help, with one example below."""

    def decorate(function: Callable[..., Any]) -> click.Group:
        return click.group(_module_name(function), epilog=_epilog(example), context_settings=_SETTINGS)(function)

    return decorate


def _module_name(function: Callable[..., Any]) -> str:
    name = function.__module__.rpartition(".")[2]
    return Path(sys.argv[0]).stem if name == "__main__" else name


def _epilog(example: str) -> str:
    return f"\b\nExample:\n  {example}"


def read_config(path: Path | None, target: Command) -> dict[str, Any]:
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
    lists = {parameter.name for parameter in target.params if parameter.nargs == -1 or parameter.multiple}
    known = _option_names(target)
    found = {}
    for key, value, own in _entries(content, target.table, path):
        name = _option_name(key, known, own)
        if name in known:
            found[name] = [value] if name in lists and not isinstance(value, list) else value
        elif own:
            raise UsageError(f"{path}: [{'.'.join(target.table)}] has no option {key!r}; there are {_listed(known)}")
        else:
            _require_known(path, key, known, target)
    return found


def _entries(content: dict[str, Any], table: tuple[str, ...], path: Path) -> Iterator[tuple[str, Any, bool]]:
    """The file's options for a command, and whether each is in the command's own table."""
    yield from ((key, value, False) for key, value in content.items() if not isinstance(value, dict))
    own: Any = content
    for name in table:
        own = own.get(name, {})
        if not isinstance(own, dict):
            raise UsageError(f"{path}: {name} is a table of options, as in [{'.'.join(table)}], not {own!r}")
    yield from ((key, value, True) for key, value in own.items())


def _option_names(target: click.Command) -> set[str]:
    return {parameter.name for parameter in target.params if parameter.name} - {"config"}


def _option_name(key: str, known: Collection[str], own: bool = False) -> str:
    """The parameter that a key names: ``out`` is the run for all commands, and in a table the command's own --out."""
    name = key.replace("-", "_")
    if own and name == "out" and "folder" in known:
        return "folder"
    return name if name in known else _OTHER_NAMES.get(name, name)


def _require_known(path: Path, key: str, known: Collection[str], target: Command) -> None:
    """An option at the top level may be another command's, but not nobody's: that is a slip of the pen."""
    # Here, because it imports every command.
    from jobs.__main__ import every_command

    if not any(_option_name(key, names) in names for names in map(_option_names, every_command())):
        name = " ".join(target.table)
        raise UsageError(f"{path}: no command has an option {key!r}; those of {name} are {_listed(known)}")


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(name.replace("_", "-") for name in names))


def _config_path(args: list[str]) -> Path | None:
    for index, argument in enumerate(args):
        if argument == "--config" and index + 1 < len(args):
            return Path(args[index + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _asks_for_help(args: list[str]) -> bool:
    return "--help" in args


def _say(error: Exception | str) -> None:
    click.echo(f"error: {error}", err=True)
