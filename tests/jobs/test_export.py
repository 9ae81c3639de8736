from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from jobs.export import main as export
from jobs.extract import main as extract
from jobs.frames import main as frames
from jobs.reduce import main as reduce
from vnp.encoders import load
from vnp.features.layout import project
from vnp.runs.request import Run
from vnp.virnucpro import extract_dnabert_s, extract_fast_esm, merge_data

SAMPLE = Path(__file__).resolve().parents[2] / "vnp/sample/samplesheet.csv"


def sheet(folder: Path) -> Path:
    """A viral, a host and an unlabelled input of a few records each."""
    rng = np.random.default_rng(5)
    lines = ["path,label,group"]
    for label in ("viral", "host", ""):
        name = f"{label or 'unknown'}.fna"
        records = [
            f">{label}{i}\n{''.join(rng.choice(list('ACGT'), int(rng.integers(20, 1500))))}\n" for i in range(12)
        ]
        (folder / name).write_text("".join(records))
        lines.append(f"{name},{label},")
    path = folder / "sheet.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def call(*args: object) -> Result:
    return CliRunner().invoke(export, [str(argument) for argument in args])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reduced run in three shards, its sheet beside it."""
    folder = tmp_path_factory.mktemp("export")
    asked = ["--shards", "3", "--dna", "kmer", "--protein", "kmer", "--cluster", "inline"]
    runner = CliRunner()
    for command, args in ((extract, [str(sheet(folder)), "--out", str(folder / "run"), *asked]), (reduce, [])):
        done = runner.invoke(command, args or [str(folder / "run")])
        assert done.exit_code == 0, done.output
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def stored(run: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    with h5py.File(run / "features.h5") as file:
        return [name.decode() for name in file["ids"][:].tolist()], file["features"][:], file["label"][:]


def test_npz_and_parquet_hold_the_run(run: Path) -> None:
    ids, features, labels = stored(run)
    done = call(run, "--format", "npz")
    assert done.exit_code == 0, done.output
    assert f"wrote {len(ids):,} rows of 1664" in done.output
    assert "next: " in done.output
    with np.load(run / "export/features.npz") as found:
        np.testing.assert_array_equal(found["features"], features.astype(np.float32))
        assert found["ids"].tolist() == ids
        assert found["labels"].tolist() == labels.tolist()
    import pyarrow.parquet as parquet

    done = call(run, "--format", "parquet", "--out", run.parent / "elsewhere")
    assert done.exit_code == 0, done.output
    table = parquet.read_table(run.parent / "elsewhere/features.parquet")
    assert table["id"].to_pylist() == ids
    flat = table["features"].combine_chunks().flatten().to_numpy().reshape(len(ids), 1664)
    np.testing.assert_array_equal(flat, features.astype(np.float32))


def test_pt_with_parts_from_the_shards(run: Path) -> None:
    ids, features, labels = stored(run)
    done = call(run, "--format", "pt", "--parts")
    assert done.exit_code == 0, done.output
    assert "--layout full" in done.output
    for label, name in ((1, "viral"), (0, "host"), (-1, "unlabelled")):
        chosen = np.flatnonzero(labels == label)
        merged, dna, protein = (
            torch.load(run / f"export/{name}_{kind}.pt", weights_only=True) for kind in ("merged", "DNABERT_S", "ESM")
        )
        assert merged["ids"] == dna["nucleotide"] == protein["proteins"] == [ids[i] for i in chosen]
        np.testing.assert_array_equal(merged["data"].numpy(), features[chosen].astype(np.float32))
        whole = np.array([item["mean_representation"] for item in dna["data"]], np.float32)
        assert whole.shape == (len(chosen), 768)
        # The shards' whole DNA half gives the projected one: rows of shards and features are the same rows.
        np.testing.assert_allclose(project(whole), features[chosen, :384], atol=2e-3)
        np.testing.assert_array_equal(torch.stack(protein["data"]).numpy(), features[chosen, 384:].astype(np.float32))


def test_the_full_layout_is_what_virnucpros_functions_make(run: Path) -> None:
    """Two ways to one file: frames, extract, merge by hand; and extract, reduce, export."""
    assert CliRunner().invoke(reduce, [str(run), "--layout", "full", "--force"]).exit_code == 0
    assert call(run, "--format", "pt").exit_code == 0
    by_export = torch.load(run / "export/viral_merged.pt", weights_only=True)
    source = Run.open(run).request.inputs[0].path
    folder = run.parent / "frames"
    assert CliRunner().invoke(frames, [source, "--out", str(folder)]).exit_code == 0
    pair = folder / "d.pt", folder / "p.pt"
    extract_dnabert_s(folder / "identified_nucleotide.fa", pair[0], model=load("kmer", molecule="dna"))
    extract_fast_esm(folder / "identified_protein.faa", pair[1], "kmer")
    by_hand = merge_data(*pair, folder / "m.pt", "viral")
    assert by_hand["ids"] == by_export["ids"]
    assert by_hand["labels"] == by_export["labels"] == [1]
    torch.testing.assert_close(by_hand["data"], by_export["data"], rtol=1e-3, atol=1e-3)


def test_a_features_file_can_be_given(run: Path) -> None:
    assert call(run / "features.h5", "--format", "pt", "--parts").exit_code == 0
    assert (run / "export/host_DNABERT_S.pt").exists()


def test_nothing_is_overwritten_without_force(run: Path) -> None:
    assert call(run, "--format", "npz").exit_code == 0
    again = call(run, "--format", "npz")
    assert again.exit_code == 2
    assert "already there" in again.output
    assert call(run, "--format", "npz", "--force").exit_code == 0


def test_a_run_that_was_not_reduced(run: Path) -> None:
    (run / "features.h5").unlink()
    done = call(run, "--format", "npz")
    assert done.exit_code == 1
    assert f"python -m jobs.reduce {run}" in done.output
    assert not (run / "export").exists()


def test_damaged_features(run: Path) -> None:
    path = run / "features.h5"
    path.write_bytes(path.read_bytes()[:5000])
    done = call(run, "--format", "npz")
    assert done.exit_code == 1
    assert f"python -m jobs.reduce {run} --force" in done.output
    assert "Traceback" not in done.output


def test_parts_want_the_shards_that_were_merged(run: Path) -> None:
    receipt = run / "receipts/shard-00001.json"
    content = receipt.read_bytes()
    receipt.unlink()
    missing = call(run, "--format", "pt", "--parts")
    assert missing.exit_code == 1
    assert "was merged from other shards" in missing.output
    receipt.write_bytes(content)
    shard = run / "shards/shard-00001.h5"
    size = shard.stat().st_size
    whole = shard.read_bytes()
    with h5py.File(shard) as file:
        place = file["dna"].id.get_offset()
    for changed in (bytes(size), whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
        shard.write_bytes(changed)
        damaged = call(run, "--format", "pt", "--parts")
        assert damaged.exit_code == 1
        assert "shard-00001.h5 is not the file that its receipt names" in damaged.output
        assert "jobs.rerun" in damaged.output
        assert not list((run / "export").glob("*"))
        # The shard counts as missing, so that rerun makes it.
        assert not receipt.exists()
        receipt.write_bytes(content)
    shard.write_bytes(whole)
    assert call(run, "--format", "pt", "--parts").exit_code == 0


def test_no_such_run(tmp_path: Path) -> None:
    done = call(tmp_path / "none", "--format", "npz")
    assert done.exit_code == 1
    assert "there is no such run" in done.output
    assert call(tmp_path, "--format", "npz").exit_code == 2


def test_out_in_the_configuration_names_the_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vnp.toml").write_text('out = "run"\n[export]\nformat = "npz"\n')
    done = CliRunner().invoke(export, ["--format", "npz"])
    assert done.exit_code == 0, done.output
    assert (run / "export/features.npz").exists()
    (tmp_path / "vnp.toml").write_text('out = "run"\n[export]\nformat = "npz"\nout = "elsewhere"\n')
    done = CliRunner().invoke(export, [])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "elsewhere/features.npz").exists()
