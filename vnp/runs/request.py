"""A run on disk: its files, ``run.json`` that says what it was asked to do, and the digest that ties its files to it.

Importing this loads no libraries: a login node may have none.
"""

from __future__ import annotations

import contextlib
import platform
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from vnp import __version__
from vnp.encoders.spec import registered
from vnp.encoders.spec import spec as encoder_spec
from vnp.errors import RunError, UsageError
from vnp.features import FEATURES_NAME, RUN_NAME
from vnp.files.claims import make_folder
from vnp.files.hashing import code_digest, json_sha256
from vnp.files.records import from_json, read_record, write_record

SCHEMA = "vnp-run/2"
_HERE = Path(__file__).resolve().parent.parent
STORES = ("float16", "float32")
NATIVE = "native"
"""Name of the classifier that comes with the package."""


def shard_name(number: int) -> str:
    """``shard-00003``."""
    return f"shard-{number:05d}"


class RunPaths:
    """The files of one run, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.request = root / RUN_NAME
        self.options = root / "ask.json"  # what is to be planned, where planning is a job of its own
        self.plan = root / "plan.h5"
        self.arithmetic = root / "arithmetic.json"  # what ``auto`` came to mean to the first task
        self.shards = root / "shards"
        self.receipts = root / "receipts"
        self.parts = root / "parts"  # unfinished shards, a folder each
        self.logs = root / "logs"
        self.inputs = root / "inputs"  # what came by standard input
        self.features = root / FEATURES_NAME
        self.skipped = root / "skipped.tsv"

    def seen(self, molecule: str) -> Path:
        """Which units the encoder of a molecule was fine-tuned on, where it was."""
        return self.root / f"{molecule}.split.tsv"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunPaths) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def shard(self, number: int) -> Path:
        """A sealed shard."""
        return self.shards / f"{shard_name(number)}.h5"

    def receipt(self, number: int) -> Path:
        """A shard's receipt."""
        return self.receipts / f"{shard_name(number)}.json"

    def blocks(self, number: int) -> Path:
        """Folder of an unfinished shard's blocks and attempts."""
        return self.parts / shard_name(number)

    def block(self, number: int, block: int) -> Path:
        """One block of an unfinished shard."""
        return self.blocks(number) / f"block-{block:05d}.h5"

    def make(self) -> None:
        """Make the folders, also those that somebody has deleted; ``StorageError`` where one cannot be made."""
        for folder in (self.root, self.shards, self.receipts, self.parts, self.logs):
            make_folder(folder)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a unit is."""

    input: int  # index of the input file
    record: int = 0  # ordinal of the record within that file
    chunk: int = 0  # ordinal of the chunk within that record
    offset: int = 0  # byte at which the record starts in the file, or -1 where the file must be read from its start
    line: int = 1  # line at which it starts, 1-based, or -1 where that is not known


_NATIVE_DNA, _PROJECTED_DNA = 768, 384  # numbers of DNA of which shards hold a projection too, as in features.layout
_PLACE_BYTES = 120  # of a row: its id, its place, its group and its scores


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of the shard table."""

    number: int  # 0-based
    start: Position  # its first unit
    units: int  # how many units it holds
    rows: int  # how many rows these have
    tokens: int  # expected tokens of the encoders
    bases: int

    def blocks(self, block_units: int) -> int:
        """How many blocks of at most so many units it is cut into."""
        return -(-self.units // block_units)


@dataclass(frozen=True, slots=True)
class PlannedInput:
    """One input file as it was when the run was planned."""

    path: str  # absolute path
    label: int  # 1 viral, 0 host, -1 unlabelled
    group: str | None  # the unit that a split must not cut, or None: each record is its own
    size: int  # bytes on disk
    mtime_ns: int  # time of the last change
    sha256: str  # of the bytes on disk
    first_record: int  # ordinal of its first record over the whole run
    records: int
    bases: int
    prefix: str | None  # put in front of every record's name, with a colon; None leaves names alone
    # absolute path of the table that tells of each record, where the file is that of a dataset; what it tells is in the
    # plan
    dataset: str | None = None
    dataset_sha256: str | None = None  # of that table
    # with size and time of change, what tells without reading that a file is still the one that was planned
    inode: int = 0
    ctime_ns: int = 0
    # where they were then, if they were moved since
    planned_path: str | None = None
    planned_dataset: str | None = None
    sample: str | None = None  # what the samplesheet calls it
    # which mates of pairs it holds, as ``InputFile`` has it. Records of two files stand side by side, under the first
    mates: str | None = None

    def record_name(self, name: str) -> str:
        """The name of one of its records in this run."""
        return name if self.prefix is None else f"{self.prefix}:{name}"


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """An encoder as a task loads it."""

    name: str  # in the registry
    precision: str  # as --precision has it; ``auto`` is settled by the first task
    # what makes its numbers comparable: hub id, revision, hashes of the weights, width, pooling
    identity: dict[str, Any]

    @property
    def width(self) -> int:
        """Numbers in one embedding."""
        return int(self.identity["width"])


def default_layout(protein: object | None) -> str:
    """The layout of merged rows where nobody says: ``1664``; ``full`` where no protein encoder is.

    The projection keeps the DNA half from outweighing the protein; DNA alone is best kept whole.
    """
    return "full" if protein is None else "1664"


@dataclass(frozen=True, slots=True)
class Cut:
    """From which log-odds on the native network settles records of some lengths."""

    low: int  # bases of the shortest of them
    high: int  # bases of those that are too long
    viral: float | None  # least mean log-odds with which one is settled as viral; None where none is
    host: float | None  # the same of host, of the log-odds against viral
    viral_units: int  # held-out units by which it was chosen
    host_units: int


@dataclass(frozen=True, slots=True)
class Cascade:
    """Which records the native network settles, so that they are not embedded."""

    risk: float  # share of the calls that may differ from those of the checkpoint alone
    threshold: float | None  # from which probability on a record is viral, as the cut-offs were chosen for
    preset: str | None  # name of the thresholds by length, where there is no such probability
    part: str  # held-out part by which the cut-offs were chosen
    cuts: tuple[Cut, ...]  # rising


@dataclass(frozen=True, slots=True)
class ClassifierChoice:
    """A classifier by which tasks score their rows."""

    name: str  # ``native``, or the absolute path of a checkpoint
    sha256: str  # of the checkpoint, or of the bundled weights
    layout: str  # kind of layout that it reads, ``1664`` or ``full``
    # SHA-256 of the weights of the native network, where chunks without an open frame are scored by it; else None
    native: str | None = None
    cascade: Cascade | None = None  # records that the native network settles are not embedded

    @property
    def path(self) -> Path | None:
        """Where it lies; None for the one that comes with the package."""
        return None if self.name == NATIVE else Path(self.name)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the plan counted."""

    records: int
    bases: int
    units: int  # chunks, records without a chunk counted as one
    rows: int  # open frames, or chunks, each of which becomes one row
    tokens: int  # expected tokens of the encoders


@dataclass(frozen=True)
class Request:
    """Everything that decides a run's features, and where to run it."""

    inputs: tuple[PlannedInput, ...]
    chunk: int  # bases
    dna: EncoderChoice
    protein: EncoderChoice | None  # None where a row is a chunk, and not an open frame of one
    store: str  # dtype of the stored numbers
    asked_shards: int  # how many were asked for
    shards: int  # how many there are: fewer where there are fewer chunks
    block_units: int  # most chunks in one block, the piece of a shard that a killed task can lose
    plan_sha256: str  # of the bytes of ``plan.h5``
    totals: Totals  # what the plan counted
    token_budget: int | None  # tokens of one batch, or None for the encoder's own
    device: str
    weights: str | None  # the folder of weights, or None for the default
    cluster: str  # where its tasks run, as --cluster has it
    # of vnp, Python and the libraries, when the run was planned, and the digest of vnp's code: ``code``
    versions: dict[str, str]
    created: str  # UTC, ISO 8601
    classifier: ClassifierChoice | None = None  # shards hold its scores; None where they hold rows
    keep_embeddings: bool = False  # shards hold rows beside scores
    folders: dict[str, str] = field(default_factory=dict)  # of the encoder of a molecule, where it is no registered one
    cache: str | None = None  # folder of rows that were embedded before, or None
    cache_bytes: int = 0  # most that it may hold

    # Asked for once a shard, over ten thousand shards.
    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides the features; a block, shard or receipt of another digest is not this run's."""
        decisive = asdict(self)
        for name in ("versions", "created", "weights", "folders", "device", "cluster", "cache", "cache_bytes"):
            del decisive[name]
        for planned in decisive["inputs"]:
            for name in ("mtime_ns", "inode", "ctime_ns"):
                del planned[name]
            for name in ("path", "dataset"):
                planned[name] = planned.pop(f"planned_{name}") or planned[name]
            for name in ("sample", "mates"):
                if planned[name] is None:
                    # As it was before there were samples and pairs.
                    del planned[name]
        if self.classifier is not None:
            # It is its content, wherever it lies.
            del decisive["classifier"]["name"]
            if self.classifier.cascade is None:
                # As it was before there were cascades.
                del decisive["classifier"]["cascade"]
        return json_sha256(decisive)

    @property
    def encoders(self) -> dict[str, EncoderChoice]:
        """The encoder of each molecule that is embedded."""
        both = {"dna": self.dna, "protein": self.protein}
        return {molecule: choice for molecule, choice in both.items() if choice is not None}

    @property
    def mates(self) -> int:
        """Consecutive records that are called as one: 2 where they are mates of pairs, else 1."""
        return 1 if self.inputs[0].mates is None else 2

    @property
    def shortest(self) -> int | None:
        """Bases of the shortest chunk that is a row; None where rows are open frames."""
        if self.protein is not None:
            return None
        return next((one.shortest for one in registered(self.dna.name, "dna")), 1)

    @property
    def beside(self) -> int | None:
        """Bases from which on chunks without an open frame are scored by the native network; None where none are."""
        if self.classifier is None or self.classifier.native is None:
            return None
        return encoder_spec("sixframe", "dna").shortest

    @property
    def settles(self) -> bool:
        """Whether records that the native network settles are not embedded."""
        return self.classifier is not None and self.classifier.cascade is not None

    @property
    def keeps_rows(self) -> bool:
        """Whether its shards hold rows, which can be merged, and not scores alone."""
        return self.classifier is None or self.keep_embeddings

    @property
    def needs_weights(self) -> bool:
        """Whether an encoder is a network, which has weights and may use a GPU."""
        return any(choice.identity.get("weights") for choice in self.encoders.values())

    @property
    def reads_windows(self) -> bool:
        """Whether its networks all read windows, which takes a GPU a tenth of the time for a base."""
        weighted = {molecule: one.name for molecule, one in self.encoders.items() if one.identity.get("weights")}
        return bool(weighted) and all(
            any(one.windows for one in registered(name, molecule)) for molecule, name in weighted.items()
        )

    def room(self, rows: int, layout: str | None = None) -> int:
        """Bytes that rows take in shards, about; with a layout, in merged features."""
        halves = {molecule: choice.width for molecule, choice in self.encoders.items()}
        if halves["dna"] == _NATIVE_DNA and layout != "full":
            halves["dna"] = _PROJECTED_DNA if layout else _NATIVE_DNA + _PROJECTED_DNA
        numbers = sum(halves.values()) if layout or self.keeps_rows else 0
        return rows * (numbers * (4 if self.store == "float32" else 2) + _PLACE_BYTES)

    def write(self, path: Path) -> None:
        """Write ``run.json`` durably; ``StorageError`` where the disk is full or cannot be written."""
        write_record(path, {"digest": self.digest, **asdict(self)}, schema=SCHEMA, seal="whole")

    @classmethod
    def read(cls, path: Path) -> Request:
        """Read ``run.json``.

        Raises:
            UsageError: there is no run here.
            RunError: the file is damaged, be it in one bit, or of another version.
        """
        stored = read_record(path, dict, schema=SCHEMA, seal="whole", remedy="extract with --force starts the run anew")
        if stored is None:
            raise UsageError(f"{path.parent} is not a run: it has no {path.name} (jobs.extract makes one)")
        digest = stored.pop("digest", None)
        with contextlib.suppress(TypeError):
            request = from_json(cls, stored)
            if request.digest == digest:
                return request
        raise RunError(f"{path} was made by another version of vnp: extract it again")


@dataclass(frozen=True, slots=True)
class Run:
    """A planned run on disk."""

    paths: RunPaths
    request: Request

    @classmethod
    def open(cls, root: Path) -> Run:
        """Open a run directory.

        Raises:
            UsageError: there is no run here.
            RunError: it is damaged or of another version.
        """
        paths = RunPaths(root.absolute())
        return cls(paths, Request.read(paths.request))

    def require_code(self) -> None:
        """Make sure that shards are made by the code that planned them; else ``RunError``."""
        planned = self.request.versions.get("code")
        if planned != code_digest():
            raise RunError(
                f"{self.paths.root} was planned by other code than this ({_HERE}, vnp {__version__}): run it with the "
                f"code that planned it (vnp {self.request.versions.get('vnp')}), or go on with this one, if the change "
                f"does not touch the numbers: {self.rerun_command} --accept-code. To begin anew: extract with --force"
            )

    def accept_code(self) -> Run:
        """The same with the code that runs now as the one that its shards are made by; ``run.json`` says so."""
        if self.request.versions.get("code") == code_digest():
            return self
        request = replace(self.request, versions=versions())
        request.write(self.paths.request)
        return Run(self.paths, request)

    @property
    def rerun_command(self) -> str:
        """The command that makes what is missing."""
        return f"python -m jobs.rerun {quote(str(self.paths.root))}"


@cache
def versions() -> dict[str, str]:
    """Versions of vnp, Python and the libraries that are installed, and the digest of vnp's code; imports none."""
    # Here, because it takes as long to import as all else that a command's help needs.
    from importlib import metadata

    found = {"vnp": __version__, "code": code_digest(), "python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "h5py", "scikit-learn", "tokenizers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
