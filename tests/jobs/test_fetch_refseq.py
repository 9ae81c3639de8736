from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datasets.genbank import fasta, genome_with_genes
from tests.datasets.making import proteins_of, record
from tests.datasets.test_fasta_with_genbank import without_bases
from tests.jobs.commands import call, clean
from tests.refseq.release_server import Release, serve
from tests.refseq.test_fetch import release
from vnp.refseq.server import Server


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Release, str]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Server, "_wait", lambda *_: None)
    content = release()
    with serve(content) as address:
        yield content, address


def test_list_fetch_and_fetch_again(served: tuple[Release, str], tmp_path: Path) -> None:
    content, address = served
    given = ("--refseq", "viral,archaea", "--out", tmp_path / "my refseq", "--refseq-url", address)
    listed = call("fetch", *given, "--dry-run")
    assert listed.exit_code == 0, listed.output
    assert "viral.1.genomic.gbff.gz" in listed.stdout
    assert "RefSeq release 229: 4 files, 0.0 MB; nothing was downloaded" in listed.stdout
    assert not (tmp_path / "my refseq").exists()
    content.drop["viral/viral.1.genomic.gbff.gz"] = [200]
    first = call("fetch", *given)
    assert first.exit_code == 0, first.output
    assert "4 files, 0 MB, 4 of them fetched now" in clean(first)
    assert f"next: python -m jobs.dataset '{tmp_path}/my refseq/refseq.csv' --out DATASET" in first.stdout
    content.requests.clear()
    again = call("fetch", *given, "--json")
    assert "0 of them fetched now" in clean(again)
    assert content.requests == []
    lock = json.loads((tmp_path / "my refseq" / "refseq.lock.json").read_text())
    assert lock.pop("digest")
    assert json.loads(again.stdout) == lock
    assert " here" in call("fetch", *given, "--dry-run").stdout
    assert len(json.loads(call("fetch", *given, "--dry-run", "--json").stdout)["files"]) == 4


def packed_genomes(group: str, seed: int) -> tuple[bytes, bytes]:
    """GenBank without bases, and FASTA with the records in another order."""
    names = [f"{group.upper()}{seed + number}" for number in range(4)]
    texts = [record(name, group, seed + number) for number, name in enumerate(names)]
    bases = [genome_with_genes(proteins_of(seed + n), between=250, seed=100 * (seed + n))[0] for n in range(4)]
    sequences = {f"{name}.1": one for name, one in zip(names[::-1], bases[::-1], strict=True)}
    return gzip.compress(without_bases("".join(texts)).encode()), gzip.compress(fasta(sequences).encode())


def test_a_training_set_of_records_without_bases(served: tuple[Release, str], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    content, address = served
    content.files = {}
    for group, seed in (("viral", 0), ("bacteria", 10)):
        files = packed_genomes(group, seed)
        names = (f"{group}/{group}.1.genomic.gbff.gz", f"{group}/{group}.1.1.genomic.fna.gz")
        content.files |= dict(zip(names, files, strict=True))
    given = ("--refseq", "viral,bacteria", "--refseq-url", address)
    assert call("fetch", *given, "--out", tmp_path / "both").exit_code == 0
    done = call("dataset", tmp_path / "both" / "refseq.csv", "--out", tmp_path / "set", "--workers", 1, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert [(one["path"], one["records"], one["unusable"], one["proteins"]) for one in summary["files"]] == [
        ("viral.1.1.genomic.fna.gz", 4, 0, 16), ("bacteria.1.1.genomic.fna.gz", 4, 0, 16),
    ]  # fmt: skip
    assert summary["genomes"] == 8
    alone = call("fetch", *given, "--out", tmp_path / "alone", "--no-fasta")
    assert "without FASTA files, GenBank records that have no bases of their own cannot be used" in clean(alone)
    refused = call("dataset", tmp_path / "alone" / "refseq.csv", "--out", tmp_path / "none", "--workers", 1)
    assert refused.exit_code == 1
    assert "none of the 4 records has a sequence" in clean(refused)


def test_options_may_stand_in_the_configuration(served: tuple[Release, str], tmp_path: Path) -> None:
    _, address = served
    (tmp_path / "vnp.toml").write_text(
        'out = "RUN"\n[fetch]\nrefseq = "protozoa"\nout = "genomes"\nfasta = false\nfiles = 2\n'
        f'refseq-url = "{address}"\n'
    )
    done = call("fetch")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "genomes").glob("protozoa.*.genomic.gbff.gz"))) == 2
    assert not list((tmp_path / "genomes").glob("*.fna.gz"))
    assert not (tmp_path / "RUN").exists()


def test_no_internet_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(release()) as address:
        pass
    result = call("fetch", "--refseq", "viral", "--out", tmp_path / "refseq", "--refseq-url", address)
    assert result.exit_code == 1
    assert clean(result).startswith("error: no connection to http://127.0.0.1")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--refseq", "viral"], "needs --out DIR"),
        (["--refseq", "virus", "--out", "x"], "no group 'virus'"),
        (["--refseq", "viral", "--out", "x", "dnabert_s"], "leave out NAMES"),
        (["--refseq", "viral", "--out", "x", "--refseq-url", "ftp://x/"], "not the address of a folder"),
        (["--refseq", "viral", "--out", "x", "--weights", "y"], "--weights is the folder of encoder weights"),
        (["--dry-run"], "are for --refseq"),
    ],
)
def test_wrong_use(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("fetch", *arguments)
    assert result.exit_code == 2
    assert said in clean(result)
