from __future__ import annotations

from pathlib import Path

import pytest

from tests.prediction.tiny import SAMPLE, embed, train
from vnp.features.read import Features

VIRAL = ("hiv_1", "influenza_a", "feline_panleukopenia_virus")
HOST = ("escherichia_coli", "xenopus_laevis", "streptomyces")
INPUTS = [SAMPLE / kind / f"{name}.fna.gz" for kind, names in (("viral", VIRAL), ("host", HOST)) for name in names]


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """A reduced run of the smallest genomes of the sample."""
    folder = tmp_path_factory.mktemp("features")
    sheet = folder / "sheet.csv"
    sheet.write_text("path,label,group\n" + "".join(f"{path},{path.parent.name},\n" for path in INPUTS))
    return embed([sheet], folder / "run")


@pytest.fixture(scope="session")
def checkpoint(features: Features, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that knows these genomes."""
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    train(features, path)
    return path
