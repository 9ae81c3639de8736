"""An image as a test uses it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 300


@dataclass(frozen=True)
class Box:
    """An image and the Apptainer that runs it.

    Args:
        path: the image.
        environment: variables with which ``apptainer`` is found.
    """

    path: Path
    environment: dict[str, str]

    def apptainer(
        self,
        action: str,
        *words: object,
        options: Sequence[str] = (),
        cwd: Path | None = None,
        user: int | None = None,
        code: int = 0,
        given: Mapping[str, str] | None = None,
    ) -> str:
        """Run ``apptainer ACTION OPTIONS IMAGE WORDS`` and return both its streams.

        Args:
            action: ``exec``, ``run``, ``test`` or ``inspect``.
            words: behind the image.
            options: before the image.
            cwd: working directory.
            user: number of the user to be.
            code: the exit code that it must have.
            given: more variables.
        """
        # setpriv leaves no group and no capability of root's behind.
        become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        done = subprocess.run(
            [*become, "apptainer", "--quiet", action, *options, str(self.path), *map(str, words)],
            cwd=cwd or "/",
            env={**self.environment, **(given or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def exec(
        self, *words: object, options: Sequence[str] = (), code: int = 0, given: Mapping[str, str] | None = None
    ) -> str:
        """Run a program in the image."""
        return self.apptainer("exec", *words, options=options, code=code, given=given)

    def labels(self) -> dict[str, str]:
        """What the image says of itself."""
        said = json.loads(self.apptainer("inspect", options=["--json", "--labels"]))
        found: dict[str, str] = said["data"]["attributes"]["labels"]
        return found
