"""What a task that failed is given at its next try, from attempts that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from jobs._cluster.mending import mended
from jobs._cluster.profile import Resources
from vnp.files.machine import bytes_of
from vnp.runs.done.receipts import Attempt

ASKED = Resources(mem="48G", time=60, retries=2)
OUT: dict[str, Any] = {"error": "killed by SIGKILL: out of memory; out of memory with 48G: asked again with 72G"}
LATE: dict[str, Any] = {"error": "its time was up in the middle of a block", "blocks": 0}
BAD = {"n1": "2 tasks died there", "n2": "2 tasks died there"}


def failed(mem: str = "48G", minutes: float = 60, **more: Any) -> Attempt:
    asked = {"mem": float(bytes_of(mem)), "seconds": 60 * minutes - 1}
    given = {"outcome": "failed", "error": "RuntimeError: a fault", "blocks": 3, "job": "41_0", **more}
    return Attempt(
        1, "n1", 7, "1", log=None, started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:10:00+00:00",
        node="n1", asked=asked, begun="2026-01-01T00:00:00+00:00", **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tries", "profile", "mem", "time", "again", "why"),
    [
        ([], {}, "48G", 60, True, ""),
        ([failed()], {}, "48G", 60, True, ""),
        ([failed(**OUT)], {}, "72G", 60, True, "out of memory with 48G: asked again with 72G"),
        ([failed(**OUT), failed("72G", **OUT)], {}, "108G", 60, True, "out of memory with 72G: asked again with 108G"),
        ([failed(**OUT)], {"memory_growth": 2}, "96G", 60, True, "asked again with 96G"),
        # What was given once stays, also if the next try fails otherwise, is stopped, or the profile is lowered.
        ([failed(**OUT), failed("72G")], {}, "72G", 60, True, "asked again with 72G"),
        ([failed(**OUT)], {"mem": "16G", "memory_cap": "100G"}, "72G", 60, True, "asked again with 72G"),
        ([failed(**OUT)], {"mem": "128G"}, "128G", 60, True, "asked again with 128G"),
        ([failed(**OUT)], {"memory_cap": "60G"}, "60G", 60, True, "asked again with 60G"),
        ([failed("60G", **OUT)], {"memory_cap": "60G"}, "60G", 60, False, "out of memory with 60G, the most"),
        ([failed("192G", **OUT)], {}, "192G", 60, False, "the most that is asked for: raise memory_cap or mem"),
        ([failed(**LATE)], {}, "48G", 90, True, "no block was made in 60 min: asked again with 90 min"),
        ([failed(**LATE), failed(minutes=90, **LATE)], {}, "48G", 135, True, "asked again with 135 min"),
        ([failed(minutes=90, **LATE)], {"time_cap": "01:30:00"}, "48G", 90, False, "made in 90 min, the most"),
        ([failed(**{**LATE, "blocks": 1})], {}, "48G", 60, True, ""),
        ([failed(error="ChangedInputError: shorter")], {}, "48G", 60, False, ""),
        ([failed(error="EncoderError: there is no GPU")], {}, "48G", 60, True, ""),
    ],
)
def test_memory_and_time_of_the_next_try(
    tries: list[Attempt], profile: dict[str, Any], mem: str, time: int, again: bool, why: str
) -> None:
    asked = Resources(**{"mem": "48G", "time": 60, **profile})
    found = mended(tries, asked)
    assert (found.wanted.mem, found.wanted.minutes, found.again) == (mem, time, again)
    assert why in " ".join(found.why)
    assert bool(why) == bool(found.why)


@pytest.mark.parametrize(
    ("profile", "nodes", "left_out"),
    [
        ({}, 8, ("n1", "n2")),
        ({}, None, ("n1", "n2")),
        # Half of them must stay.
        ({}, 2, ("n1",)),
        ({}, 1, ()),
        ({"exclude": ("n9", "n1")}, 8, ("n9", "n1", "n2")),
        ({"extra": ("--nodelist=n1",)}, 8, ()),
    ],
)
def test_nodes_that_are_left_out(profile: dict[str, Any], nodes: int | None, left_out: tuple[str, ...]) -> None:
    found = mended([failed()], Resources(**profile), BAD, nodes)
    assert found.wanted.exclude == left_out
    assert [sentence.split()[0] for sentence in found.why] == [node for node in left_out if node in BAD]


@pytest.mark.parametrize(
    ("words", "mem", "time"), [("OUT_OF_MEMORY, exit code 0:125", "72G", 60), ("TIMEOUT", "48G", 90), ("", "48G", 60)]
)
def test_the_scheduler_explains_what_vanished(words: str, mem: str, time: int) -> None:
    gone = failed(outcome="vanished", error=None, blocks=0)
    found = mended([gone], ASKED, words={"41_0": words}).wanted
    assert (found.mem, found.minutes) == (mem, time)
