"""Small weights folders for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from vnp.encoders.spec import ESM2, EncoderSpec
from vnp.encoders.weights.lock import LockedEncoder, LockedFile, read_lock, write_lock
from vnp.files.hashing import file_sha256

ESM2_CONFIG: dict[str, object] = {
    "model_type": "esm",
    "architectures": ["EsmForMaskedLM"],
    "vocab_size": 33,
    "mask_token_id": 32,
    "pad_token_id": 1,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": True,
}

TINY = EncoderSpec(
    name="tiny",
    molecule="protein",
    width=16,
    family=ESM2,
    hub_id="someone/tiny",
)


_LAYER = "encoder.layer.0"
_SQUARE = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
_SHAPES: dict[str, tuple[int, ...]] = {
    "embeddings.word_embeddings.weight": (33, 16),
    **{f"{_LAYER}.{name}.weight": (16, 16) for name in _SQUARE},
    **{f"{_LAYER}.{name}.bias": (16,) for name in _SQUARE},
    **{f"{_LAYER}.{name}LayerNorm.{part}": (16,) for name in ("", "attention.") for part in ("weight", "bias")},
    f"{_LAYER}.intermediate.dense.weight": (32, 16),
    f"{_LAYER}.intermediate.dense.bias": (32,),
    f"{_LAYER}.output.dense.weight": (16, 32),
    f"{_LAYER}.output.dense.bias": (16,),
    "encoder.emb_layer_norm_after.weight": (16,),
    "encoder.emb_layer_norm_after.bias": (16,),
}


def esm2_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of an ESM2 with one layer of width 16, named as published checkpoints name them."""
    chance = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=chance) * 0.1 for name, shape in _SHAPES.items()}


def write_folder(folder: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """A weights folder with config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG))
    save_file(esm2_state() if state is None else state, folder / "model.safetensors")
    return folder


def lock_folder(folder: Path, spec: EncoderSpec, revision: str = "1" * 40) -> None:
    """Enter the files of a folder into the lock beside it."""
    files = {path.name: LockedFile(path.stat().st_size, file_sha256(path)) for path in sorted(folder.iterdir())}
    entry = LockedEncoder(str(spec.hub_id), revision, "MIT", "2025-01-01T00:00:00+00:00", files)
    write_lock(folder.parent, {**read_lock(folder.parent), spec.name: entry})
