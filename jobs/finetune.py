"""Genomes to an encoder trained end to end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from shlex import quote

import click

from jobs._cli import options
from jobs._cli.command import command, echo


@command("python -m jobs.finetune genomes.csv --encoder sixframe --out sixframe/")
@click.argument("genomes", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--encoder", type=click.Choice(["sixframe"]), default="sixframe", help="What to train, from scratch.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write.")
@click.option("--steps", type=click.IntRange(1), default=8000, help="Of the optimiser.")
@click.option("--bases", type=click.IntRange(1000), default=1_000_000, help="In the crops of one step.")
@click.option("--rate", type=float, default=2e-3, help="Learning rate at its highest.")
@click.option("--validation", type=click.FloatRange(0.01, 0.5), default=0.08, help="Share of the units to watch.")
@click.option("--test", type=click.FloatRange(0.01, 0.5), default=0.17, help="Share of the units to keep apart.")
@click.option("--left-out", multiple=True, help="A group to keep apart as a whole; may be given again.")
@click.option(
    "--set-aside/--no-set-aside",
    default=True,
    help="Train no longer on pieces of prokaryotes and plasmids that look viral for 10 kb.",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, help="Of weights, crops and dropout.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@click.option("--save-every", type=click.IntRange(1), default=1000, help="Steps between states to go on from.")
@options.force
@options.as_json
def main(
    genomes: Path,
    encoder: str,  # noqa: ARG001 - there is one so far
    out: Path,
    steps: int,
    bases: int,
    rate: float,
    validation: float,
    test: float,
    left_out: tuple[str, ...],
    set_aside: bool,
    seed: int,
    device: str,
    save_every: int,
    force: bool,
    as_json: bool,
) -> None:
    """Train an encoder on GENOMES and write a folder that extract --weights and predict --checkpoint take.

    GENOMES is a sheet with the columns path, label and group (unit, kind and sample may be there), or the
    genomes.npz that an earlier training packed. A killed training goes on where it was when it is started again.
    """
    # cuBLAS gives the same bytes every time only if it is told so before it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from vnp.encoders.device import choose_device
    from vnp.files.claims import alone, make_folder, require_free
    from vnp.finetune.crops import DeviceGenomes
    from vnp.finetune.folder import CONFIG, METRICS, PLOT, WEIGHTS, draw_training, write_folder
    from vnp.finetune.loop import train
    from vnp.finetune.pace import LOG, STATE, Pace
    from vnp.finetune.prepare import prepare
    from vnp.finetune.recipe import SET_ASIDE, Recipe

    def say(line: str) -> None:
        echo(line, err=True)

    recipe = Recipe(steps=steps, bases=bases, rate=rate, set_aside=SET_ASIDE if set_aside else {}, seed=seed)
    where = choose_device(device)
    made = [out / name for name in (CONFIG, WEIGHTS, METRICS, PLOT)]
    require_free(made, force=force)
    make_folder(out)
    with alone(out, "training", ["*"]):
        require_free(made, force=force)
        kept = {"validation": validation, "test": test}
        held = prepare(genomes, out / "genomes.npz", **kept, left_out=left_out, say=say)
        network = train(held, recipe, out, where, pace=Pace(save=save_every), say=say)
        metrics = write_folder(out, network, DeviceGenomes(held, where), recipe, say=say)
        draw_training(out / LOG, out / PLOT)
        (out / STATE).unlink(missing_ok=True)
    if as_json:
        echo(json.dumps({"folder": str(out), "metrics": metrics}, sort_keys=True))
        return
    echo(f"wrote {out}: {WEIGHTS}, {CONFIG}, {METRICS}, {LOG}, {PLOT}")
    for sample, by_length in metrics["windows"].items():
        for length, found in by_length.items():
            label = f"{sample} " if sample else ""
            shown = "none, of one label" if found["roc_auc"] is None else f"{found['roc_auc']:.4f}"
            echo(f"  {label}{length:>6} bases: ROC-AUC {shown}, on units kept apart")
    echo(f"next: python -m jobs.predict CONTIGS --checkpoint {quote(str(out))} --out CALLS")


if __name__ == "__main__":
    main()
