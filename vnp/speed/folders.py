"""Weights folders with random weights, as large as the published ones, to run the whole way without downloads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from vnp.encoders.spec import spec as lookup
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY
from vnp.encoders.weights.folders import CONFIG_NAME
from vnp.encoders.weights.random_weights import random_model
from vnp.speed.subject import FAMILIES
from vnp.speed.workloads import sample_genomes

_LAYERS_IF_SMALL = 1
_PIECE = 500  # bases of one word to learn from; a whole genome as one word would take minutes
_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_VOCABULARY = 4096


def make_folder(root: Path, name: str, device: str, *, full: bool, seed: int = 0) -> Path:
    """Write a folder that encoders can be loaded from.

    Args:
        root: the weights folder.
        name: of the encoder.
        device: where the random numbers are drawn.
        full: all layers of the published model, instead of one; the width is the published one, since a run needs it.
        seed: of the weights.

    Returns:
        The model's folder.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(device, FAMILIES[name], full=True, layers=None if full else _LAYERS_IF_SMALL, seed=seed)
    state = {key: tensor.cpu().contiguous() for key, tensor in model.state.items()}
    protein = lookup(name).family == "esm2"
    config: dict[str, object] = dict(model.config)
    if protein:
        config |= {"model_type": "fast_esm" if name == "fastesm2_650" else "esm", "architectures": ["EsmModel"]}
        (folder / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY) + "\n")
    else:
        config |= {"architectures": ["BertModel"], "alibi_starting_size": 512}
        (folder / "tokenizer.json").write_text(learn_tokens(sample_genomes()))
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    save_file(state, folder / "model.safetensors")
    return folder


def learn_tokens(genomes: list[bytes]) -> str:
    """Learn a byte-pair encoding of 4,096 tokens as DNABERT-S has one.

    Args:
        genomes: to learn from.

    Returns:
        The content of a ``tokenizer.json``.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=list(_SPECIAL), initial_alphabet=list("ACGT"), show_progress=False
    )
    pieces = (
        piece.decode()
        for genome in genomes
        for start in range(0, len(genome), _PIECE)
        for piece in genome[start : start + _PIECE].replace(b"N", b" ").split()
        if not piece.strip(b"ACGT")
    )
    tokenizer.train_from_iterator(pieces, trainer)
    first, last = _SPECIAL[1:3]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(each, tokenizer.token_to_id(each)) for each in (first, last)],
    )
    return str(tokenizer.to_str())
