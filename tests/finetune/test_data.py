"""From a sheet to packed, split and masked genomes, and to crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.finetune.conftest import recipe
from vnp.encoders.models.sixframe import KINDS, base_codes
from vnp.errors import FeatureError, InputError, UsageError
from vnp.finetune.crops import CropSampler, DeviceGenomes
from vnp.finetune.genomes import TEST, TRAIN, VALIDATION, Genomes, load_genomes, read_genomes, runs_of, save_genomes
from vnp.finetune.kmers import AMINO_ACIDS, kmer_hashes
from vnp.finetune.matches import ignore_matches
from vnp.finetune.proteins import ignore_resembling
from vnp.finetune.sheet import read_sheet
from vnp.finetune.split import split

CPU = torch.device("cpu")


def test_sheet_and_files_become_arrays(sheet: Path, genomes: Genomes) -> None:
    assert genomes.groups == ("bacteria", "phage", "plasmid")
    assert genomes.samples == ("one",)
    record = genomes.units.index("bacteria-3")
    at = int(np.flatnonzero(genomes.unit == record)[0])
    text = (sheet.parent / "bacteria3.fna").read_text().splitlines()[1]
    assert (genomes.record(at) == base_codes(text)).all()
    assert genomes.kinds[at] == 1 << KINDS.index("bacteria") | 1 << KINDS.index("archaea")
    assert not genomes.viral[at]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x.fna,virus,phage,,", "needs viral or host"),
        ("x.fna,viral,,,", "group is empty"),
        ("x.fna,viral,phage,u,cat", "unknown kind"),
        ("x.fna,viral,phage,u,plasmid", "does not go with the label"),
        ("y.fna,viral,phage,u,phage", "y.fna"),
        ("x.fna,viral,phage,u,phage", "no row is host"),
    ],
)
def test_faults_of_a_sheet_are_told(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.fna").write_text(">a\nACGT\n")
    (tmp_path / "s.csv").write_text(f"path,label,group,unit,kind\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_sheet(tmp_path / "s.csv")


def test_packed_genomes_come_back_and_damage_is_seen(genomes: Genomes, tmp_path: Path) -> None:
    path = tmp_path / "genomes.npz"
    save_genomes(genomes, path)
    again = load_genomes(path)
    assert again.digest() == genomes.digest()
    assert (again.codes == genomes.codes).all()
    assert path.stat().st_size < len(genomes.codes)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(FeatureError, match=r"genomes\.npz"):
        load_genomes(path)


def test_units_and_their_kin_stay_on_one_side(genomes: Genomes) -> None:
    sizes = [int((genomes.part == part).sum()) for part in (TRAIN, VALIDATION, TEST)]
    assert sizes == [21, 6, 9]
    assert (split(genomes, validation=0.2, test=0.25).part == genomes.part).all()
    # Two phages of one sequence are kin whatever they are called.
    codes = genomes.codes.copy()
    phages = np.flatnonzero(genomes.viral)
    trained, tested = (int(phages[genomes.part[phages] == part][0]) for part in (TRAIN, TEST))
    codes[genomes.starts[tested] : genomes.starts[tested + 1]] = genomes.record(trained)
    again = split(replace(genomes, codes=codes), validation=0.2, test=0.25)
    assert again.part[trained] == again.part[tested]


def test_host_pieces_that_match_a_virus_are_ignored(genomes: Genomes) -> None:
    trained = np.flatnonzero(genomes.part == TRAIN)
    virus = int(trained[genomes.viral[trained]][0])
    host = int(trained[~genomes.viral[trained]][0])
    random = np.random.default_rng(1)
    piece = genomes.record(virus)[200:1200][::-1].copy()
    piece = np.where(piece < 4, 3 - piece, piece).astype(np.uint8)  # a prophage on the other strand, 5 % diverged
    changed = random.random(len(piece)) < 0.05
    piece[changed] = (piece[changed] + 1) & 3
    codes = genomes.codes.copy()
    first = int(genomes.starts[host]) + 900
    codes[first : first + 1000] = piece
    found = ignore_matches(replace(genomes, codes=codes)).ignored
    assert len(found) == 1
    begin, end = int(found[0, 0]), int(found[0].sum())
    assert begin <= first + 100
    assert end >= first + 900
    assert begin >= first - 600
    assert end <= first + 1600
    assert not len(ignore_matches(genomes).ignored)


def test_test_viruses_leave_no_trace_in_what_is_trained_on(genomes: Genomes) -> None:
    tested = np.flatnonzero((genomes.part == TEST) & genomes.viral)
    hosts = np.flatnonzero(~genomes.viral)
    codes = genomes.codes.copy()
    for part in (TRAIN, TEST):
        host = int(hosts[genomes.part[hosts] == part][0])
        codes[genomes.starts[host] : genomes.starts[host] + 1400] = genomes.record(int(tested[0]))[:1400]
    found = ignore_matches(replace(genomes, codes=codes)).ignored
    owners = np.searchsorted(genomes.starts, found[:, 0], side="right") - 1
    assert [int(genomes.part[owner]) for owner in owners] == [TEST]


def test_kmers_of_both_strands_have_the_same_hashes() -> None:
    codes = base_codes("ACGGTTACGNACCATGGACTAGCATCAGCATTACGACG")
    other = np.where(codes < 4, 3 - codes, codes)[::-1].astype(np.uint8)
    one, known = kmer_hashes(codes, 7)
    two, _ = kmer_hashes(other, 7)
    assert set(one[known]) == set(two[known[::-1]])
    assert (~known).sum() == 7


def test_crops_are_even_reproducible_and_of_their_part(genomes: Genomes) -> None:
    held = DeviceGenomes(genomes, CPU)
    sampler = CropSampler(held, TRAIN, recipe(bases=60_000, lengths={100: 1.0}, mutated=0.0))
    crops = sampler.draw(5)
    assert crops.bases.shape == (600, 100)
    assert 0.42 < crops.viral.float().mean() < 0.58
    assert torch.equal(crops.bases, sampler.draw(5).bases)
    assert not torch.equal(crops.bases, sampler.draw(6).bases)
    text = {
        part: b"".join(genomes.record(int(r)).tobytes() for r in np.flatnonzero(genomes.part == part))
        for part in (0, 2)
    }
    clean = [row.numpy().tobytes() for row in crops.bases if (row < 4).all()]
    assert sum(row in text[0] for row in clean) == len(clean)
    assert not any(row in text[2] for row in clean)


def test_substitutions_are_as_many_as_asked_for(genomes: Genomes) -> None:
    held = DeviceGenomes(genomes, CPU)
    plain = CropSampler(held, TRAIN, recipe(bases=90_000, lengths={300: 1.0}, mutated=0.0)).draw(1)
    changed = CropSampler(held, TRAIN, recipe(bases=90_000, lengths={300: 1.0}, mutated=1.0, substitutions=0.2)).draw(1)
    both = (plain.bases < 4) & (changed.bases < 4)
    share = ((plain.bases != changed.bases) & both).float().mean(1)
    assert 0.08 < share.mean() < 0.12
    assert share.max() < 0.3


def test_ignored_pieces_are_not_trained_on(genomes: Genomes) -> None:
    at = int(np.flatnonzero((genomes.part == TRAIN) & ~genomes.viral)[0])
    runs = np.array([[genomes.starts[at], 3002]])
    held = DeviceGenomes(replace(genomes, ignored=runs), CPU)
    crops = CropSampler(held, TRAIN, recipe(bases=60_000, lengths={200: 1.0}, mutated=0.0)).draw(3)
    inside = genomes.record(at).tobytes()
    used = [row.numpy().tobytes() for row, kept in zip(crops.bases, crops.used, strict=True) if kept]
    assert not any(row in inside for row in used)


def test_runs_are_first_place_and_length() -> None:
    assert runs_of(np.array([1, 1, 0, 0, 1, 0, 1], np.bool_)).tolist() == [[0, 2], [4, 1], [6, 1]]


def test_damaged_input_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.fna").write_text(">a\nAC!GT\n")
    (tmp_path / "s.csv").write_text("path,label,group\nx.fna,viral,phage\nx.fna,host,bacteria\n")
    with pytest.raises(InputError, match=r"x\.fna"):
        read_genomes(read_sheet(tmp_path / "s.csv"))


def test_a_relative_of_a_phage_is_found_by_its_proteins_where_no_bases_are_left(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    acids = np.array([at for at, acid in enumerate(AMINO_ACIDS) if acid != "*"])
    codons = random.choice(acids, 5000)
    other = np.array([random.choice([at for at in acids if AMINO_ACIDS[at] == AMINO_ACIDS[one]]) for one in codons])
    spelled = ["".join("ACGT"[codon >> shift & 3] for codon in some for shift in (4, 2, 0)) for some in (codons, other)]
    around = "".join(random.choice(list("ACGT"), 60_000))
    (tmp_path / "phage.fna").write_text(f">p\n{spelled[0]}\n")
    turned = spelled[1].translate(str.maketrans("ACGT", "TGCA"))[::-1]
    (tmp_path / "host.fna").write_text(f">h\n{around[:20_000]}{turned}{around[20_000:]}\n")
    (tmp_path / "g.csv").write_text(
        "path,label,group,kind\nphage.fna,viral,phage,phage\nhost.fna,host,bacteria,bacteria\n"
    )
    held = read_genomes(read_sheet(tmp_path / "g.csv"))
    assert not len(ignore_matches(held).ignored)
    found = ignore_resembling(held).ignored
    assert len(found) == 1
    begin = int(found[0, 0] - held.starts[int(np.flatnonzero(~held.viral)[0])])
    assert abs(begin - 20_000) <= 1000
    assert abs(found[0, 1] - 15_000) <= 2000


def test_synonyms_change_codons_and_no_amino_acid(genomes: Genomes) -> None:
    sampler = CropSampler(
        DeviceGenomes(genomes, torch.device("cpu")), TRAIN, recipe(synonyms=1.0, evolved=0.0, hidden_codons=0.0)
    )
    ids = torch.arange(65).repeat(4, 6, 1)
    found = sampler.hide(ids)
    assert (found != ids).any()
    spelled = np.array([*AMINO_ACIDS, "?"])
    assert (spelled[found.numpy()] == spelled[ids.numpy()]).all()


def test_codons_of_like_amino_acids_take_others_places_and_stops_stay(genomes: Genomes) -> None:
    asked = recipe(synonyms=0.0, evolved=1.0, replaced=1.0, hidden_codons=0.0)
    sampler = CropSampler(DeviceGenomes(genomes, torch.device("cpu")), TRAIN, asked)
    ids = torch.arange(65).repeat(200, 6, 1)
    spelled = np.array([*AMINO_ACIDS, "?"])
    before, after = spelled[ids.numpy()], spelled[sampler.hide(ids).numpy()]
    assert ((before == "*") == (after == "*")).all()
    assert ((before == "?") == (after == "?")).all()
    isoleucine = after[before == "I"]
    # Half of the codons are replaced on the average, three of four of these within the class.
    assert 0.4 < (isoleucine != "I").mean() < 0.6
    assert 0.25 < np.isin(isoleucine, ["L", "M", "V"]).mean() < 0.5


def test_a_group_left_out_is_for_the_test_as_a_whole(genomes: Genomes) -> None:
    found = split(genomes, validation=0.2, test=0.25, left_out=["plasmid"])
    plasmids = np.array(found.groups)[found.group] == "plasmid"
    assert (found.part[plasmids] == TEST).all()
    assert (found.part[~plasmids] == TRAIN).any()
    with pytest.raises(UsageError, match="no group is called 'fish'"):
        split(genomes, validation=0.2, test=0.25, left_out=["fish"])
