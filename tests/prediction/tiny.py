"""A small classifier that knows the bundled sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from jobs.extract import main as extract
from jobs.reduce import main as reduce
from vnp.classifier.checkpoint import Checkpoint
from vnp.classifier.model import MLPClassifier
from vnp.features.read import Features, open_features

SAMPLE = Path(__file__).resolve().parents[2] / "vnp" / "sample"


def embed(inputs: list[Path], out: Path, *, layout: str = "1664", protein: str = "kmer") -> Features:
    """Features of some files by k-mers, chunk 300."""
    asked = [*map(str, inputs), "--out", str(out), "--dna", "kmer", "--protein", protein, "--cluster", "inline"]
    for command, words in ((extract, asked), (reduce, [str(out), "--layout", layout])):
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 0, done.output
    return open_features(out)


def train(features: Features, path: Path, *, steps: int = 60) -> Checkpoint:
    """Fit the network to labelled features for a few steps, without any split, and write it."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    # So few rows are computed fastest by one thread.
    torch.set_num_threads(1)
    network = MLPClassifier(features.width)
    rows = torch.from_numpy(np.concatenate([window.values for window in features.windows()]))
    labels = torch.from_numpy(features.labels().astype(np.int64))
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(network(rows), labels)
        # By hand: the optimisers of torch import its compiler, which takes longer than all of this.
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.sub_(gradient, alpha=0.3)
    torch.set_num_threads(threads)
    encoders = {part.name: features.provenance["encoders"][part.name] for part in features.layout.parts}
    checkpoint = Checkpoint(network.eval().state_dict(), features.layout, encoders, features.chunk)
    checkpoint.write(path)
    return checkpoint
