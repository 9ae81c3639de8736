from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs.convert import main
from tests.classifier.virnucpro import save_all
from vnp.classifier.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("virnucpro")
    save_all(folder)
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_published_kind_of_model_becomes_a_checkpoint(saved: Path, tmp_path: Path) -> None:
    done = run(saved / "zip_3328.pth", "--chunk", "300", "--out", tmp_path / "new.pth")
    assert done.exit_code == 0, done.output
    assert "3328 = dna 768 (dnabert_s) + protein 2560 (esm2_3b)" in done.output
    assert Checkpoint.load(tmp_path / "new.pth").chunk == 300
    again = run(saved / "zip_3328.pth", "--chunk", "500", "--out", tmp_path / "new.pth")
    assert again.exit_code == 2
    assert Checkpoint.load(tmp_path / "new.pth").chunk == 300
    forced = run(saved / "legacy_2048.pth", "--chunk", "500", "--out", tmp_path / "new.pth", "--force", "--json")
    assert json.loads(forced.stdout)["chunk"] == Checkpoint.load(tmp_path / "new.pth").chunk == 500


def test_the_folder_is_made(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "my models/new/a.pth"
    done = run(saved / "zip_3328.pth", "--chunk", "300", "--out", out)
    assert done.exit_code == 0, done.output
    assert Checkpoint.load(out).chunk == 300
    assert f"next: python -m jobs.predict INPUT --checkpoint '{out}' --out DIR" in done.output
    failed = run(saved / "zip_3328.pth", "--chunk", "300", "--out", out / "below/b.pth")
    assert failed.exit_code == 1
    assert failed.stderr == f"error: making {out / 'below'}: a part of the path is a file, not a folder\n"


def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "it ran"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(marker), "w")

    (tmp_path / "old.pth").write_bytes(pickle.dumps(Malicious()))
    done = run(tmp_path / "old.pth", "--chunk", "300", "--out", tmp_path / "new.pth")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'old.pth'}: is not a classifier of VirNucPro: it asks for")
    assert {path.name for path in tmp_path.iterdir()} == {"old.pth"}


def test_the_chunk_has_to_be_said(saved: Path, tmp_path: Path) -> None:
    done = run(saved / "zip_3328.pth", "--out", tmp_path / "new.pth")
    assert done.exit_code == 2
    assert "--chunk" in done.output
