from __future__ import annotations

import gzip
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.building import FILES, RECIPE, build, content, sheet
from tests.datasets.genbank import Feature, fasta, genbank, genome_with_genes, gff3_line
from tests.datasets.making import proteins_of, record, write_sheet
from vnp.datasets.choosing.candidates import find_candidates, read_lengths
from vnp.errors import InputError, RunError, UsageError, VnpError

__all__ = ["sheet"]

pytest.importorskip("pyarrow")


def table_of(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = parquet.read_table(folder / "dataset.parquet").to_pylist()
    return rows


def fasta_of(folder: Path) -> dict[str, str]:
    lines = gzip.decompress((folder / "dataset.fna.gz").read_bytes()).decode().splitlines()
    assert len(set(lines[::2])) == len(lines) // 2
    return dict(zip((line[1:] for line in lines[::2]), lines[1::2], strict=True))


def parts_of_units(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in table_of(folder):
        assert found.setdefault(row["unit"], row["split"]) == row["split"]
    return found


def test_a_set_is_whole(sheet: Path, tmp_path: Path) -> None:
    summary = build(sheet, tmp_path / "out").summary
    assert set(content(tmp_path / "out")) == FILES
    fasta, rows = fasta_of(tmp_path / "out"), table_of(tmp_path / "out")
    assert len(fasta) == summary["chunks"]
    assert len(rows) == summary["rows"]
    assert list(dict.fromkeys(row["name"] for row in rows)) == list(fasta)
    order = ["v1.gb", "h.gb", "v2.gb", "f.fna"]
    places = [(order.index(row["file"]), row["record"], row["start"], row["end"]) for row in rows]
    assert places == sorted(places)
    for row in rows:
        assert len(fasta[row["name"]]) == row["length"] == row["end"] - row["start"]
        assert row["annotated"]
        assert row["id"] == f"{row['name']}_chunk_1{row['frame']}"
    groups = {row["organism_group"]: row["label"] for row in rows}
    assert groups == {"viral": "viral", "bacteria": "host", "plant": "host", "fungi": "host"}
    for label in ("viral", "host"):
        assert {row["split"] for row in rows if row["label"] == label} == {"train", "validation", "test"}
    chunks = {group: {row["name"] for row in rows if row["organism_group"] == group} for group in groups}
    assert {group: len(names) for group, names in chunks.items()} == dict.fromkeys(groups, 30)


def test_neither_workers_nor_the_order_of_the_sheet_change_what_is_chosen(sheet: Path, tmp_path: Path) -> None:
    build(sheet, tmp_path / "one")
    build(sheet, tmp_path / "three", workers=3)
    assert content(tmp_path / "one") == content(tmp_path / "three")
    _, *rows = sheet.read_text().splitlines()
    turned = write_sheet(sheet.parent / "turned.csv", rows[::-1])
    build(turned, tmp_path / "turned")
    assert fasta_of(tmp_path / "turned") == fasta_of(tmp_path / "one")
    assert parts_of_units(tmp_path / "turned") == parts_of_units(tmp_path / "one")
    build(sheet, tmp_path / "other", replace(RECIPE, seed=4))
    assert fasta_of(tmp_path / "other").keys() != fasta_of(tmp_path / "one").keys()


def test_units_and_split_are_the_same_whatever_is_sampled(sheet: Path, tmp_path: Path) -> None:
    recipes = {
        "a": RECIPE,
        "b": replace(RECIPE, lengths=read_lengths("200-400"), frames="all"),
        "c": replace(RECIPE, per_group=None, balance="group"),
    }
    for name, recipe in recipes.items():
        build(sheet, tmp_path / name, recipe)
    first, *others = (parts_of_units(tmp_path / name) for name in recipes)
    assert len(first) == 11
    assert all(other == first for other in others)


def test_the_annotation_of_gff3_counts_as_that_of_genbank(sheet: Path, tmp_path: Path) -> None:
    summary = build(sheet, tmp_path / "out").summary
    files = {row["path"]: row for row in summary["files"]}
    assert files["f.fna"]["proteins"] == 8
    assert len(files["f.fna"]["annotation_sha256"]) == 64
    assert files["h.gb"]["proteins"] == 30
    assert sum(row["kept"] for row in summary["counts"] if row["organism_group"] == "fungi") > 30


def test_ani_joins_near_duplicates(sheet: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyskani")
    (sheet.parent / "copy.gb").write_text(record("W", "viral", 0).replace("Organism W", "Aaa, a copy of V0"))
    with sheet.open("a") as file:
        file.write("copy.gb,viral,,\n")
    build(sheet, tmp_path / "out", replace(RECIPE, units="ani"))
    units = {row["record"]: row["unit"] for row in table_of(tmp_path / "out")}
    assert units["V0.1"] == units["W.1"] == "Aaa, a copy of V0"
    assert len(set(units.values())) == len(units) - 1


def test_a_prophage_is_not_labelled_host(sheet: Path, tmp_path: Path) -> None:
    """Where a host genome holds a virus of the set, the chunks of that place are dropped, unless they are wanted."""
    virus, host = record("V0", "viral", 0), record("H10", "bacteria", 10, genes=6)
    text = (sheet.parent / "h.gb").read_text()
    lysogen = _joined(host, virus)
    (sheet.parent / "h.gb").write_text(text.replace(host, lysogen))
    plain = replace(RECIPE, per_group=None)
    counts = {}
    for name, recipe in (("out", plain), ("kept", replace(plain, keep_prophages=True))):
        rows = build(sheet, tmp_path / name, recipe).summary["counts"]
        counts[name] = {row["length"]: row for row in rows if row["organism_group"] == "bacteria"}
    for length in ("150", "300"):
        assert counts["kept"][length]["matched"] == 0
        assert counts["out"][length]["matched"] > 3
        assert counts["out"][length]["kept"] + counts["out"][length]["matched"] == counts["kept"][length]["kept"]
    virus_bases = "".join(_origin(virus))
    assert any(bases in virus_bases for bases in _host_chunks(tmp_path / "kept"))
    assert not any(bases in virus_bases for bases in _host_chunks(tmp_path / "out"))
    (sheet.parent / "p.bed").write_text(f"H10.1\t{len(_origin(host))}\t{len(_origin(lysogen))}\n")
    listed = replace(plain, keep_prophages=True, prophages=sheet.parent / "p.bed")
    rows = build(sheet, tmp_path / "listed", listed).summary["counts"]
    assert sum(row["listed"] for row in rows) > 6
    assert not any(bases in virus_bases for bases in _host_chunks(tmp_path / "listed"))


def _origin(text: str) -> str:
    lines = text.partition("ORIGIN\n")[2].partition("//")[0].splitlines()
    return "".join(line[10:].replace(" ", "") for line in lines).upper()


def _joined(host: str, virus: str) -> str:
    """The host's record with the virus behind its bases; the virus's genes are annotated too."""
    bases, inserted = _origin(host), _origin(virus)
    features = []
    for text, shift in ((host, 0), (virus, len(bases))):
        for piece in text.split("     CDS             ")[1:]:
            location = piece.splitlines()[0].strip()
            protein = piece.partition('/translation="')[2].partition('"')[0]
            start, end = (int(n) + shift for n in location.removeprefix("complement(").removesuffix(")").split(".."))
            place = f"{start}..{end}"
            features.append(
                Feature(
                    f"complement({place})" if location.startswith("c") else place,
                    {"codon_start": "1", "translation": "".join(protein.split())},
                )
            )
    return genbank("H10", bases + inserted, features, organism="Organism H10", lineage="Bacteria; Madeupota")


def _host_chunks(folder: Path) -> list[str]:
    hosts = {row["name"] for row in table_of(folder) if row["label"] == "host"}
    return [bases for name, bases in fasta_of(folder).items() if name in hosts]


def test_a_worker_that_dies_is_one_message(sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_args: Any, **_more: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("vnp.datasets.build.find_candidates", dying)
        with pytest.raises(RunError, match=r"worked on v[12]\.gb was killed by signal 9.*--workers"):
            build(sheet, tmp_path / "out", workers=2)
    build(sheet, tmp_path / "out", workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_file_is_one_message_and_the_others_are_kept(sheet: Path, tmp_path: Path, workers: int) -> None:
    whole = (sheet.parent / "h.gb").read_text()
    (sheet.parent / "h.gb").write_text(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"h\.gb"):
        build(sheet, tmp_path / "out", workers=workers)
    assert len(list((tmp_path / "out/parts").glob("*.npz"))) >= 2
    assert not list((tmp_path / "out").glob("dataset*"))
    (sheet.parent / "h.gb").write_text(whole)
    build(sheet, tmp_path / "out", workers=workers)
    build(sheet, tmp_path / "other")
    assert content(tmp_path / "out") == content(tmp_path / "other")


def test_a_file_that_changes_meanwhile_is_noticed(sheet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def changing(source: Any, *args: Any, **more: Any) -> None:
        find_candidates(source, *args, **more)
        source.path.write_text(source.path.read_text() + "\n")

    monkeypatch.setattr("vnp.datasets.build.find_candidates", changing)
    with pytest.raises(InputError, match="changed while it was read"):
        build(sheet, tmp_path / "out")
    assert not list((tmp_path / "out/parts").glob("*.npz"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"frames": "some"}, UsageError, "--frames is one of annotated, all"),
        ({"balance": "all"}, UsageError, "--balance"),
        ({"units": "x"}, InputError, "no column x: .*--units asks for x"),
        ({"split_by": "x"}, UsageError, "--split-by is one of chance, date"),
        ({"per_group": 0}, UsageError, "--per-group 0"),
        ({"seed": -1}, UsageError, "--seed -1"),
        ({"test": 0.95}, UsageError, "something must be left"),
        ({"prophages": Path("none.bed")}, InputError, "no such file"),
    ],
)
def test_impossible_recipes(
    sheet: Path, tmp_path: Path, change: dict[str, Any], error: type[VnpError], words: str
) -> None:
    with pytest.raises(error, match=words):
        build(sheet, tmp_path / "out", replace(RECIPE, **change))
    assert not (tmp_path / "out").exists()


def test_a_record_in_two_files(sheet: Path, tmp_path: Path) -> None:
    (sheet.parent / "copy.gb").write_text((sheet.parent / "v2.gb").read_text())
    with sheet.open("a") as file:
        file.write("copy.gb,viral,,\n")
    with pytest.raises(InputError, match=r"copy\.gb, record 'V3\.1': the record stands in .*v2\.gb too"):
        build(sheet, tmp_path / "out")


def test_a_bed_file_of_other_records(sheet: Path, tmp_path: Path) -> None:
    (tmp_path / "p.bed").write_text("chr1\t0\t100\n")
    with pytest.raises(InputError, match=r"none of its 1 records, such as chr1, is a host record of the set"):
        build(sheet, tmp_path / "out", replace(RECIPE, prophages=tmp_path / "p.bed"))


def test_contigs_of_a_given_group_are_one_genome(sheet: Path, tmp_path: Path) -> None:
    """FASTA does not say whose a record is: without a group every contig would give as much as a genome."""
    contigs = {}
    lines = []
    for number in range(4):
        bases, _, places = genome_with_genes(proteins_of(20 + number), between=250, seed=number)
        contigs[f"C{number}"] = bases
        lines += [gff3_line(f"C{number}", *place, "+-"[n % 2], ID=f"c{number}.{n}") for n, place in enumerate(places)]
    (sheet.parent / "c.fna").write_text(fasta(contigs))
    (sheet.parent / "c.gff3").write_text("##gff-version 3\n" + "".join(lines))
    rows = sheet.read_text().splitlines()[1:]
    write_sheet(sheet, [*rows, "c.fna,host,Fungus c,fungi"])
    build(sheet, tmp_path / "out", replace(RECIPE, per_group=20))
    found = [row["record"] for row in table_of(tmp_path / "out") if row["organism_group"] == "fungi"]
    assert found.count("F15") == 10
    assert {row["unit"] for row in table_of(tmp_path / "out") if row["record"] in contigs} == {"Fungus c"}


def test_a_sheet_of_one_label(sheet: Path, tmp_path: Path) -> None:
    write_sheet(sheet, ["v1.gb,viral,,"])
    with pytest.raises(InputError, match=r"sheet\.csv: none of the files is labelled host"):
        build(sheet, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_annotated(tmp_path: Path) -> None:
    (tmp_path / "v.gb").write_text("".join(genbank(f"V{n}", "ACGT" * 200) for n in range(3)))
    hosts = "".join(genbank(f"H{n}", "ACGT" * 200, lineage="Bacteria; X") for n in range(3))
    (tmp_path / "h.gb").write_text(hosts)
    sheet = write_sheet(tmp_path / "s.csv", ["v.gb,viral,,", "h.gb,host,,"])
    with pytest.raises(InputError, match="no chunk to choose"):
        build(sheet, tmp_path / "out", replace(RECIPE, units="record"))
    build(sheet, tmp_path / "out", replace(RECIPE, units="record", frames="all"))
