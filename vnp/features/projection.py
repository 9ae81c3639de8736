"""``srdct384-v1``: 768 numbers of DNA taken to 384 by a fixed orthonormal projection.

A subsampled randomised cosine transform: flip signs, take the orthonormal DCT-II, keep 384 coefficients chosen
at random, scale by √(768/384) = √2 so that lengths and angles are kept on average (Ailon and Chazelle 2009, "The
fast Johnson-Lindenstrauss transform"; Tropp 2011, "Improved analysis of the subsampled randomized Hadamard
transform"). Nothing is fitted: a row's result depends on that row alone. Signs and choice come from SHAKE-256 of
the name, so they are the same on every machine and with every library.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float32, Int64
from scipy.fft import dct

NAME = "srdct384-v1"
NATIVE = 768
WIDTH = 384
SHA256 = "b61156e1157e7d85d43613a5a422954d42459214e6ad0539c9b38f19eca07c98"


def _draw() -> tuple[Float32[np.ndarray, "native"], Int64[np.ndarray, "width"]]:
    bits = hashlib.shake_256(f"{NAME}/signs".encode()).digest(NATIVE // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(np.float32) * 2 - 1
    keys = np.frombuffer(hashlib.shake_256(f"{NAME}/choice".encode()).digest(NATIVE * 8), "<u8")
    choice = np.argsort(keys, kind="stable")[:WIDTH].astype(np.int64)
    return signs, choice


def _digest(signs: Float32[np.ndarray, "native"], choice: Int64[np.ndarray, "width"]) -> str:
    return hashlib.sha256(signs.astype("<f4").tobytes() + choice.astype("<i8").tobytes()).hexdigest()


_SIGNS, _CHOICE = _draw()
if _digest(_SIGNS, _CHOICE) != SHA256:
    raise ImportError(f"the projection {NAME} is not the published one: this installation of vnp is damaged")


def project(rows: np.ndarray) -> Float32[np.ndarray, "n 384"]:
    """Project DNA embeddings.

    Args:
        rows: (n, 768), any float type.

    Returns:
        (n, 384) float32; the same bytes for a row whatever stands around it.
    """
    spectrum = dct(rows.astype(np.float32) * _SIGNS, type=2, norm="ortho", axis=1, overwrite_x=True)
    projected: Float32[np.ndarray, "n 384"] = spectrum[:, _CHOICE] * np.float32(np.sqrt(NATIVE / WIDTH))
    return projected
