"""The encoders of a run, loaded once in a process and used for shard after shard."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from vnp.encoders.registry import Encoder, Launched, identity, load, settled_precision
from vnp.encoders.spec import SIXFRAME
from vnp.errors import EncoderError, RunError, StorageError
from vnp.features.layout import NATIVE_DNA, project
from vnp.features.table import all_finite
from vnp.files.durable import here
from vnp.files.machine import cache_folder, private_folder
from vnp.files.records import read_record, write_record
from vnp.runs.done.receipts import SPLIT
from vnp.runs.making.blocks import Account
from vnp.runs.request import NATIVE, EncoderChoice, Request, Run, RunPaths


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a run computes in, where it asks for ``auto``: the first task decides for all.

    So where machines of several kinds share a run, its numbers are of one kind, or a task says why it cannot be.
    """

    device: str  # ``cpu`` or ``cuda``
    precision: dict[str, str]  # of the encoder of each molecule, and of ``native`` where that scores beside them
    host: str  # whose task it was


_WARM_UP = "ACGT" * 1250

Embedded = tuple[dict[str, Float32[np.ndarray, "n width"]], Account]
"""Rows of each molecule, and how they came about."""


@dataclass(frozen=True, slots=True)
class RunEncoders:
    """The DNA and the protein encoder, ready."""

    dna: Encoder
    protein: Encoder | None  # None where a row is a chunk
    seconds: float  # how long it took to load them
    weights_seconds: float = 0.0  # how much of that went into reading the weights of the one that took longer
    arithmetic: Arithmetic | None = None

    @classmethod
    def load(cls, request: Request, arithmetic: Arithmetic | None = None) -> RunEncoders:
        """Load the encoders as the run asks, side by side: most of the time goes into compiling their kernels.

        ``arithmetic`` is what ``auto`` means in it; None settles it for this machine.

        Raises:
            WeightsError: weights are missing or damaged.
            EncoderError: an encoder cannot run on this device, or is not the one that the run was planned with.
        """
        started = time.perf_counter()
        if request.needs_weights:
            _import_libraries()
        with ThreadPoolExecutor(1) as thread:
            beside = thread.submit(_load, request, "dna", arithmetic)
            # Proteins' take longer: they are loaded here, where Ctrl-C can end it.
            protein = None if request.protein is None else _load(request, "protein", arithmetic)
            dna = beside.result()
        loaded = cls(dna, protein, time.perf_counter() - started, arithmetic=arithmetic)
        weights = max(getattr(each, "weights_seconds", 0.0) for each in loaded.by_molecule().values())
        return replace(loaded, weights_seconds=weights)

    def by_molecule(self) -> dict[str, Encoder]:
        """The encoder of each molecule that is embedded."""
        return {"dna": self.dna} if self.protein is None else {"dna": self.dna, "protein": self.protein}

    def identities(self) -> dict[str, dict[str, Any]]:
        """What makes the numbers comparable."""
        return {name: dict(identity(encoder)) for name, encoder in self.by_molecule().items()}

    def device(self) -> str:
        """Name of the GPU that the encoders run on, or ``cpu``."""
        for encoder in reversed(self.by_molecule().values()):
            if str(getattr(encoder, "device", "cpu")).startswith("cuda"):
                import torch

                return str(torch.cuda.get_device_name(encoder.device))  # type: ignore[attr-defined]
        return "cpu"

    def prepare(self, dna: Sequence[str], protein: Sequence[str]) -> dict[str, Any]:
        """Do of embedding n rows what needs no GPU, which another thread can do ahead; see ``Encoder.prepare``."""
        letters = {"dna": dna, "protein": protein}
        return {name: encoder.prepare(letters[name]) for name, encoder in self.by_molecule().items()}

    def warm_up(self) -> None:
        """Let a GPU go once through what reads windows, whose first batch waits for a second or more otherwise."""
        for encoder in self.by_molecule().values():
            if encoder.spec.windows and str(getattr(encoder, "device", "cpu")).startswith("cuda"):
                encoder.embed([_WARM_UP] * max(1, (encoder.token_budget or 0) // len(_WARM_UP)))

    def close(self) -> None:
        """Write what caches still hold."""
        for encoder in self.by_molecule().values():
            if (cache := getattr(encoder, "cache", None)) is not None:
                cache.close()

    def embed(self, work: Mapping[str, Any]) -> Embedding:
        """Begin to embed what ``prepare`` made; another thread can take the result.

        On a GPU the last batches may still be on their way, on a CPU all is done.

        Raises:
            EncoderError: a sequence does not fit in memory.
        """
        launched: dict[str, Launched] = {}
        seconds, tokens, events, cached = {}, {}, [], {}
        for name, encoder in self.by_molecule().items():
            started, before, found = time.perf_counter(), encoder.tokens_read, getattr(encoder, "rows_found", None)
            encoder.events.clear()
            launched[name] = encoder.launch(work[name])
            seconds[name] = time.perf_counter() - started
            tokens[name] = encoder.tokens_read - before
            if found is not None:
                cached[name] = getattr(encoder, "rows_found", 0) - found
            events += [f"{name}: {event}" for event in encoder.events]
        threads = 1
        if any(each.spec.needs_weights for each in self.by_molecule().values()):
            import torch

            threads = int(torch.get_num_threads())
        kernels = {name: encoder.kernel for name, encoder in self.by_molecule().items()}
        account = Account(
            self.identities(), self.device(), kernels, tokens, seconds, events, cached=cached, threads=threads,
            split=os.environ.get(SPLIT, ""),
        )  # fmt: skip
        return Embedding(launched, account)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A block's embeddings on their way."""

    launched: Mapping[str, Launched]  # of each molecule
    account: Account  # how they come about; of the seconds, those spent on queueing

    def result(self) -> Embedded:
        """Wait for the embeddings.

        Returns:
            ``dna`` and, where there is a protein encoder, ``protein``, and how they came about. An encoder's seconds
            are those that the GPU had its work; without a GPU those that it took.

        Raises:
            EncoderError: a value is not finite.
        """
        found, seconds = {}, {"gpu": 0.0}
        for name, each in self.launched.items():
            started = time.perf_counter()
            found[name] = each.result()
            waited = time.perf_counter() - started
            seconds[name] = round(each.gpu_seconds or self.account.seconds[name] + waited, 4)
            seconds["gpu"] = round(seconds["gpu"] + each.gpu_seconds, 4)
        return found, replace(self.account, seconds=seconds)


def to_store(
    found: Mapping[str, Float32[np.ndarray, "n width"]], store: str
) -> dict[str, Float[np.ndarray, "n width"]]:
    """Give embeddings the type that they are stored in, and add ``dna_projected`` to DNA of 768 beside proteins.

    The projection is made here, spread over all tasks, so that merging is left with copying.

    Raises:
        EncoderError: a value does not fit into ``store``.
    """
    whole, stored = dict(found), {}
    if "protein" in found and found["dna"].shape[1] == NATIVE_DNA:
        whole["dna_projected"] = project(found["dna"])
    for name, values in whole.items():
        with np.errstate(over="ignore"):
            stored[name] = np.ascontiguousarray(values, dtype=store)
        if not all_finite(stored[name]) and all_finite(values):
            raise EncoderError(f"a value of {name} is too large for {store}: use --store float32")
    return stored


def _import_libraries() -> None:
    """Import what both encoders need, for a library that two threads begin to import may meet itself half made."""
    import torch

    import vnp.encoders.build

    if torch.cuda.is_available():
        with suppress(ImportError):
            import vnp.encoders.kernels.fused  # noqa: F401


def load_ahead(draft: Request) -> Callable[[Run], RunEncoders]:
    """Load the encoders of a run that is still being planned, as far as can be told which these are.

    Args:
        draft: what is known of the run.

    Returns:
        Gives the encoders of the run, once it is planned: these, or others where it turned out to ask for others.

    Raises:
        VnpError: they cannot be loaded here.
    """
    if draft.needs_weights:
        share_kernels(None)
    place, guessed = None, {}
    if left_open := _left_open(draft):
        # Here, because it loads torch.
        from vnp.encoders.device import choose_device

        place = choose_device(draft.device)
        guessed = _settled(left_open, str(place))
    loaded = RunEncoders.load(draft, None if place is None else Arithmetic(place.type, guessed, here()))
    loaded.warm_up()

    def give(run: Run) -> RunEncoders:
        settled, before = settle(run), loaded.arithmetic
        if _decisive(run.request) != _decisive(draft) or (settled and (settled.device, settled.precision)) != (
            before and (before.device, before.precision)
        ):
            loaded.close()
            return RunEncoders.load(run.request, settled)
        # Nobody waited for them.
        return replace(loaded, arithmetic=settled, seconds=0.0, weights_seconds=0.0)

    return give


def _decisive(request: Request) -> tuple[Any, ...]:
    """What decides which encoders are loaded, and how."""
    cache = request.cache, request.cache_bytes
    return request.encoders, request.device, request.folders, request.weights, request.token_budget, cache


def settle(run: Run) -> Arithmetic | None:
    """What ``auto`` means in a run, which this task decides if it is the first; None where nothing is left open.

    Raises:
        EncoderError: the device is not there.
        RunError: shards are made on another kind of device than the one that is asked for.
    """
    left_open = _left_open(run.request)
    if not left_open:
        return None
    # Here, because it loads torch.
    from vnp.encoders.device import choose_device

    path = run.paths.arithmetic
    before = read_record(path, Arithmetic, seal="digest", remedy="begin the run anew with --force")
    asked = run.request.device
    try:
        place = choose_device(before.device if before is not None and asked == "auto" else asked)
    except EncoderError as error:
        if before is None:
            raise
        raise EncoderError(f"{error}. The run was begun on {before.device} by {before.host}") from error
    if before is not None and before.device == place.type:
        return before
    if before is not None and any(run.paths.receipts.glob("*.json")):
        raise RunError(
            f"{run.paths.root} has shards that were computed on {before.device} (by {before.host}), not {place.type}: "
            f"go on with --device {before.device}, or begin anew with --force"
        )
    found = Arithmetic(place.type, _settled(left_open, str(place)), here())
    try:
        write_record(path, found, seal="digest", exclusive=before is None)
    except FileExistsError:
        return settle(run)
    return found


def _settled(left_open: Mapping[str, tuple[str, str, Path | None]], device: str) -> dict[str, str]:
    return {name: settled_precision(*encoder, device) for name, encoder in left_open.items()}


def _left_open(request: Request) -> dict[str, tuple[str, str, Path | None]]:
    """The encoders whose precision is for a task to settle: name, molecule and weights."""
    weights = None if request.weights is None else Path(request.weights)
    found: dict[str, tuple[str, str, Path | None]] = {
        molecule: (request.folders.get(molecule, choice.name), molecule, weights)
        for molecule, choice in request.encoders.items()
        if choice.precision == "auto" and choice.identity.get("weights")
    }
    return found if request.beside is None else {**found, NATIVE: (SIXFRAME.name, "dna", None)}


def _load(request: Request, molecule: str, arithmetic: Arithmetic | None) -> Encoder:
    choice = request.encoders[molecule]
    device, precision = request.device, choice.precision
    if arithmetic is not None:
        device = arithmetic.device if device == "auto" else device
        precision = arithmetic.precision.get(molecule, precision)
    encoder = load(
        request.folders.get(molecule, choice.name),
        molecule=molecule,
        weights=None if request.weights is None else Path(request.weights),
        device=device,
        precision=precision,
        token_budget=request.token_budget,
    )
    require_planned(choice, dict(identity(encoder)))
    if request.cache is None:
        return encoder
    # Here, because most runs have none.
    from vnp.runs.making.cache import cached

    return cached(encoder, Path(request.cache), request.cache_bytes)


def require_planned(choice: EncoderChoice, found: dict[str, Any]) -> None:
    """Make sure that an encoder is the planned one, in any precision for ``auto``; else ``EncoderError``."""
    for key, planned in choice.identity.items():
        if found.get(key) == planned or (key == "precision" and planned == "auto"):
            continue
        raise EncoderError(
            f"{choice.name}: this run was planned with {key} {planned!r}, here it is {found.get(key)!r}. "
            "Bring the planned weights back, or extract the run anew with --force"
        )


VARIABLE = "TRITON_CACHE_DIR"


def share_kernels(run: RunPaths | None) -> Path | None:
    """Choose where Triton keeps compiled kernels, unless the user has, before anything is compiled.

    That is the user's cache, which on most clusters all nodes share and later runs find again; where it cannot be
    written, as in a container without a home, the run's own folder, if there is a run, else the system's for what is
    temporary. Kernels
    are run, so a folder where others can put some is passed by.

    Returns:
        The folder; None where none can be used: kernels then go where Triton puts them.
    """
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    folders = [] if run is None else [run.root / "kernels"]
    folders.append(Path(tempfile.gettempdir(), f"vnp-kernels-{os.getuid()}"))
    with suppress(StorageError):
        folders.insert(0, cache_folder("kernels"))
    for folder in folders:
        with suppress(OSError):
            if private_folder(folder) and os.access(folder, os.W_OK | os.X_OK):
                os.environ[VARIABLE] = str(folder)
                return folder
    return None
