"""The folder of a training set, and whether what is in it is finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vnp.datasets.writing.write import FASTA, KEY, TABLE, read_metadata
from vnp.errors import RunExistsError, storage_error
from vnp.files.claims import alone
from vnp.files.durable import final_path, remove_temporaries, sync_folder
from vnp.files.records import write_json
from vnp.sequences.reading import input_digest

CARD = "dataset.md"
REQUEST = f"{KEY}.request"
"""Key of the table's metadata that says what was asked for."""
SUMMARY = f"{KEY}.summary"
"""Key of the table's metadata that has the summary."""
_PARTS = "parts"
_REQUEST_FILE = "request.json"
_DONE = ".parts-done"
_RUN_FILE = "run.json"


class Folder:
    """The folder of a training set.

    While a set is made there is a folder ``parts`` in it, whose ``request.json`` says which set that is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.parts = folder / _PARTS
        self.fasta = folder / FASTA
        self.table = folder / TABLE
        self.card = folder / CARD

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder, and keep others that make a set in it out meanwhile.

        Raises:
            UsageError: another one is at work.
            StorageError: the folder cannot be made.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"making {self._folder}") from error
        with alone(self._folder, "dataset"):
            yield

    def begin(self, request: str, *, force: bool) -> dict[str, Any] | None:
        """Make ready for a set, or find that it is there already.

        Args:
            request: digest of everything that decides what is in the set.
            force: write over another set.

        Returns:
            The summary of the set where it is finished, else None.

        Raises:
            RunExistsError: another set, or a part of one, is there, or a run, or a folder ``parts`` of something else.
            StorageError: the folder cannot be made or written.
        """
        there = [path for path in (self.fasta, self.table, self.card) if path.exists()]
        if there and not force and not self._is_making(request):
            if (summary := self._finished(request)) is not None:
                self._sweep()
                return summary
            raise RunExistsError(
                f"{', '.join(map(str, there))}: already there, and not made from these files with these options. "
                "Choose another --out, or --force to write over it"
            )
        self._require_own_parts()
        try:
            self.parts.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(error, f"making {self.parts}") from error
        self._sweep()
        write_json(self.parts / _REQUEST_FILE, {"sha256": request})
        return None

    def finish(self) -> None:
        """Remove what was kept to go on from; in one step, so that it is there whole or not at all."""
        self._remove_done()
        try:
            self.parts.rename(self._folder / _DONE)
            sync_folder(self._folder)
        except OSError as error:
            raise storage_error(error, f"removing {self.parts}") from error
        self._remove_done()

    def _require_own_parts(self) -> None:
        """Refuse a folder whose ``parts`` is not that of a set, for it is deleted in the end; with force too.

        Raises:
            RunExistsError: a run is there, or a folder ``parts`` of something else.
            StorageError: the folder cannot be looked at.
        """
        try:
            if (self._folder / _RUN_FILE).exists():
                raise RunExistsError(f"{self._folder} is the folder of a run: choose another --out")
            if self.parts.is_dir():
                # A run that was stopped at its first step has left its request's temporary file, or nothing.
                others = any(final_path(path).name != _REQUEST_FILE for path in self.parts.iterdir())
                foreign = others and self._stored_request() is None
            else:
                foreign = self.parts.exists()
        except OSError as error:
            raise storage_error(error, f"looking into {self._folder}") from error
        if foreign:
            raise RunExistsError(
                f"{self.parts} is there and is not of a training set that was begun. Choose another --out, or move "
                "it away"
            )

    def _is_making(self, request: str) -> bool:
        """Whether a run that made this very set was stopped here."""
        return self._stored_request() == request

    def _stored_request(self) -> str | None:
        """Digest of the set that was begun here, if one was."""
        try:
            found = json.loads((self.parts / _REQUEST_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        digest = found.get("sha256") if isinstance(found, dict) else None
        return digest if isinstance(digest, str) else None

    def _finished(self, request: str) -> dict[str, Any] | None:
        """The summary, where the files are those that the request would make."""
        if not (self.fasta.exists() and self.table.exists() and self.card.exists()):
            return None
        try:
            metadata = read_metadata(self.table)
        except (OSError, ValueError):
            return None
        if metadata.get(REQUEST) != {"sha256": request} or KEY not in metadata:
            return None
        summary = metadata.get(SUMMARY)
        same = input_digest(self.fasta) == metadata[KEY].get("fasta_sha256")
        return summary if same and isinstance(summary, dict) else None

    def _sweep(self) -> None:
        """Remove what killed runs left behind."""
        self._remove_done()
        remove_temporaries(self._folder)
        if self.parts.is_dir():
            remove_temporaries(self.parts)

    def _remove_done(self) -> None:
        shutil.rmtree(self._folder / _DONE, ignore_errors=True)
