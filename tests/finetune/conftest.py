from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vnp.encoders.models.sixframe import SixFrameConfig
from vnp.finetune.genomes import Genomes, read_genomes
from vnp.finetune.recipe import Recipe
from vnp.finetune.sheet import read_sheet
from vnp.finetune.split import split

SMALL = SixFrameConfig(
    embedding=8, stem=8, local=16, context=16, local_dilations=(1,), context_dilations=(1,), heads=4, hidden=16
)


def recipe(**changes: object) -> Recipe:
    plain = {"steps": 12, "bases": 6000, "warm_up": 2, "lengths": {60: 1.0, 150: 1.0}, "network": SMALL}
    return Recipe(**{**plain, "set_aside": {}, "made_up": 0.0, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Viruses rich in A and T, hosts in C and G, a dozen units of each."""
    folder = tmp_path_factory.mktemp("genomes")
    random = np.random.default_rng(3)
    rows = ["path,label,group,unit,kind,sample"]
    for label, group, kind, share in (
        ("viral", "phage", "phage", 0.32),
        ("host", "bacteria", "bacteria|archaea", 0.18),
        ("host", "plasmid", "plasmid", 0.22),
    ):
        for unit in range(12):
            chances = [share, 0.5 - share, 0.5 - share, share]
            bases = "".join(random.choice(list("ACGT"), 3000, p=chances))
            (folder / f"{group}{unit}.fna").write_text(f">{group}{unit} made up\n{bases[:1500]}NN{bases[1500:]}\n")
            rows.append(f"{group}{unit}.fna,{label},{group},{group}-{unit},{kind},one")
    (folder / "genomes.csv").write_text("\n".join(rows) + "\n")
    return folder / "genomes.csv"


@pytest.fixture(scope="session")
def genomes(sheet: Path) -> Genomes:
    return split(read_genomes(read_sheet(sheet)), validation=0.2, test=0.25)
