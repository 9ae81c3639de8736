"""How far calls of a network of ``finetune`` can be trusted: reliability by group, and mixtures of many prevalences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from benchmarks._commands import command
from benchmarks.trust.distance import distance_table
from benchmarks.trust.pairs import MATES, mates_of, pairs_table
from vnp.errors import UsageError, WeightsError
from vnp.files.records import parse_json, read_record, write_json, write_record
from vnp.finetune.crops import DeviceGenomes
from vnp.finetune.folder import CONFIG, METRICS, SCHEMA, calibrate, measure_contigs, read_folder, score_contigs
from vnp.finetune.genomes import TEST, load_genomes
from vnp.finetune.measure import Windows, draw
from vnp.finetune.split import evidence_of, leave_out
from vnp.finetune.trust import Contigs, contigs_of, draw_test, levels_by_group, measure_trust
from vnp.metrics.evidence import Evidence
from vnp.metrics.metrics import binary_metrics
from vnp.metrics.prevalence import Prevalence, Shares, at_prevalence
from vnp.metrics.reliability import Reliability

SHARES = (0.01, 0.05, 0.2, 0.5, 0.9)
EUKARYOTIC = (0.1, 0.5, 0.9)
_EUKARYOTES = ("fungi", "protozoa", "plant", "invertebrate", "vertebrate")
_SHORTEST, _LONGEST = 500, 5000
_DRAWS = 40


class Row(NamedTuple):
    """Means over some draws of mixtures of one kind."""

    viral: float  # share of viruses
    eukaryotic: float  # share of the hosts
    found: float  # share that was estimated
    low: float  # end of the interval
    high: float  # the other end
    covered: float  # how often the interval held the true share
    refused: float  # how often it was refused
    before: dict[str, float]  # at one half, probabilities as calibrated
    after: dict[str, float]  # at one half, probabilities for the share found


@command("python -m benchmarks trust MODEL genomes.npz")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("genomes", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--measure", is_flag=True, help="Calibrate and measure anew, and write it into FOLDER.")
@click.option("--count", type=int, default=4000, help="Contigs of each label and length; 150 are minutes on a CPU.")
@click.option("--records", type=int, default=2000, help="Records of a mixture.")
@click.option("--left-out", multiple=True, help="A group that the network of FOLDER never saw: counts as of the test.")
@click.option(
    "--unseen",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What --json wrote of a network that was trained without groups: FOLDER is to say what its high calls were "
    "worth on these.",
)
@click.option("--distance", is_flag=True, help="Also by identity to the nearest genome trained on, by skani.")
@click.option("--pairs", is_flag=True, help="Only by what the log-odds of two mates should be multiplied.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where the network runs.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables there too."
)
def main(
    folder: Path,
    genomes: Path,
    measure: bool,
    count: int,
    records: int,
    left_out: tuple[str, ...],
    unseen: tuple[Path, ...],
    distance: bool,
    pairs: bool,
    device: str,
    json_path: Path | None,
) -> None:
    """Print reliability by group and the table of mixtures of FOLDER, on the test units of GENOMES (genomes.npz)."""
    from vnp.encoders.device import choose_device

    trained = read_folder(folder)
    held = DeviceGenomes(leave_out(load_genomes(genomes), left_out), choose_device(device))
    network = trained.network.to(held.device)
    if pairs:
        found = {mate: mates_of(network, held, mate, count) for mate in MATES}
        print(pairs_table(found, trained.calibration))
        return
    trust, tested, calibration = trained.trust, None, trained.calibration
    fresh: dict[str, Any] = {}
    if measure:
        contigs = score_contigs(network, held, count, trained.window)
        calibration, presets = calibrate(held.genomes, contigs)
        fresh["contigs"] = measure_contigs(held.genomes, contigs)
        trust, tested = measure_trust(network, held, calibration, count, trained.window)
        kept = {"presets": {name: asdict(preset) for name, preset in presets.items()}}
        _write(folder, {"calibration": calibration.to_json(), **kept})
    reliability = trust.reliability
    if reliability is None or trust.novelty is None:
        raise UsageError(f"{folder} keeps no reliability: give --measure")
    if unseen:
        told = {name: one for path in unseen for name, one in parse_json(path.read_text())["unseen"].items()}
        reliability = Reliability.from_json({**reliability.to_json(), "unseen": told})
        trust = replace(trust, reliability=reliability)
    if measure or unseen:
        _write(folder, {"trust": trust.to_json()})

    def score(pieces: Windows) -> Contigs:
        return contigs_of(network, held, pieces, calibration, trust.novelty, trained.window)

    if tested is None:
        tested = score(draw_test(held, count))
    for line in reliability.sentences():
        print(f"- {line}")
    groups = levels_by_group(reliability, tested)
    if measure:
        metrics = parse_json((folder / METRICS).read_text()) if (folder / METRICS).exists() else {}
        write_json(folder / METRICS, {**metrics, **fresh, "reliability": groups})
    print(group_table(groups, left_out))
    if distance:
        print(distance_table(held.genomes, tested))
    rows: list[Row] = []
    # Of a network that was trained without groups the table of groups is what there is to see.
    if not left_out and (lacking := _lacking(held)):
        print(f"\nno mixtures: the units kept for the test have no {lacking}")
    elif not left_out:
        pool, unit = pool_of(held, score, count), held.genomes.unit
        rows = [mixture(pool, unit, trust.evidence, viral, part, records) for viral in SHARES for part in EUKARYOTIC]
        print(mixture_table(rows))
    if json_path is not None:
        told = reliability.to_json()["unseen"]
        write_json(json_path, {"groups": groups, "unseen": told, "mixtures": [row._asdict() for row in rows]})


def _write(folder: Path, measured: dict[str, Any]) -> None:
    """Put what was measured into the configuration of a folder; weights and the rest stay."""
    config = read_record(folder / CONFIG, dict, schema=SCHEMA, seal="digest", error=WeightsError)
    assert config is not None
    write_record(folder / CONFIG, {**config, **measured}, schema=SCHEMA, seal="digest")


def group_table(groups: dict[str, dict[str, Any]], left_out: tuple[str, ...]) -> str:
    """How many calls of each level are wrong, by group, as Markdown."""
    lines = ["", "| group | high | wrong | medium | wrong | low | wrong |", "|---|--:|--:|--:|--:|--:|--:|"]
    for name, levels in groups.items():
        shown = [
            text
            for level in ("high", "medium", "low")
            for text in (f"{levels[level]['calls']:,}", _percent(levels[level]["wrong"]))
        ]
        lines.append("| " + " | ".join([f"{name} (left out)" if name in left_out else name, *shown]) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def pool_of(held: DeviceGenomes, score: Callable[[Windows], Contigs], count: int) -> dict[str, Contigs]:
    """Contigs that mixtures are drawn from: viruses, hosts with a nucleus, and others.

    They are of the test units that the evidence for a share does not know.
    """
    kinds = _kinds(held)
    return {name: score(draw(held, chosen, _SHORTEST, _LONGEST, count, seed=23)) for name, chosen in kinds.items()}


def _kinds(held: DeviceGenomes) -> dict[str, Bool[np.ndarray, "r"]]:
    genomes = held.genomes
    test = (genomes.part == TEST) & ~evidence_of(genomes) & (genomes.lengths >= _SHORTEST)
    eukaryotic = np.isin(np.array(genomes.groups), _EUKARYOTES)[genomes.group]
    viral = genomes.viral
    return {"viral": test & viral, "eukaryotic": test & ~viral & eukaryotic, "other": test & ~viral & ~eukaryotic}


def _lacking(held: DeviceGenomes) -> str:
    """The kinds of which there is no contig."""
    return ", ".join(name for name, chosen in _kinds(held).items() if not chosen.any())


def mixture(
    pool: dict[str, Contigs], unit: Int32[np.ndarray, "r"], evidence: Evidence | None,
    viral: float, eukaryotic: float, records: int, draws: int = _DRAWS,
) -> Row:  # fmt: skip
    """Some draws of records with this share of viruses, and of eukaryotes among the hosts.

    Each draw is of half of the units, so that draws differ as samples of other places do.

    Args:
        pool: contigs of each kind.
        unit: of every record of the genomes.
        evidence: what held-out records look like.
        viral: share of viruses.
        eukaryotic: share of the hosts.
        records: of a mixture.
        draws: that the means are over.
    """
    counts = {"viral": round(viral * records)}
    counts["eukaryotic"] = round((records - counts["viral"]) * eukaryotic)
    counts["other"] = records - counts["viral"] - counts["eukaryotic"]
    estimates: list[Prevalence] = []
    seen: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for seed in range(draws):
        random = np.random.default_rng((seed, records))
        chosen = {name: random.choice(_half(unit[pool[name].pieces.record], random), n) for name, n in counts.items()}
        label, chance, novelty = (
            np.concatenate([getattr(pool[name], column)[some] for name, some in chosen.items()])
            for column in ("viral", "probability", "novelty")
        )
        length = np.concatenate([pool[name].pieces.length[some] for name, some in chosen.items()])
        shares = Shares()
        shares.add(chance, 0.5, novelty, length=length, evidence=evidence)
        estimates.append(shares.estimate())
        seen["before"].append(figures(label, chance))
        seen["after"].append(figures(label, at_prevalence(chance, estimates[-1].share)))
    means = {
        name: {key: float(np.nanmean([one[key] for one in found])) for key in found[0]} for name, found in seen.items()
    }
    return Row(
        viral,
        eukaryotic,
        float(np.mean([one.share for one in estimates])),
        float(np.mean([one.low for one in estimates])),
        float(np.mean([one.high for one in estimates])),
        float(np.mean([one.low <= counts["viral"] / records <= one.high for one in estimates])),
        float(np.mean([bool(one.refused) for one in estimates])),
        means["before"],
        means["after"],
    )


def _half(unit: Int32[np.ndarray, "n"], random: np.random.Generator) -> Int64[np.ndarray, "m"]:
    """Places of the contigs of half of the units."""
    units = np.unique(unit)
    return np.flatnonzero(np.isin(unit, random.permutation(units)[: -(-len(units) // 2)]))


def figures(label: Bool[np.ndarray, "n"], chance: Float64[np.ndarray, "n"]) -> dict[str, float]:
    """F1 and calibration error of calls at one half, and the false discovery rate they promise and have."""
    found = binary_metrics(label.astype(np.int8), chance, 0.5)
    called = chance >= 0.5
    nothing = not called.any()
    return {
        "f1": found["f1"],
        "ece": found["ece"],
        "promised": float("nan") if nothing else float((1 - chance[called]).mean()),
        "seen": float("nan") if nothing else float((~label[called]).mean()),
    }


def mixture_table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "",
        "| viral | hosts eukaryotic | share found | interval | holds it | refused | F1 | ECE | FDR promised |"
        " FDR seen | F1 for the share | ECE | FDR promised | FDR seen |",
        "|" + "--:|" * 14,
    ]
    for row in rows:
        numbers = [f"{one[key]:.3f}" for one in (row.before, row.after) for key in ("f1", "ece", "promised", "seen")]
        cells = [
            f"{row.viral:.0%}",
            f"{row.eukaryotic:.0%}",
            f"{row.found:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            f"{row.covered:.0%}",
            f"{row.refused:.0%}",
            *numbers,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
