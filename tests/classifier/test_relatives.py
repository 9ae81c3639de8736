from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.classifier.making import both_classes, write_features
from vnp.classifier.split import clusters_of_groups
from vnp.errors import ChangedInputError
from vnp.features.read import Features, open_features
from vnp.runs.request import PlannedInput
from vnp.sequences.identity import clusters_of_genomes

LENGTH = 6_000
NAMES = list(both_classes(3, 2))


def mutated(genome: np.ndarray, share: float, chance: np.random.Generator) -> np.ndarray:
    changed = genome.copy()
    places = chance.random(len(genome)) < share
    changed[places] = (changed[places] + chance.integers(1, 4, places.sum())) % 4
    return changed


def run_of(folder: Path, genomes: dict[str, np.ndarray]) -> Features:
    """Features of six groups whose sequences are in one FASTA file."""
    path = folder / "genomes.fna"
    letters = np.frombuffer(b"ACGT", np.uint8)
    path.write_bytes(
        b"".join(f">{name}\n".encode() + letters[genome].tobytes() + b"\n" for name, genome in genomes.items())
    )
    stat = path.stat()
    entry = PlannedInput(
        path=str(path), label=1, group=None, size=stat.st_size, mtime_ns=stat.st_mtime_ns,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        first_record=0, records=len(genomes), bases=0, prefix=None,
    )  # fmt: skip
    groups = {name: [int(name.startswith("virus"))] * 2 for name in genomes}
    return open_features(write_features(folder / "features.h5", groups=groups, inputs=[asdict(entry)]))


@pytest.fixture
def genomes() -> dict[str, np.ndarray]:
    """Six random genomes, but virus_1 is virus_0 with 2 % of its bases changed, host_2 host_0 with 12 %."""
    pytest.importorskip("pyskani")
    chance = np.random.default_rng(5)
    made = {name: chance.integers(0, 4, LENGTH) for name in NAMES}
    made["virus_1"] = mutated(made["virus_0"], 0.02, chance)
    made["host_2"] = mutated(made["host_0"], 0.12, chance)
    return made


def test_groups_of_95_percent_identity_are_joined_and_no_others(tmp_path: Path, genomes: dict[str, np.ndarray]) -> None:
    clusters = clusters_of_groups(run_of(tmp_path, genomes))
    assert clusters.keys() == set(NAMES)
    assert clusters["virus_0"] == clusters["virus_1"]
    assert len(set(clusters.values())) == 5


def test_a_chain_of_relatives_is_one_cluster(tmp_path: Path, genomes: dict[str, np.ndarray]) -> None:
    chance = np.random.default_rng(1)
    genomes["virus_2"] = mutated(genomes["virus_1"], 0.03, chance)
    clusters = clusters_of_groups(run_of(tmp_path, genomes))
    assert clusters["virus_0"] == clusters["virus_1"] == clusters["virus_2"]


def test_reverse_complements_are_the_same_genome(tmp_path: Path, genomes: dict[str, np.ndarray]) -> None:
    genomes["virus_2"] = 3 - genomes["host_1"][::-1]
    clusters = clusters_of_groups(run_of(tmp_path, genomes))
    assert clusters["virus_2"] == clusters["host_1"]


def test_inputs_that_have_changed_are_refused(tmp_path: Path, genomes: dict[str, np.ndarray]) -> None:
    features = run_of(tmp_path, genomes)
    path = tmp_path / "genomes.fna"
    path.write_bytes(path.read_bytes()[:-10] + b"ACGTACGTAC")
    with pytest.raises(ChangedInputError, match=r"genomes\.fna"):
        clusters_of_groups(features)
    path.unlink()
    with pytest.raises(ChangedInputError, match=r"genomes\.fna"):
        clusters_of_groups(features)


def test_names_of_any_kind() -> None:
    pytest.importorskip("pyskani")
    genome = bytes(np.random.default_rng(2).choice(np.frombuffer(b"ACGT", np.uint8), LENGTH))
    genomes = {"A/Puerto Rico/8/1934": genome, "../x": genome, "8/1934": genome[::-1]}
    clusters = clusters_of_genomes(dict.fromkeys(genomes, LENGTH), lambda name: [genomes[name]], asked_by="a test")
    assert clusters["A/Puerto Rico/8/1934"] == clusters["../x"] != clusters["8/1934"]


def test_groups_too_short_to_compare_stand_alone(tmp_path: Path, genomes: dict[str, np.ndarray]) -> None:
    short = {name: genome[:200] for name, genome in genomes.items()}
    assert len(set(clusters_of_groups(run_of(tmp_path, short)).values())) == 6
