from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from jobs import cancel
from jobs._cluster import executor
from tests.jobs.fake_slurm import FakeSlurm, slurm

__all__ = ["slurm"]


def invoke(run: Path, code: int = 0) -> str:
    result = CliRunner().invoke(cancel.main, [str(run)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_all_jobs_of_the_run_and_no_others(slurm: FakeSlurm, tmp_path: Path) -> None:
    executor.note(tmp_path, "41", "vnp-run-0-3", 0, [0, 1, 2, 3])
    executor.note(tmp_path, "120", "vnp-run-reduce", 0, [])
    executor.note(tmp_path, "7", "vnp-run-0-3", 0, [0])
    slurm.answer(
        "squeue",
        "41|0|RUNNING|None|vnp-run-0-3\n41|1|PENDING|Priority|vnp-run-0-3\n120|N/A|PENDING|Dependency|vnp-run-reduce\n"
        "50|0|RUNNING|None|vnp-other-0-3\n7|0|RUNNING|None|something else\n51|0|PENDING|Priority|vnp-run-0-3\n",
    )
    assert "cancelled 3 tasks of 2 jobs (1 had started" in invoke(tmp_path)
    # What waits for others goes first, or it would start.
    assert slurm.calls("scancel") == ["120 41"]


def test_nothing_to_cancel(slurm: FakeSlurm, tmp_path: Path) -> None:
    executor.note(tmp_path, "41", "vnp-run-0-3", 0, [0])
    assert "nothing to cancel" in invoke(tmp_path)
    slurm.answer("squeue", "41|0|COMPLETING|None|vnp-run-0-3\n")
    assert "nothing to cancel" in invoke(tmp_path)
    assert slurm.calls("scancel") == []


def test_what_is_no_run(slurm: FakeSlurm, tmp_path: Path) -> None:
    assert "is not a run" in invoke(tmp_path / "nowhere", code=2)


def test_slurm_does_not_answer(slurm: FakeSlurm, tmp_path: Path) -> None:
    executor.note(tmp_path, "41", "vnp-run-0-3", 0, [0])
    slurm.answer("squeue", code=1)
    assert "Slurm does not answer" in invoke(tmp_path, code=1)


def test_slurm_refuses(slurm: FakeSlurm, tmp_path: Path) -> None:
    executor.note(tmp_path, "41", "vnp-run-0-3", 0, [0])
    slurm.answer("squeue", "41|0|RUNNING|None|vnp-run-0-3\n")
    slurm.answer("scancel", error="scancel: error: Kill job error on job id 41: Access/permission denied", code=1)
    assert "permission denied" in invoke(tmp_path, code=1)
