"""Genomes to an encoder trained end to end, or a training set to an encoder that learns on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cli.progress import Progress
from vnp.errors import EncoderError, UsageError

if TYPE_CHECKING:
    import torch

SIXFRAME = "sixframe"
_OF_SIXFRAME = ("gpus", "bases", "validation", "test", "left_out", "set_aside", "window", "made_up", "windows")
_OF_OTHERS = (
    *("objective", "train", "epochs", "tokens", "warm_up", "rank", "alpha", "dropout", "patience"),
    *("watch_every", "token_budget", "weights"),
)


@command("python -m jobs.finetune SET --encoder fastesm2_650 --train lora --out tuned/")
@click.argument("source", metavar="SET", type=options.PATH)
@click.option(
    "--encoder",
    default=SIXFRAME,
    help="What to train: sixframe, from scratch, or an ESM2 model by its name or its folder.",
)
@click.option("--out", type=options.FOLDER, required=True, help="The folder to write.")
@click.option("--steps", type=click.IntRange(1), help="Of the optimiser.  [default: 10000 for sixframe, else --epochs]")
@click.option(
    "--rate",
    type=float,
    help="Learning rate at its highest.  [default: 2e-3 for sixframe; 1e-3 head, 3e-4 lora, 5e-5 top:N, 2e-5 all]",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, help="Of weights, order, crops, masks and dropout.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to train.")
@click.option("--save-every", type=click.IntRange(1), help="Steps between states to go on from.  [default: 1000; 200]")
@click.option(
    "--objective",
    type=click.Choice(["labels", "mlm", "contrastive"]),
    help="labels tells viral from host frames by a head on the row; mlm guesses masked residues; contrastive draws "
    "rows of one label together.  [default: labels]",
)
@click.option(
    "--train",
    help="head leaves the encoder as it is; lora trains adapters of its attention; top:N its last N layers; all "
    "everything.  [default: lora]",
)
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the set.  [default: 1]")
@click.option("--tokens", type=click.IntRange(1), help="In a step.  [default: 65,536]")
@click.option("--warm-up", type=click.IntRange(1), help="Steps in which the rate rises.  [default: 100]")
@click.option("--rank", type=click.IntRange(1), help="Of adapters.  [default: 8]")
@click.option("--alpha", type=float, help="Adapters are multiplied by alpha / rank.  [default: 16]")
@click.option("--dropout", type=float, help="Share of an adapter's inputs that is hidden.  [default: 0]")
@click.option("--patience", type=click.IntRange(1), help="Looks without a better one to end after.  [default: 5]")
@click.option("--watch-every", type=click.IntRange(1), help="Steps between looks at validation units.  [default: 100]")
@click.option("--token-budget", type=click.IntRange(1), help="Tokens at once.  [default: what fits into memory]")
@click.option("--weights", type=options.FOLDER, help="Folder of encoder weights.  [default: as for extract]")
@click.option("--gpus", type=click.IntRange(1), help="sixframe: of this machine, to train together.  [default: 1]")
@click.option("--bases", type=click.IntRange(1000), help="sixframe: in the crops of one step.  [default: 1,000,000]")
@click.option(
    "--validation", type=click.FloatRange(0.01, 0.5), help="sixframe: share of the units to watch.  [default: 0.08]"
)
@click.option(
    "--test", type=click.FloatRange(0.01, 0.5), help="sixframe: share of the units to keep apart.  [default: 0.17]"
)
@click.option("--left-out", multiple=True, help="sixframe: a group to keep apart as a whole; may be given again.")
@click.option(
    "--set-aside/--no-set-aside",
    default=None,
    help="sixframe: train no longer on pieces of prokaryotes and plasmids that look viral for 10 kb.  [default: "
    "set-aside]",
)
@click.option(
    "--window", type=click.IntRange(1), help="sixframe: bases that it will read at once in the end.  [default: 5000]"
)
@click.option(
    "--made-up",
    type=click.FloatRange(0, 0.5),
    help="sixframe: share of crops that are hosts shuffled, of repeats or of few letters.  [default: 0.04]",
)
@click.option(
    "--windows",
    type=click.IntRange(20),
    help="sixframe: of each label and length, to calibrate and measure on in the end; on a CPU, the default takes an "
    "hour.  [default: 4000]",
)
@options.disk
@options.force
@options.as_json
def main(source: Path, encoder: str, out: Path, force: bool, as_json: bool, **asked: Any) -> None:
    """Train an encoder on SET and write a folder that other commands take as they take fetched weights.

    For sixframe, SET is a sheet with the columns path, label and group (unit, kind and sample may be there), or the
    genomes.npz that an earlier training packed; predict --checkpoint takes the result. For ESM2 models it is the folder
    that jobs.dataset wrote: its training units are learnt from, its validation units are watched, its test units never
    seen; extract --protein takes the result. A killed training goes on where it was when it is started again.
    """
    # cuBLAS gives the same bytes every time only if it is told so before it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    given = {name: value for name, value in asked.items() if value is not None and value != ()}
    foreign = [name for name in (_OF_OTHERS if encoder == SIXFRAME else _OF_SIXFRAME) if name in given]
    if foreign:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
        raise UsageError(f"{named} says nothing to a training of {encoder}: leave it out")
    (_from_scratch if encoder == SIXFRAME else _tune)(source, encoder, out, given, force, as_json)


def _say(line: str) -> None:
    echo(line, err=True)


@contextlib.contextmanager
def _training() -> Iterator[Callable[[int, int], None]]:
    with Progress("training", None, "steps") as bar:
        yield lambda steps, total: bar.to(steps, f" of {total:,}")


def _from_scratch(genomes: Path, _encoder: str, out: Path, given: dict[str, Any], force: bool, as_json: bool) -> None:
    from vnp.encoders.device import choose_device
    from vnp.files.claims import alone, make_folder, require_free
    from vnp.finetune.crops import DeviceGenomes
    from vnp.finetune.folder import CONFIG, METRICS, PLOT, WEIGHTS, draw_training, write_folder
    from vnp.finetune.loop import train, train_together
    from vnp.finetune.pace import LOG, STATE, Pace
    from vnp.finetune.prepare import PACKED, prepare
    from vnp.finetune.recipe import SET_ASIDE, Recipe

    changed = {name: given[name] for name in ("steps", "bases", "rate", "seed", "window", "made_up") if name in given}
    recipe = Recipe(**changed, set_aside=SET_ASIDE if given.get("set_aside", True) else {})
    where = choose_device(given["device"])
    team = _team(where, given.get("gpus", 1))
    made = [out / name for name in (CONFIG, WEIGHTS, METRICS, PLOT)]
    require_free(made, force=force)
    make_folder(out)
    with alone(out, "training", ["*"]):
        require_free(made, force=force)
        kept = {"validation": given.get("validation", 0.08), "test": given.get("test", 0.17)}
        left_out, packed = given.get("left_out", ()), out / "genomes.npz"
        held = prepare(genomes, packed, **kept, left_out=left_out, say=_say)
        with _training() as told:
            pace = Pace(save=given.get("save_every", 1000), told=told)
            if len(team) > 1:
                packed = genomes if genomes.suffix == PACKED else packed
                train_together(packed, left_out, recipe, out, team, pace=pace, say=_say)
            network = train(held, recipe, out, where, pace=pace, say=_say)
        count = given.get("windows", 4000)
        metrics = write_folder(out, network, DeviceGenomes(held, where), recipe, count=count, say=_say)
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


def _team(where: torch.device, count: int) -> list[torch.device]:
    """The GPUs that train together; UsageError where there are not so many."""
    import torch

    if count == 1:
        return [where]
    there = torch.cuda.device_count() if where.type == "cuda" else 0
    if count > there:
        raise UsageError(f"--gpus {count}: torch sees {there} GPUs that it may use here")
    return [torch.device("cuda", number) for number in range(count)]


def _tune(source: Path, encoder: str, out: Path, given: dict[str, Any], force: bool, as_json: bool) -> None:
    from vnp.encoders.device import choose_device
    from vnp.finetune.language.tuning import Tuning, run_tuning

    tuning = Tuning(
        source=source,
        encoder=encoder,
        device=choose_device(given.pop("device")),
        **{name: given.pop(name) for name in ("epochs", "watch_every", "save_every", "token_budget") if name in given},
        weights=given.pop("weights", None),
        recipe=given,
    )
    with _training() as told:
        tuned, provenance = run_tuning(tuning, out, force=force, say=_say, told=told)
    result = provenance.result
    if as_json:
        echo(json.dumps({"folder": str(out), **result}, sort_keys=True))
    else:
        echo(f"wrote {out}: the encoder as it was at step {tuned.best} of {tuned.steps}")
        shown = ", ".join(f"{name} {value:.4f}" for name, value in result["validation"].items())
        if shown:
            echo(f"  on validation units: {shown}")
        if tuned.stopped and not tuned.failed:
            echo(f"  stopped: {tuned.stopped}")
        echo(f"next: python -m jobs.extract {quote(str(source))} --protein {quote(str(out))} --out RUN")
    if tuned.failed:
        raise EncoderError(
            f"{tuned.stopped}; {out} holds what was best on validation units before. Train with a smaller --rate"
        )


if __name__ == "__main__":
    main()
