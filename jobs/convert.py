"""VirNucPro's checkpoints to ours."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from vnp.errors import RunExistsError
from vnp.files.claims import make_folder, tidy


@command("python -m jobs.convert 300_model.pth --chunk 300 --out virnucpro_300.pth")
@click.argument("old", type=options.FILE)
@click.option("--out", type=options.FILE, required=True, help="The checkpoint to write.")
@click.option("--chunk", type=int, required=True, help="Bases of its chunks, 300 or 500: the file does not say.")
@click.option("--protein", help="Encoder of its protein columns.  [default: esm2_3b or fastesm2_650, by the width]")
@options.force
@options.as_json
def main(old: Path, out: Path, chunk: int, protein: str | None, force: bool, as_json: bool) -> None:
    """Take the weights out of OLD, a classifier that VirNucPro saved, and write them as a checkpoint of vnp.

    OLD is a pickled program object, which could run anything when loaded. It is read by a reader that knows that one
    class and tensors and refuses all else, so nothing in it runs. VirNucPro's columns are all of DNABERT-S and of
    ESM2-3B: features for it are made with --protein esm2_3b, and reduced with --layout full.
    """
    there = RunExistsError(f"{out} is there; --force writes over it")
    if out.exists() and not force:
        raise there
    from vnp.classifier.legacy import convert

    made = convert(old, chunk=chunk, protein=protein)
    make_folder(out.parent)
    tidy(out.parent, [out.name])
    try:
        made.write(out, exclusive=not force)
    except FileExistsError:
        raise there from None
    if as_json:
        found = {"checkpoint": str(out), "layout": json.loads(made.layout.to_json()), "chunk": chunk}
        echo(json.dumps({**found, "weights_sha256": made.digest}, indent=2))
        return
    echo(f"wrote {out}: {made}")
    echo("it has no calibration, so its probabilities are the network's own")
    echo(f"next: python -m jobs.predict INPUT --checkpoint {shlex.quote(str(out))} --out DIR")


if __name__ == "__main__":
    main()
