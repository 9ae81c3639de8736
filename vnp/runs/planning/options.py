"""Before anything is read: what is asked of a run, and that its folder is free for it. Loads no libraries."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vnp.encoders.spec import DEFAULTS, MOLECULES, EncoderSpec, registered
from vnp.encoders.weights.folders import locate, window_of
from vnp.errors import RunExistsError, UsageError, storage_error
from vnp.files.claims import LOCKS, standing
from vnp.files.durable import final_path, remove_temporaries
from vnp.runs.done.receipts import read_attempts
from vnp.runs.request import STORES, ClassifierChoice, EncoderChoice, RunPaths
from vnp.sequences.samplesheet import InputFile

DEFAULT_CHUNK = 300
_SMALLEST_CHUNK = 30
# Six frames of such a chunk have 2,000,000,000 residues, which are counted in signed numbers of four bytes.
LARGEST_CHUNK = 1_000_000_000
# Of a network that reads windows some 4 kB of memory a base are needed.
LARGEST_WINDOW = 1_000_000
MOST_SHARDS = 1_000_000
MOST_TOKENS = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the user wants of a run."""

    files: tuple[InputFile, ...]
    shards: int = 1  # how many pieces
    chunk: int | None = None  # bases; None is ``default_chunk``, or with datasets the bases of their longest record
    dna: str = DEFAULTS["dna"]  # name of the DNA encoder, or its folder
    protein: str | None = DEFAULTS["protein"]  # that of the protein encoder; None makes each chunk a row
    precision: str = "auto"  # one of ``vnp.encoders.registry.PRECISIONS``
    store: str = "float16"  # dtype of the stored numbers
    pairs: bool = False  # records are mates of pairs, side by side
    prefix_ids: bool = False  # put each input's name in front of its records' names
    token_budget: int | None = None  # tokens of one batch, or None for the encoder's own
    # expected tokens of a block, the piece of a shard that a killed task can lose, or None for what suits the device. A
    # run that is planned already keeps its own
    block_tokens: int | None = None
    device: str = "auto"
    weights: Path | None = None  # folder of weights, or None for the default
    cluster: str = "auto"  # what --cluster is: where rerun makes what is missing
    classifier: ClassifierChoice | None = None  # tasks score their rows by it, and keep the scores
    keep_embeddings: bool = False  # they keep the rows too
    cache: Path | None = None  # folder of rows that were embedded before
    cache_size: float = 100.0  # GB that it may hold

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: a number is out of range, or there is no such store.
        """
        if not self.files:
            raise UsageError("there is no input: name FASTA, FASTQ or BAM files, or a samplesheet")
        if not self.pairs and any(file.mates for file in self.files):
            raise UsageError("the samplesheet's column path2 holds second reads of pairs: that takes predict --pairs")
        if self.pairs and any(file.dataset is not None for file in self.files):
            raise UsageError("--pairs is for reads, and a dataset holds chunks: leave it out")
        if not 1 <= self.shards <= MOST_SHARDS:
            raise UsageError(f"--shards must be 1 to {MOST_SHARDS:,}, not {self.shards}")
        if self.chunk is not None and not _SMALLEST_CHUNK <= self.chunk <= LARGEST_CHUNK:
            raise UsageError(
                f"--chunk must be at least {_SMALLEST_CHUNK} bases, at most {LARGEST_CHUNK:,}, not {self.chunk}"
            )
        if self.chunk is not None and self.chunk > LARGEST_WINDOW:
            for name in (one.name for one in self.specs.values() if one.windows):
                raise UsageError(
                    f"--chunk must be at most {LARGEST_WINDOW:,} bases with {name}, which reads a chunk at once and "
                    f"needs some 4 kB of memory for each base, not {self.chunk:,}"
                )
        if self.store not in STORES:
            raise UsageError(f"--store must be one of {', '.join(STORES)}, not {self.store!r}")
        if self.cache is not None and self.cache.exists() and not self.cache.is_dir():
            raise UsageError(f"--cache {self.cache} is a file: name a folder")
        if not self.cache_size > 0:
            raise UsageError(f"--cache-size is what the folder may hold in GB, more than 0, not {self.cache_size:g}")
        for name, tokens in (("--token-budget", self.token_budget), ("--block-tokens", self.block_tokens)):
            if tokens is not None and not 1 <= tokens <= MOST_TOKENS:
                raise UsageError(f"{name} must be at least 1, at most {MOST_TOKENS:,}, not {tokens}")

    @property
    def needs_gpu(self) -> bool:
        """Whether an encoder is a network that may use a GPU."""
        return self.device != "cpu" and self.needs_weights

    @property
    def specs(self) -> dict[str, EncoderSpec]:
        """What the encoder of each molecule that is embedded is; ``UsageError`` where there is none so called."""
        return {molecule: found for molecule, (found, _) in self._located().items()}

    @property
    def folders(self) -> dict[str, str]:
        """The absolute folder of each encoder that is no registered one, by molecule."""
        return {molecule: str(folder.absolute()) for molecule, (_, folder) in self._located().items() if folder}

    @property
    def _named(self) -> dict[str, str]:
        both = {"dna": self.dna, "protein": self.protein}
        return {molecule: name for molecule, name in both.items() if name is not None}

    def _located(self) -> dict[str, tuple[EncoderSpec, Path | None]]:
        return {
            molecule: (registered(name, molecule)[0], None)
            if registered(name, molecule)
            else locate(name, molecule, self.weights)
            for molecule, name in self._named.items()
        }

    def encoders(self) -> dict[str, EncoderChoice]:
        """The encoder of each molecule that is embedded, with its identity, found without loading it.

        Raises:
            UsageError: there is no such encoder.
            WeightsError: its weights are missing or not the pinned ones.
        """
        # Here, because it loads numpy, which a login node may not have.
        from vnp.encoders.registry import describe

        found = {}
        for molecule, name in self._named.items():
            identity = dict(describe(name, molecule, self.weights, self.precision))
            found[molecule] = EncoderChoice(str(identity["name"]), self.precision, identity)
        return found

    @property
    def shortest(self) -> int | None:
        """Bases of the shortest chunk that is a row; None where rows are open frames."""
        return None if self.protein is not None else self.specs["dna"].shortest

    @property
    def default_chunk(self) -> int:
        """Bases of a chunk where nobody says: what the encoder reads at once, where a row is a chunk, or 300."""
        if self.protein is not None:
            return DEFAULT_CHUNK
        encoder, folder = self._located()["dna"]
        return window_of(encoder, folder or self.weights) if encoder.windows else DEFAULT_CHUNK

    @property
    def needs_weights(self) -> bool:
        """Whether an encoder is a network."""
        return any(one.needs_weights for one in self.specs.values())


def clear(paths: RunPaths, *, force: bool) -> None:
    """Make way for a new run: only files of a run are ever deleted, and logs only by force.

    Raises:
        RunExistsError: a run, or something that is no run, stands there.
        StorageError: it cannot be deleted.
    """
    require_free(paths, force=force)
    # The plan goes last: while it is there, what is left of a run is known as one.
    try:
        for path in [*_results(paths), *([paths.logs, paths.options] if force else []), paths.plan]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if paths.root.is_dir():
            remove_temporaries(paths.root)
    except OSError as error:
        raise storage_error(error, f"clearing {paths.root}") from error


def require_free(paths: RunPaths, *, force: bool) -> None:
    """Make sure that a new run may be made here; nothing is deleted yet.

    Raises:
        RunExistsError: a run, or something that is no run, stands there, or a task works there.
        StorageError: the folder cannot be looked at.
    """
    try:
        if not paths.root.exists():
            return
        if not paths.root.is_dir():
            raise RunExistsError(f"{paths.root} is a file: choose another --out")
        begun = standing(_results(paths))
        # Planning that was killed can have left nothing but a temporary file, or its lock.
        there = {final_path(path) for path in paths.root.iterdir() if path.suffix not in LOCKS}
        foreign = there - {*_results(paths), paths.plan, paths.logs, paths.options, paths.inputs}
        is_run = any(path.exists() for path in (paths.request, paths.plan, paths.options))
    except OSError as error:
        raise storage_error(error, f"looking into {paths.root}") from error
    if foreign and not is_run:
        raise RunExistsError(f"{paths.root} is not empty and is no run: choose another --out")
    if is_run:
        for folder in sorted(paths.parts.iterdir()) if paths.parts.is_dir() else ():
            for path, found in read_attempts(folder):
                if found.alive(path):
                    raise RunExistsError(
                        f"a task is at work on {folder.name} of {paths.root} (process {found.pid} on {found.host}): "
                        "end it first, or wait for it"
                    )
    if begun and not force:
        raise RunExistsError(
            f"{paths.root} is not empty and holds no run that could go on. Choose another --out, or --force to "
            "delete what an earlier run left there"
        )


def _results(paths: RunPaths) -> list[Path]:
    made = [paths.request, paths.arithmetic, paths.features, paths.skipped, *map(paths.seen, MOLECULES)]
    return [*made, paths.shards, paths.receipts, paths.parts]
