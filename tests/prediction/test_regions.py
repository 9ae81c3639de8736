"""Regions of records: which windows, where they begin and end, and what is written."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tests.jobs.commands import calls as call
from tests.prediction.tiny import SAMPLE
from tests.report.unpacking import packed_in
from vnp.prediction.genes import Genes
from vnp.prediction.stretches import CELL, FINE, STEP, WINDOW, Border, Track, joined, runs, stretches

FILES = ["regions.tsv", "regions.bed", "regions.fna"]


@pytest.mark.parametrize(
    ("odds", "found"),
    [
        ([-4] * 5 + [4] * 4 + [-4] * 5, [(5, 9)]),
        ([-4] * 5 + [4] * 2 + [-4] * 5, []),  # 8 do not outweigh two borders
        ([4] * 2 + [-4] * 5, [(0, 2)]),  # but one
        ([-4] * 5 + [4] * 2, [(5, 7)]),
        ([-4] * 5 + [4] * 4 + [-1] * 2 + [4] * 4 + [-4] * 5, [(5, 15)]),  # a doubtful pair cuts nothing
        ([-4] * 5 + [4] * 4 + [-4] * 4 + [4] * 4 + [-4] * 5, [(5, 9), (13, 17)]),
        ([1.0], [(0, 1)]),
        ([-1.0], []),
        ([], []),
    ],
)
def test_stretches_outweigh_their_borders(odds: list[float], found: list[tuple[int, int]]) -> None:
    assert runs(stretches(np.array(odds, np.float64), 5.0)) == found


def test_the_chain_is_the_likeliest_of_all() -> None:
    random = np.random.default_rng(3)
    states = (np.arange(1 << 9)[:, None] >> np.arange(9) & 1).astype(bool)
    for _ in range(20):
        odds = random.normal(0, 4, 9)
        weights = states @ odds - 5.0 * np.abs(np.diff(states.astype(int), axis=1)).sum(axis=1)
        assert (stretches(odds, 5.0) == states[weights.argmax()]).all()


def lined(bases: int, apart: int, size: int = 700, turning: int = 10_000, charged: float = 0.0) -> Genes:
    """Genes so far from each other, on one strand, which turns now and then."""
    start = np.arange(0, bases - size, apart)
    return Genes(start, start + size, start // turning % 2 == 1, np.full(len(start), charged))


def track(odds: np.ndarray, window: int = 5_000, genes: Genes | None = None) -> Track:
    start, bases = window * np.arange(len(odds)), window * len(odds)
    return Track(start, start + window, odds, bases, lambda: genes or lined(bases, 1_000))


def hosts(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(-4.3, 0.5, size)


def windows(part: tuple[int, int], first: int, behind: int, odds: float) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a part of a record, which is viral between two places."""
    start = np.arange(part[0], part[1] - WINDOW + 1, CELL)
    share = np.clip(np.minimum(start + WINDOW, behind) - np.maximum(start, first), 0, WINDOW) / WINDOW
    return start, -4.3 + share * (odds + 4.3)


@pytest.mark.parametrize("window", [1_000, 2_000, 5_000])
def test_what_looks_viral_is_found_to_the_cell(window: int) -> None:
    first, behind = 200_000, 220_000
    odds = hosts(800_000 // window, 1)
    odds[first // window : behind // window] = 3.0
    one = track(odds, window)
    (part,) = one.looked_at()
    assert part[0] <= first - CELL
    assert part[1] >= behind + CELL
    ((found, ended),) = one.viral(part, *windows(part, first, behind, 4.0))
    assert abs(found - first) <= CELL
    assert abs(ended - behind) <= CELL
    # A few thousand bases are no region.
    assert not one.viral(part, *windows(part, first, first + 3_000, 4.0))


@pytest.mark.parametrize(("bases", "odds", "count"), [(12, 2.5, 0), (12, 4.0, 1), (40, 2.5, 1), (40, 1.0, 0)])
def test_the_longer_a_stretch_the_less_its_windows_have_to_say(bases: int, odds: float, count: int) -> None:
    first, behind = 200_000, 200_000 + 1_000 * bases
    run = hosts(160, 1)
    run[40 : 40 + bases // 5] = odds
    one = track(run)
    (part,) = one.looked_at()
    assert len(one.viral(part, *windows(part, first, behind, odds))) == count


def test_a_stretch_without_genes_or_with_those_of_ribosomes_is_no_region() -> None:
    first, behind = 200_000, 220_000
    odds = hosts(160, 1)
    odds[40:44] = 2.0
    genes = lined(800_000, 1_000)
    bare = Genes(
        *(
            one[(genes.end <= first) | (genes.start >= behind)]
            for one in (genes.start, genes.end, genes.reverse, genes.charged)
        )
    )
    for known, count in ((genes, 1), (bare, 0), (lined(800_000, 1_000, charged=0.15), 0)):
        one = track(odds, genes=known)
        (part,) = one.looked_at()
        assert len(one.viral(part, *windows(part, first, behind, 4.0))) == count
    # But a record that is one gene of a virus is one.
    whole = track(np.full(4, 4.0), genes=Genes(np.array([100]), np.array([19_900]), np.array([False]), np.zeros(1)))
    (span,) = whole.viral((0, 20_000), *windows((0, 20_000), 0, 20_000, 4.0))
    assert span == (0, 20_000)


def test_many_windows_above_the_spread_of_a_record_stand_out_below_even_odds() -> None:
    odds = hosts(160, 1)
    odds[40:48] += 3.5
    contrasts = [(200_000, 240_000)]
    close, turning = lined(800_000, 900, 400), lined(800_000, 900, 400, turning=900)
    assert track(odds, genes=close).contrasting() == contrasts
    # Not with genes of hosts: far from each other, or on both strands.
    assert not track(odds, genes=lined(800_000, 2_000, 1_500)).contrasting()
    assert not track(odds, genes=turning).contrasting()
    # Nor with those of ribosomes.
    assert not track(odds, genes=lined(800_000, 900, 400, charged=0.15)).contrasting()
    # Nor where they are few.
    odds[42:48] -= 3.5
    assert not track(odds, genes=close).contrasting()


def test_no_gene_is_looked_for_where_nothing_stands_out() -> None:
    flat = Track(
        np.arange(400) * 5_000,
        np.arange(1, 401) * 5_000,
        np.full(400, -5.0),
        2_000_000,
        lambda: pytest.fail("genes were read"),
    )
    assert not flat.looked_at()
    assert not flat.contrasting()


def test_a_record_that_is_a_virus_has_no_host_to_stand_out_from() -> None:
    for count in (20, 200):
        virus = track(np.full(count, 4.0))
        bases = 5_000 * count
        assert virus.looked_at() == [(0, bases)]
        (span,) = virus.viral((0, bases), *windows((0, bases), 0, bases, 4.0))
        assert span == (0, bases)
        assert not virus.contrasting()
    assert not track(np.full(2, -3.0)).looked_at()


def test_hosts_have_no_regions() -> None:
    for seed in range(20):
        for count in (200, 500):
            one = track(hosts(count, seed), genes=lined(5_000 * count, 900, 400))
            assert not one.contrasting()
            assert not any(one.viral(part, *windows(part, 0, 0, 0.0)) for part in one.looked_at())


@pytest.mark.parametrize(
    ("viral", "contrasting", "found"),
    [
        ([], [(10, 40)], [(10, 40)]),
        ([(0, 30)], [], [(0, 30)]),
        ([(10, 20)], [(10, 40)], [(10, 20)]),
        ([(10, 14)], [(10, 40)], [(10, 40)]),
        ([(0, 20), (50, 60)], [(20, 30), (80, 90)], [(0, 30), (50, 60), (80, 90)]),
    ],
)
def test_both_chains_are_joined(
    viral: list[tuple[int, int]], contrasting: list[tuple[int, int]], found: list[tuple[int, int]]
) -> None:
    assert joined(viral, contrasting) == found


@pytest.mark.parametrize("behind", [True, False], ids=["begins", "ends"])
@pytest.mark.parametrize("true", [9_000, 10_250, 11_750])
def test_a_border_is_put_where_the_sides_differ_most(true: int, behind: bool) -> None:
    border = Border(10_000, 0, 50_000, 0.0, viral_behind=behind)
    # A window says what its bases say, on the mean.
    host = np.clip((true - border.starts) / FINE, 0, 1)
    share = 1 - host if behind else host
    assert border.refined(8 * share - 4) == true
    assert true % STEP == 0


def test_a_border_without_room_stays() -> None:
    assert Border(400, 0, 900, 0.0, viral_behind=True).refined(np.zeros(0)) == 400


def read(name: str) -> str:
    with gzip.open(SAMPLE / f"{name}.fna.gz", "rt") as file:
        return "".join(line.strip() for line in file if not line.startswith(">"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of a phage inside a bacterium, at the end of a record, and in one too short to be looked at."""
    host, phage = read("host/rickettsia_prowazekii"), read("viral/phage_lambda")
    path = tmp_path_factory.mktemp("planted") / "planted.fna"
    records = {
        "short": phage[:4_000] + host[:4_000],
        "inside": host[:16_000] + phage[2_000:14_000] + host[20_000:36_000],
        "host": host[30_000:48_000],
        "edge": host[36_000:49_000] + phage[20_000:28_000],
    }
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))
    return path


@pytest.fixture(scope="module")
def done(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done") / "calls"
    result = call(planted, "--out", out, "--regions")
    assert result.exit_code == 0, result.output
    assert "2 viral regions" in result.output
    return out


def test_regions_are_where_the_phage_is(done: Path, planted: Path) -> None:
    with (done / "regions.tsv").open(newline="") as file:
        inside, edge = csv.DictReader(file, delimiter="\t")
    for row, start, end, place, length in (
        (inside, 16_000, 28_000, "inside", 44_000),
        (edge, 13_000, 21_000, "right_edge", 21_000),
    ):
        assert abs(int(row["start"]) - start) <= 1_000, row
        assert abs(int(row["end"]) - end) <= 1_000, row
        assert (row["place"], row["record_length"]) == (place, str(length))
        assert int(row["length"]) == int(row["end"]) - int(row["start"])
        assert (row["kind"], row["host"], row["found_by"]) == ("phage", "bacteria", "scores")
        assert 0.5 < float(row["mean_score"]) <= float(row["best_score"]) <= 1
        assert float(row["probability"]) > 0.5
    assert edge["end"] == "21000"
    bed = [line.split("\t") for line in (done / "regions.bed").read_text().splitlines()]
    assert [line[:4] for line in bed] == [
        [row["record"], row["start"], row["end"], row["region"]] for row in (inside, edge)
    ]
    assert all(len(line) == 6 and 0 <= int(line[4]) <= 1000 for line in bed)
    sequences = dict(zip(*[iter(planted.read_text().splitlines())] * 2, strict=True))
    fasta = (done / "regions.fna").read_text().split(">")[1:]
    for row, text in zip((inside, edge), fasta, strict=True):
        header, *lines = text.splitlines()
        assert header == f"{row['region']} {row['record']}:{row['start']}-{row['end']}"
        assert "".join(lines) == sequences[f">{row['record']}"][int(row["start"]) : int(row["end"])]
    counts = json.loads((done / "predictions.json").read_text())["counts"]
    assert counts["regions"] == 2
    assert counts["region_bases"] == int(inside["length"]) + int(edge["length"])
    page = (done / "report.html").read_text()
    names = packed_in(page, "records")["rows"]["name"].split("\n")
    shaded = {names[row]: spans for row, spans in packed_in(page, "tracks")["regions"]}
    assert shaded == {row["record"]: [[int(row["start"]), int(row["end"])]] for row in (inside, edge)}


def test_any_number_of_shards_gives_the_same_regions(done: Path, planted: Path, tmp_path: Path) -> None:
    assert call(planted, "--out", tmp_path / "calls", "--shards", 3, "--regions").exit_code == 0
    for name in FILES:
        assert (tmp_path / "calls" / name).read_bytes() == (done / name).read_bytes(), name


def test_calling_again_without_them_and_with_them(done: Path, planted: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert call("--from", done, "--out", out, "--no-regions").exit_code == 0
    assert not any((out / name).exists() for name in FILES)
    assert call("--from", done, "--out", out, "--regions", "--force").exit_code == 0
    for name in FILES:
        assert (out / name).read_bytes() == (done / name).read_bytes(), name
    planted.write_text(planted.read_text().replace("A", "C", 1))
    refused = call("--from", done, "--out", tmp_path / "changed", "--regions")
    assert refused.exit_code != 0
    assert str(planted) in refused.output
    assert not (tmp_path / "changed" / "regions.tsv").exists()


def test_other_classifiers_have_none(checkpoint: Path, planted: Path, tmp_path: Path) -> None:
    refused = call(planted, "--checkpoint", checkpoint, "--out", tmp_path / "calls", "--regions")
    assert refused.exit_code == 2
    assert "--regions goes with native" in refused.output
