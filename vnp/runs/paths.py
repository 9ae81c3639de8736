"""Where things are in a run directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_SHARD = re.compile(r"^shard-(\d{5,})$")


@dataclass(frozen=True)
class RunPaths:
    """The files of one run, below ``root``."""

    root: Path

    @property
    def request(self) -> Path:
        """What was asked."""
        return self.root / "run.json"

    @property
    def ask(self) -> Path:
        """What is to be planned, where planning is a job of its own."""
        return self.root / "ask.json"

    @property
    def plan(self) -> Path:
        """The shard table."""
        return self.root / "plan.h5"

    @cached_property
    def shards(self) -> Path:
        """Folder of sealed shards."""
        return self.root / "shards"

    @cached_property
    def receipts(self) -> Path:
        """Folder of receipts."""
        return self.root / "receipts"

    @cached_property
    def parts(self) -> Path:
        """Folder of unfinished shards, one folder each."""
        return self.root / "parts"

    @cached_property
    def logs(self) -> Path:
        """Folder of logs, one a task and attempt."""
        return self.root / "logs"

    @property
    def features(self) -> Path:
        """The merged features."""
        return self.root / "features.h5"

    @property
    def skipped(self) -> Path:
        """What has no row, with its reason."""
        return self.root / "skipped.tsv"

    def shard(self, number: int) -> Path:
        """A sealed shard."""
        return self.shards / f"{shard_name(number)}.h5"

    def receipt(self, number: int) -> Path:
        """A shard's receipt."""
        return self.receipts / f"{shard_name(number)}.json"

    def blocks(self, number: int) -> Path:
        """Folder of an unfinished shard's blocks and attempts."""
        return self.parts / shard_name(number)

    def block(self, number: int, block: int) -> Path:
        """One block of an unfinished shard."""
        return self.blocks(number) / f"block-{block:05d}.h5"

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.root, self.shards, self.receipts, self.parts, self.logs):
            folder.mkdir(parents=True, exist_ok=True)


def shard_name(number: int) -> str:
    """``shard-00003``."""
    return f"shard-{number:05d}"


def shard_number(name: str) -> int | None:
    """3 for ``shard-00003`` (a suffix such as ``.json`` already removed), None for another name."""
    match = _SHARD.match(name)
    return int(match.group(1)) if match else None
