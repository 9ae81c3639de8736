"""Defaults for the options of commands, from ``vnp.toml``; Click takes them as its ``default_map``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from vnp.errors import UsageError
from vnp.files.records import read_toml

CONFIG = "vnp.toml"


class Configured(click.Command):
    """A command whose options may stand in ``vnp.toml``."""

    table: tuple[str, ...] = ()
    """Names of its table there, from the outside in: ``[extract]`` or ``[benchmark.accuracy]``."""


def _read(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    command = context.command
    assert isinstance(command, Configured)
    context.default_map = {**read_config(path, command), **(context.default_map or {})}


# Eager: it is taken before the options that it supplies, even required ones.
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"File with defaults for the options.  [default: {CONFIG} in the working directory, if there is one]",
    is_eager=True,
    expose_value=False,
    callback=_read,
)


def read_config(path: Path | None, target: Configured) -> dict[str, Any]:
    """Defaults for a command's options.

    The file's top level holds options of any command, a table such as ``[extract]`` those of one; names are the
    options' without the dashes in front.

    Args:
        path: named by the user, or None for ``vnp.toml`` where there is one.
        target: the command.

    Returns:
        Values by the names of the command's parameters, for click to convert.

    Raises:
        UsageError: the file is missing, is no TOML, names an option or a command that there is not, or gives an option
            a value of another type than it takes.
    """
    if path is None:
        path = Path(CONFIG)
        if not path.exists():
            return {}
    content = read_toml(path, UsageError)
    _require_tables(path, content, target)
    known = _settings(target)
    own: Any = content
    for name in target.table:
        own = own.get(name) if isinstance(own, dict) else None
    found = {}
    for key, value in content.items():
        if isinstance(value, dict):
            continue
        setting = known.get(_name(key, known))
        if setting is None:
            _require_known(path, key, value, known, target)
        else:
            found[setting.name] = _checked(f"{path}: {key}", value, setting)
    table = f"[{'.'.join(target.table)}]"
    for key, value in own.items() if isinstance(own, dict) else ():
        setting = known.get(_name(key, known, own=True))
        if setting is None:
            raise UsageError(f"{path}: {table} has no option {key!r}; there are {_listed(known)}")
        found[setting.name] = _checked(f"{path}: {key} in {table}", value, setting)
    return found


class _Setting(NamedTuple):
    """What a name in the file stands for; ``on`` is false for a name that switches a flag off, such as no-train."""

    parameter: click.Parameter
    on: bool = True

    @property
    def name(self) -> str:
        return self.parameter.name or ""


def _settings(target: click.Command) -> dict[str, _Setting]:
    """A command's options by their long names without the dashes, and its arguments."""
    found = {}
    for parameter in target.params:
        if isinstance(parameter, click.Option):
            found.update({name[2:]: _Setting(parameter) for name in parameter.opts if name.startswith("--")})
            found.update({name[2:]: _Setting(parameter, on=False) for name in parameter.secondary_opts})
        elif parameter.name:
            found[parameter.name.replace("_", "-")] = _Setting(parameter)
    found.pop("config", None)
    return found


def _name(key: str, known: dict[str, _Setting], own: bool = False) -> str:
    """The option that a key names: ``out`` is the run for all commands, and in a table the command's own --out."""
    name = key.replace("_", "-")
    # Commands that make a run call it --out, most others RUN.
    run = next((other for other, setting in known.items() if setting.name == "run"), "run")
    if name == "out" and "out" in known and (own or (run == "run" and known["out"].name != "folder")):
        return name
    return run if name in ("run", "out") else name


def _checked(place: str, value: Any, setting: _Setting) -> Any:
    """A value that click will take as it would the same on the command line."""
    parameter = setting.parameter
    words, takes = _type(parameter)
    several = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    values = value if several and isinstance(value, list) else [value]
    for one in values:
        if not takes(one):
            raise UsageError(f"{place} must be {words}{', or a list of such' if several else ''}, not {_shown(one)}")
        if isinstance(one, str) and "\0" in one:
            raise UsageError(f"{place} must not hold a NUL character, as {one!r} does")
    if isinstance(value, bool) and not setting.on:
        return not value
    return values if several else value


def _type(parameter: click.Parameter) -> tuple[str, Callable[[Any], bool]]:
    """What a parameter takes, in words and as a test; a number may also stand in quotes, as the shell would have it."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(parameter.type, click.types.IntParamType):
        return "a whole number", lambda value: isinstance(value, int | str) and not isinstance(value, bool)
    if isinstance(parameter.type, click.types.FloatParamType):
        return "a number", lambda value: isinstance(value, int | float | str) and not isinstance(value, bool)
    words = "a path in quotes" if isinstance(parameter.type, click.Path) else "a text in quotes"
    if isinstance(parameter.type, click.Choice):
        words = "one of " + ", ".join(f'"{choice}"' for choice in parameter.type.choices)
    return words, lambda value: isinstance(value, str)


def _shown(value: Any) -> str:
    """A value of the file for a message, as TOML would have it."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)


def _require_known(path: Path, key: str, value: Any, known: dict[str, _Setting], target: Configured) -> None:
    """An option at the top level may be another command's, but not nobody's: that is a slip of the pen."""
    every = list(_every_command())
    if any(_name(key, names) in names for names in map(_settings, every)):
        return
    if any(key == command.table[0] for command in every):
        raise UsageError(f"{path}: {key} is a table of options, as in [{key}], not {_shown(value)}")
    name = " ".join(target.table)
    raise UsageError(f"{path}: no command has an option {key!r}; those of {name} are {_listed(known)}")


def _require_tables(path: Path, content: dict[str, Any], target: Configured) -> None:
    """A table may be another command's, but not nobody's; that of a group holds one for each of its commands."""
    tables = {name: value for name, value in content.items() if isinstance(value, dict)}
    if all((name,) == target.table for name in tables):
        return
    known = {command.table for command in _every_command()}
    listed = _listed(".".join(one) for one in known)
    for name, value in tables.items():
        inner = value.items() if any(table[0] == name and len(table) > 1 for table in known) else [((), value)]
        for part, options in inner:
            if not isinstance(options, dict):
                raise UsageError(f"{path}: [{name}] holds the tables of its commands and no options, so no {part!r}")
            table = (name, part) if part else (name,)
            if table not in known:
                raise UsageError(f"{path}: no command has a table [{'.'.join(table)}]; there are {listed}")


def _every_command() -> Iterator[Configured]:
    # Here, because it imports every command, and each imports this module.
    from jobs.__main__ import every_command

    yield from (command for command in every_command() if isinstance(command, Configured))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
