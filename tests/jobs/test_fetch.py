from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import save

from jobs import fetch as command
from tests.encoders._folders import ESM2_CONFIG, TINY, esm2_state
from tests.encoders._hub_server import COMMIT, HubContent, serve
from vnp.doctor.known import Answer, random_proteins
from vnp.encoders import from_folder
from vnp.encoders.spec import spec
from vnp.encoders.weights.download import HuggingFaceHub
from vnp.encoders.weights.lock import read_lock


@pytest.fixture(autouse=True)
def one_tiny_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("VNP_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "spec", lambda name, *rest: TINY if name == "tiny" else spec(name, *rest))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command.main, list(arguments), catch_exceptions=False)


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr("vnp.encoders.weights.download.HuggingFaceHub", lambda: HuggingFaceHub(address))


@pytest.fixture(scope="module")
def content() -> dict[str, bytes]:
    return {"config.json": json.dumps(ESM2_CONFIG).encode(), "model.safetensors": save(esm2_state())}


def test_fetch_check_and_fetch_again(
    content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "weights"
    with serve(HubContent(content)) as address:
        use_hub(monkeypatch, address)
        first = run("tiny", "--weights", str(root))
    assert first.exit_code == 0, first.output
    assert f"revision {COMMIT}, licence mit" in first.stderr
    assert "next: python -m jobs.extract" in first.stdout
    # The server is gone: neither of these needs it.
    checked = run("tiny", "--weights", str(root), "--check", "--json")
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["tiny"]["revision"] == COMMIT
    again = run("tiny", "--weights", str(root), "--json")
    assert again.exit_code == 0
    assert "already here" in again.stderr
    assert json.loads(again.stdout) == json.loads(checked.stdout)


def test_check_finds_a_changed_byte(content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "weights"
    with serve(HubContent(content)) as address:
        use_hub(monkeypatch, address)
        run("tiny", "--weights", str(root))
    path = root / "tiny" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = run("tiny", "--weights", str(root), "--check")
    assert result.exit_code == 1
    assert str(path) in result.stderr
    assert "python -m jobs.fetch tiny" in result.stderr


def test_fetch_ends_by_comparing_with_known_answers(
    content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right weights end with 0, weights that give other numbers with 1, and both are said."""
    root = tmp_path / "weights"
    with serve(HubContent(content)) as address:
        use_hub(monkeypatch, address)
        first = run("tiny", "--weights", str(root))
    assert "known answers tiny: not here: nobody published" in first.stderr
    rows = from_folder(root / "tiny").embed(random_proteins())
    answer = Answer("tiny", "itself", "fp32", "proteins", 0, 1, tuple(map(tuple, rows.tolist())))
    monkeypatch.setattr("vnp.doctor.known.known_answers", lambda name: [answer])
    good = run("tiny", "--weights", str(root), "--check")
    assert (good.exit_code, "known answers tiny: ok" in good.stderr) == (0, True)
    answer = dataclasses.replace(answer, rows=answer.rows[::-1])
    bad = run("tiny", "--weights", str(root))
    assert (bad.exit_code, "known answers tiny: fails" in bad.stderr) == (1, True)
    assert "do not use these weights" in bad.stderr
    assert "next:" not in bad.stdout
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    without = run("tiny", "--weights", str(root))
    assert (without.exit_code, "jobs.doctor --known" in without.stderr) == (0, True)


def test_no_internet_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(HubContent({})) as address:
        use_hub(monkeypatch, address)
    result = run("tiny", "--weights", str(tmp_path / "weights"))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: looking up someone/tiny")
    assert "login node" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert read_lock(tmp_path / "weights") == {}


def test_the_user_said_offline(content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = run("tiny", "--weights", str(tmp_path / "weights"))
    assert result.exit_code == 1
    assert "HF_HUB_OFFLINE" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prot_t5"], "no encoder is called 'prot_t5'"),
        (["kmer"], "needs nothing that is fetched"),
        (["sixframe"], "needs nothing that is fetched"),
        (["--revision", "main"], "is for one encoder"),
        (["esm2_650m", "--revision", "main"], "is pinned to revision 08e4846e"),
        (["dnabert_s", "--out", "x"], "--out is for genomes"),
        (["tiny", "--seed", "42"], "--seed is for genomes"),
        (["tiny", "--files", "2"], "--files is for genomes"),
        (["tiny", "--refseq-url", "https://x/"], "--refseq-url is for genomes"),
        (["tiny", "--no-fasta"], "--fasta/--no-fasta is for genomes"),
        (["tiny", "--fasta", "--check"], "--fasta/--no-fasta is for genomes"),
        (["tiny", "--connections", "3"], "--connections is for genomes"),
    ],
)
def test_wrong_use(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_configuration_may_hold_options_of_genomes(
    content: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vnp.toml").write_text('[fetch]\nout = "genomes"\nseed = 3\nfasta = false\nweights = "my weights"\n')
    with serve(HubContent(content)) as address:
        use_hub(monkeypatch, address)
        done = run("tiny")
    assert done.exit_code == 0, done.output
    assert "--out RUN --weights 'my weights'" in done.stdout


def test_a_weights_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("tiny", "--weights", str(tmp_path / "file" / "below"))
    assert result.exit_code == 1
    assert "a part of the path is a file" in result.stderr
