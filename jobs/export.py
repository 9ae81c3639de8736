"""Features in the formats of other tools."""

from __future__ import annotations

import time
from pathlib import Path

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cli.progress import Progress, duration, size_text
from vnp.files.machine import require_room

_READ = {
    "pt": "torch.load({path!r}, weights_only=True)['data']",
    "npz": "numpy.load({path!r})['features']",
    "parquet": "pyarrow.parquet.read_table({path!r})",
}
_SHOWN = 6
_ID_BYTES = 60


@command("python -m jobs.export RUN --format npz")
@click.argument("run", type=options.PATH)
@click.option(
    "--format",
    type=click.Choice(["pt", "npz", "parquet"]),
    required=True,
    help="pt is VirNucPro's merged format, one file for each label; npz is for numpy; parquet for data frames.",
)
@click.option("--out", "folder", type=options.FOLDER, help="Folder for the files.  [default: export in the run]")
@click.option("--parts", is_flag=True, help="With pt: write the DNA and the protein embeddings too.")
@click.option(
    "--rows-per-file",
    type=int,
    help="With pt: the most rows of one file; VirNucPro has 10000.  [default: all rows of a label]",
)
@options.disk
@options.force
def main(
    run: Path,
    format: str,  # noqa: A002 - the option's name in help and vnp.toml
    folder: Path | None,
    parts: bool,
    rows_per_file: int | None,
    force: bool,
) -> None:
    """Write the features of RUN, a run that was reduced or a features.h5, for other tools.

    Exports hold float32. npz and parquet need little memory; a pt file must fit in memory.
    """
    from vnp.export.export import export
    from vnp.features.read import open_features

    begun = time.monotonic()
    features = open_features(run)
    target = folder or features.path.parent / "export"
    widths = features.layout.width + (sum(part.native for part in features.layout.parts) if parts else 0)
    # In Parquet, numbers that were float16 are packed to about that size again.
    echo(require_room(target, features.rows * ((2 if format == "parquet" else 4) * widths + _ID_BYTES)), err=True)
    with Progress("exporting", features.rows, "rows") as progress:
        exported = export(
            features,
            format,
            target,
            parts=parts,
            rows_per_file=rows_per_file,
            force=force,
            progress=progress.advance,
        )
    spent = duration(time.monotonic() - begun)
    echo(f"wrote {exported.rows:,} rows of {exported.width} in float32 in {spent}:")
    for path in exported.paths[:_SHOWN]:
        echo(f"  {path}  {size_text(path.stat().st_size)}")
    if len(exported.paths) > _SHOWN:
        echo(f"  … and {len(exported.paths) - _SHOWN} more")
    echo(f"  {features.layout}")
    projected = [part for part in features.layout.parts if part.projection]
    if format == "pt" and projected:
        whole = sum(part.native for part in features.layout.parts)
        echo(
            f"VirNucPro's own rows have {whole} numbers with these encoders: for those, reduce with --layout full first"
        )
    echo(f"next: read it in Python with {_READ[format].format(path=str(exported.paths[0]))}")


if __name__ == "__main__":
    main()
