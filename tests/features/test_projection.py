from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from vnp.features import layout as projection
from vnp.features.layout import NATIVE_DNA, PROJECTED_DNA, PROJECTION, PROJECTION_SHA256, project


def dense() -> np.ndarray:
    """The projection as a (384, 768) matrix in float64, from the definition of the DCT-II, without any FFT."""
    stream = hashlib.shake_256(b"srdct384-v1/signs").digest(NATIVE_DNA // 8)
    signs = np.array([1.0 if stream[i // 8] >> (7 - i % 8) & 1 else -1.0 for i in range(NATIVE_DNA)])
    stream = hashlib.shake_256(b"srdct384-v1/choice").digest(NATIVE_DNA * 8)
    keys = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(NATIVE_DNA)]
    chosen = sorted(range(NATIVE_DNA), key=lambda i: keys[i])[:PROJECTED_DNA]
    place = np.arange(NATIVE_DNA)
    rows = []
    for k in chosen:
        scale = math.sqrt((1.0 if k == 0 else 2.0) / NATIVE_DNA)
        rows.append(scale * np.cos(math.pi * (2 * place + 1) * k / (2 * NATIVE_DNA)) * signs)
    return np.array(rows) * math.sqrt(2)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((257, NATIVE_DNA)).astype(np.float32)


def test_matches_a_dense_matrix(rows: np.ndarray) -> None:
    expected = rows.astype(np.float64) @ dense().T
    assert np.abs(project(rows) - expected).max() < 2e-5


def test_rows_are_orthonormal_up_to_the_scale() -> None:
    matrix = project(np.eye(NATIVE_DNA, dtype=np.float32)).T.astype(np.float64)
    assert np.abs(matrix @ matrix.T - 2 * np.eye(PROJECTED_DNA)).max() < 1e-5


def test_a_row_depends_on_itself_alone(rows: np.ndarray) -> None:
    together = project(rows)
    for batch in (1, 2, 3, 64, 100):
        apart = np.concatenate([project(rows[at : at + batch]) for at in range(0, len(rows), batch)])
        assert apart.tobytes() == together.tobytes(), batch
    assert project(rows[::-1])[::-1].tobytes() == together.tobytes()


def test_lengths_and_angles_are_kept_on_average(rows: np.ndarray) -> None:
    before, after = np.linalg.norm(rows, axis=1), np.linalg.norm(project(rows), axis=1)
    assert abs((after**2 / before**2).mean() - 1) < 0.02
    cosines = [(values / np.linalg.norm(values, axis=1)[:, None]) for values in (rows, project(rows))]
    differences = cosines[0] @ cosines[0].T - cosines[1] @ cosines[1].T
    assert abs(differences.mean()) < 0.005


def test_input_is_left_alone_and_any_float_is_taken(rows: np.ndarray) -> None:
    kept = rows.copy()
    single = project(rows)
    assert (rows == kept).all()
    assert single.dtype == np.float32
    half = rows.astype(np.float16)
    assert project(half).tobytes() == project(half.astype(np.float32)).tobytes()
    assert project(rows.astype(np.float64)).tobytes() == single.tobytes()
    assert project(rows[:0]).shape == (0, PROJECTED_DNA)


def test_digest_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PROJECTION, NATIVE_DNA, PROJECTED_DNA) == ("srdct384-v1", 768, 384)
    signs, choice = projection._draw()
    assert projection._digest(signs, choice) == PROJECTION_SHA256
    assert len(set(choice.tolist())) == PROJECTED_DNA
    signs[5] *= -1
    assert projection._digest(signs, choice) != PROJECTION_SHA256
