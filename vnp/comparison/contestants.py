"""Who takes part in a comparison, how it goes, and the folder that is kept for it until its results are whole."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vnp.classifier.recipe import VIRNUCPRO, Recipe, require_seed
from vnp.classifier.rows import data_digest
from vnp.classifier.train import outputs_of
from vnp.comparison.results import FILES
from vnp.errors import RunExistsError, UsageError
from vnp.features.read import Features
from vnp.files.claims import alone, make_folder, require_apart
from vnp.files.durable import remove_temporaries
from vnp.files.hashing import file_sha256
from vnp.files.records import read_json, write_json
from vnp.metrics.metrics import REPLICATES
from vnp.metrics.rules import BEST_FRAME

SPLIT = "split.tsv"
MODELS = "models"
LEFT_OUT = "left_out.tsv"
UNFINISHED = "contest.json"


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who takes part."""

    name: str  # in tables and plots
    features: Features  # the rows; those of other contestants must be of the same records
    checkpoint: Path | None = None  # a trained classifier, or None to train one on the rows of the common split


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How a comparison goes."""

    # parts of the layout, ``dna`` or ``protein``, whose columns alone take part too, of each file that is trained on
    parts: tuple[str, ...] = ()
    # of those who are trained: ``group``, ``random``, or a file; ``auto`` is the split that came with the data where
    # there is one, for checkpoints too, else ``group``
    split: Literal["auto", "group", "random"] | Path = "auto"
    validation: float = 0.1  # share of groups to watch in training
    test: float = 0.2  # share of groups to compare on
    seed: int = 0  # of the split, the trainings and the intervals
    everything: bool = False  # compare on every labelled row, seen in training or not; only where all have checkpoints
    rule: str = BEST_FRAME  # how frames become chunks and records, one of ``vnp.metrics.rules.RULES``
    replicates: int = REPLICATES  # draws of groups for the intervals
    recipe: Recipe = VIRNUCPRO  # of the trainings
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # to train and score on
    # group of organisms by the name of a record or of its group; by default the input file decides
    organisms: Mapping[str, str] | None = None
    leave_out: str | None = None  # column that says which records are left out together, in trainings besides

    def __post_init__(self) -> None:
        """Refuse a seed that no training can take."""
        require_seed(self.seed)


def require_sense(contestants: Sequence[Contestant], options: CompareOptions) -> None:
    """Make sure that the options fit the contestants."""
    names = [entered.name for one in contestants for entered in with_parts(one, options.parts)]
    files = [_file_name(name) for name in names]
    twice = [name for name, file in zip(names, files, strict=True) if files.count(file) > 1]
    if not names:
        raise UsageError("nothing to compare: give runs, features.h5 files, or FEATURES@MODEL.pth")
    if twice:
        raise UsageError(f"two contestants are called {twice[0]}; tell them apart with NAME=FEATURES")
    if options.everything and any(one.checkpoint is None for one in contestants):
        raise UsageError("--all compares on rows that were trained on, so it goes with checkpoints only")


def with_parts(one: Contestant, parts: Sequence[str]) -> list[Contestant]:
    """A contestant, and the parts of its columns, where it is to be trained."""
    if one.checkpoint is not None:
        return [one]
    alone_too = [replace(one, name=f"{one.name} {part} alone", features=one.features.only(part)) for part in parts]
    return [one, *alone_too]


def model_path(folder: Path, name: str) -> Path:
    """Where the classifier of a contestant that is trained goes."""
    return folder / MODELS / f"{_file_name(name)}.pth"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def require_new(folder: Path) -> None:
    """Make sure, before anything is read, that no results are there; those of one that was stopped wait for later."""
    if not (folder / UNFINISHED).exists():
        _require_none(folder, "which were there before")


@contextlib.contextmanager
def claimed(folder: Path, contestants: Sequence[Contestant], options: CompareOptions, *, force: bool) -> Iterator[None]:
    """Make and keep a folder for a comparison, and a file in it that says which one until its results are whole.

    Raises:
        RunExistsError: there are results, or models, or a split that this very comparison did not leave, without
            ``force``.
        UsageError: a file that is read would be written over, or another comparison is at work in the folder.
        StorageError: the folder cannot be made or written.
    """
    require_apart(_inputs(contestants, options), _outputs(folder, contestants, options), "choose another --out")
    make_folder(folder)
    with alone(folder, "comparison"):
        path = folder / UNFINISHED
        request, stored = _request(contestants, options), None
        with contextlib.suppress(OSError, ValueError):
            stored = read_json(path)
        if not force and stored != request:
            before = "which were there before"
            _require_none(folder, before if stored is None else "which another comparison left when it was stopped")
        for name in (SPLIT, UNFINISHED, LEFT_OUT, *FILES):
            remove_temporaries(folder, glob.escape(name))
        write_json(path, request)
        try:
            yield
        except BaseException:
            if not _found(folder):
                path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)


def _require_none(folder: Path, whose: str) -> None:
    if found := _found(folder):
        raise RunExistsError(
            f"{folder} holds {', '.join(found)}, {whose}. Choose another --out, or --force to write over them"
        )


def _found(folder: Path) -> list[str]:
    return [name for name in (*FILES, LEFT_OUT, SPLIT, MODELS) if (folder / name).exists()]


def _inputs(contestants: Sequence[Contestant], options: CompareOptions) -> Iterator[Path]:
    if isinstance(options.split, Path):
        yield options.split
    for one in contestants:
        yield one.features.path
        if one.checkpoint is not None:
            yield from (one.checkpoint, outputs_of(one.checkpoint).split)


def _outputs(folder: Path, contestants: Sequence[Contestant], options: CompareOptions) -> Iterator[Path]:
    yield from (folder / name for name in (*FILES, LEFT_OUT, SPLIT, UNFINISHED))
    for one in contestants:
        if one.checkpoint is None:
            for entered in with_parts(one, options.parts):
                yield from outputs_of(model_path(folder, entered.name))[:-1]


def _request(contestants: Sequence[Contestant], options: CompareOptions) -> dict[str, Any]:
    """All that decides what a comparison writes but the machine, as it will be read again."""
    request = {name: getattr(options, name) for name in options.__slots__ if name != "device"}
    if options.organisms is not None:
        organisms = json.dumps(options.organisms, sort_keys=True).encode()
        request["organisms"] = hashlib.sha256(organisms).hexdigest()
    request["split"] = _named(options.split) if isinstance(options.split, Path) else options.split
    request["recipe"] = asdict(options.recipe)
    request["contestants"] = [
        {
            "name": one.name,
            "features": str(one.features.path.resolve()),
            "data": data_digest(one.features, one.features.labels()),
            "checkpoint": None if one.checkpoint is None else _named(one.checkpoint),
        }
        for one in contestants
    ]
    again: dict[str, Any] = json.loads(json.dumps(request))
    return again


def _named(path: Path) -> dict[str, str]:
    return {"file": str(path.resolve()), "sha256": file_sha256(path)}
