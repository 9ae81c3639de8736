"""Small weights folders for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from vnp.encoders.lock import LockedEncoder, LockedFile, file_sha256, read_lock, write_lock
from vnp.encoders.spec import EncoderSpec

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
    family="esm2",
    pooling="residues",
    tokenizer="esm2",
    hub_id="someone/tiny",
)


def esm2_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of an ESM2 with one layer of width 16, named as transformers names them."""
    from transformers import EsmConfig, EsmModel

    torch.manual_seed(seed)
    model = EsmModel(EsmConfig(**ESM2_CONFIG), add_pooling_layer=False)
    return {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}


def write_folder(folder: Path, state: dict[str, torch.Tensor] | None = None) -> Path:
    """A weights folder with config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG))
    save_file(esm2_state() if state is None else state, folder / "model.safetensors")
    return folder


def lock_folder(folder: Path, spec: EncoderSpec, revision: str = "1" * 40) -> None:
    """Enter the files of a folder into the lock beside it."""
    files = {
        path.name: LockedFile(path.stat().st_size, file_sha256(path)) for path in sorted(folder.iterdir())
    }
    entry = LockedEncoder(str(spec.hub_id), revision, "MIT", "2025-01-01T00:00:00+00:00", files)
    write_lock(folder.parent, {**read_lock(folder.parent), spec.name: entry})
