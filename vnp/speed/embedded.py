"""How fast the rows of runs were embedded, as their receipts tell: beside accuracies, what these cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vnp.comparison.results import Section
from vnp.runs.done.receipts import sums
from vnp.speed.runs import read_receipts, tasks_of

_HEADER = (
    *("", "protein encoder", "on", "rows", "tasks", "rows/s of a task", "protein tokens/s", "seconds a million rows"),
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """What it took to embed the rows of one contestant."""

    contestant: str
    encoders: dict[str, str]  # name of the encoder of each molecule
    precisions: dict[str, str]  # that these ran in
    devices: tuple[str, ...]  # names of GPUs, or ``cpu``
    rows: int
    tokens: dict[str, int]  # that each encoder read
    tasks: int  # processes that made shards
    seconds: float  # of these, once their encoders were loaded, summed
    embedding: dict[str, float]  # seconds of these within each encoder

    @property
    def rows_per_second(self) -> float:
        """Of one task, once its encoders are loaded."""
        return self.rows / self.seconds


def read_embedded(contestant: str, root: Path) -> Embedded | None:
    """What the receipts of a run say; None where there are none, DamagedShardError where one is damaged."""
    receipts = read_receipts(root)
    if not receipts:
        return None
    tasks = tasks_of(receipts)
    encoders = receipts[0].encoders
    return Embedded(
        contestant,
        {molecule: str(one["name"]) for molecule, one in encoders.items()},
        {molecule: str(one["precision"]) for molecule, one in encoders.items()},
        tuple(sorted({device for each in receipts for device in each.devices})),
        sum(each.rows for each in receipts),
        {name: int(count) for name, count in sums([each.tokens for each in receipts]).items()},
        len(tasks),
        sum(task.working for task in tasks),
        sums([{name: each.seconds.get(name, 0.0) for name in each.encoders} for each in receipts]),
    )


def speed_section(runs: Sequence[tuple[str, Path]]) -> Section:
    """The part of a page on how fast rows were embedded.

    ``runs`` has the name of each contestant, and the folder of its run.
    """
    found = [(name, read_embedded(name, root)) for name, root in runs]
    return Section(
        "speed",
        "Embedding, as the receipts of the runs tell",
        _HEADER,
        [_row(name, one) for name, one in found],
        [{**asdict(one), "rows_per_second": one.rows_per_second} for _, one in found if one is not None],
    )


def _row(name: str, one: Embedded | None) -> list[str]:
    if one is None:
        return [name, "no receipts beside the features", *("-" for _ in _HEADER[2:])]
    protein, spent = one.encoders.get("protein"), one.embedding.get("protein", 0.0)
    return [
        name,
        "none" if protein is None else f"{protein}, {one.precisions['protein']}",
        ", ".join(one.devices),
        f"{one.rows:,}",
        f"{one.tasks:,}",
        f"{one.rows_per_second:,.0f}",
        f"{one.tokens.get('protein', 0) / spent:,.0f}" if spent else "-",
        f"{1e6 / one.rows_per_second:,.0f}" if one.rows else "-",
    ]
