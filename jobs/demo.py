"""From the bundled sample to calls, in a minute or two."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from vnp.files.claims import make_folder, require_free
from vnp.sequences.samplesheet import table_rows

_COLUMNS = ("record", "genome", "bases", "truth", "call", "kind", "probability")


@command("python -m jobs.demo --out demo-run")
@click.option("--out", type=options.FOLDER, default=Path("demo-run"), help="Folder for everything that it makes.")
@click.option("--native-only", is_flag=True, help="Stop after the calls of the native model.")
@options.force
def main(out: Path, native_only: bool, force: bool) -> None:
    """Call held-out genomes of the bundled sample, with the truth beside the calls.

    First by the native model, which needs nothing else. Then by the other road: embeddings (hashed k-mers, which need
    no weights either), a classifier trained on the other genomes, its accuracy, and its calls.
    """
    import vnp

    unfinished = out / "demo.unfinished"
    if require_free([out], force=force or unfinished.exists()):
        shutil.rmtree(out)
    make_folder(out)
    unfinished.touch()
    sample = Path(vnp.__file__).parent / "sample"
    heldout = sample / "heldout.csv"
    native, run = out / "native", out / "run"
    _do("predict", heldout, "--out", native, "--device", "cpu", "--cluster", "inline")
    _show(native, heldout)
    if native_only:
        unfinished.unlink()
        return
    kmer = ("--dna", "kmer", "--protein", "kmer", "--cluster", "local")
    _do("extract", sample / "samplesheet.csv", "--out", run, "--shards", 4, *kmer)
    _do("reduce", run)
    model, split = out / "model" / "kmer.pth", sample / "split.tsv"
    _do("train", run, "--split", split, "--out", model)
    _do("benchmark accuracy", run, "--part", "dna", "--part", "protein", "--split", split, "--out", out / "accuracy")
    _do("predict", heldout, "--checkpoint", model, "--out", out / "calls", "--shards", 2, "--cluster", "local")
    _show(out / "calls", heldout)
    unfinished.unlink()
    echo(f"\nOpen the reports: {(native / 'report.html').absolute()} and {(out / 'calls' / 'report.html').absolute()}")


def _do(name: str, *words: object) -> None:
    """Run a command, and say so as it would be typed."""
    from jobs.__main__ import main as vnp

    given = [*name.split(), *map(str, words)]
    echo(f"\n$ python -m jobs.{' '.join(given)}")
    code = vnp.main(given, prog_name="vnp", standalone_mode=False)
    if code:
        # It has said why.
        raise SystemExit(code)


def _show(calls: Path, sheet: Path) -> None:
    """A table of calls beside what the records are; each genome of the sheet is one record."""
    genomes = _rows(sheet, ",")
    lines = [_COLUMNS]
    for row, genome in zip(_rows(calls / "predictions.tsv", "\t"), genomes, strict=True):
        name = Path(genome["path"]).name.partition(".")[0]
        said = (
            row["call"] or "none",
            row["kind"] or "-",
            f"{float(row['probability']):.3f}" if row["probability"] else "-",
        )
        lines.append((row["name"], name, row["length"], genome["label"], *said))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    echo("")
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _rows(path: Path, separator: str) -> list[dict[str, str]]:
    header, *rows = [cells for _, cells in table_rows(path, "table", separator)]
    return [dict(zip(header, cells, strict=True)) for cells in rows]


if __name__ == "__main__":
    main()
