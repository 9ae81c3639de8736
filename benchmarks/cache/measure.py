"""What ``--cache`` gives where reads come again, and what it costs where none does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks import MOST, show, temporary_folder
from benchmarks._commands import command, options
from benchmarks.end_to_end import make_folder
from vnp.encoders.registry import Encoder, from_folder
from vnp.encoders.spec import spec
from vnp.runs.making.cache import RowCache, cached, digests_of
from vnp.sequences.reading import read_records

_AMPLICONS, _ERRORS, _GENOME = 40, 0.002, 200_000
_LETTERS = "ACDEFGHIKLMNPQRSTVWY"
_COST_ROWS = 50_000
_LARGE = 1_000_000_000_000


def _draw(kind: str, count: int, length: int, seed: int) -> list[str]:
    """Proteins of reads: none alike, of amplicons with errors, or of a few genomes at uneven depth."""
    chance = np.random.default_rng(seed)
    letters = np.array(list(_LETTERS))
    if kind == "distinct":
        return ["".join(row) for row in letters[chance.integers(20, size=(count, length))]]
    if kind == "amplicons":
        of = chance.integers(20, size=(_AMPLICONS, length))[chance.geometric(0.1, count) % _AMPLICONS]
        wrong = chance.random(of.shape) < _ERRORS * 3
        return ["".join(row) for row in letters[np.where(wrong, chance.integers(20, size=of.shape), of)]]
    genome = letters[chance.integers(20, size=_GENOME)]
    starts = (chance.beta(0.4, 2, count) * (_GENOME - length)).astype(int)
    return ["".join(genome[start : start + length]) for start in starts]


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def _blocks(encoder: Encoder, sequences: Sequence[str], size: int) -> None:
    """Embed blocks as a task does: one thread prepares the next, another takes the result of the last."""
    blocks = [sequences[low : low + size] for low in range(0, len(sequences), size)]
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        taken: Future[object] | None = None
        ahead = reader.submit(encoder.prepare, blocks[0])
        for block in [*blocks[1:], None]:
            work = ahead.result()
            if block is not None:
                ahead = reader.submit(encoder.prepare, block)
            launched = encoder.launch(work)
            if taken is not None:
                taken.result()
            taken = writer.submit(launched.result)


@command("python -m benchmarks cache --sequences 2000 --folder /scratch")
@click.option("--sequences", type=click.IntRange(10, MOST), default=2_000, help="In each set.")
@click.option("--length", type=click.IntRange(3, MOST), default=50, help="Residues of one, as of a read of 150 bases.")
@click.option(
    "--reads", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A file of reads, a set too."
)
@click.option("--block", type=click.IntRange(1, MOST), default=500, help="Sequences of a block.")
@click.option("--rounds", type=click.IntRange(1, MOST), default=3, help="Of either kind, in turn.")
@click.option("--encoder", default="esm2_650m", help="Whose architecture is taken, with random weights.")
@click.option("--full", is_flag=True, help="In its published size, not in a small one.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where it runs.")
@click.option("--precision", default="fp32", help="In which it runs.")
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the sets.")
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=".", help="To work in."
)
@options.as_json
def main(
    sequences: int,
    length: int,
    reads: Path | None,
    block: int,
    rounds: int,
    encoder: str,
    full: bool,
    device: str,
    precision: str,
    seed: int,
    folder: Path,
    as_json: bool,
) -> None:
    """Embed sets without a cache, with an empty one, and with one that has them; side by side in one process.

    Seconds are the best of the rounds. The cost where nothing repeats is told in seconds of this process's processor
    time too, which others on the machine move less, and for each row.
    """
    figures: dict[str, object] = {}
    with temporary_folder(folder) as place:
        model = make_folder(place, encoder, device, full=full, seed=seed, called=None if full else "small")
        plain = from_folder(model, device=device, precision=precision)
        plain.embed(_draw("distinct", 32, length, seed + 1))
        sets = {kind: _draw(kind, sequences, length, seed) for kind in ("distinct", "amplicons", "genomes")}
        if reads is not None:
            first = [record.sequence.decode() for record, _ in zip(read_records(reads), range(sequences), strict=False)]
            # Only how often they are alike counts: their letters stand for residues.
            sets["reads"] = first
        for kind, some in sets.items():
            times: dict[str, list[float]] = {name: [] for name in ("without", "empty", "full", "cpu", "cpu empty")}
            for number in range(rounds):
                where = place / f"{kind}-{number}"
                times["without"].append(_seconds(partial(_blocks, plain, some, block), time.perf_counter))
                times["cpu"].append(_seconds(partial(_blocks, plain, some, block), time.process_time))
                for name, clock, of in (
                    ("empty", time.perf_counter, where),
                    ("cpu empty", time.process_time, where / "x"),
                ):
                    times[name].append(_seconds(partial(_fill, plain, of, some, block), clock))
                times["full"].append(_seconds(partial(_fill, plain, where, some, block), time.perf_counter))
            best = {name: min(values) for name, values in times.items()}
            distinct = len(np.unique(digests_of(some), axis=0))
            figures |= {
                f"{kind}: sequences": len(some),
                f"{kind}: share that is there already": 1 - distinct / len(some),
                f"{kind}: seconds without a cache": best["without"],
                f"{kind}: times as fast, empty cache": best["without"] / best["empty"],
                f"{kind}: times as fast, full cache": best["without"] / best["full"],
                f"{kind}: processor time with an empty cache, times": best["cpu empty"] / best["cpu"],
            }
        kept = _cost(place / "cost", spec(encoder).width, _draw("distinct", _COST_ROWS, length, seed))
        figures |= {f"microseconds a row to {name}": 1e6 * value / _COST_ROWS for name, value in kept.items()}
    show(figures, as_json)


def _fill(plain: Encoder, folder: Path, some: Sequence[str], block: int) -> None:
    """Embed by a cache, and write what it holds."""
    encoder = cached(plain, folder, _LARGE)
    _blocks(encoder, some, block)
    encoder.cache.close()  # type: ignore[attr-defined]


def _cost(folder: Path, width: int, some: Sequence[str]) -> dict[str, float]:
    """Seconds that a cache of its own takes for rows that are new, and for the same when they are there."""
    rows = np.random.default_rng(0).normal(size=(len(some), width)).astype(np.float32)

    def keep() -> None:
        cache = RowCache(folder, {}, width, _LARGE)
        digests = digests_of(some)
        found, _ = cache.find(digests)
        cache.add(digests[~found], rows[~found])
        cache.close()

    return {
        "look up in vain and write": _seconds(keep, time.perf_counter),
        "look up and read": _seconds(keep, time.perf_counter),
    }
