from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.classifier.making import write_features
from vnp.errors import ChangedInputError, InputError, UsageError
from vnp.features.columns import column_of, in_units_of, organisms_of
from vnp.features.read import Features, open_features
from vnp.sequences.reading import input_digest

FAMILIES = {"a": "X", "b": "X", "c": "", "d": "Y"}


@pytest.fixture
def features(tmp_path: Path) -> Features:
    return open_features(write_features(tmp_path / "f.h5", groups={name: [1, 0] for name in FAMILIES}))


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("record\tgenus\tfamily", *lines)) + "\n")
    return path


def test_units_of_a_table_and_groups_where_it_is_silent(features: Features, tmp_path: Path) -> None:
    path = table(tmp_path / "t.tsv", *(f"{name}\t\t{family}" for name, family in FAMILIES.items() if name != "d"))
    assert column_of(features, "family", path) == ["X", "X", "", ""]
    grouped = in_units_of(features, "family", path)
    assert grouped.groups() == ["X"] * 4 + ["c"] * 2 + ["d"] * 2
    assert grouped.records().group == [b"X", b"X", b"c", b"d"]
    with pytest.raises(InputError, match=r"no genus for any of the 4 records, such as a"):
        column_of(features, "genus", path)


@pytest.mark.parametrize(
    ("lines", "column", "words"),
    [
        (("a\t1\tX",), "order", "needs a heading with record and order"),
        (("a\t1",), "family", "line 2: has 2 columns, the heading 3"),
        (("a\t1\tX", "a\t1\tY"), "family", "line 3: says 'Y' of a, and 'X' above"),
    ],
)
def test_tables_that_cannot_be_used(
    features: Features, tmp_path: Path, lines: tuple[str, ...], column: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        column_of(features, column, table(tmp_path / "t.tsv", *lines))


def of_dataset(features: Features, path: Path, prefix: str | None = None) -> Features:
    entry = {"path": "x.fna.gz", "dataset": str(path), "dataset_sha256": input_digest(path), "prefix": prefix}
    return replace(features, provenance={**features.provenance, "inputs": [entry]})


def test_columns_of_the_dataset_that_the_features_are_of(features: Features, tmp_path: Path) -> None:
    arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    path = tmp_path / "dataset.parquet"
    columns = {"name": ["a", "a", "b", "c", "d"], "family": ["X", "X", "X", "", "Y"], "organism_group": ["o"] * 5}
    parquet.write_table(arrow.table(columns), path)
    found = of_dataset(features, path)
    assert column_of(found, "family") == list(FAMILIES.values())
    assert organisms_of(found) == ["o"] * 4
    with pytest.raises(InputError, match="has no column order; it has name, family, organism_group"):
        column_of(found, "order")
    with pytest.raises(InputError, match="no family for any"):
        column_of(of_dataset(features, path, prefix="p"), "family")
    parquet.write_table(arrow.table({**columns, "family": ["Z"] * 5}), path)
    with pytest.raises(ChangedInputError, match="not the table that the features were made from"):
        column_of(found, "family")
    path.unlink()
    with pytest.raises(InputError, match=r"dataset\.parquet"):
        column_of(found, "family")


def test_features_of_no_dataset_need_a_table(features: Features) -> None:
    with pytest.raises(UsageError, match=r"is not of a dataset.*give a table with the columns record and family"):
        column_of(features, "family")


def test_organisms_by_record_or_by_group(features: Features) -> None:
    assert organisms_of(features, {"a": "1", "b": "2", "c": "3", "d": "4"}) == ["1", "2", "3", "4"]
    with pytest.raises(InputError, match="2 of 4 records have no group of organisms"):
        organisms_of(features, {"a": "1", "b": "2"})
