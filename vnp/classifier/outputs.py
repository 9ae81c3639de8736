"""The files of a training: what they are called, whether they may be written, and one training at a time."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vnp.errors import RunExistsError, UsageError, storage_error
from vnp.files.durable import remove_temporaries


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files of a training, all beside the checkpoint."""

    checkpoint: Path

    def beside(self, suffix: str) -> Path:
        """``model.split.tsv`` for ``model.pth`` and ``split.tsv``."""
        return self.checkpoint.with_name(f"{self.checkpoint.stem}.{suffix}")

    @property
    def split(self) -> Path:
        """Which group is in which part."""
        return self.beside("split.tsv")

    @property
    def log(self) -> Path:
        """One line of JSON for each epoch."""
        return self.beside("log.jsonl")

    @property
    def metrics(self) -> Path:
        """Metrics of the validation and test parts, with intervals."""
        return self.beside("metrics.json")

    @property
    def state(self) -> Path:
        """What a killed training goes on from; removed at its end."""
        return self.beside("state.pth")

    @property
    def plots(self) -> Path:
        """Folder of plots."""
        return self.beside("plots")

    @property
    def files(self) -> tuple[Path, ...]:
        """All but the plots."""
        return self.checkpoint, self.split, self.log, self.metrics, self.state

    def require_not(self, inputs: Iterable[Path]) -> None:
        """Make sure that nothing which is read is written over.

        Raises:
            UsageError: it would be.
        """
        require_apart(inputs, self.files, "choose another --out, or copy it first")

    def require_free(self, *, ours: bool) -> None:
        """Make sure that no other training's files are there.

        Args:
            ours: whether the files beside the checkpoint are what this very training left when it was killed.

        Raises:
            RunExistsError: the checkpoint is there, or files beside it that are not ours.
        """
        if self.checkpoint.exists():
            raise RunExistsError(f"{self.checkpoint} is there; --force trains anew and writes over it")
        found = [path for path in (self.split, self.log, self.metrics, self.state) if path.exists()]
        if self.plots.exists() and (not self.plots.is_dir() or any(self.plots.iterdir())):
            found.append(self.plots)
        if found and not ours:
            raise RunExistsError(
                f"{', '.join(map(str, found))}: there already, and not of this training. Choose another --out, or "
                "--force to train anew and write over them"
            )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and keep other trainings of the same name out meanwhile, where its file system can.

        Raises:
            UsageError: another one is at work.
            StorageError: the folder cannot be made or written.
        """
        path = self.checkpoint.with_name(f".{self.checkpoint.stem}.lock")
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(path)
        except OSError as error:
            raise storage_error(error, f"writing {path}") from error
        if descriptor is None:
            raise UsageError(f"another training is at work on {self.checkpoint}; wait for it, or choose another --out")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)

    def remove_temporaries(self) -> None:
        """Delete what killed trainings left half written."""
        for path in self.files:
            remove_temporaries(path.parent, glob.escape(path.name))
        remove_temporaries(self.plots)


def require_apart(inputs: Iterable[Path], outputs: Iterable[Path], remedy: str) -> None:
    """Make sure that no file is both read and written.

    Raises:
        UsageError: one is.
    """
    written = {path.resolve() for path in outputs}
    for path in inputs:
        if path.resolve() in written:
            raise UsageError(f"{path} is read, and would be written over: {remedy}")


def _locked(path: Path) -> int | None:
    """A descriptor of the file that holds its lock, or None where another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            # A file system without locks: two at once are not found out.
            return descriptor
        # Whoever had it before may have removed the file between our opening and locking it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
