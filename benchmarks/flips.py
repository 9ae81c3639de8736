"""One bit turned over at a time, in every kind of file that vnp makes: is it noticed where the file is used?

A flip is ``detected`` if reading is refused or the file counts as none, ``harmless`` if what is read is the same all
the same (padding, times, names that nobody reads), and ``used`` if it is something else, which must not be. Readers run
in a child, since a library that reads a damaged file could crash or wait: that counts as ``died``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import click
import numpy as np
import torch

from benchmarks import show
from benchmarks._commands import command, options
from benchmarks.walk import SAMPLE
from jobs.dataset import main as dataset_command
from jobs.extract import main as extract_command
from jobs.predict import main as predict_command
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.fit import read_state
from vnp.classifier.recipe import VIRNUCPRO
from vnp.classifier.train import Training, Watcher, train
from vnp.datasets.writing.write import CARD, FASTA, RECORD, TABLE
from vnp.errors import VnpError
from vnp.export import formats
from vnp.export.export import export
from vnp.features.read import open_features
from vnp.files.hashing import crc32, file_sha256
from vnp.files.manifest import changed_file
from vnp.files.records import read_json
from vnp.prediction.options import OutputPaths, PredictOptions
from vnp.prediction.predict import finished
from vnp.runs.done.receipts import require_sealed
from vnp.runs.done.reduce import reduce_run
from vnp.runs.making.blocks import BlockPlan, read_block
from vnp.runs.planning.plan import read_plan
from vnp.runs.request import Run
from vnp.sequences.reading import read_records

_HEAD = 4_096
_PATIENCE_SECONDS = 60
_OUTCOMES = ("detected", "harmless", "used", "traceback", "died")
_KMER = ("--dna", "kmer", "--protein", "kmer", "--cluster", "inline")
_INTERRUPTED = (KeyboardInterrupt, click.Abort, click.exceptions.Exit, SystemExit)


@dataclass(frozen=True, slots=True)
class Product:
    """A file that is used later."""

    name: str
    path: Path
    # what its reader makes of it; None where it counts as none, and VnpError where it is refused
    use: Callable[[], object]


def flip_each(product: Product, flips: int, seed: int) -> Counter[str]:
    """Turn over single bits, two thirds of them in the first and last bytes, and count what became of them."""
    whole = product.path.read_bytes()
    expected = _digest(product.use())
    chance = np.random.default_rng([seed, crc32(product.name.encode())])
    places = [_place(chance, len(whole)) for _ in range(flips)]
    counts: Counter[str] = Counter(dict.fromkeys(_OUTCOMES, 0))
    done = 0
    while done < flips:
        found = _in_child(product, whole, expected, places[done:])
        counts.update(found)
        done += len(found)
        if done < flips:
            counts["died"] += 1
            done += 1
    product.path.write_bytes(whole)
    return counts


def _place(chance: np.random.Generator, size: int) -> tuple[int, int]:
    """A byte, in one of three cases of the first ones and in one of the last, and a bit of it."""
    edge = min(_HEAD, size)
    places = (chance.integers(size), chance.integers(edge), size - 1 - chance.integers(edge))
    return int(places[chance.integers(len(places))]), 1 << int(chance.integers(8))


def _in_child(product: Product, whole: bytes, expected: str, places: Sequence[tuple[int, int]]) -> list[str]:
    """What became of flips, until a child dies of one."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            nothing = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nothing, stream)
            for place, bit in places:
                signal.alarm(_PATIENCE_SECONDS)
                content = bytearray(whole)
                content[place] ^= bit
                product.path.parent.mkdir(parents=True, exist_ok=True)
                product.path.write_bytes(content)
                os.write(theirs, bytes([_OUTCOMES.index(_outcome(product, expected))]))
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answers:
        found = [_OUTCOMES[number] for number in answers.read()]
    os.waitpid(child, 0)
    return found


def _outcome(product: Product, expected: str) -> str:
    try:
        found = product.use()
    except VnpError:
        return "detected"
    except Exception:
        return "traceback"
    if found is None:
        return "detected"
    return "harmless" if _digest(found) == expected else "used"


def _digest(value: object) -> str:
    digest = hashlib.sha256()
    _take(value, digest)
    return digest.hexdigest()


def _take(value: Any, digest: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(value.tobytes() if value.dtype.kind != "O" else repr(value.tolist()).encode())
    elif isinstance(value, Mapping):
        _take([*value.items()], digest)
    elif isinstance(value, (list, tuple)):
        digest.update(b"(")
        for one in value:
            _take(one, digest)
        digest.update(b")")
    else:
        digest.update(f"{value!r} ".encode())


def make_products(folder: Path) -> Iterator[Product]:
    """Make everything once of the bundled sample, and name what is read of it later.

    Who adds a kind of file adds a line here.
    """
    run = _extract(folder)
    yield Product("run.json", run.paths.request, lambda: Run.open(run.paths.root).request)
    yield Product("plan.h5", run.paths.plan, lambda: read_plan(run.paths.plan, run.request.plan_sha256))
    yield Product("receipt", run.paths.receipt(0), lambda: require_sealed(run, 0))
    yield Product("shard", run.paths.shard(0), lambda: require_sealed(run, 0, full=True))
    yield Product("shard, reduce", run.paths.shard(0), lambda: _merged_anew(run))
    plan, block = _block(folder)
    yield Product("block", block, lambda: read_block(block, plan, 0))
    path = reduce_run(run, "1664").path
    yield Product("features.h5", path, lambda: _everything(path))
    yield Product("features.h5, reduce", path, lambda: reduce_run(run, "1664").rows)
    yield Product("skipped.tsv, reduce", run.paths.skipped, lambda: reduce_run(run, "1664").rows)
    yield from _trained(folder, path)
    yield from _exported(folder, path)
    yield from _predicted(folder)
    with contextlib.suppress(ImportError):
        yield from _chosen(folder)


def _extract(folder: Path) -> Run:
    with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
        arguments = [str(SAMPLE), "--out", str(folder / "run"), "--shards", "2", *_KMER]
        extract_command.main(args=arguments, standalone_mode=False)
    return Run.open(folder / "run")


def _block(folder: Path) -> tuple[BlockPlan, Path]:
    """A block of a run that was stopped before its shard was sealed."""
    stopped = mock.patch("vnp.runs.making.pipeline.seal_shard", side_effect=KeyboardInterrupt)
    with stopped, contextlib.suppress(*_INTERRUPTED), contextlib.redirect_stdout(StringIO()):
        extract_command.main(args=[str(SAMPLE), "--out", str(folder / "stopped"), *_KMER], standalone_mode=False)
    run = Run.open(folder / "stopped")
    shard = read_plan(run.paths.plan, run.request.plan_sha256)[0]
    return BlockPlan(run.request.digest, shard, run.request.block_units), run.paths.block(0, 0)


def _everything(path: Path) -> object:
    """All that readers of features give out."""
    features = open_features(path)
    windows = [(crc32(window.values), astuple(window.columns)) for window in features.windows()]
    skipped = [astuple(some) for some in features.skipped_windows()]
    about = (features.layout, features.chunk, features.run, features.provenance)
    return windows, astuple(features.records()), skipped, about


def _trained(folder: Path, path: Path) -> Iterator[Product]:
    features = open_features(path)
    training, cpu = Training(recipe=replace(VIRNUCPRO, epochs=2), split="random"), torch.device("cpu")
    model = folder / "model.pth"
    train(features, model, training, cpu)
    yield Product("model.pth", model, lambda: _parts(Checkpoint.load(model)))

    def stop(_history: object) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train(features, folder / "stopped.pth", training, cpu, watcher=Watcher(epoch=stop))
    state = folder / "stopped.state.pth"
    digest = torch.load(state, weights_only=True)["digest"]
    yield Product("training state", state, lambda: _parts(read_state(state, digest)))


def _merged_anew(run: Run) -> object:
    """Every array that reduce makes of the shards; a receipt that it puts aside comes back."""
    receipt = run.paths.receipt(0)
    content = receipt.read_bytes()
    try:
        return _everything(reduce_run(run, "1664", force=True).path)
    finally:
        receipt.write_bytes(content)


def _parts(found: Any) -> object:
    return None if found is None else [getattr(found, name) for name in type(found).__slots__]


def _exported(folder: Path, path: Path) -> Iterator[Product]:
    features = open_features(path)
    npz = export(features, "npz", folder / "export").paths[0]
    yield Product("export, npz", npz, lambda: _as_summed(npz, "features.npz") and _arrays(npz))
    pt = export(features, "pt", folder / "export").paths[0]
    yield Product("export, pt", pt, lambda: _as_summed(pt, "pt") and formats.load(pt))
    with contextlib.suppress(ImportError):
        table = export(features, "parquet", folder / "export").paths[0]
        yield Product("export, parquet", table, lambda: _as_summed(table, "features.parquet") and _table(table))


def _as_summed(path: Path, name: str) -> str | None:
    """The SHA-256 of a file that is as exported, as ``sha256sum -c`` would say."""
    line = f"{file_sha256(path)}  {path.name}"
    return line if line in path.with_name(f"{name}.sha256").read_text().splitlines() else None


def _table(path: Path) -> bytes:
    """All of a Parquet file, metadata included, in one form."""
    from pyarrow import BufferOutputStream, ipc, parquet

    table, out = parquet.read_table(path, page_checksum_verification=True), BufferOutputStream()
    with ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    content: bytes = out.getvalue().to_pybytes()
    return content


def _arrays(path: Path) -> object:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def _predicted(folder: Path) -> Iterator[Product]:
    out = folder / "calls"
    words = ["--checkpoint", str(folder / "model.pth"), "--out", str(out), "--cluster", "inline", "--parquet"]
    with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
        predict_command.main(args=[str(SAMPLE), *words], standalone_mode=False)
    paths, run = OutputPaths(out), Run.open(out)
    settings = PredictOptions.read(paths.settings)
    assert settings is not None
    yield Product("predict.json", paths.settings, lambda: PredictOptions.read(paths.settings))
    yield Product("shard of scores", run.paths.shard(0), lambda: require_sealed(run, 0, full=True))
    for name in ["predictions.json", *read_json(paths.summary)["files"]]:
        yield Product(name, out / name, lambda: finished(paths, settings, run.request.digest))


def _chosen(folder: Path) -> Iterator[Product]:
    """A training set of some files of the sample, which get an annotation of one line."""
    from vnp.runs.planning.dataset import read_dataset

    rows = ["path,label,group,organism_group"]
    for label, group in (("viral", "viral"), ("host", "bacteria")):
        for path in sorted((SAMPLE.parent / label).iterdir())[:3]:
            shutil.copy(path, folder / path.name)
            name = next(read_records(path)).name
            line = f"##gff-version 3\n{name}\tx\tgene\t1\t300\t.\t+\t.\tID=g\n"
            (folder / f"{path.name.partition('.')[0]}.gff3").write_text(line)
            rows.append(f"{path.name},{label},,{group}")
    sheet, out = folder / "annotated.csv", folder / "set"
    sheet.write_text("\n".join(rows) + "\n")
    words = ["--frames", "all", "--units", "record", "--per-group", "200", "--lengths", "300"]
    with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
        dataset_command.main(args=[str(sheet), "--out", str(out), *words], standalone_mode=False)
    table, fasta, card = out / TABLE, out / FASTA, out / CARD

    def chosen() -> object:
        found = read_dataset(table, fasta)
        return _parts(found.selection), found.chunk

    def again(path: Path) -> object:
        changed = changed_file(out / RECORD, [table, fasta, card])
        return None if changed is not None else path.read_bytes()

    yield Product("dataset.parquet", table, chosen)
    yield Product("dataset.fna.gz", fasta, chosen)
    yield Product("dataset.md", card, lambda: again(card))
    yield Product("dataset.json", out / RECORD, lambda: again(out / RECORD))


@command("python -m benchmarks flips --flips 500")
@click.option("--flips", type=click.IntRange(1, 1_000_000), default=500, help="Flips in each file.")
@click.option("--seed", type=int, default=0, help="Of where they are.")
@click.option("--only", help="Files whose names have this in them.")
@options.as_json
def main(flips: int, seed: int, only: str | None, as_json: bool) -> None:
    """Turn over single bits of every kind of file that vnp makes, and say whether what uses it notices."""
    figures: dict[str, object] = {}
    used = 0
    with TemporaryDirectory() as place:
        for product in make_products(Path(place)):
            if only is not None and only not in product.name:
                continue
            counts = flip_each(product, flips, seed)
            used += flips - counts["detected"] - counts["harmless"]
            click.echo(f"{product.name}: {flips} flips", err=True)
            told = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)
            figures[product.name] = dict(counts) if as_json else told
        shutil.rmtree(place, ignore_errors=True)
    show(figures, as_json)
    if used:
        raise click.ClickException(f"{used:,} flips were used, or ended in a traceback")


if __name__ == "__main__":
    main()
