"""What lengths and strands of genes say for a phage: the numbers of ``vnp.prediction.genes``."""

from __future__ import annotations

import numpy as np

from benchmarks.regions.genomes import plant
from vnp.finetune.genomes import TRAIN, Genomes, within
from vnp.prediction.genes import LENGTHS, find_genes

_FEWEST = 1.5


def print_odds(genomes: Genomes) -> None:
    """Count genes of phages of training units, put into bacteria of training units.

    Hosts with fewer than 1.5 phages a Mbp are left out, and genes in what resembles viruses in the host itself.
    """
    lengths = np.zeros((2, len(LENGTHS) + 1))
    pairs = np.zeros((2, 2))
    for genome in plant(genomes, TRAIN):
        if len(genome.viral) < _FEWEST * len(genome.codes) / 1e6:
            continue
        genes = find_genes(genome.codes)
        middle = (genes.start + genes.end) // 2
        viral, unknown = (
            within(np.stack((one[:, 0], one[:, 1] - one[:, 0]), axis=1), len(genome.codes))[middle]
            for one in (genome.viral, genome.unknown)
        )
        same = genes.reverse[1:] == genes.reverse[:-1]
        for label, own in enumerate((~viral & ~unknown, viral)):
            classes = np.digitize((genes.end - genes.start)[own], LENGTHS)
            lengths[label] += np.bincount(classes, minlength=len(LENGTHS) + 1)
            both = own[1:] & own[:-1]
            pairs[label] += np.bincount(same[both], minlength=2)
    print(f"genes: {lengths[0].sum():,.0f} of hosts, {lengths[1].sum():,.0f} of phages")
    for counts, names in (
        (lengths, [*(f"under {length:,}" for length in LENGTHS), "longer"]),
        (pairs, ["other", "same"]),
    ):
        share = counts / counts.sum(axis=1, keepdims=True)
        for name, host, phage in zip(names, *share, strict=True):
            print(f"{name:>12}  hosts {host:.3f}  phages {phage:.3f}  log-odds {np.log(phage / host):+.2f}")
