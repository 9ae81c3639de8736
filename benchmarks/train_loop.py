"""Training row by row, the way VirNucPro does it: what the benchmark compares with. Nothing else uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from vnp.classifier.model import MLPClassifier
from vnp.classifier.recipe import VIRNUCPRO


class Files(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows of many files in memory; a row is found by counting through the files.

    Args:
        features: the rows of each file.
        labels: class of each row of each file.
    """

    def __init__(self, features: list[torch.Tensor], labels: list[torch.Tensor]) -> None:
        self._features = features
        self._labels = labels

    def __len__(self) -> int:
        return sum(len(file) for file in self._features)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        before = 0
        for features, labels in zip(self._features, self._labels, strict=True):
            if index < before + features.size(0):
                return features[index - before], torch.tensor(int(labels[index - before]))
            before += features.size(0)
        raise IndexError(index)


def loop_seconds(files: Files, device: torch.device, workers: int, limit: int) -> tuple[float, float]:
    """Seconds of a row while training, and while batches are only made.

    Args:
        files: the rows.
        device: to train on.
        workers: processes that make batches.
        limit: rows after which to stop; the first batches, while the workers start, do not count.
    """
    network = MLPClassifier(files[0][0].shape[0]).to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=VIRNUCPRO.rate, momentum=VIRNUCPRO.momentum)

    def train(features: torch.Tensor, labels: torch.Tensor) -> None:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(features.to(device)), labels.to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loss.item()

    def only_make(_features: torch.Tensor, _labels: torch.Tensor) -> None:
        pass

    found = []
    for take in (train, only_make):
        loader = DataLoader(files, batch_size=VIRNUCPRO.batch, shuffle=True, num_workers=workers)
        batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(loader)
        for _ in range(2 * max(1, workers)):
            take(*next(batches))
        begun = time.perf_counter()
        rows = 0
        for features, labels in batches:
            take(features, labels)
            rows += len(labels)
            if rows >= limit:
                break
        found.append((time.perf_counter() - begun) / rows)
        del batches
    return found[0], found[1]
