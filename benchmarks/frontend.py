"""How fast reads become what the encoders take: records, chunks, open frames, tokens."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from jaxtyping import UInt8

from benchmarks import MOST
from benchmarks._commands import command, options
from vnp.encoders.packing import distinct
from vnp.encoders.spec import DEFAULTS, spec
from vnp.encoders.tokens.tokenizers import DnabertTokenizer, Esm2Tokenizer
from vnp.encoders.weights.folders import find_folder
from vnp.errors import InputError, UsageError
from vnp.files.machine import peak_memory
from vnp.runs.planning.plan import iter_records
from vnp.runs.request import PlannedInput, Position
from vnp.runs.units import batch_units, prepare
from vnp.sequences.reading import read_records

STAGES = ("reading and chunks", "frames and ids", "protein tokens", "DNA tokens", "same sequences")
_WRITE_READS = 20_000


@dataclass(frozen=True, slots=True)
class Part:
    """What one process did."""

    reads: int  # records read
    rows: int  # open frames
    dna_tokens: int  # tokens of DNA, special ones included
    protein_tokens: int  # the same of proteins
    seconds: dict[str, float]  # of each stage
    cpu_seconds: float  # processor time of all threads
    peak_bytes: int  # the most memory that the process had


@dataclass(frozen=True, slots=True)
class FrontFigures:
    """What ``measure_front`` found."""

    length: int  # bases of a read
    chunk: int  # bases of a chunk
    seconds: float  # from the moment when all processes were ready until the last had done
    parts: list[Part]  # of each process

    @property
    def reads(self) -> int:
        """Reads of all processes."""
        return sum(part.reads for part in self.parts)

    @property
    def rows(self) -> int:
        """Open frames of all processes."""
        return sum(part.rows for part in self.parts)

    def stage(self, name: str) -> float:
        """Seconds of a stage, summed over the processes."""
        return sum(part.seconds[name] for part in self.parts)


def measure_front(
    reads: int,
    *,
    tokenizer: Path,
    length: int = 150,
    chunk: int = 300,
    workers: int = 2,
    genomes: Sequence[Path] = (),
    seed: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> FrontFigures:
    """Make reads, and time what a task of ``extract`` does with them before the encoders run.

    Every process works on a FASTQ file of its own, as tasks do on shards. Reads are cut from genomes, or random; the
    tokenizer is the DNA encoder's ``tokenizer.json``.

    Raises:
        UsageError: there are fewer reads than processes.
        InputError: a genome cannot be read, or none is as long as a read.
        WeightsError: the tokenizer cannot be used.
    """
    if reads < workers:
        raise UsageError(f"{reads} reads are too few for {workers} processes")
    text = tokenizer.read_text("utf-8")
    DnabertTokenizer(text)  # so that a file that cannot be used is told here
    with TemporaryDirectory() as folder:
        progress(f"making {reads:,} reads")
        source = _bases(genomes, seed, reads * length)
        share = [reads * (index + 1) // workers - reads * index // workers for index in range(workers)]
        files = [Path(folder) / f"reads{index}.fastq" for index in range(workers)]
        for index, (file, count) in enumerate(zip(files, share, strict=True)):
            _write_reads(file, source, count, length, seed + index)
        del source
        progress(f"timing {workers} process(es)")
        return FrontFigures(length, chunk, *_timed(files, text, chunk))


def _timed(files: Sequence[Path], text: str, chunk: int) -> tuple[float, list[Part]]:
    # Not forked: a process that is forked from one with threads may hang.
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in files]
    processes = [
        context.Process(target=_work, args=(theirs, file, text, chunk), daemon=True)
        for (_, theirs), file in zip(ends, files, strict=True)
    ]
    try:
        for process, (_, theirs) in zip(processes, ends, strict=True):
            process.start()
            theirs.close()
        for ours, _ in ends:
            ours.recv()
        began = time.perf_counter()
        for ours, _ in ends:
            ours.send("go")
        parts = [Part(**ours.recv()) for ours, _ in ends]
        return time.perf_counter() - began, parts
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(end: Connection, file: Path, text: str, chunk: int) -> None:
    """One process: make everything ready, wait for the word, work, and tell."""
    dna, protein = DnabertTokenizer(text), Esm2Tokenizer()
    dna.encode_batch(["ACGT" * 30] * 200)
    end.send("ready")
    end.recv()
    end.send(asdict(front_of(file, chunk, dna, protein)))


def front_of(file: Path, chunk: int, dna: DnabertTokenizer, protein: Esm2Tokenizer) -> Part:
    """Take one file through the front end, stage by stage, as a task does it."""
    entry = PlannedInput(str(file), -1, None, 0, 0, "", 0, 0, 0, None)
    seconds = dict.fromkeys(STAGES, 0.0)
    reads = rows = dna_tokens = protein_tokens = 0
    start = Position(0)
    batches = batch_units(iter_records(file, start), chunk, 0, start)
    cpu, mark = time.process_time(), time.perf_counter()
    for batch in batches:
        mark = _spend(seconds, STAGES[0], mark)
        prepared = prepare([batch], [entry])
        mark = _spend(seconds, STAGES[1], mark)
        of_protein = protein.encode_batch(prepared.protein)
        mark = _spend(seconds, STAGES[2], mark)
        of_dna = dna.encode_batch(prepared.dna)
        mark = _spend(seconds, STAGES[3], mark)
        for ids in (of_protein, of_dna):
            distinct(ids)
        mark = _spend(seconds, STAGES[4], mark)
        reads += len(batch.records)
        rows += len(of_dna)
        dna_tokens += sum(map(len, of_dna))
        protein_tokens += sum(map(len, of_protein))
        mark = time.perf_counter()
    return Part(reads, rows, dna_tokens, protein_tokens, seconds, time.process_time() - cpu, peak_memory() or 0)


def _spend(seconds: dict[str, float], stage: str, since: float) -> float:
    now = time.perf_counter()
    seconds[stage] += now - since
    return now


def _bases(genomes: Sequence[Path], seed: int, enough: int) -> list[UInt8[np.ndarray, "bases"]]:
    """Sequences to cut from: of every file about as much, or random bases."""
    if not genomes:
        letters = np.frombuffer(b"ACGT", np.uint8)
        return [letters[np.random.default_rng(seed).integers(0, 4, min(enough, 10_000_000))]]
    found = []
    for path in genomes:
        left = max(1_000_000, enough // len(genomes))
        for record in read_records(path):
            if record.problem is None:
                found.append(np.frombuffer(record.sequence[:left], np.uint8))
                left -= len(record.sequence)
            if left <= 0:
                break
    return found


def _write_reads(file: Path, source: Sequence[UInt8[np.ndarray, "bases"]], count: int, length: int, seed: int) -> None:
    """Cut reads at random places of either strand, without errors, into a FASTQ file."""
    lengths = np.array([len(one) for one in source], np.int64)
    usable = np.flatnonzero(lengths >= length)
    if not len(usable):
        raise InputError(f"no sequence is as long as a read, {length} bases")
    chance = np.random.default_rng(seed)
    letters = np.concatenate([source[index] for index in usable.tolist()])
    begins = np.cumsum(lengths[usable]) - lengths[usable]
    with file.open("wb") as stream:
        for number in _steps(count, _WRITE_READS):
            which = chance.choice(len(usable), len(number), p=lengths[usable] / lengths[usable].sum())
            places = begins[which] + chance.integers(0, lengths[usable][which] - length + 1)
            reads = np.lib.stride_tricks.sliding_window_view(letters, length)[places]
            reverse = chance.random(len(number)) < 0.5
            reads[reverse] = _COMPLEMENT[reads[reverse, ::-1]]
            quality = b"I" * length
            stream.writelines(
                b"@read%d\n%s\n+\n%s\n" % (name, read.tobytes(), quality)
                for name, read in zip(number, reads, strict=True)
            )


_COMPLEMENT = np.frombuffer(bytes.maketrans(b"ACGTRYKMBDHV", b"TGCAYRMKVHDB"), np.uint8)


def _steps(count: int, step: int) -> Iterator[range]:
    for first in range(0, count, step):
        yield range(first, min(first + step, count))


@command("python -m benchmarks frontend --reads 1000000 --workers 2")
@click.argument("input", nargs=-1, type=click.Path(path_type=Path))
@click.option("--reads", type=click.IntRange(1, MOST), default=100_000, help="Reads to make.")
@click.option("--length", type=click.IntRange(3, MOST), default=150, help="Bases of a read.")
@click.option("--chunk", type=click.IntRange(30, MOST), default=300, help="Bases of a chunk.")
@click.option("--workers", type=click.IntRange(min=1), default=2, help="Processes.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="VNP_WEIGHTS",
    help="Folder of encoder weights, for the DNA encoder's tokenizer.json.  [default: as of extract]",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="That tokenizer.json itself, in place of --weights.",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, help="Of the reads.")
@options.as_json
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    *,
    reads: int,
    length: int,
    chunk: int,
    workers: int,
    weights: Path | None,
    tokenizer: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Time what happens to reads before the encoders run: reading, chunks, open frames, tokens.

    INPUT is FASTA or FASTQ to cut the reads from; without any, they are random. The goal is 20 s for a million reads
    on two cores.
    """
    found = measure_front(
        reads,
        tokenizer=tokenizer or _tokenizer(weights),
        length=length,
        chunk=chunk,
        workers=workers,
        genomes=input,
        seed=seed,
        progress=lambda what: click.echo(what, err=True),
    )
    cpu = sum(part.cpu_seconds for part in found.parts)
    figures: dict[str, Any] = {
        "reads": found.reads,
        "bases of a read": found.length,
        "open frames": found.rows,
        "processes": len(found.parts),
        "seconds": round(found.seconds, 3),
        "reads/s": round(found.reads / found.seconds),
        "frames/s": round(found.rows / found.seconds),
        "million reads, s": round(found.seconds / found.reads * 1e6, 2),
        "processor seconds, all processes": round(cpu, 3),
        "frames per processor second": round(found.rows / cpu),
        **{f"{stage}, s, all processes": round(found.stage(stage), 3) for stage in STAGES},
        "DNA tokens": sum(part.dna_tokens for part in found.parts),
        "protein tokens": sum(part.protein_tokens for part in found.parts),
        "peak memory of a process, MB": round(max(part.peak_bytes for part in found.parts) / 1e6),
    }
    if as_json:
        click.echo(json.dumps({**figures, "parts": [asdict(part) for part in found.parts]}, indent=2))
        return
    widest = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name:<{widest}}  {value:>14,}")


def _tokenizer(weights: Path | None) -> Path:
    path = find_folder(spec(DEFAULTS["dna"]), weights) / "tokenizer.json"
    if not path.is_file():
        raise UsageError(
            f"{path} is missing: fetch it again (python -m jobs.fetch {DEFAULTS['dna']}), or name --tokenizer FILE"
        )
    return path
