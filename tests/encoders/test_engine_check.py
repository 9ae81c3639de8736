from __future__ import annotations

import pytest

from vnp.doctor.engine import check_packed
from vnp.encoders.engine import TransformerEncoder
from vnp.encoders.packing import Borders

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", ["esm2", "dnabert"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_packed_passes(family: str, precision: str) -> None:
    check = check_packed("cpu", precision, model=family, layers=2, sequences=8, longest=200)
    assert check.passes
    assert check.kernel == "by-length"
    assert check.layers == 2


@pytest.mark.parametrize("family", ["esm2", "dnabert"])
def test_check_notices_a_border_one_row_off(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TransformerEncoder.embed_ids

    def wrong(self: TransformerEncoder, ids: object) -> object:
        kernel = self.attention
        if kernel.layout == "packed":
            prepare = kernel.prepare

            def late(borders: Borders) -> object:
                lengths = borders.lengths.copy()
                lengths[0], lengths[-1] = lengths[0] - 1, lengths[-1] + 1
                return prepare(Borders(lengths, borders.layout, borders.device))

            monkeypatch.setattr(kernel, "prepare", late)
        return right(self, ids)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformerEncoder, "embed_ids", wrong)
    assert not check_packed("cpu", "fp16", model=family, sequences=8, longest=200).passes
