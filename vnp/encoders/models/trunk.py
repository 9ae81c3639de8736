"""What all transformers share: reading config.json, the strict check of a state dict, and the exact GELU."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch.nn import functional

from vnp.errors import WeightsError

if TYPE_CHECKING:
    from jaxtyping import Float

    from vnp.encoders.packing import Batch

Pair = tuple[torch.Tensor, torch.Tensor]
"""Weight and bias, or cosines and sines, or 8-bit rows and their scales."""

_SHOWN = 4
_MOST = 1 << 24
_MOST_LAYERS = 1024


@dataclass(frozen=True)
class Sizes(ABC):
    """Sizes of one model, as in its config.json."""

    gates: ClassVar[int] = 1  # rows of the network's first product for each of its inner numbers

    vocabulary: int  # tokens that it knows
    width: int  # numbers of one state
    depth: int  # layers
    heads: int  # of its attention
    inner: int  # width of its feed-forward network
    epsilon: float  # that LayerNorm adds to the variance

    @property
    def head(self) -> int:
        """Numbers in one attention head."""
        return self.width // self.heads

    @property
    def products(self) -> list[tuple[int, int]]:
        """Shapes (out, into) of one layer's matrix products; queries, keys and values are one."""
        width, inner = self.width, self.inner
        return [(3 * width, width), (width, width), (self.gates * inner, width), (width, inner)]

    @classmethod
    @abstractmethod
    def read(cls, config: Mapping[str, object]) -> Sizes:
        """Read config.json, and refuse one of another architecture."""

    @abstractmethod
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the trunk."""

    @classmethod
    def of(cls, config: Mapping[str, object], **more: Any) -> Self:
        """Read the sizes that every config.json has, beside ``more`` that is of one architecture."""
        return cls(
            vocabulary=whole_number(config, "vocab_size"),
            width=whole_number(config, "hidden_size"),
            depth=whole_number(config, "num_hidden_layers"),
            heads=whole_number(config, "num_attention_heads"),
            inner=whole_number(config, "intermediate_size"),
            epsilon=number(config, "layer_norm_eps"),
            **more,
        )


class Taken:
    """A model's own tensors, brought to their device and precision as they are taken.

    Attributes:
        checkpoint: all that they came with.
    """

    def __init__(
        self,
        checkpoint: Mapping[str, torch.Tensor],
        tensors: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.checkpoint = checkpoint
        self._tensors, self._device, self._dtype = tensors, device, dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Give a tensor, in the memory where it is if that is the right one."""
        return self._tensors[name].to(self._device, self._dtype)

    def pair(self, name: str) -> Pair:
        """Give weight and bias; see ``tensor``."""
        return self.tensor(name + ".weight"), self.tensor(name + ".bias")

    def joined(self, *names: str) -> Pair:
        """Give weight and bias, those of several one after the other, in memory of their own."""
        weight, bias = (
            torch.cat([self._tensors[f"{name}.{part}"] for name in names]).to(self._device, self._dtype)
            for part in ("weight", "bias")
        )
        return weight, bias


class Trunk(ABC):
    """A transformer's trunk: rows of tokens in, last hidden states out.

    Args:
        config: the content of config.json.
        state: the checkpoint; heads and other known tensors beside the trunk are left out.
        device: where to hold the weights.
        dtype: of weights and activations.

    Attributes:
        sizes: reads config.json.
        prefix: what may stand before the name of every tensor.
        beside: regular expressions of the names that checkpoints carry beside the trunk.
        published: what config.json says besides sizes, for models with random weights.
        small: layers, width, heads and inner width of a small one of these.
        ends: its first and last token.
        letters: the first token between them, and the first beyond.
        slopes: ALiBi's, or None.
        apart_below: sequences with fewer tokens than this run otherwise, so they share no batch with longer ones.

    Raises:
        WeightsError: config and checkpoint do not fit each other.
    """

    sizes: ClassVar[type[Sizes]]
    prefix: ClassVar[str]
    beside: ClassVar[tuple[str, ...]]
    published: ClassVar[Mapping[str, object]]
    small: ClassVar[tuple[int, int, int, int]]
    ends: ClassVar[tuple[int, int]]
    letters: ClassVar[tuple[int, int]]
    slopes: tuple[float, ...] | None = None
    apart_below: int = 0

    def __init__(
        self, config: Mapping[str, object], state: Mapping[str, torch.Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.config: Any = self.sizes.read(config)
        self.vocabulary, self.width = self.config.vocabulary, self.config.width
        self.heads, self.head = self.config.heads, self.config.head
        own = trunk(state, self.config.tensors(), self.prefix, self.beside)
        self.take(Taken(state, own, device, dtype))

    @abstractmethod
    def take(self, taken: Taken) -> None:
        """Take the tensors that the model runs with."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Float[torch.Tensor, "rows width"]:
        """Compute the last hidden state of every row."""


def whole_number(config: Mapping[str, object], key: str) -> int:
    """Read a positive whole number from config.json, and none that no model has: layers are counted up to it."""
    value = config.get(key)
    most = _MOST_LAYERS if key == "num_hidden_layers" else _MOST
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise WeightsError(f"config.json: {key!r} must be a whole number from 1 to {most:,}, not {value!r:.60}")
    return value


def switch(config: Mapping[str, object], key: str) -> bool:
    """Read true or false from config.json; what is not there, or null, is false."""
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise WeightsError(f"config.json: {key!r} must be true or false, not {value!r:.60}")
    return bool(value)


def number(config: Mapping[str, object], key: str, default: float | None = None) -> float:
    """Read a positive number from config.json."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
        raise WeightsError(f"config.json: {key!r} must be a number above 0, at most {_MOST:,}, not {value!r:.60}")
    return float(value)


def trunk(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, ...]], prefix: str, beside: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Take a model's own tensors out of a checkpoint, under their names without prefix, and accept no surprise.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape, not of floating point, or not finite.
    """
    prefixed = any(name.startswith(prefix) for name in state)
    found: dict[str, torch.Tensor] = {}
    extra: list[str] = []
    for name, tensor in state.items():
        bare = name.removeprefix(prefix)
        if bare in expected and name.startswith(prefix) == prefixed:
            found[bare] = tensor
        elif not any(re.fullmatch(pattern, bare) for pattern in beside):
            extra.append(name)
    shown = prefix if prefixed else ""
    faults = [
        _fault("missing", (f"{shown}{name} {expected[name]}" for name in expected if name not in found)),
        _fault("unexpected", (f"{name} {tuple(state[name].shape)}" for name in extra)),
        _fault(
            "of another shape",
            (
                f"{shown}{name} (expected {expected[name]}, got {tuple(tensor.shape)})"
                for name, tensor in found.items()
                if tuple(tensor.shape) != expected[name]
            ),
        ),
        _fault(
            "not floating point", (f"{shown}{n} ({t.dtype})" for n, t in found.items() if not t.is_floating_point())
        ),
    ]
    told = [fault for fault in faults if fault]
    if told:
        raise WeightsError(
            f"the weights do not fit config.json: {'; '.join(told)}. "
            "Use the config.json and the weight files of one and the same model, as published."
        )
    broken = _fault("with NaN or Inf", (f"{shown}{n}" for n, t in found.items() if not bool(t.isfinite().all())))
    if broken:
        raise WeightsError(f"the weights are damaged: {broken}. Fetch them again.")
    return found


def _fault(kind: str, names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return ""
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    plural = "tensor" if len(listed) == 1 else "tensors"
    return f"{len(listed)} {plural} {kind}: {', '.join(listed[:_SHOWN])}{more}"


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Apply GELU to each number.

    Torch's own kernel on CPU rounds differently at the ends of what each thread works on, so a number would
    depend on its place in the batch; its error function does not.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return functional.gelu(x)
    found: torch.Tensor = (x * 0.5**0.5).erf_().add_(1.0).mul_(x).mul_(0.5)
    return found
