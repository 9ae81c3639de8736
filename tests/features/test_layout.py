from __future__ import annotations

import json

import pytest

from vnp.errors import LayoutError
from vnp.features.layout import FeatureLayout, make_layout

DNA, PROTEIN = ("dnabert_s", 768), ("fastesm2_650", 1280)


def layout(kind: str = "1664", dna: tuple[str, int] = DNA, protein: tuple[str, int] | None = PROTEIN) -> FeatureLayout:
    return make_layout(kind, dna=dna, protein=protein)


@pytest.mark.parametrize(
    ("kind", "protein", "width"),
    [
        ("1664", PROTEIN, 1664),
        ("full", PROTEIN, 2048),
        ("1664", ("esm2_3b", 2560), 2944),
        ("full", ("esm2_3b", 2560), 3328),
        ("full", None, 768),
    ],
)
def test_widths_are_the_documented_ones(kind: str, protein: tuple[str, int] | None, width: int) -> None:
    assert layout(kind, protein=protein).width == width


def test_columns_lie_side_by_side_in_order() -> None:
    made = layout()
    assert (made.columns("dna"), made.columns("protein")) == (slice(0, 384), slice(384, 1664))
    assert [part.source for part in made.parts] == ["dna_projected", "protein"]
    assert [part.source for part in layout("full").parts] == ["dna", "protein"]
    with pytest.raises(LayoutError, match="no part 'rna'"):
        made.columns("rna")


@pytest.mark.parametrize(("kind", "protein"), [("1664", PROTEIN), ("full", PROTEIN), ("full", None)])
def test_json_round_trip(kind: str, protein: tuple[str, int] | None) -> None:
    made = layout(kind, protein=protein)
    text = made.to_json()
    assert "\n" not in text
    assert FeatureLayout.from_json(text) == made
    assert made.only("dna").rows == made.rows == ("frames" if protein else "chunks")


def test_rows_of_chunks_are_not_rows_of_the_dna_of_frames() -> None:
    chunks, frames = layout("full", protein=None), layout("full").only("dna")
    with pytest.raises(LayoutError, match="rows of chunks are DNA alone"):
        layout("1664", protein=None)
    with pytest.raises(LayoutError, match="a row a chunk"):
        chunks.require(frames, here="a", there="b")
    stored = json.loads(frames.to_json())
    del stored["rows"]
    assert FeatureLayout.from_json(json.dumps(stored)) == frames
    stored["rows"] = "records"
    with pytest.raises(LayoutError, match="rows of 'records'"):
        FeatureLayout.from_json(json.dumps(stored))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"parts": [{}]}', '{"parts": 3}', '{"parts": [{"name": "dna"}], "width": 1}']
)
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(LayoutError, match="not a feature layout"):
        FeatureLayout.from_json(text)


def test_a_width_that_contradicts_the_parts_is_refused() -> None:
    stored = json.loads(layout().to_json())
    stored["width"] = 1665
    with pytest.raises(LayoutError, match="1664 columns says that it has 1665"):
        FeatureLayout.from_json(json.dumps(stored))


def test_require_names_both_sides() -> None:
    here = layout()
    here.require(layout(), here="the model", there="run/features.h5")
    with pytest.raises(LayoutError) as caught:
        here.require(layout(protein=("esm2_3b", 2560)), here="the model", there="run/features.h5")
    message = str(caught.value)
    assert all(part in message for part in ("the model", "run/features.h5", "fastesm2_650", "esm2_3b", "1664", "2944"))
    with pytest.raises(LayoutError, match="srdct384-v1"):
        here.require(layout("full"), here="a", there="b")


def test_same_widths_of_other_encoders_differ() -> None:
    with pytest.raises(LayoutError):
        layout().require(layout(protein=("esm2_650m", 1280)), here="a", there="b")


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(LayoutError, match=r"no layout '2048'; choose one of 1664, full"):
        layout("2048")


def test_dna_of_another_width_cannot_be_projected() -> None:
    with pytest.raises(LayoutError, match="100 wide and srdct384-v1 takes 768"):
        layout(dna=("mine", 100))
    assert layout("full", dna=("mine", 100)).width == 1380
