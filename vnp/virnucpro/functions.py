"""FASTA to embeddings, and the DNA and protein embeddings side by side, as VirNucPro's scripts call it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32

from vnp.encoders import Encoder, from_folder, load
from vnp.encoders.spec import DEFAULTS, names
from vnp.encoders.spec import spec as lookup
from vnp.encoders.weights.folders import read_config
from vnp.errors import FeatureError, InputError, RunExistsError, UsageError
from vnp.export import formats
from vnp.sequences.opening import find_start, one_line_end, stream
from vnp.sequences.reading import read_records
from vnp.sequences.record import clean_name

Model = Encoder | str | Path | None
Molecule = Literal["dna", "protein"]
log = logging.getLogger(__name__)

_AT_ONCE = 4096


def extract_fast_esm(
    fasta_file: str | Path,
    out_file: str | Path | None = None,
    model: Model = None,
    tokenizer: Any = None,
    truncation_seq_length: int | None = 1024,
    toks_per_batch: int = 2048,
) -> tuple[list[str], list[torch.Tensor]]:
    """Embed proteins: the mean over the residues of the last hidden state.

    Args:
        fasta_file: proteins, as ``jobs.frames`` writes them; plain or compressed.
        out_file: ``.pt`` file to write. If it is there already and holds these sequences, it is read instead.
        model: an encoder of vnp; or the name of one, or a folder with its weights, to load on the GPU if there is one;
            None is ``fastesm2_650``. A model of transformers cannot be used: give its folder.
        tokenizer: None is the encoder's own, the published one. Otherwise an object with ``encode_batch``, or a
            tokenizer of transformers.
        truncation_seq_length: residues that are read of a longer protein, 1024 as in VirNucPro; None reads all.
        toks_per_batch: tokens in one batch of a model loaded here. On a GPU 65536 is several times faster. An
            encoder that is given keeps its own budget.

    Returns:
        Ids and rows (float32, one dimension), in the order of the file.

    Raises:
        UsageError: model, tokenizer or a number cannot be used.
        InputError: the file or one of its records cannot be used.
        WeightsError: the weights are missing or not the pinned ones.
        EncoderError: a row is not finite or does not fit in memory.
        FeatureError: ``out_file`` is there and holds something else.
        StorageError: the disk is full or cannot be written.
    """
    if truncation_seq_length is not None and truncation_seq_length < 1:
        raise UsageError(f"truncation_seq_length must be at least 1, or None, not {truncation_seq_length}")
    return _extract("protein", fasta_file, out_file, model, tokenizer, toks_per_batch, truncation_seq_length)


def extract_dnabert_s(
    input_file: str | Path,
    out_file: str | Path | None = None,
    model_loaded: bool = False,
    tokenizer: Any = None,
    model: Model = None,
    toks_per_batch: int = 2048,
) -> tuple[list[str], list[dict[str, Any]]]:
    """Embed DNA: the mean over all tokens of the last hidden state, [CLS] and [SEP] included.

    Args:
        input_file: DNA, as ``jobs.frames`` writes it; plain or compressed.
        out_file: as in ``extract_fast_esm``.
        model_loaded: says that ``model`` is given, as VirNucPro's callers do; a model is used whenever it is given.
        tokenizer: as in ``extract_fast_esm``.
        model: as in ``extract_fast_esm``; None is ``dnabert_s``.
        toks_per_batch: as in ``extract_fast_esm``.

    Returns:
        Ids, and for each ``{"label": id, "mean_representation": list of numbers}``, in the order of the file.

    Raises:
        VnpError: as of ``extract_fast_esm``.
    """
    if model_loaded and model is None:
        raise UsageError("model_loaded is set and there is no model: give one, or leave model_loaded out")
    return _extract("dna", input_file, out_file, model, tokenizer, toks_per_batch)


def _extract(
    molecule: Molecule,
    source: str | Path,
    out_file: str | Path | None,
    model: Model,
    tokenizer: Any,
    toks_per_batch: int,
    longest: int | None = None,
) -> tuple[list[str], list[Any]]:
    is_dna = molecule == "dna"
    target = None if out_file is None else formats.target(out_file)
    ids, sequences = _read_fasta(Path(source), molecule)
    if target is not None and target.exists():
        found, data, values = formats.read_dna(target) if is_dna else formats.read_protein(target)
        _require_same(target, Path(source), ids, found, values, _width(model, molecule))
        return found, data
    encoder = _encoder(model, molecule, toks_per_batch)
    values = _embed(encoder, [sequence[:longest] for sequence in sequences], tokenizer, ids)
    content = formats.dna_content(ids, values) if is_dna else formats.protein_content(ids, values)
    if not is_dna:
        # A row that shares no memory can be kept or saved alone.
        content["data"] = [row.clone() for row in content["data"]]
    if target is not None:
        formats.save(content, target)
    return ids, content["data"]


def _require_same(target: Path, source: Path, ids: list[str], found: list[str], values: np.ndarray, width: int) -> None:
    """Make sure that an output that is there is this one; VirNucPro's own may be in another order."""
    if set(found) != set(ids):
        odd = next(iter(sorted(set(found) ^ set(ids))))
        lacks, has = (target, source) if odd in set(ids) else (source, target)
        raise FeatureError(
            f"{target} is there and holds other sequences: {odd!r} is in {has} and not in {lacks}. Delete it, or "
            "choose another out_file"
        )
    if values.shape[1] != width:
        raise FeatureError(
            f"{target}: the embeddings' rows have the wrong width: expected {width}, got {values.shape[1]}"
        )
    log.info("%s is there already with %d rows", target, len(found))


def _embed(
    encoder: Encoder, sequences: Sequence[str], tokenizer: Any, ids: Sequence[str]
) -> Float32[np.ndarray, "n width"]:
    values = np.empty((len(sequences), encoder.width), np.float32)
    embed = _embedder(encoder, tokenizer)
    # Of like length together, so that little is padded where the encoder pads.
    order = sorted(range(len(sequences)), key=lambda place: -len(sequences[place]))
    for first in range(0, len(order), _AT_ONCE):
        here = order[first : first + _AT_ONCE]
        rows = embed([sequences[place] for place in here])
        if rows.shape != (len(here), encoder.width):
            raise FeatureError(
                f"{encoder.spec.name} gave an array of the wrong shape for {ids[here[0]]!r} and those after it: "
                f"expected {(len(here), encoder.width)}, got {rows.shape}"
            )
        values[here] = rows
        log.info("embedded %d of %d sequences", first + len(here), len(order))
    return values


def _embedder(encoder: Encoder, tokenizer: Any) -> Callable[[list[str]], np.ndarray]:
    if tokenizer is None:
        return encoder.embed
    embed_ids = getattr(encoder, "embed_ids", None)
    if embed_ids is None:
        raise UsageError(f"{encoder.spec.name} reads letters: leave the tokenizer out")
    if hasattr(tokenizer, "encode_batch"):
        return lambda texts: np.asarray(embed_ids(tokenizer.encode_batch(texts)))
    if callable(tokenizer):
        return lambda texts: np.asarray(embed_ids([np.asarray(ids, np.int64) for ids in tokenizer(texts)["input_ids"]]))
    raise UsageError(f"a {type(tokenizer).__name__} is no tokenizer: it has no encode_batch and cannot be called")


def _encoder(model: Model, molecule: Molecule, toks_per_batch: int) -> Encoder:
    if toks_per_batch < 1:
        raise UsageError(f"toks_per_batch must be at least 1, not {toks_per_batch}")
    if model is None or isinstance(model, str | Path):
        name = DEFAULTS[molecule] if model is None else str(model)
        if _is_folder(name, molecule):
            encoder = from_folder(name, device="auto", precision="auto", token_budget=toks_per_batch)
        else:
            encoder = load(name, molecule=molecule, token_budget=toks_per_batch)
    elif hasattr(model, "embed") and hasattr(model, "spec"):
        encoder = model
    else:
        raise UsageError(
            f"a {type(model).__name__} is no encoder of vnp: give the folder of its weights, or one of "
            f"{', '.join(names(molecule))}"
        )
    if encoder.spec.molecule != molecule:
        raise UsageError(f"{encoder.spec.name} reads {encoder.spec.molecule}, and the file holds {molecule}")
    return encoder


def _is_folder(name: str, molecule: str) -> bool:
    return name not in names(molecule) and Path(name).is_dir()


def _width(model: Model, molecule: Molecule) -> int:
    """Numbers in a row of a model, found without loading it."""
    if model is None or isinstance(model, str | Path):
        name = DEFAULTS[molecule] if model is None else str(model)
        if _is_folder(name, molecule):
            return int(str(read_config(Path(name)).get("hidden_size", 0)))
        return lookup(name, molecule).width
    return _encoder(model, molecule, 1).width


_NOT_RESIDUE = re.compile(r"[^A-Z*.\-]")
_SURELY_DNA = 200


def _protein_of(path: Path) -> Iterator[tuple[str, str, int, str | None]]:
    """Name, residues, line and problem of each record."""
    _, blocks = stream(path)
    start = find_start(one_line_end(blocks), path)
    if start.kind != b">":
        raise InputError("is FASTQ; protein comes as FASTA", path=path)
    text = b"".join(start.blocks).decode("utf-8", "backslashreplace")
    line = start.lines + 1
    for part in text[1:].split("\n>"):
        header, _, body = part.partition("\n")
        name, problem = clean_name(header, line)
        residues = "".join(body.split()).upper()
        odd = _NOT_RESIDUE.search(residues)
        if not residues:
            problem = problem or "the record is empty"
        elif odd:
            problem = problem or f"invalid letter {odd[0]!r} at residue {odd.start() + 1}"
        yield name, residues, line, problem
        line += part.count("\n") + 1


def _read_fasta(path: Path, molecule: Molecule) -> tuple[list[str], list[str]]:
    """Read a FASTA file whole, plain or compressed: ids, and upper-case bases or residues.

    Raises:
        InputError: the file or one of its records cannot be used, two have the same id, or it holds DNA for protein.
    """
    seen: dict[str, int] = {}
    sequences = []
    dna = ((one.name, one.sequence.decode(), one.line, one.problem) for one in read_records(path))
    for name, letters, line, problem in dna if molecule == "dna" else _protein_of(path):
        if problem:
            raise InputError(problem, path=path, line=line, record=name)
        sequences.append(letters)
        if name in seen:
            raise InputError(
                f"the id was used in line {seen[name]} already; rename one", path=path, line=line, record=name
            )
        seen[name] = line
    # There is no protein of A, C, G, T, U and N alone.
    is_dna = sum(map(len, sequences)) >= _SURELY_DNA and not any(each.strip("ACGTUN") for each in sequences)
    if molecule == "protein" and is_dna:
        raise InputError("holds DNA, and protein is needed: give identified_protein.faa of jobs.frames", path=path)
    return list(seen), sequences


def merge_data(
    dna_file: str | Path, protein_file: str | Path, merged_file: str | Path, data_type: str | None = None
) -> dict[str, Any]:
    """Join the DNA and protein embeddings of the same sequences, in the order of the DNA file.

    A merged file that is there already is left alone if it holds exactly this; otherwise it is an error.

    Args:
        dna_file: from ``extract_dnabert_s``.
        protein_file: from ``extract_fast_esm``, in any order.
        merged_file: to write.
        data_type: ``viral`` gives the file the label 1, ``host`` 0, None no label.

    Returns:
        What the file holds: ``ids``, ``data`` (float32, n by the sum of both widths, DNA first) and, with a data
        type, ``labels``: one number for the whole file.

    Raises:
        UsageError: there is no such data type.
        FeatureError: a file cannot be read, its rows differ in width or are not finite, or a sequence is missing
            in one of them.
        RunExistsError: ``merged_file`` is there and holds something else.
        StorageError: the disk is full or cannot be written.
    """
    dna_path, protein_path, merged_path = Path(dna_file), Path(protein_file), formats.target(merged_file)
    if data_type is not None and data_type not in formats.LABELS:
        raise UsageError(f"data_type is {data_type!r}; use 'viral', 'host' or None")
    ids, _, dna = formats.read_dna(dna_path)
    names, _, protein = formats.read_protein(protein_path)
    _require_both(dna_path, ids, protein_path, names)
    places = {name: place for place, name in enumerate(names)}
    order = np.array([places[name] for name in ids], np.int64)
    merged = formats.merged_content(
        ids, np.concatenate([dna, protein[order]], axis=1), None if data_type is None else formats.LABELS[data_type]
    )
    if merged_path.exists():
        _require_same_content(merged_path, merged)
    else:
        formats.save(merged, merged_path)
    return merged


def _require_both(dna_path: Path, ids: list[str], protein_path: Path, names: list[str]) -> None:
    for here, have, there, lack in ((dna_path, ids, protein_path, names), (protein_path, names, dna_path, ids)):
        present = set(lack)
        missing = [name for name in have if name not in present]
        if missing:
            raise FeatureError(
                f"{len(missing)} of {len(have)} sequences of {here} are missing in {there}, the first is "
                f"{missing[0]!r}. Embed both files of the same jobs.frames, whole"
            )


def _require_same_content(path: Path, merged: dict[str, Any]) -> None:
    there = formats.load(path)
    data = there.get("data")
    same = there.keys() == merged.keys() and all(there[key] == merged[key] for key in merged if key != "data")
    if same and isinstance(data, torch.Tensor) and data.shape == merged["data"].shape:
        same = torch.equal(data, merged["data"])
    else:
        same = False
    if not same:
        shape = f"{tuple(data.shape)}" if isinstance(data, torch.Tensor) else "no rows"
        raise RunExistsError(
            f"{path} is there and holds something else (expected {tuple(merged['data'].shape)} with "
            f"labels {merged.get('labels')}, got {shape} with labels {there.get('labels')}): delete it "
            "first, or choose another name"
        )
