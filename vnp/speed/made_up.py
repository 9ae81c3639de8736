"""Made-up reads, and weights folders with random weights, to run the whole way without downloads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from safetensors.torch import save_file

from vnp.encoders.models.bare import random_model
from vnp.encoders.spec import spec as lookup
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY
from vnp.encoders.weights.folders import CONFIG_NAME
from vnp.errors import UsageError
from vnp.files.durable import replacing
from vnp.sequences.record import COMPLEMENT
from vnp.speed.workloads import sample_genomes

_LAYERS_IF_SMALL = 1
_PIECE = 500  # bases of one word to learn from; a whole genome as one word would take minutes
_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_VOCABULARY = 4096
_BLOCK = 50_000
_BASES = np.frombuffer(b"ACGT", np.uint8)
_COMPLEMENT = np.frombuffer(COMPLEMENT, np.uint8)


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
    one = lookup(name)
    model = random_model(device, one, full=True, layers=None if full else _LAYERS_IF_SMALL, seed=seed)
    state = {key: tensor.cpu().contiguous() for key, tensor in model.state.items()}
    if one.family.tokenizer == "letters":
        (folder / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY) + "\n")
    else:
        (folder / "tokenizer.json").write_text(learn_tokens(sample_genomes()))
    (folder / CONFIG_NAME).write_text(json.dumps(dict(model.config), indent=2) + "\n")
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


def write_reads(path: Path, count: int, *, length: int = 150, substitutions: float = 0.01, seed: int = 0) -> None:
    """Write reads as FASTA.

    Every place of the bundled genomes is as likely as any other, and so is each strand.

    Args:
        path: of the file.
        count: of reads.
        length: bases of a read.
        substitutions: share of bases that are replaced by another one.
        seed: of places and substitutions; the same seed gives the same bytes.

    Raises:
        UsageError: no genome is that long.
        StorageError: the disk is full or cannot be written.
    """
    genomes = [np.frombuffer(each, np.uint8) for each in sample_genomes() if len(each) >= length]
    if not genomes:
        raise UsageError(f"no genome of the bundled sample has {length:,} bases")
    text = np.concatenate(genomes)
    room = np.array([len(each) - length + 1 for each in genomes])
    firsts = np.cumsum([0, *map(len, genomes)])[:-1]
    rng = np.random.default_rng(seed)
    with replacing(path) as temporary, temporary.open("wb") as file:
        for begun in range(0, count, _BLOCK):
            places = rng.integers(0, int(room.sum()), min(_BLOCK, count - begun))
            owner = np.searchsorted(np.cumsum(room), places, side="right")
            start = firsts[owner] + places - (np.cumsum(room) - room)[owner]
            reads = text[start[:, None] + np.arange(length)]
            reads = _mutated(_either_strand(reads, rng), substitutions, rng)
            lines = [b">read%d\n%s\n" % (begun + number, row.tobytes()) for number, row in enumerate(reads)]
            file.write(b"".join(lines))


def _either_strand(
    reads: UInt8[np.ndarray, "reads length"], rng: np.random.Generator
) -> UInt8[np.ndarray, "reads length"]:
    turned = rng.random(len(reads)) < 0.5
    reads[turned] = _COMPLEMENT[reads[turned, ::-1]]
    return reads


def _mutated(
    reads: UInt8[np.ndarray, "reads length"], share: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "reads length"]:
    rows, columns = np.nonzero(rng.random(reads.shape, dtype=np.float32) < share)
    # The next, second or third base after the one that is there, so that it is always another one.
    codes = np.searchsorted(_BASES, reads[rows, columns]) + rng.integers(1, 4, len(rows))
    reads[rows, columns] = _BASES[codes % 4]
    return reads
