"""ESM2 with gradients, over packed sequences: weights in float32, products in half precision, adapters of our own."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import dropout, embedding, gelu, layer_norm, linear
from torch.utils.checkpoint import checkpoint

from vnp.encoders.models.esm2 import Esm2, Esm2Config, RotaryTable, token_scale
from vnp.encoders.models.trunk import trunk
from vnp.encoders.packing import Batch, segment_means
from vnp.errors import EncoderError
from vnp.finetune.language.attention import attend, choose_attention
from vnp.finetune.language.recipe import TuningRecipe, trained_layers

log = logging.getLogger(__name__)

PROJECTED = 128
"""Numbers of a row as the contrastive head gives it."""
_COMPILED_FROM = 50_000_000
_WORDS = "embeddings.word_embeddings.weight"
_QKV = ("query", "key", "value")
_PIECES = {
    "qkv": tuple(f"attention.self.{name}" for name in _QKV),
    "out": ("attention.output.dense",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
    "norm_attention": ("attention.LayerNorm",),
    "norm_inner": ("LayerNorm",),
}
_LM_HEAD = ("lm_head.dense.weight", "lm_head.dense.bias", "lm_head.layer_norm.weight", "lm_head.layer_norm.bias")


Pair = tuple[Tensor, Tensor]
"""Weight and bias, scale and shift, or the two factors of an adapter."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's weights; each is a parameter in float32 where it is trained, else held as it is multiplied."""

    norm_attention: Pair
    qkv: Pair
    out: Pair
    norm_inner: Pair
    up: Pair
    down: Pair
    adapt_qkv: Pair | None = None
    adapt_out: Pair | None = None


class Beside(torch.autograd.Function):
    """A product with frozen weights, and what adapters add to it, as one product: nothing wide is added up apart."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, weight: Tensor, bias: Tensor, b: Tensor, scale: float) -> Tensor:
        """Add up x W^T + low (B scale)^T and the bias; see ``adapted``."""
        ctx.save_for_backward(low, weight, b)
        ctx.scale = scale
        return linear(torch.cat([x, low], 1), torch.cat([weight, corners(b, scale, x.dtype)], 1), bias)

    @staticmethod
    def backward(ctx: Any, *found: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, low and B."""
        low, weight, b = ctx.saved_tensors
        (out,) = found
        into = out @ torch.cat([weight, corners(b, ctx.scale, out.dtype)], 1)
        count, _, rank = b.shape
        every = (out.T @ low).view(count, -1, count, rank)
        own = every.diagonal(dim1=0, dim2=2).permute(2, 0, 1).to(b.dtype) * ctx.scale
        return into[:, : weight.shape[1]], into[:, weight.shape[1] :], None, None, own, None


def corners(b: Float[Tensor, "n out rank"], scale: float, dtype: torch.dtype) -> Float[Tensor, "n_out n_rank"]:
    """Matrices along a diagonal, times a scale."""
    count, out, rank = b.shape
    places = torch.eye(count, dtype=b.dtype, device=b.device)[:, None, :, None]
    return (b[:, :, None, :] * (places * scale)).reshape(count * out, count * rank).to(dtype)


def adapted(
    x: Float[Tensor, "rows into"], own: Pair, adapter: Pair, scale: float, hidden: float
) -> Float[Tensor, "rows n_out"]:
    """A product with frozen weights, to which LoRA (Hu et al., ICLR 2022) adds (x A^T) B^T times a scale.

    Args:
        own: weights and biases of n products of it, one below the other.
        adapter: A, (n, rank, into), and B, (n, out, rank), which is zero at first, so that nothing changes.
        hidden: share of the adapters' inputs that is dropped.
    """
    a, b = adapter
    low = linear(dropout(x, hidden) if hidden else x, a.flatten(0, 1).to(x.dtype))
    product: Tensor = Beside.apply(x, low, *own, b, scale)  # type: ignore[no-untyped-call]
    return product


def before(
    x: Float[Tensor, "rows width"], norm: Pair, qkv: Pair, adapter: Pair | None, epsilon: float, scale: float,
    hidden: float, dtype: torch.dtype,
) -> Float[Tensor, "rows 3_width"]:  # fmt: skip
    """Queries, keys and values, not rotated yet."""
    normal = layer_norm(x, x.shape[-1:], *norm, epsilon).to(dtype)
    own = qkv[0].to(dtype), qkv[1].to(dtype)
    return linear(normal, *own) if adapter is None else adapted(normal, own, adapter, scale, hidden)


def after(
    x: Float[Tensor, "rows width"], attended: Float[Tensor, "rows width"], out: Pair, adapter: Pair | None, norm: Pair,
    up: Pair, down: Pair, epsilon: float, scale: float, hidden: float, dtype: torch.dtype,
) -> Float[Tensor, "rows width"]:  # fmt: skip
    """Add what attention found, then the feed-forward network's answer; the sum stays in float32."""
    own = out[0].to(dtype), out[1].to(dtype)
    found = linear(attended, *own) if adapter is None else adapted(attended, own, adapter, scale, hidden)
    x = x + found
    normal = layer_norm(x, x.shape[-1:], *norm, epsilon).to(dtype)
    inner = gelu(linear(normal, *(one.to(dtype) for one in up)))
    return x + linear(inner, *(one.to(dtype) for one in down))


def between(
    x: Float[Tensor, "rows width"], attended: Float[Tensor, "rows width"], layer: tuple[Any, ...],
    following: tuple[Any, Any, Any], *rest: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """From one attention to the next: the sum, and queries, keys and values of it."""
    x = after(x, attended, *layer, *rest)
    return x, before(x, *following, *rest)


class TunedEsm2:
    """An ESM2 model that learns.

    Args:
        config: the content of its config.json.
        state: its tensors, under any of the published names; those of the masked-language head may be missing, which
            then begins at random.
        dtype: of products: bfloat16 on a GPU, else float32.
        compiled: let torch compile what stands around attention; None does so on a GPU for models that are worth it.

    Raises:
        WeightsError: configuration and tensors do not fit each other.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        state: Mapping[str, Tensor],
        recipe: TuningRecipe,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compiled: bool | None = None,
    ) -> None:
        self.config: Esm2Config = Esm2Config.read(config)
        self.recipe, self.device, self.dtype = recipe, device, dtype
        self.width, self.depth = self.config.width, self.config.depth
        self.attention = choose_attention(self.config, device, dtype)
        self.rotary = RotaryTable(self.config.head, self.config.theta, device)
        self.trained: dict[str, Parameter] = {}  # what the optimiser changes, by name
        self.checkpointing = False  # compute activations again in the backward pass instead of keeping them
        self.training = True  # whether adapters drop inputs
        self._own = trunk(state, self.config.tensors(), Esm2.prefix, Esm2.beside)
        self._beside = {name: tensor for name, tensor in state.items() if name.startswith("lm_head.")}
        torch.manual_seed(recipe.seed)
        layers = trained_layers(recipe.train, self.depth)
        whole, upper = recipe.train == "all", len(layers) > 0
        self.words = self._hold(_WORDS, self._own[_WORDS], whole, torch.float32)
        self.norm_before = self._pair("embeddings.layer_norm", whole) if self.config.norm_before else None
        self.norm_after = self._pair("encoder.emb_layer_norm_after", upper)
        self.layers = [self._layer(number, number in layers) for number in range(self.depth)]
        self.head = self._head()
        count = sum(math.prod(shape) for shape in self.config.tensors().values())
        wanted = device.type == "cuda" and count >= _COMPILED_FROM if compiled is None else compiled
        self._before: Callable[..., Tensor] = _compiled(before) if wanted else before
        self._between: Callable[..., tuple[Tensor, ...]] = _compiled(between) if wanted else between
        self._after: Callable[..., Tensor] = _compiled(after) if wanted else after
        self.compiled = wanted
        self._proven = False

    # What it computes.

    def hidden(self, batch: Batch) -> Float[Tensor, "rows width"]:
        """The last hidden state of every token, in float32."""
        x = embedding(batch.ids, self.words)
        if self.config.token_dropout:
            x = x * token_scale(batch, self.config.mask_token)[:, None]
        if self.norm_before is not None:
            x = layer_norm(x, (self.width,), *self.norm_before, self.config.epsilon)
        if self.compiled and not self._proven:
            self._prove(x, batch)
        if self.compiled and self.recipe.train == "lora" and torch.is_grad_enabled():
            # Else the first layer would be compiled apart.
            x.requires_grad_()
        qkv = self._enter(x, self.layers[0])
        for number in range(self.depth):
            if self.checkpointing and torch.is_grad_enabled():
                x, qkv = checkpoint(
                    self._run, x, qkv, number, batch,
                    use_reentrant=False, preserve_rng_state=self.recipe.dropout > 0,
                )  # fmt: skip
            else:
                x, qkv = self._run(x, qkv, number, batch)
        return layer_norm(x, (self.width,), *self.norm_after, self.config.epsilon)

    def _enter(self, x: Tensor, layer: Layer) -> Tensor:
        self._any_length(x)
        return self._before(x, layer.norm_attention, layer.qkv, layer.adapt_qkv, *self._rest())

    def _run(self, x: Tensor, qkv: Tensor, number: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """A layer from its attention on, and what goes into the attention of the next one: at last, what it is in."""
        layer = self.layers[number]
        attended = attend(qkv.view(len(qkv), 3, self.config.heads, -1), batch, self.rotary).flatten(1)
        self._any_length(x, attended)
        rest = (layer.out, layer.adapt_out, layer.norm_inner, layer.up, layer.down)
        if number + 1 == self.depth:
            return self._after(x, attended, *rest, *self._rest()), qkv
        then = self.layers[number + 1]
        following = (then.norm_attention, then.qkv, then.adapt_qkv)
        x, qkv = self._between(x, attended, rest, following, *self._rest())
        return x, qkv

    def _rest(self) -> tuple[float, float, float, torch.dtype]:
        scale = self.recipe.alpha / self.recipe.rank
        return self.config.epsilon, scale, self.recipe.dropout if self.training else 0.0, self.dtype

    def _any_length(self, *tensors: Tensor) -> None:
        """Have what is compiled take any number of rows, instead of compiling it again for another."""
        if self.compiled:
            for one in tensors:
                torch._dynamo.maybe_mark_dynamic(one, 0)

    def _prove(self, x: Tensor, batch: Batch) -> None:
        """Run the last layers forward and backward as they were compiled, and do without that where it cannot be.

        Random numbers go on as if they had not been run.
        """
        self._proven = True
        gpus = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(gpus), torch.enable_grad():
                again = out = x.detach().clone().requires_grad_()
                first = max(0, self.depth - 2)
                qkv = self._enter(again, self.layers[first])
                for number in range(first, self.depth):
                    out, qkv = self._run(out, qkv, number, batch)
                torch.autograd.grad(out.sum(), again)
        except torch.OutOfMemoryError:
            self._proven = False
            raise
        except Exception as error:  # the compiler's may be of any kind
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("torch cannot compile here, so training is slower: %s", reason)
            self.compiled, self._before, self._between, self._after = False, before, between, after

    def pooled(self, batch: Batch) -> Float[Tensor, "n width"]:
        """The row of each sequence, as the encoder gives it: the mean over its residues, in float32."""
        return segment_means(self.hidden(batch), batch, trim=True)

    def guesses(self, states: Float[Tensor, "places width"]) -> Float[Tensor, "places vocabulary"]:
        """The masked-language head: a logit for each token that could stand in these places."""
        dense, bias, scale, shift = (self.head[name] for name in _LM_HEAD)
        inner = gelu(linear(states.to(self.dtype), dense.to(self.dtype), bias.to(self.dtype)))
        normal = layer_norm(inner.float(), (self.width,), scale, shift, self.config.epsilon).to(self.dtype)
        decoder = self.head.get("lm_head.decoder.weight", self.words)
        return linear(normal, decoder.to(self.dtype)).float() + self.head["lm_head.bias"]

    def projected(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n out"]:
        """The head of ``labels`` (the log-odds of viral) or ``contrastive``, on rows of mean 0 and variance 1."""
        return linear(layer_norm(rows, (self.width,)), self.head["head.weight"], self.head["head.bias"])

    # What it holds.

    def _hold(self, name: str, tensor: Tensor, trained: bool, dtype: torch.dtype | None = None) -> Tensor:
        if not trained:
            return tensor.detach().to(self.device, dtype or self.dtype)
        self.trained[name] = Parameter(tensor.detach().to(self.device, torch.float32, copy=True))
        return self.trained[name]

    def _pair(self, name: str, trained: bool) -> Pair:
        """Scale and shift of a normalisation, in float32."""
        names = f"{name}.weight", f"{name}.bias"
        weight, bias = (self._hold(one, self._own[one], trained, torch.float32) for one in names)
        return weight, bias

    def _layer(self, number: int, trained: bool) -> Layer:
        name = f"encoder.layer.{number}."
        pieces: dict[str, Any] = {
            piece: self._pair(name + names[0], trained)
            if piece.startswith("norm")
            else tuple(
                self._hold(
                    f"{name}{piece}.{part}", torch.cat([self._own[f"{name}{one}.{part}"] for one in names]), trained
                )
                for part in ("weight", "bias")
            )
            for piece, names in _PIECES.items()
        }
        if self.recipe.train == "lora":
            for piece, count in (("qkv", 3), ("out", 1)):
                # As torch begins a linear layer.
                a = (torch.rand(count, self.recipe.rank, self.width) * 2 - 1) * self.width**-0.5
                b = torch.zeros(count, self.width, self.recipe.rank)
                pieces[f"adapt_{piece}"] = (
                    self._hold(f"{name}{piece}.a", a, True),
                    self._hold(f"{name}{piece}.b", b, True),
                )
        return Layer(**pieces)

    def _head(self) -> dict[str, Tensor]:
        """The head of the objective; it is always trained."""
        if self.recipe.objective == "mlm":
            one = (self.width,)
            shapes = dict(zip(_LM_HEAD, (one * 2, one, one, one), strict=True))
            shapes["lm_head.bias"] = (self.config.vocabulary,)
            first = {name: self._beside.get(name, _first(name, shape)) for name, shape in shapes.items()}
            wrong = [name for name, tensor in first.items() if tuple(tensor.shape) != shapes[name]]
            if wrong:
                raise EncoderError(f"the base's {wrong[0]} has the shape {tuple(first[wrong[0]].shape)}")
            decoder = self._beside.get("lm_head.decoder.weight")
            if decoder is not None and not torch.equal(decoder, self._own[_WORDS]):
                first["lm_head.decoder.weight"] = decoder
        else:
            out = 1 if self.recipe.objective == "labels" else PROJECTED
            first = {"head.weight": torch.randn(out, self.width) * self.width**-0.5, "head.bias": torch.zeros(out)}
        return {name: self._hold(name, tensor, True) for name, tensor in first.items()}

    def merged(self) -> dict[str, Tensor]:
        """The encoder's tensors with what was learnt, adapters merged: float32 on the CPU, under published names.

        The masked-language head is among them, if it is known; other heads are ``heads``.
        """
        found = {name: tensor.detach().float().cpu() for name, tensor in self._own.items()}
        for name in found.keys() & self.trained.keys():
            found[name] = self.trained[name].detach().cpu()
        scale = self.recipe.alpha / self.recipe.rank
        for number, layer in enumerate(self.layers):
            name = f"encoder.layer.{number}."
            for piece, names in _PIECES.items():
                for part in ("weight", "bias"):
                    if (own := self.trained.get(f"{name}{piece}.{part}")) is not None:
                        for one, tensor in zip(names, own.detach().cpu().chunk(len(names)), strict=True):
                            found[f"{name}{one}.{part}"] = tensor
                if (adapter := getattr(layer, f"adapt_{piece}", None)) is not None:
                    a, b = (factor.detach().cpu() for factor in adapter)
                    for one, tensor in zip(names, torch.bmm(b, a) * scale, strict=True):
                        found[f"{name}{one}.weight"] = found[f"{name}{one}.weight"] + tensor
        lm_head = {name: tensor.detach().float().cpu() for name, tensor in self._beside.items()}
        lm_head |= {name: one.detach().cpu() for name, one in self.head.items() if name.startswith("lm_head.")}
        # Published heads share the words; one that was read apart stays apart only if it is another.
        if self.recipe.objective == "mlm" and "lm_head.decoder.weight" not in self.head:
            lm_head.pop("lm_head.decoder.weight", None)
        trunk_tensors = {f"{Esm2.prefix}{name}": tensor.clone().contiguous() for name, tensor in found.items()}
        return trunk_tensors | {name: tensor.clone().contiguous() for name, tensor in sorted(lm_head.items())}

    def heads(self) -> dict[str, Tensor]:
        """The head of ``labels`` or ``contrastive``; nothing for ``mlm``."""
        return {name: one.detach().cpu().clone() for name, one in self.head.items() if name.startswith("head.")}

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of what is trained, on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.trained.items()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Bring a snapshot back; LookupError or RuntimeError where it is of another network."""
        if snapshot.keys() != self.trained.keys():
            raise LookupError("other tensors are trained")
        for name, tensor in snapshot.items():
            self.trained[name].copy_(tensor)

    def parameters(self) -> Iterator[Parameter]:
        """What is trained."""
        return iter(self.trained.values())


def _compiled(function: Any) -> Any:
    """Compile with numbers such as the share of dropout as constants, and kernels that do not depend on timings."""
    import torch._dynamo
    from torch._inductor import config

    torch._dynamo.config.specialize_float = True
    # Older ones choose among kernels by their time.
    return torch.compile(function, options={"deterministic": True} if hasattr(config, "deterministic") else None)


def _first(name: str, shape: tuple[int, ...]) -> Tensor:
    if len(shape) == 2:
        return torch.randn(shape) * 0.02
    return torch.ones(shape) if name.endswith("layer_norm.weight") else torch.zeros(shape)
