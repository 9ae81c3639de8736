"""What the columns of a row are: a value stored in every file and compared before any number is used.

``srdct384-v1`` takes 768 numbers of DNA to 384 by a fixed orthonormal projection, a subsampled randomised cosine
transform: flip signs, take the orthonormal DCT-II, keep 384 coefficients chosen at random, scale by √(768/384) = √2
so that lengths and angles are kept on average (Ailon and Chazelle 2009, "The fast Johnson-Lindenstrauss transform";
Tropp 2011, "Improved analysis of the subsampled randomized Hadamard transform"). Nothing is fitted: a row's result
depends on that row alone. Signs and choice come from SHAKE-256 of the name, so they are the same on every machine and
with every library.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64

from vnp.errors import LayoutError
from vnp.files.records import parse_json

PROJECTED = "1664"
FULL = "full"
CHOICES = (PROJECTED, FULL)
PROJECTION = "srdct384-v1"
PROJECTION_SHA256 = "b61156e1157e7d85d43613a5a422954d42459214e6ad0539c9b38f19eca07c98"
NATIVE_DNA = 768
PROJECTED_DNA = 384


RowsOf = Literal["frames", "chunks"]


@dataclass(frozen=True, slots=True)
class Part:
    """One half of a row."""

    name: str  # ``dna`` or ``protein``
    encoder: str  # name of the encoder in the registry
    native: int  # width that the encoder gives
    width: int  # width in the row
    projection: str | None  # name of the projection from ``native`` to ``width``, or None if there is none

    @property
    def source(self) -> str:
        """The array of a shard file that holds this part."""
        return self.name if self.projection is None else f"{self.name}_projected"


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """The parts of a feature row, in column order, and what a row is of."""

    parts: tuple[Part, ...]
    rows: RowsOf = "frames"  # each row is an open frame of a chunk, or a chunk

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(part.width for part in self.parts)

    def columns(self, name: str) -> slice:
        """Columns of the part called ``name``; ``LayoutError`` without one."""
        own = self.only(name).parts[0]
        start = sum(part.width for part in self.parts[: self.parts.index(own)])
        return slice(start, start + own.width)

    def only(self, name: str) -> FeatureLayout:
        """The part called ``name`` alone; ``LayoutError`` without one."""
        found = tuple(part for part in self.parts if part.name == name)
        if not found:
            raise LayoutError(f"this layout has no part {name!r}: {self}")
        return FeatureLayout(found, self.rows)

    def __str__(self) -> str:
        parts = " + ".join(
            f"{part.name} {part.width} ({part.encoder}"
            + (f" {part.native} by {part.projection})" if part.projection else ")")
            for part in self.parts
        )
        return f"{self.width} = {parts}" + (", a row a chunk" if self.rows == "chunks" else "")

    def to_json(self) -> str:
        """One line of JSON, the form stored in files."""
        stored = {"width": self.width, "rows": self.rows, "parts": [asdict(part) for part in self.parts]}
        return json.dumps(stored, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> FeatureLayout:
        """Read what ``to_json`` wrote; ``LayoutError`` of anything else."""
        try:
            stored = parse_json(text)
            # Before there were rows of chunks, nothing was said of rows.
            layout = cls(tuple(Part(**part) for part in stored["parts"]), stored.get("rows", "frames"))
        except (ValueError, TypeError, KeyError) as error:
            raise LayoutError(f"not a feature layout: {text[:200]!r}") from error
        if layout.width != stored.get("width"):
            raise LayoutError(f"a feature layout of {layout.width} columns says that it has {stored.get('width')}")
        if layout.rows not in get_args(RowsOf):
            raise LayoutError(f"a feature layout has rows of {layout.rows!r}; known are {', '.join(get_args(RowsOf))}")
        return layout

    def require(self, other: FeatureLayout, *, here: str, there: str) -> None:
        """Make sure that two layouts are the same.

        ``here`` and ``there`` are what the two belong to, for the message.

        Raises:
            LayoutError: they differ; the message shows both.
        """
        if self != other:
            raise LayoutError(f"the layouts differ.\n  {here}: {self}\n  {there}: {other}")


def make_layout(kind: str, *, dna: tuple[str, int], protein: tuple[str, int] | None) -> FeatureLayout:
    """The layout of merged features.

    Args:
        kind: ``1664``, DNA projected from 768 to 384 columns, or ``full``, every number of both encoders. With
            a protein encoder wider than 1280 a ``1664`` row is as much wider.
        dna: name and width of the DNA encoder.
        protein: name and width of the protein encoder; None where a row is a chunk.

    Raises:
        LayoutError: ``kind`` is unknown, or the DNA encoder is not 768 wide or alone and so is not projected.
    """
    if kind not in CHOICES:
        raise LayoutError(f"no layout {kind!r}; choose one of {', '.join(CHOICES)}")
    name, width = dna
    dna_part = Part("dna", name, width, width, None)
    if kind == PROJECTED:
        if width != NATIVE_DNA:
            raise LayoutError(f"{name} is {width} wide and {PROJECTION} takes {NATIVE_DNA}: use the layout {FULL!r}")
        if protein is None:
            raise LayoutError(f"rows of chunks are DNA alone, and {PROJECTED} is DNA beside protein: use {FULL!r}")
        dna_part = Part("dna", name, width, PROJECTED_DNA, PROJECTION)
    if protein is None:
        return FeatureLayout((dna_part,), "chunks")
    return FeatureLayout((dna_part, Part("protein", protein[0], protein[1], protein[1], None)))


def _draw() -> tuple[Float32[np.ndarray, "native"], Int64[np.ndarray, "width"]]:
    bits = hashlib.shake_256(f"{PROJECTION}/signs".encode()).digest(NATIVE_DNA // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(np.float32) * 2 - 1
    keys = np.frombuffer(hashlib.shake_256(f"{PROJECTION}/choice".encode()).digest(NATIVE_DNA * 8), "<u8")
    choice = np.argsort(keys, kind="stable")[:PROJECTED_DNA].astype(np.int64)
    return signs, choice


def _digest(signs: Float32[np.ndarray, "native"], choice: Int64[np.ndarray, "width"]) -> str:
    return hashlib.sha256(signs.astype("<f4").tobytes() + choice.astype("<i8").tobytes()).hexdigest()


_SIGNS, _CHOICE = _draw()
if _digest(_SIGNS, _CHOICE) != PROJECTION_SHA256:
    raise ImportError(f"the projection {PROJECTION} is not the published one: this installation of vnp is damaged")


def project(rows: np.ndarray) -> Float32[np.ndarray, "n 384"]:
    """Project DNA embeddings.

    The rows are of any float type, (n, 768).

    Returns:
        (n, 384) float32; the same bytes for a row whatever stands around it.
    """
    # Here, because it takes a third of a second to load, and of all who read a layout few project.
    from scipy.fft import dct

    spectrum = dct(rows.astype(np.float32) * _SIGNS, type=2, norm="ortho", axis=1, overwrite_x=True)
    projected: Float32[np.ndarray, "n 384"] = spectrum[:, _CHOICE] * np.float32(np.sqrt(NATIVE_DNA / PROJECTED_DNA))
    return projected
