"""Rehearses ``slurm/migration.sh``: every step on this machine, with random weights, and the seconds that each takes.

What comes out says nothing of accuracy, since no weights are real: it says that the road is whole, and how long it is.
"""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import click

from benchmarks._commands import command
from benchmarks.end_to_end import make_folder
from jobs._cluster.worker import environment
from vnp.encoders.device import choose_device
from vnp.errors import RunError
from vnp.files.records import read_json
from vnp.speed.measure import free
from vnp.speed.workloads import SAMPLE

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "migration.sh"
# Frames of all chunks of a few genomes: enough that a GPU has work for some seconds; and just enough of them.
_FULL = {
    "DATASET": "--frames all --units genome --lengths 150,300,500",
    "TUNING": "--objective labels --train lora --steps 20 --tokens 32768 --watch-every 10",
}
_SMALL = {
    "DNA": "kmer",
    "CLUSTER": "inline",
    "DATASET": "--frames all --units genome --lengths 150 --per-group 30 --workers 1",
    "TUNING": "--objective labels --train lora --steps 2 --tokens 2000 --watch-every 2",
    "ACCURACY": "--replicates 20",
}


@command("python -m benchmarks migration --out REHEARSAL --full")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to fill.")
@click.option("--full", is_flag=True, help="The published sizes and DNABERT-S, not small models and k-mers of DNA.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where weights are drawn.")
def main(out: Path, full: bool, device: str) -> None:
    """Run slurm/migration.sh with random weights on the bundled genomes, and print the seconds of each step."""
    place, weights = choose_device(device), out / "weights"
    encoders = {"NEW": ("fastesm2_650", "random_650m"), "OLD": ("esm2_3b", "random_3b")}
    if full:
        encoders["DNA"] = ("dnabert_s", "random_dna")
    settings = {"SHEET": str(write_genomes(out / "genomes")), "SHARDS": "1", **(_FULL if full else _SMALL)}
    for seed, (variable, (name, called)) in enumerate(encoders.items()):
        made = weights / called
        # Drawn once: given again, this goes on as the script does.
        if not (made / "model.safetensors").exists():
            click.echo(f"random weights: {called}")
            make_folder(weights, name, str(place), full=full, seed=seed, called=called)
            free(place)
        settings[variable] = str(made.absolute())
    # What commands that others call take as their defaults; nobody's own vnp.toml counts.
    (out / "vnp.toml").write_text("" if full else "[train]\nepochs = 2\n[benchmark.accuracy]\nreplicates = 20\n")
    rehearse(out / "made", settings)
    click.echo("| step | seconds |\n|---|---|")
    with (out / "made" / "times.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            click.echo(f"| {row['step']} | {row['seconds']} |")
    for one in read_json(out / "made/answer/accuracy.json")["speed"]:
        click.echo(f"{one['contestant']}: {one['rows']:,} rows, {one['rows_per_second']:,.0f} a second of a task")


def rehearse(out: Path, settings: dict[str, str]) -> None:
    """Run the script by this Python, in the folder above the one that it fills; RunError where a step failed."""
    own = {"OUT": str(out.absolute()), "VNP": f"{sys.executable} -P -m jobs", "CLUSTER": "local", **settings}
    code = subprocess.run(["bash", str(SCRIPT)], cwd=out.parent, env={**environment(), **own}).returncode
    if code != 0:
        raise RunError(f"{SCRIPT.name} ended with {code}; what it said last is above")


def write_genomes(folder: Path) -> Path:
    """The bundled genomes, annotated with a few bases and no gene, since all frames are taken; gives their sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,group,organism_group,annotation"]
    with (SAMPLE / "samplesheet.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            path, annotation = SAMPLE / row["path"], folder.absolute() / f"{row['group']}.gff3"
            with gzip.open(path, "rt") as text:
                name = text.readline()[1:].split()[0]
            annotation.write_text(f"##gff-version 3\n{name}\tvnp\tregion\t1\t30\t.\t+\t.\tID=start\n")
            kind = "viral" if row["label"] == "viral" else "bacteria"
            lines.append(f"{path},{row['label']},{row['group']},{kind},{annotation}")
    sheet = folder.absolute() / "genomes.csv"
    sheet.write_text("\n".join(lines) + "\n")
    return sheet
