"""A scheduler's commands as small scripts: they note how they were called and answer what a test has laid out."""

from __future__ import annotations

from pathlib import Path

import pytest

_SCRIPT = """#!/bin/sh
printf '%s\\n' "$*" >> '{folder}/{name}.calls'
{extra}
[ -f '{folder}/{name}.err' ] && cat '{folder}/{name}.err' >&2
[ -f '{folder}/{name}.out' ] && cat '{folder}/{name}.out'
[ -f '{folder}/{name}.code' ] && exit "$(cat '{folder}/{name}.code')"
exit 0
"""
# Takes its last argument, or what it is given; an answer for it that is no failure is said before that of a submission.
_SUBMIT = """
for last; do :; done
[ -f '{folder}/{name}.code' ] || {{
  number=$(ls '{folder}' | grep -c '^script')
  cat ${{last:+"$last"}} > "{folder}/script$number"
  printf '{taken}\\n' "$((number + 41))"
}}
"""


class FakeSlurm:
    """A scheduler as far as a submission sees it. Jobs get the ids 41, 42 …

    Args:
        folder: for the scripts, which is put first on PATH.
        names: the commands that are there; the first takes scripts.
        taken: what that answers, with the place of the id.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], taken: str = "Submitted batch job %s") -> None:
        self.folder = folder
        folder.mkdir()
        for name in names:
            path = folder / name
            extra = _SUBMIT.format(folder=folder, name=name, taken=taken) if name == names[0] else ""
            path.write_text(_SCRIPT.format(folder=folder, name=name, extra=extra))
            path.chmod(0o755)

    def answer(self, name: str, text: str = "", *, error: str = "", code: int = 0) -> None:
        """Lay out what a command prints and how it ends."""
        (self.folder / f"{name}.out").write_text(text)
        (self.folder / f"{name}.err").write_text(error)
        code_file = self.folder / f"{name}.code"
        code_file.unlink(missing_ok=True)
        if code:
            code_file.write_text(str(code))

    def calls(self, name: str) -> list[str]:
        """The arguments of each call of a command."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def scripts(self) -> list[str]:
        """The batch scripts that were submitted."""
        return [path.read_text() for path in sorted(self.folder.glob("script*"))]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """All of Slurm's commands, with an empty queue."""
    fake = FakeSlurm(tmp_path / "slurm", ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol"))
    for name in ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "VNP_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{fake.folder}:/usr/bin:/bin")
    return fake
