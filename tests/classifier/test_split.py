from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnp.classifier.split import Split, read_split, split_from_file, split_groups, split_rows
from vnp.errors import FeatureError, InputError, UsageError
from vnp.features.split import TEST, TRAIN, VALIDATION


def rows_of(sizes: dict[str, tuple[int, int]]) -> tuple[np.ndarray, list[str]]:
    """Labels and groups for name: (label, rows)."""
    label = np.array([value for value, rows in sizes.values() for _ in range(rows)], np.int8)
    return label, [name for name, (_, rows) in sizes.items() for _ in range(rows)]


def parts_of_groups(split: Split, groups: list[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for name, part in zip(groups, split.part.tolist(), strict=True):
        found.setdefault(name, set()).add(part)
    return found


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=25),
    st.lists(st.integers(1, 30), min_size=3, max_size=25),
    st.integers(0, 1000),
)
def test_groups_are_never_cut_and_every_part_has_both_classes(viral: list[int], host: list[int], seed: int) -> None:
    sizes = {f"v{n}": (1, rows) for n, rows in enumerate(viral)} | {f"h{n}": (0, rows) for n, rows in enumerate(host)}
    label, groups = rows_of(sizes)
    shuffled = np.random.default_rng(seed).permutation(len(label))
    label, groups = label[shuffled], [groups[n] for n in shuffled]
    split = split_groups(label, groups, seed=seed)
    assert all(len(parts) == 1 for parts in parts_of_groups(split, groups).values())
    for part in (TRAIN, VALIDATION, TEST):
        assert set(label[split.rows(part)].tolist()) == {0, 1}
    assert sum(len(split.rows(part)) for part in (TRAIN, VALIDATION, TEST)) == len(label)


def test_each_class_gives_its_share_of_groups() -> None:
    sizes = {f"v{n}": (1, 3) for n in range(100)} | {f"h{n}": (0, 3) for n in range(50)}
    label, groups = rows_of(sizes)
    split = split_groups(label, groups, validation=0.1, test=0.2, seed=4)
    parts = parts_of_groups(split, groups)
    for kind, total in (("v", 100), ("h", 50)):
        own = [part for name, (part,) in parts.items() if name.startswith(kind)]
        assert (own.count(VALIDATION), own.count(TEST)) == (total // 10, total // 5)


def test_the_seed_decides() -> None:
    label, groups = rows_of({f"{'hv'[n % 2]}{n}": (n % 2, 5) for n in range(60)})
    first, again, other = (split_groups(label, groups, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.part, again.part)
    assert not np.array_equal(first.part, other.part)


def test_clusters_stay_together() -> None:
    sizes = {f"v{n}": (1, 4) for n in range(20)} | {f"h{n}": (0, 4) for n in range(20)}
    label, groups = rows_of(sizes)
    clusters = {name: place // 4 for place, name in enumerate(sizes)}
    for seed in range(10):
        split = split_groups(label, groups, seed=seed, clusters=clusters)
        parts = parts_of_groups(split, groups)
        for number in range(10):
            assert len(set.union(*(parts[name] for name, cluster in clusters.items() if cluster == number))) == 1
        assert split.joined == 30


def test_too_few_groups_are_refused() -> None:
    label, groups = rows_of({"a": (1, 9), "b": (1, 9), "c": (0, 9), "d": (0, 9), "e": (0, 9)})
    with pytest.raises(FeatureError, match=r"groups of the class viral: 2, too few.*--split random"):
        split_groups(label, groups)
    assert len(split_groups(label, groups, test=0).rows(TEST)) == 0


@pytest.mark.parametrize(("validation", "test"), [(0, 0.2), (0.5, 0.5), (0.1, -0.1), (1.5, 0), (float("nan"), 0.1)])
def test_impossible_shares_are_wrong_use(validation: float, test: float) -> None:
    label, groups = rows_of({f"{'hv'[n % 2]}{n}": (n % 2, 2) for n in range(20)})
    with pytest.raises(UsageError):
        split_groups(label, groups, validation=validation, test=test)


def test_a_random_split_cuts_groups() -> None:
    label, groups = rows_of({"v": (1, 100), "h": (0, 100)})
    split = split_rows(label, groups, seed=3)
    assert split.kind == "random"
    assert len(split.rows(TEST)) == 40
    assert parts_of_groups(split, groups) == {"v": {0, 1, 2}, "h": {0, 1, 2}}


@pytest.mark.parametrize("kind", ["group", "random"])
def test_a_written_split_is_read_back(tmp_path: Path, kind: str) -> None:
    label, groups = rows_of({f"{'hv'[n % 2]}\t{n}": (n % 2, 6) for n in range(20)})
    ids = [f"row {n}" for n in range(len(label))]
    split = (split_groups if kind == "group" else split_rows)(label, groups, seed=1)
    (tmp_path / "split.tsv").write_text(split.text(ids))
    again = split_from_file(tmp_path / "split.tsv", label, groups, ids)
    assert np.array_equal(split.part, again.part)
    assert split.summary(label)["sha256"] == again.summary(label)["sha256"]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("group\tpart\na\ttrain\nb\ttest\n", FeatureError, "nothing of 1 of the groups: c"),
        ("group\tpart\na\ttrain\nb\ttrian\n", InputError, r"line 3.*'trian'"),
        ("group\tpart\na\ttrain\na\ttest\n", InputError, "another part above"),
        ("name,part\n", InputError, "columns group"),
        ("", InputError, "columns group"),
        ("group\tpart\na\ttrain\nb\ttrain\nc\tvalidation\n", FeatureError, "validation would have only viral"),
        ("group\tpart\na\ttrain\nb\ttrain\nc\ttrain\n", FeatureError, "validation would have no rows"),
    ],
)
def test_a_split_file_that_cannot_be_used(tmp_path: Path, text: str, error: type[Exception], says: str) -> None:
    label, groups = rows_of({"a": (1, 2), "b": (0, 2), "c": (1, 2)})
    (tmp_path / "split.tsv").write_text(text)
    with pytest.raises(error, match=says):
        split_from_file(tmp_path / "split.tsv", label, groups, [str(n) for n in range(6)])


def test_a_split_file_from_excel_begins_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "split.tsv").write_bytes(b"\xef\xbb\xbfgroup\tpart\r\na\ttrain\r\nb\ttest\r\n")
    assert read_split(tmp_path / "split.tsv") == ("group", {"a": TRAIN, "b": TEST})


def test_a_split_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        split_from_file(tmp_path / "none.tsv", np.array([0, 1], np.int8), ["a", "b"], ["1", "2"])
