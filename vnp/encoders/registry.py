"""From a name or a folder to an encoder that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float32

from vnp.encoders.measured import require_fp8_record
from vnp.encoders.spec import EncoderSpec, registered
from vnp.encoders.spec import spec as spec_named
from vnp.encoders.tokens.tokenizers import load_tokenizer
from vnp.encoders.weights.folders import find_folder, locate, read_config, spec_of_folder
from vnp.encoders.weights.lock import resolve
from vnp.errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp16", "bf16", "fp32", "fp8", "int8")


class Launched(Protocol):
    """Embeddings on their way; another thread may take them."""

    @property
    def gpu_seconds(self) -> float:
        """For how long the GPU had work, once the result is there."""

    def result(self) -> Float32[np.ndarray, "n width"]:
        """Wait for the rows, in input order."""


class Encoder(Protocol):
    """What turns sequences into rows of numbers."""

    spec: EncoderSpec  # what it is, with the digests of its weights
    width: int  # numbers in a row
    precision: str  # ``fp16``, ``bf16``, ``fp32``, ``fp8`` or ``int8``; never ``auto``
    tokens_read: int  # tokens embedded since it was made
    kernel: str  # name of the attention kernel, or of what runs in its place
    events: list[str]  # what a receipt should tell, such as a halved budget

    @property
    def token_budget(self) -> int | None:
        """Tokens in a batch; falls when memory runs out; None where there are no batches."""

    def embed(self, sequences: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """Turn sequences into rows, in input order."""

    def prepare(self, sequences: Sequence[str]) -> Any:
        """Do of ``embed`` what needs no GPU; another thread can do it ahead."""

    def launch(self, work: Any) -> Launched:
        """Begin with the rest: turn what ``prepare`` gave into rows."""


def load(
    name: str,
    *,
    molecule: str | None = None,
    weights: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    token_budget: int | None = None,
) -> Encoder:
    """Make an encoder ready. Never touches the network.

    Args:
        name: such as ``fastesm2_650``, or the folder of a model, as in ``locate``.
        molecule: ``dna`` or ``protein``; needed for ``kmer``, which exists for both.
        weights: folder of this model, or one with a folder an encoder; default as in ``weights_root``.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        precision: ``auto`` (fp16 on CUDA, bf16 for ``sixframe`` where the GPU has it; on the CPU fp32, int8 for
            ``sixframe`` where the CPU multiplies bytes, bf16 for others where it has units for that and these weights
            bear it), ``fp16``, ``bf16``, ``fp32``, ``fp8`` (ESM2's products in 8 bits on Hopper or newer; others in
            fp16), or ``int8`` (``sixframe`` on a CPU; others in fp32).
        token_budget: tokens in a batch, for ``sixframe`` bases; by default what suits the device.

    Raises:
        UsageError: no encoder has this name, or no device or precision is called so.
        WeightsError: the weights are missing, damaged or not the pinned ones.
        EncoderError: the device is not there, or ``doctor --fp8`` did not allow 8 bits for these weights.
    """
    spec, folder, precision = _resolved(name, molecule, weights, precision)
    if folder is None:
        encoder: Encoder = spec.family.load_model()(spec.molecule)
        return encoder
    return _build(spec, folder, device, precision, token_budget, "auto")


def _resolved(
    name: str, molecule: str | None, weights: Path | None, precision: str
) -> tuple[EncoderSpec, Path | None, str]:
    """An encoder with the digests of its weights, their folder if it has any, and the precision that it runs in."""
    spec, given = _located(name, molecule, weights)
    check_precision(precision)
    if not spec.needs_weights:
        return spec, None, "fp32"
    folder = find_folder(spec, given or weights)
    resolved = resolve(spec, folder)
    return resolved, folder, _allowed(precision, resolved, folder)


def _located(name: str, molecule: str | None, weights: Path | None) -> tuple[EncoderSpec, Path | None]:
    """As ``locate``, which need not look where the name says all."""
    return (spec_named(name, molecule), None) if registered(name, molecule) else locate(name, molecule, weights)


def from_folder(
    folder: Path | str,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    token_budget: int | None = None,
    attention: str = "auto",
) -> Encoder:
    """Make an encoder, called after its folder, of whatever model lies there; its ``config.json`` says what it is.

    The folder holds ``config.json``, the tokenizer's files and the weights of an ESM2 or DNABERT-S model of any size,
    or what ``finetune`` wrote. ``attention`` is as in ``build``, all else as in ``load``.

    Raises:
        UsageError: no device or precision is called so.
        WeightsError: the folder does not hold such a model.
        EncoderError: the device is not there.
    """
    check_precision(precision)
    folder = Path(folder)
    spec = resolve(spec_of_folder(folder, pinned=False), folder)
    return _build(spec, folder, device, precision, token_budget, attention)


def describe(name: str, molecule: str, weights: Path | None = None, precision: str = "auto") -> dict[str, object]:
    """What ``identity`` would say of an encoder, without loading it: for planning where there is no GPU.

    Arguments are as in ``load``; ``auto`` stays ``auto``, because the device that decides is not here.

    Raises:
        VnpError: as of ``load``.
    """
    resolved, _, precision = _resolved(name, molecule, weights, precision)
    return _identity(resolved, precision)


def identity(encoder: Encoder) -> dict[str, object]:
    """Say what makes an encoder's features comparable: equal identities, comparable features.

    Returns:
        JSON values: name, molecule, width, pooling, hub id, revision, precision; SHA-256 of each weight file, of the
        configuration and of the tokenizer; for an encoder without weights, the version of its algorithm; for one that
        was fine-tuned, ``trained_on``, the SHA-256 of the table of units that it saw.
    """
    return _identity(encoder.spec, encoder.precision)


def _allowed(precision: str, spec: EncoderSpec, folder: Path) -> str:
    """The precision that an encoder runs in where this one is asked for; fp8 needs a measurement."""
    if precision == "int8" and not spec.family.int8:
        return "fp32"
    if precision != "fp8":
        return precision
    if spec.family.eight_bits is None:
        return "fp16"
    require_fp8_record(spec, folder)
    return precision


def check_precision(precision: str) -> None:
    """Refuse a precision that does not exist, by UsageError."""
    if precision not in PRECISIONS:
        raise UsageError(f"no precision is called {precision!r}; use one of {', '.join(PRECISIONS)}")


def settled_precision(name: str, molecule: str, weights: Path | None, device: str) -> str:
    """What ``auto`` is for an encoder with weights on a device; on a CPU with units for bfloat16 that may be measured.

    Raises:
        WeightsError: the weights are missing or damaged.
        EncoderError: the device is not there.
    """
    from vnp.encoders.device import choose_device

    spec, given = _located(name, molecule, weights)
    return _chosen("auto", spec, lambda: find_folder(spec, given or weights), choose_device(device))


def _chosen(precision: str, spec: EncoderSpec, folder: Callable[[], Path], place: torch.device) -> str:
    from vnp.encoders.device import choose_precision

    def bears() -> bool:
        # Here, because it loads what builds encoders.
        from vnp.encoders.half import bears_bf16

        return bears_bf16(resolve(spec, folder()), folder())

    return choose_precision(precision, place, spec.family.half, int8=spec.family.int8, bears_bf16=bears)


def _build(
    spec: EncoderSpec, folder: Path, device: str, precision: str, token_budget: int | None, attention: str
) -> Encoder:
    # Here, because these load torch.
    from vnp.encoders.build import build, read_state
    from vnp.encoders.device import choose_device

    place = choose_device(device)
    precision = _chosen(precision, spec, lambda: folder, place)
    started = time.perf_counter()
    state = read_state(folder, spec.pins)
    read = time.perf_counter() - started
    if spec.family.tokenizer == "none":
        convolutions: Encoder = spec.family.load_model()(
            read_config(folder), state, spec, device=place, precision=precision, token_budget=token_budget
        )
        return convolutions
    encoder = build(
        read_config(folder),
        state,
        load_tokenizer(folder, spec.family.tokenizer),
        spec,
        device=place,
        precision=precision,
        token_budget=token_budget,
        attention=attention,
    )
    encoder.weights_seconds += read
    return encoder


def _identity(spec: EncoderSpec, precision: str) -> dict[str, object]:
    tuned = {} if spec.trained_on is None else {"trained_on": spec.trained_on}
    return {
        **tuned,
        "name": spec.name,
        "molecule": spec.molecule,
        "width": spec.width,
        "pooling": spec.pooling,
        "precision": precision,
        "hub_id": spec.hub_id,
        "revision": spec.revision,
        "weights": dict(sorted(spec.weights.items())),
        "config": spec.config_digest,
        "tokenizer": spec.tokenizer_digest,
        "algorithm": spec.algorithm,
    }
