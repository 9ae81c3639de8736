"""Records: frozen dataclasses as JSON files with a schema, and sealed with a digest where every bit counts.

The types of a dataclass's fields say how its JSON is read: other dataclasses, tuples, lists, tables, paths and None.
Whatever JSON or TOML vnp reads is read here, so that no file, however odd, ends in anything but OSError or ValueError.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from io import FileIO
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vnp.errors import RunError, UsageError, VnpError
from vnp.files.durable import creating, replacing

T = TypeVar("T")
_LARGEST = 1 << 28
_LARGEST_TOML = 1 << 20
_DAMAGED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_NO_FILE = {
    stat.S_IFIFO: "is a pipe, not a file that can be read again",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
}


def open_regular(path: Path) -> FileIO:
    """Open a file to read its bytes, without a buffer, and nothing but a file.

    Opening a pipe waits for somebody who writes into it, and a device may have no end.

    Raises:
        OSError: it cannot be opened; ``strerror`` says so of a folder, a pipe or a device too.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        number = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
        raise OSError(number, _NO_FILE.get(kind, os.strerror(number)), str(path))
    return FileIO(descriptor, "rb")


def require_regular(path: Path) -> None:
    """Make sure that a library may open a path.

    Raises:
        OSError: it is no file that can be opened, as ``open_regular`` says.
    """
    open_regular(path).close()


def read_regular(path: Path, most: int = _LARGEST) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read, or has more than ``most`` bytes.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EINVAL, f"has more than {most:,} bytes", str(path))
        return file.read()


def read_json(path: Path, most: int = _LARGEST) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it cannot be read, or has more than ``most`` bytes.
        ValueError: it is no JSON.
    """
    return parse_json(read_regular(path, most))


def parse_json(content: bytes | str) -> Any:
    """What JSON says; NaN and infinity, which JSON has not, and a name given twice are no JSON.

    Raises:
        ValueError: it is no JSON in UTF-8, or is nested too deeply to be read.
    """
    try:
        return _STRICT.decode(content if isinstance(content, str) else content.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as problem:
        raise (_long_number() if "int_max_str_digits" in str(problem) else problem) from None


def _long_number() -> ValueError:
    return ValueError("a number in it is too long")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r:.60} is given twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text:.20} is no finite number")
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_named_once, parse_float=_finite, parse_constant=_finite)


def canonical_json(value: Mapping[str, object]) -> bytes:
    """The one spelling of a JSON object: sorted keys, two-space indent, UTF-8, a newline at the end."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def write_json(path: Path, value: Mapping[str, object], *, exclusive: bool = False) -> None:
    """Write a JSON object durably.

    Raises:
        FileExistsError: ``exclusive`` and the file is there.
        StorageError: the disk is full or cannot be written.
    """
    with (creating if exclusive else replacing)(path) as temporary:
        temporary.write_bytes(canonical_json(value))


def to_json(record: Any) -> Any:
    """A dataclass, or what one is made of, as JSON has it; paths become absolute."""
    if isinstance(record, (str, int, float, NoneType)):
        return record
    if is_dataclass(record):
        return {field.name: to_json(getattr(record, field.name)) for field in fields(record)}
    if isinstance(record, Mapping):
        return {key: to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    if isinstance(record, Path):
        return str(record.absolute())
    raise TypeError(f"{type(record).__name__} has no form in JSON")


def from_json(kind: type[T], stored: Any) -> T:
    """Make a dataclass of what ``to_json`` gave.

    Raises:
        TypeError: something is missing, too much, or of another type than its field.
        ValueError: a number or path cannot be.
    """
    made: T = _reader(cast(Any, kind))(stored)
    return made


def write_record(
    path: Path, record: Any, *, schema: str | int | None = None, seal: str | None = None, exclusive: bool = False
) -> None:
    """Write a dataclass, or the JSON object that stands for one, durably.

    ``seal`` is the key under which the SHA-256 of everything else is stored.

    Raises:
        FileExistsError: ``exclusive`` and the file is there.
        StorageError: the disk is full or cannot be written.
    """
    body = to_json(record)
    if schema is not None:
        body["schema"] = schema
    if seal is not None:
        body[seal] = hashlib.sha256(canonical_json(body)).hexdigest()
    write_json(path, body, exclusive=exclusive)


def read_record(
    path: Path,
    kind: type[T],
    *,
    schema: str | int | None = None,
    seal: str | None = None,
    older: bool = False,
    error: type[VnpError] = RunError,
    remedy: str = "make it again",
) -> T | None:
    """Read what ``write_record`` wrote; ``dict`` gives the object as it is.

    With ``older`` a file without the key of the seal, as earlier versions wrote it, is read too.

    Returns:
        The record; None if there is no such file.

    Raises:
        VnpError: ``error``: the file cannot be read, was changed, or is of another version.
    """
    try:
        content = read_regular(path)
        stored = parse_json(content)
        if not isinstance(stored, dict):
            raise TypeError("it holds no object")
        if schema is not None and stored.pop("schema", None) != schema:
            raise _OtherVersionError
        if seal is not None and not (older and seal not in stored) and not _sealed(content, seal):
            raise ValueError("it was changed after it was written")
        stored.pop(seal, None)
        return from_json(kind, stored)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}") from problem
    except _OtherVersionError:
        raise error(f"{path} is of another version of vnp; this one reads {schema!r}: {remedy}") from None
    except _DAMAGED as problem:
        why = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem) or type(problem).__name__
        raise error(f"{path} is damaged ({why}): {remedy}") from problem


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of the user's; UsageError where it cannot be read or is no TOML."""
    try:
        return tomllib.loads(read_regular(path, _LARGEST_TOML).decode())
    except OSError as problem:
        raise UsageError(f"{path} cannot be read: {problem.strerror}") from problem
    except RecursionError:
        raise UsageError(f"{path} is no TOML that can be read: it is nested too deeply") from None
    except ValueError as problem:
        why = _long_number() if "int_max_str_digits" in str(problem) else problem
        raise UsageError(f"{path} is no TOML: {why}") from problem


class _OtherVersionError(Exception):
    """The schema is another."""


def _sealed(content: bytes, key: str) -> bool:
    """Whether the digest, which has a line of its own, is that of the file without the line.

    A tenth of the time of spelling the object again, and ``status`` reads ten thousand.
    """
    before = b'\n  "' + key.encode() + b'": "'
    start = content.find(before)
    digest, end = content[start + len(before) :][:64], start + len(before) + 65
    # The last line of an object has no comma, and the one before it has one.
    first, last = (start - 1, end) if content[end:] == b"\n}\n" else (start, end + 1)
    rest = content[:first] + content[last:]
    return start > 0 and hashlib.sha256(rest).hexdigest().encode() == digest


Reader = Callable[[Any], Any]
# What JSON gives for a type that is stored as it is.
_PLAIN: dict[Any, frozenset[type]] = {
    str: frozenset({str}),
    int: frozenset({int}),
    float: frozenset({int, float}),
    bool: frozenset({bool}),
    NoneType: frozenset({NoneType}),
    list: frozenset({list}),
    dict: frozenset({dict}),
    Any: frozenset({str, int, float, bool, NoneType, list, dict}),
}


@cache
def _reader(kind: Any) -> Reader:
    """What makes a value of a type from its JSON, and raises TypeError where it is of another."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if (allowed := _PLAIN.get(str if origin is Literal else kind)) is not None:
        return lambda stored: stored if type(stored) in allowed else _refuse(stored, kind)
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin in (Union, UnionType):
        return _either(kind, [_reader(one) for one in inner])
    if kind is Path:
        return lambda stored: Path(stored) if type(stored) is str else _refuse(stored, kind)
    if origin in (dict, Mapping):
        value = _reader(inner[1])
        return lambda stored: (
            {key: value(each) for key, each in stored.items()} if type(stored) is dict else _refuse(stored, kind)
        )
    if origin in (tuple, list, Sequence):
        one, make = _reader(inner[0]), tuple if origin is tuple else list
        return lambda stored: make(map(one, stored)) if type(stored) is list else _refuse(stored, kind)
    raise TypeError(f"{kind} has no form in JSON")


def _dataclass_reader(kind: Any) -> Reader:
    types = get_type_hints(kind)
    readers = {field.name: _reader(types[field.name]) for field in fields(kind)}

    def read(stored: Any) -> Any:
        if type(stored) is not dict:
            _refuse(stored, kind)
        if odd := stored.keys() - readers.keys():
            raise TypeError(f"it has a {min(odd)!r} that does not belong there")
        return kind(**{name: readers[name](value) for name, value in stored.items()})

    return read


def _either(kind: Any, readers: list[Reader]) -> Reader:
    def read(stored: Any) -> Any:
        for reader in readers:
            try:
                return reader(stored)
            except TypeError:
                continue
        return _refuse(stored, kind)

    return read


def _refuse(stored: Any, kind: Any) -> NoReturn:
    raise TypeError(f"{stored!r:.60} is no {getattr(kind, '__name__', kind)}")
