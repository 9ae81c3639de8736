"""The folder of a contest: what may be written into it, and how an interrupted contest is known again."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vnp.classifier.rows import data_digest
from vnp.classifier.train import outputs_of
from vnp.comparison.contestants import Contestant, Rules, file_name, with_parts
from vnp.comparison.results import FILES
from vnp.errors import RunExistsError
from vnp.files.claims import alone, require_apart
from vnp.files.durable import remove_temporaries
from vnp.files.records import write_json

SPLIT = "split.tsv"
MODELS = "models"
UNFINISHED = "contest.json"


def require_new(folder: Path) -> None:
    """Make sure that a folder holds no results, before anything is read; an interrupted contest's are looked at later.

    Raises:
        RunExistsError: there are some.
    """
    if not (folder / UNFINISHED).exists() and (found := _found(folder)):
        raise _exists(folder, found, "which were there before")


@contextlib.contextmanager
def claimed(folder: Path, contestants: Sequence[Contestant], rules: Rules, *, force: bool) -> Iterator[None]:
    """Keep a folder for a contest, and a file in it that says which one until its results are whole.

    Args:
        folder: is made.
        contestants: who takes part.
        rules: how it goes.
        force: write over what is there, be it of another contest.

    Raises:
        RunExistsError: there are results, or models, or a split that this very contest did not leave.
        UsageError: a file that is read would be written over, or another contest is at work in the folder.
        StorageError: the disk is full or cannot be written.
    """
    require_apart(_inputs(contestants, rules), _outputs(folder, contestants, rules), "choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, "comparison"):
        path = folder / UNFINISHED
        request = _request(contestants, rules)
        found, stored = _found(folder), _stored(path)
        if found and not force and stored != request:
            whose = "which were there before" if stored is None else "which another comparison left when it was stopped"
            raise _exists(folder, found, whose)
        for name in (SPLIT, UNFINISHED, *FILES):
            remove_temporaries(folder, glob.escape(name))
        write_json(path, request)
        try:
            yield
        except BaseException:
            if not _found(folder):
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def model_path(folder: Path, name: str) -> Path:
    """Where the classifier of a contestant that is trained goes."""
    return folder / MODELS / f"{file_name(name)}.pth"


def _exists(folder: Path, found: Sequence[str], whose: str) -> RunExistsError:
    return RunExistsError(
        f"{folder} holds {', '.join(found)}, {whose}. Choose another --out, or --force to write over them"
    )


def _found(folder: Path) -> list[str]:
    return [name for name in (*FILES, SPLIT, MODELS) if (folder / name).exists()]


def _inputs(contestants: Sequence[Contestant], rules: Rules) -> Iterator[Path]:
    if isinstance(rules.split, Path):
        yield rules.split
    for one in contestants:
        yield one.features.path
        if one.checkpoint is not None:
            yield from (one.checkpoint, outputs_of(one.checkpoint).split)


def _outputs(folder: Path, contestants: Sequence[Contestant], rules: Rules) -> Iterator[Path]:
    yield from (folder / name for name in (*FILES, SPLIT, UNFINISHED))
    for one in contestants:
        if one.checkpoint is None:
            for entered in with_parts(one, rules.parts):
                yield from outputs_of(model_path(folder, entered.name))[:-1]


def _request(contestants: Sequence[Contestant], rules: Rules) -> dict[str, Any]:
    """All that decides what a contest writes but the machine."""
    split = rules.split
    organisms = None if rules.organisms is None else json.dumps(rules.organisms, sort_keys=True).encode()
    found = {
        "contestants": [
            {
                "name": one.name,
                "features": str(one.features.path.resolve()),
                "data": data_digest(one.features, one.features.labels()),
                "checkpoint": None if one.checkpoint is None else _named(one.checkpoint),
            }
            for one in contestants
        ],
        "parts": rules.parts,
        "split": _named(split) if isinstance(split, Path) else split,
        "validation": rules.validation,
        "test": rules.test,
        "seed": rules.seed,
        "everything": rules.everything,
        "rule": rules.rule,
        "replicates": rules.replicates,
        "recipe": asdict(rules.recipe),
        "organisms": None if organisms is None else hashlib.sha256(organisms).hexdigest(),
    }
    # As it will be read again: a tuple comes back as a list.
    again: dict[str, Any] = json.loads(json.dumps(found))
    return again


def _named(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": str(path.resolve()), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _stored(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
