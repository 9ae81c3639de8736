"""``benchmark speed --end-to-end`` with random weights, as large as the published ones: no downloads are needed."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from safetensors.torch import save_file

from benchmarks._commands import command, options
from jobs._cli.speed import WINDOWS, SpeedOptions, speed_options, speed_out
from jobs._cli.speed_runs import END_TO_END, encoders_of, end_to_end_options, measure_runs
from vnp.doctor.reference import fp8
from vnp.encoders.device import choose_device
from vnp.encoders.models.bare import random_model
from vnp.encoders.spec import NO_ENCODER
from vnp.encoders.spec import spec as lookup
from vnp.encoders.tokens.tokenizers import ESM2_VOCABULARY
from vnp.encoders.weights.folders import CONFIG_NAME
from vnp.speed.measure import free
from vnp.speed.workloads import sample_genomes

_LAYERS_IF_SMALL = 1
_PIECE = 500  # bases of one word to learn from; a whole genome as one word would take minutes
_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_VOCABULARY = 4096


@command("python -m benchmarks end_to_end --reads 1000000 --cold")
@speed_options
@end_to_end_options
@speed_out
@options.as_json
def main(encoder_only: bool, **given: Any) -> None:  # noqa: ARG001 - one of the options
    """Time extract from FASTA to sealed shards, with random weights; on a CPU of one layer, unless --full."""
    own = {name: given.pop(name) for name in END_TO_END}
    chosen = SpeedOptions(**given)
    device = choose_device(chosen.device)
    with tempfile.TemporaryDirectory(prefix="vnp-weights-", dir=own["scratch"]) as root:
        for name in set(encoders_of(chosen)) - {WINDOWS, NO_ENCODER}:
            click.echo(f"random weights of {name}", err=True)
            make_folder(Path(root), name, str(device), full=chosen.full or device.type == "cuda")
            if "fp8" in chosen.precisions and lookup(name).family.eight_bits is not None:
                found = fp8(name, Path(root), str(device))
                click.echo(f"{found.about}: {found.found}", err=True)
            # The runs need this memory.
            free(device)
        measure_runs(replace(chosen, weights=Path(root)), **own)


def make_folder(root: Path, name: str, device: str, *, full: bool, seed: int = 0, called: str | None = None) -> Path:
    """Write a folder that encoders can be loaded from, below the weights folder; OSError where it cannot be written.

    Args:
        full: all layers of the published model, instead of one; the width is the published one, since a run needs it.
        called: another name for the folder, which makes it an encoder of its own; it is small then, unless ``full``.
    """
    folder = root / (called or name)
    folder.mkdir(parents=True, exist_ok=True)
    one = lookup(name)
    wide = full or called is None
    model = random_model(device, one, full=wide, layers=None if full or not wide else _LAYERS_IF_SMALL, seed=seed)
    state = {key: tensor.cpu().contiguous() for key, tensor in model.state.items()}
    if one.family.tokenizer == "letters":
        (folder / "vocab.txt").write_text("\n".join(ESM2_VOCABULARY) + "\n")
    else:
        (folder / "tokenizer.json").write_text(learn_tokens(sample_genomes()))
    (folder / CONFIG_NAME).write_text(json.dumps(dict(model.config), indent=2) + "\n")
    save_file(state, folder / "model.safetensors")
    return folder


def learn_tokens(genomes: list[bytes]) -> str:
    """The ``tokenizer.json`` of a byte-pair encoding of 4,096 tokens, as DNABERT-S has one, learnt from genomes."""
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
        single=f"{first} $A {last}", special_tokens=[(each, tokenizer.token_to_id(each)) for each in (first, last)]
    )
    return str(tokenizer.to_str())
