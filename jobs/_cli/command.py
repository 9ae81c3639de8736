"""What all commands share: options from ``vnp.toml``, what they print, errors as one message, and exit codes."""

from __future__ import annotations

import functools
import os
import pkgutil
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

import jobs
from jobs._cli.ending import (
    LOG_FORMAT,
    LOG_FORMATS,
    SIGNALLED,
    EndedError,
    about,
    ended_by_signals,
    keep_streams,
    require_written,
    wrapped,
)  # fmt: skip
from vnp.errors import UsageError, VnpError, machine_error, storage_error, without_password
from vnp.files.durable import protect
from vnp.files.machine import IGNORE_DISK
from vnp.files.records import read_toml

CONFIG = "vnp.toml"
_WRITTEN = {"--out", "--out-model", "--prometheus"}
# What a signed number of eight bytes holds.
_LARGEST = 2**63 - 1
# Control characters but for the line feed and the tabulator, and marks that turn the direction of writing.
_ACTED_ON = [*range(9), *range(11, 32), *range(127, 160), *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_NAMES = [module.name for module in pkgutil.iter_modules(jobs.__path__) if not module.name.startswith("_")]
_MODULE = re.compile(rf"(?<![\w./-])(?:python -m )?jobs\.(?=(?:{'|'.join(_NAMES)})\b)")
_SHOWN = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _ACTED_ON}


def echo(text: str, *, err: bool = False) -> None:
    """Print what a command says: on a terminal sentences in its width, and names in files and messages as text."""
    text = as_typed(printable(text))
    if (sys.stderr if err else sys.stdout).isatty():
        width = shutil.get_terminal_size().columns
        text = "\n".join(wrapped(line, width) for line in text.split("\n"))
    click.echo(text, err=err)


def shown(path: Path) -> Path:
    """A path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def printable(text: str) -> str:
    r"""The text with what a terminal would act on made visible, ESC as ``\x1b``, and without passwords in addresses."""
    return without_password(text).translate(_SHOWN)


def counted(number: int, what: str) -> str:
    """So many things: ``1 shard``, ``2 shards``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def as_typed(text: str) -> str:
    """The text with commands as the user typed one: ``vnp NAME`` for ``python -m jobs.NAME`` or ``jobs.NAME``."""
    return _MODULE.sub("vnp ", text) if Path(sys.argv[0]).stem == "vnp" else text


_running: list[click.Command] = []
_given: list[str] = []


def again() -> str:
    """The command of this process, as it is given again where a signal ended it."""
    return f"python -m {shlex.join(_given)}"


def running() -> str:
    """The name of the command that the user gave, within which others may run."""
    return (_running[0].name or "") if _running else ""


class Group(click.Group):
    """Commands that belong together."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, with commands as the user types them."""
        return as_typed(super().get_help(ctx))


class Command(click.Command):
    """A command that takes its defaults from ``vnp.toml`` and never ends in a traceback that a user caused."""

    table: tuple[str, ...] = ()
    """Names of its table in ``vnp.toml``, from the outside in: ``[extract]`` or ``[benchmark.accuracy]``."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, with commands as the user types them."""
        return as_typed(super().get_help(ctx))

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the options and what ``vnp.toml`` has of them, where a mistake is one message too."""
        keep_streams()
        if not _running:
            _given[:] = [".".join(("jobs", *self.table[:1])), *self.table[1:], *args]
        try:
            if os.environ.get(LOG_FORMAT, "") not in LOG_FORMATS:
                raise UsageError(f"{LOG_FORMAT} must be text or json, not {os.environ[LOG_FORMAT]!r}")
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            # Click prints it, and it may be of what stands in a file.
            raise click.UsageError(printable(error.format_message()), error.ctx) from None
        except Exception as error:
            told = self._mendable(error)
            if told is None:
                raise
            _say(told)
            sys.exit(told.exit_code)

    def call(self, **values: Any) -> None:
        """Do what the command does, from within another one; where it fails, the process ends as it would by itself.

        ``values`` are by the names of its parameters; all others are as ``vnp.toml`` or the command itself has them.
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

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and turn what a user can mend into one message."""
        try:
            with ended_by_signals():
                self._do(ctx)
            require_written()
        except KeyboardInterrupt as error:
            _tell_ended(ctx, error)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library in ("", "vnp", "jobs"):
                raise
            _say(
                f"this needs {library}, which {sys.executable} does not have: install vnp with its dependencies, or "
                f"run the command in the image: apptainer run IMAGE {self.name} …"
            )
            ctx.exit(1)
        except Exception as error:
            told = self._mendable(error)
            if told is None:
                if (interrupt := _interrupt_behind(error)) is None:
                    raise
                _tell_ended(ctx, interrupt)
            _say(told)
            ctx.exit(told.exit_code)

    def _do(self, ctx: click.Context) -> None:
        protect(self._read_files(ctx), anew=len(_running) == 0)
        folder = next((ctx.params[name] for name in ("run", "out", "folder") if ctx.params.get(name)), None)
        about["run"] = about["run"] or (str(folder.absolute()) if isinstance(folder, Path) else None)
        _running.append(self)
        try:
            super().invoke(ctx)
        except click.exceptions.Exit as end:
            if end.exit_code:
                raise
        finally:
            _running.pop()

    def _read_files(self, ctx: click.Context) -> Iterator[Path]:
        """What the command line names and is not written: nothing may take the place of it."""
        for parameter in self.params:
            if not _WRITTEN & set(parameter.opts):
                value = ctx.params.get(parameter.name or "")
                yield from (one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, Path))

    def _mendable(self, error: Exception) -> VnpError | None:
        """What to say of an error that is none of ours, where it is the machine's; None where it is a fault here."""
        if isinstance(error, VnpError):
            return error
        found = machine_error(error)
        if found is None and isinstance(error, OSError) and error.errno is not None:
            return storage_error(error, error.filename or self.name or "vnp")
        return found


def _tell_ended(ctx: click.Context, interrupt: KeyboardInterrupt) -> NoReturn:
    ended = interrupt if isinstance(interrupt, EndedError) else EndedError(signal.SIGINT)
    _say(f"{ended}. What is finished is safe. Go on with: {again()}")
    ctx.exit(SIGNALLED + ended.number)


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption in whose wake a library failed, as torch does where a file that it writes is left half done."""
    if isinstance(error, click.exceptions.Exit):
        return None
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def command(example: str, group: click.Group | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function; its docstring is the help, with one example below.

    One of a ``group`` is called after the function, any other after its module.
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
        made: click.Group = click.group(_module_name(function), cls=Group, **_shown(example))(function)
        return made

    return decorate


def _module_name(function: Callable[..., Any]) -> str:
    name = function.__module__.rpartition(".")[2]
    return Path(sys.argv[0]).stem if name == "__main__" else name


def _shown(example: str) -> dict[str, Any]:
    settings = {"show_default": True, "max_content_width": 100}
    return {"epilog": f"\b\nExample:\n  {example}", "context_settings": settings}


def _say(error: Exception | str) -> None:
    echo(f"error: {error}", err=True)


def _read(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    command = context.command
    assert isinstance(command, Command)
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


def ignore_disk(_context: click.Context, _option: click.Parameter, ignored: bool) -> None:
    """Let nothing be refused because a disk seems too small, in the tasks of other processes too."""
    if ignored:
        os.environ[IGNORE_DISK] = "1"


def read_config(path: Path | None, target: Command) -> dict[str, Any]:
    """Defaults for a command's options.

    The file's top level holds options of any command, a table such as ``[extract]`` those of one; names are the
    options' without the dashes in front.

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
    content = read_toml(path)
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
            raise UsageError(f"{place} must be {words}{', or a list of such' if several else ''}, not {_as_toml(one)}")
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


def _as_toml(value: Any) -> str:
    """A value of the file for a message, as TOML would have it."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)


def _require_known(path: Path, key: str, value: Any, known: dict[str, _Setting], target: Command) -> None:
    """An option at the top level may be another command's, but not nobody's: that is a slip of the pen."""
    every = list(_every_command())
    if any(_name(key, names) in names for names in map(_settings, every)):
        return
    if any(key == command.table[0] for command in every):
        raise UsageError(f"{path}: {key} is a table of options, as in [{key}], not {_as_toml(value)}")
    name = " ".join(target.table)
    raise UsageError(f"{path}: no command has an option {key!r}; those of {name} are {_listed(known)}")


def _require_tables(path: Path, content: dict[str, Any], target: Command) -> None:
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


def _every_command() -> Iterator[Command]:
    # Here, because it imports every command, and each imports this module.
    from jobs.__main__ import every_command

    yield from (command for command in every_command() if isinstance(command, Command))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
