"""Tasks that run out of memory, and nodes that kill them: what the next try is given, and when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.conftest import MakeCase
from tests.slurm.site import Case, Site

pytestmark = pytest.mark.slurm

HUNGRY = 0
ON_A_BAD_NODE = (1, 2)


@pytest.fixture(scope="module")
def mended(small_site: Site, make_case: MakeCase) -> tuple[Case, Case]:
    """Two runs: one whose tasks fail and are helped, and one whose task may not have enough."""
    helped, capped = make_case(small_site, "helped"), make_case(small_site, "capped", 'memory_cap = "310M"')
    helped.fault(f"{HUNGRY}.1.memory.always", *(f"{shard}.1.node.always" for shard in ON_A_BAD_NODE))
    capped.fault("0.1.memory.always")
    helped.start("extract", 3)
    capped.start("extract", 1)
    for case in (helped, capped):
        case.settle()
    return helped, capped


def test_task_out_of_memory_gets_more(mended: tuple[Case, Case], reference: Path) -> None:
    case = mended[0]
    first, last = case.receipt(HUNGRY)["attempts"]
    assert [one["asked"]["mem"] / 2**20 for one in (first, last)] == [300, 450]
    assert first["error"].startswith("killed by SIGKILL: out of memory; out of memory with 300M: asked again with 450M")
    case.require_same(reference)


def test_node_that_kills_what_succeeds_elsewhere_is_left_out(mended: tuple[Case, Case]) -> None:
    case = mended[0]
    bad = (case.faults / "bad").read_text()
    for shard in ON_A_BAD_NODE:
        *before, last = [one["node"] for one in case.receipt(shard)["attempts"]]
        assert set(before) <= {bad}
        assert last != bad
    scripts = [case.log(f"{case.jobs[0]}_{shard}") for shard in ON_A_BAD_NODE]
    assert any(f"ExcNodeList={bad}" in text for text in scripts)


def test_task_that_may_not_have_more_is_given_up_and_says_why(mended: tuple[Case, Case], reference: Path) -> None:
    case = mended[1]
    (shard,) = case.status(3)["shards"]
    assert shard["attempts"] == 2
    assert "out of memory with 310M, the most that is asked for: raise memory_cap or mem; given up" in shard["error"]
    profile = case.folder / "profile.toml"
    profile.write_text(profile.read_text().replace("310M", "600M"))
    assert "shard 0: out of memory with 310M: asked again with 465M" in case.rerun()
    case.settle()
    case.require_same(reference)
