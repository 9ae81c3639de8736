"""Look at this machine and say what would fail here, and how to mend it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cli.ending import COMMAND, WORDS_WHOLE
from vnp.encoders.spec import DEFAULTS, NO_ENCODER, registered, spec, weighted
from vnp.encoders.weights.folders import locate
from vnp.errors import WeightsError

if TYPE_CHECKING:
    from vnp.doctor import Finding


@command("python -m jobs.doctor --run my-run --weights /project/weights")
@click.option("--run", type=options.FOLDER, help="Run folder whose disk is examined.  [default: the working directory]")
@click.option(
    "--weights",
    type=options.FOLDER,
    help="Folder with weights.  [default: $VNP_WEIGHTS, else ~/.cache/vnp/weights]",
)
@click.option("--dna", help="DNA encoder that you will use, or its folder: its weights must be here.")
@click.option("--protein", help="Protein encoder that you will use, or its folder: its weights must be here.")
@click.option("--full", is_flag=True, help="Hash every weight file again, even if it looks unchanged.")
@click.option(
    "--known",
    is_flag=True,
    help="Also embed fixed sequences with the weights that are here, and compare with published numbers.",
)
@click.option(
    "--reference",
    type=click.Choice([one.name for one in weighted()]),
    help="Also load the published model and compare it with ours. This runs the model's own code.",
)
@click.option(
    "--fp8",
    metavar="NAME|FOLDER",
    help="Also measure, on this machine's GPU, what 8-bit products cost the weights of this ESM2 model, and keep the "
    "result: --precision fp8 needs it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def main(
    run: Path | None,
    weights: Path | None,
    dna: str | None,
    protein: str | None,
    full: bool,
    known: bool,
    reference: str | None,
    fp8: str | None,
    as_json: bool,
) -> None:
    """Look at this machine and say what would fail here, and how to mend it.

    Ends with 0 if nothing that is needed fails, else with 1. No GPU, no scheduler, no container and no weights are
    no failures, unless you name an encoder that needs them.
    """
    wanted = [(name, kind) for name, kind in ((dna, "dna"), (protein, "protein")) if name and name != NO_ENCODER]
    others = [name for name, kind in wanted if not registered(name, kind)]
    named = [name for name, kind in wanted if name not in others and spec(name, kind).needs_weights]
    for name, kind in wanted:
        # A folder that is damaged is a finding; a name that nothing has is a mistake.
        with suppress(WeightsError):
            locate(name, kind, weights)
    # Here, because it loads much that --help does not need.
    from vnp.doctor import healthy
    from vnp.doctor.examine import examine

    findings = list(examine(run, weights, named=named, others=others, full=full))
    if known:
        from vnp.doctor.known import known as known_answer

        findings += [known_answer(one, weights, needed=one.name in named) for one in weighted()]
    if reference is not None:
        from vnp.doctor.reference import reference as compare

        findings.append(compare(reference, weights))
    if fp8 is not None:
        from vnp.doctor.reference import fp8 as in_8_bits

        findings.append(in_8_bits(fp8, weights))
    if as_json:
        echo(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        _print(findings)
    sys.exit(0 if healthy(findings) else 1)


def _print(findings: Sequence[Finding]) -> None:
    """A paragraph a finding, of 80 columns; commands to copy and paths stay whole."""
    start = " " * 10
    for one in findings:
        text = f"{one.state:<8}  {one.about}: {one.found}"
        lines = [text]
        if one.state != "ok" and one.mend:
            lines.append(f"{start}to mend it: {one.mend}")
        for line in lines:
            whole = line is not text and COMMAND.search(one.mend)
            echo(line if whole else fill(line, 80, subsequent_indent=start, **WORDS_WHOLE))
    failed = [one.about for one in findings if one.state == "fails"]
    if failed:
        echo(f"fails: {', '.join(failed)}")
        return
    absent = {one.about for one in findings if one.state == "not here"}
    lacking = [name for name in DEFAULTS.values() if f"weights {name}" in absent]
    if lacking:
        echo(f"python -m jobs.predict works; python -m jobs.extract lacks the weights of {' and '.join(lacking)}")
    else:
        echo("nothing that is needed fails")


if __name__ == "__main__":
    main(prog_name="python -m jobs.doctor")
