from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from tests.grid_engine.keeper import variables
from tests.slurm.conftest import fasta, make_case, reference, require_programs, started
from tests.slurm.site import Site

__all__ = ["fasta", "make_case", "reference"]


class CellSite(Site):
    """A Grid Engine as a test uses it."""

    cluster: ClassVar[str] = "sge"
    module: ClassVar[str] = "tests.grid_engine.keeper"

    @classmethod
    def variables(cls, root: Path) -> dict[str, str]:
        return variables(root)

    def inside(self, words: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self.keeper.pid}", "--net", *words]

    def queued(self, jobs: Sequence[str]) -> list[str]:
        elements = ElementTree.fromstring(self.say("qstat", "-xml", "-g", "d", "-u", "*")).iter("job_list")
        found = [[one.findtext(tag, "") for tag in ("JB_job_number", "tasks", "state")] for one in elements]
        return [f"{job}.{task} {state}" for job, task, state in found if job in jobs]


@pytest.fixture(scope="session")
def cell() -> Iterator[Site]:
    require_programs("sge_qmaster", "sge_execd", "qsub", "qstat", "qacct", "nsenter")
    yield from started(CellSite, cpus=16)
