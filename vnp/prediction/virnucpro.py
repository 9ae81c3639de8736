"""VirNucPro's two files of results, so that what reads them goes on working.

``prediction_results.txt`` has a line for each frame: id, ``virus`` or ``others``, the scores of others and of virus.
``prediction_results_highestscore.csv``, separated by tabs in spite of its name, has one for each chunk: its id, whether
the highest score of virus over its frames is at least the highest of others, and both. VirNucPro knows no calibration:
its scores are the raw ones here. Both files are in input order; VirNucPro sorts the second as text.

Source of the formats: the public repository Li-Jing-1997/VirNucPro (Li et al., Briefings in Bioinformatics 2025,
bbaf224) and programs that read its files.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Int64

from vnp.files.durable import replacing
from vnp.prediction.scores import Batch

_FRAMES_HEADER = "Sequence_ID\tPrediction\tscore1\tscore2\n"
_CHUNKS_HEADER = "Modified_ID\tIs_Virus\tmax_score_0\tmax_score_1\n"
_FRAME_NAME = 2
"""Characters that name the frame at the end of an id."""


class VirNucProFiles:
    """Writes both files, batch by batch; they appear when it is closed without an error.

    Args:
        frames: path of ``prediction_results.txt``.
        chunks: path of ``prediction_results_highestscore.csv``.

    Raises:
        StorageError: the disk is full or cannot be written.
    """

    def __init__(self, frames: Path, chunks: Path) -> None:
        self._paths = (frames, chunks)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._frames, self._chunks = (
                stack.enter_context(stack.enter_context(replacing(path)).open("x", encoding="utf-8", newline=""))
                for path in self._paths
            )
            self._frames.write(_FRAMES_HEADER)
            self._chunks.write(_CHUNKS_HEADER)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, batch: Batch, first: Int64[np.ndarray, "m"]) -> None:
        """Write the frames of a batch, and its chunks.

        Args:
            batch: rows; no chunk is cut.
            first: row of each chunk's first frame, rising.
        """
        if not len(batch):
            return
        virus = batch.score
        others = 1 - virus
        ids = [name.decode() for name in batch.ids]
        self._frames.writelines(
            # Of two equal scores VirNucPro takes the first for a frame, which is others, and virus for a chunk.
            f"{name}\t{'virus' if high > low else 'others'}\t{low:.8g}\t{high:.8g}\n"
            for name, low, high in zip(ids, others.tolist(), virus.tolist(), strict=True)
        )
        highest = zip(
            first.tolist(),
            np.maximum.reduceat(others, first).tolist(),
            np.maximum.reduceat(virus, first).tolist(),
            strict=True,
        )
        self._chunks.writelines(
            f"{ids[row][:-_FRAME_NAME]}\t{high >= low}\t{low:.8g}\t{high:.8g}\n" for row, low, high in highest
        )
