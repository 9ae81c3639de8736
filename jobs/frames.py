"""What would be embedded, as FASTA."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cli.progress import Progress, duration, size_text
from vnp.files.claims import alone, make_folder, require_free

_NAMED = 3


@command("python -m jobs.frames genomes.fna.gz --chunk 300 --out frames")
@options.input_argument
@click.option("--out", "folder", type=options.FOLDER, required=True, help="Folder for the files.")
@click.option("--chunk", type=int, help="Bases of a chunk, as for extract.  [default: 300]")
@click.option("--prefix-ids", is_flag=True, help="Put each input's name in front of its records' names.")
@options.force
def main(
    input: tuple[Path, ...],  # noqa: A002 - the argument's name in help and vnp.toml
    folder: Path,
    chunk: int | None,
    prefix_ids: bool,
    force: bool,
) -> None:
    """Write what would be embedded of INPUT, without embedding it.

    INPUT is as for extract. Writes identified_nucleotide.fa and identified_protein.faa, one record for each open frame
    under the id that its row will have, and skipped.tsv: every record, chunk or frame without a row, with its reason.
    """
    from vnp.runs.frames import frames_paths, write_frames
    from vnp.runs.planning.options import RunOptions
    from vnp.runs.planning.survey import survey
    from vnp.sequences.samplesheet import lost_tables, read_inputs

    begun = time.monotonic()
    files = read_inputs(input)
    for warning in lost_tables(files):
        echo(warning, err=True)
    run_options = RunOptions(files=tuple(files), chunk=chunk, prefix_ids=prefix_ids)
    run_options.check()
    paths = frames_paths(folder)
    require_free(paths, force=force)
    size = sum(file.path.stat().st_size for file in run_options.files)
    with Progress("reading", size, "MB", scale=1e6) as progress:
        found = survey(
            run_options.files, run_options.chunk, prefix_ids=run_options.prefix_ids, progress=progress.advance
        )
    make_folder(folder)
    with alone(folder, "frames", (path.name for path in paths)):
        require_free(paths, force=force)
        with Progress("writing", found.totals.rows, "frames") as progress:
            written = write_frames(found, folder, progress=progress.advance)
    totals = found.totals
    spent = duration(time.monotonic() - begun)
    echo(f"wrote {written.rows:,} open frames of {totals.records:,} records, {totals.bases:,} bases, in {spent}:")
    for path in written.paths:
        echo(f"  {path}  {size_text(path.stat().st_size)}")
    if written.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(written.skipped.items()))
        echo(f"without a row: {reasons}")
    prefixed = " --prefix-ids" if prefix_ids else ""
    inputs = shlex.join(map(str, input[:_NAMED]))
    if len(input) > _NAMED:
        inputs += f" … ({len(input) - _NAMED:,} more)"
    echo(f"next: python -m jobs.extract {inputs} --out RUN --chunk {found.chunk}{prefixed}, which embeds them")


if __name__ == "__main__":
    main()
