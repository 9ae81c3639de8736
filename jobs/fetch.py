"""Download encoder weights or RefSeq genomes, where there is internet, and lock what came."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobs._cli import options
from jobs._cli.command import command, echo
from jobs._cli.progress import Progress, size_text
from vnp.encoders.spec import DEFAULTS, MOLECULES, EncoderSpec, names, spec, weighted
from vnp.encoders.weights.folders import weights_root
from vnp.errors import UsageError
from vnp.files.claims import make_folder
from vnp.files.records import to_json

if TYPE_CHECKING:
    from vnp.encoders.weights.lock import LockedEncoder
    from vnp.refseq.fetch import Lock

REFSEQ_URL = "https://ftp.ncbi.nlm.nih.gov/refseq/release/"
_DEFAULT_NAMES = (DEFAULTS["protein"], DEFAULTS["dna"])
_OF_GENOMES = ("folder", "refseq_url", "seed", "files", "fasta", "connections")


@command("python -m jobs.fetch fastesm2_650 dnabert_s --weights /project/weights")
@click.argument("names", nargs=-1, metavar="[NAMES]...")
@click.option(
    "--weights",
    type=options.FOLDER,
    help="Folder to fill, one folder an encoder. A home folder is often too small and not seen by all nodes: choose"
    " a shared disk.  [default: $VNP_WEIGHTS, else ~/.cache/vnp/weights]",
)
@click.option("--revision", help="Commit, tag or branch, for one encoder that is not pinned.  [default: see above]")
@click.option("--check", is_flag=True, help="Download nothing: hash all files that are here and compare.")
@click.option("--refseq", metavar="GROUPS", help="Fetch genomes instead: viral,bacteria,… (see below), or all.")
@click.option("--out", "folder", type=options.FOLDER, help="Folder for the genomes.")
@click.option("--refseq-url", default=REFSEQ_URL, help="Address of the release, or of a mirror of it.")
@click.option("--seed", type=int, default=42, help="Of the choice of genome files; 42 is VirNucPro's.")
@click.option(
    "--files",
    type=click.IntRange(min=1),
    help="GenBank files of each group.  [default: as VirNucPro, 10 of plants, invertebrates and vertebrates, else 1]",
)
@click.option(
    "--fasta/--no-fasta",
    default=True,
    help="With each GenBank file its FASTA file, as VirNucPro. Many records of large genomes have their bases only "
    "there, and cannot be used without.",
)
@click.option("--connections", type=click.IntRange(1, 16), default=3, help="Genome files to fetch at once.")
@click.option("--dry-run", is_flag=True, help="List the genome files and their sizes, and download nothing.")
@options.disk
@options.force
@options.as_json
def main(
    names: tuple[str, ...],
    weights: Path | None,
    revision: str | None,
    check: bool,
    refseq: str | None,
    folder: Path | None,
    refseq_url: str,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Download encoder weights or RefSeq genomes, where there is internet, and lock what came.

    NAMES are {names}; without any, {defaults}. The files are
    compared with the pinned hashes and with those in weights.lock.json; what is there and right is not downloaded
    again, and what was interrupted goes on. Without --revision, an encoder comes at its pinned commit, else at the
    one in the lock, else at the newest, which the lock then holds on to. No other command opens a connection. At the
    end the weights embed fixed sequences, and the numbers are compared with published ones (jobs.doctor --known).

    With --refseq, files of NCBI's RefSeq release are chosen by VirNucPro's rules and fetched into --out, with a
    samplesheet, refseq.csv, for jobs.dataset, and refseq.lock.json. Groups are viral, bacteria, archaea, fungi,
    protozoa, plant, invertebrate, vertebrate_mammalian and vertebrate_other; vertebrate is both of the last. The same
    command again goes on where it stopped, and checks what is there.
    """
    if refseq is not None:
        if names or revision or check:
            raise UsageError("--refseq fetches genomes: leave out NAMES, --revision and --check")
        _refuse(("weights",), "is the folder of encoder weights; genomes go into --out")
        _fetch_refseq(refseq, folder, url=refseq_url, dry_run=dry_run, force=force, as_json=as_json, **choice)
        return
    if dry_run or force:
        raise UsageError("--dry-run and --force are for --refseq")
    _refuse(_OF_GENOMES, "is for genomes, which --refseq GROUPS fetches")
    specs = [_weighted(name) for name in dict.fromkeys(names or _DEFAULT_NAMES)]
    root = weights_root(weights)
    if revision is not None and len(specs) != 1:
        raise UsageError("--revision is for one encoder: name it")
    entries = {one.name: _check(one, root) if check else _fetch(one, root, revision) for one in specs}
    good = [_known(one, root) for one in specs]
    if as_json:
        echo(json.dumps({name: entry and to_json(entry) for name, entry in entries.items()}, indent=2))
    if not all(good):
        sys.exit(1)
    if not check and not as_json:
        echo(f"next: python -m jobs.extract INPUT --out RUN --weights {shlex.quote(str(root))}")


def _fetch_refseq(
    groups: str,
    folder: Path | None,
    *,
    url: str,
    seed: int,
    files: int | None,
    fasta: bool,
    connections: int,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Bring RefSeq files into a folder, or only list them."""
    # Here, because these are not needed to say --help.
    from vnp.refseq.choice import parse_groups
    from vnp.refseq.fetch import Request, fetch, preview
    from vnp.refseq.server import Server

    if folder is None:
        raise UsageError("--refseq needs --out DIR, the folder for the files")
    server = Server(url)
    request = Request(server.base, parse_groups(groups), seed, files, fasta)
    if dry_run:
        _show(preview(server, request, folder, connections=connections, force=force), as_json)
        return
    with Progress("RefSeq", None, "MB", 1e6) as bar:
        fetched = fetch(
            server,
            request,
            folder,
            connections=connections,
            force=force,
            progress=lambda done, total: bar.to(done, f" of {total / 1e6:,.0f} MB" if total else ""),
            say=lambda text: echo(text, err=True),
        )
    size = sum(one.size or 0 for one in fetched.lock.files) / 1e6
    release = fetched.lock.release or "without a number"
    what = f"{len(fetched.lock.files)} files, {size:,.0f} MB, {len(fetched.new)} of them fetched now"
    echo(f"RefSeq release {release}: {what} -> {folder}", err=True)
    if not fasta:
        echo("without FASTA files, GenBank records that have no bases of their own cannot be used", err=True)
    if as_json:
        echo(_lock_json(fetched.lock))
    else:
        echo(f"next: python -m jobs.dataset {shlex.quote(str(fetched.sheet))} --out DATASET")


def _show(lock: Lock, as_json: bool) -> None:
    if as_json:
        echo(_lock_json(lock))
        return
    width = max(len(one.name) for one in lock.files)
    for one in lock.files:
        size = "unknown" if one.size is None else size_text(one.size)
        state = "here" if one.sha256 else one.kind
        echo(f"{one.name:<{width}}  {one.group:<20}  {size:>12}  {state}")
    known = sum(one.size or 0 for one in lock.files)
    unknown = sum(one.size is None for one in lock.files)
    more = f", and {unknown} of unknown size" if unknown else ""
    release = lock.release or "without a number"
    echo(f"RefSeq release {release}: {len(lock.files)} files, {known / 1e6:,.1f} MB{more}; nothing was downloaded")


def _lock_json(lock: Lock) -> str:
    from vnp.refseq.fetch import LOCK_SCHEMA

    return json.dumps({"schema": LOCK_SCHEMA, **to_json(lock)}, indent=2)


def _refuse(parameters: Collection[str], why: str) -> None:
    """Refuse options that are typed but would be ignored; a configuration may hold those of both kinds of fetching."""
    context = click.get_current_context()
    for one in context.command.params:
        if one.name in parameters and context.get_parameter_source(one.name or "") is ParameterSource.COMMANDLINE:
            raise UsageError(f"{'/'.join([*one.opts, *one.secondary_opts])} {why}")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


main.help = str(main.help).format(names=_listed([one.name for one in weighted()]), defaults=_listed(_DEFAULT_NAMES))


def _weighted(name: str) -> EncoderSpec:
    if any(name in names(molecule) for molecule in MOLECULES) and name not in [one.name for one in weighted()]:
        raise UsageError(f"{name} needs nothing that is fetched; use it as it is")
    return spec(name)


def _fetch(one: EncoderSpec, root: Path, revision: str | None) -> LockedEncoder:
    # Here, because these are not needed to say --help.
    from vnp.encoders.weights.download import HuggingFaceHub, download_weights

    make_folder(root)
    with Progress(one.name, None, "MB", 1e6) as bar:
        entry, new = download_weights(
            one,
            root,
            HuggingFaceHub(),
            revision=revision,
            progress=lambda name, done, _: bar.to(done, f" of {name}"),
            say=lambda text: echo(text, err=True),
        )
    size = sum(file.size for file in entry.files.values()) / 1e6
    what = f"fetched {size:,.0f} MB" if new else f"already here, {size:,.0f} MB"
    echo(f"{one.name}: {what}, revision {entry.revision}, licence {entry.licence} -> {root / one.name}", err=True)
    return entry


def _check(one: EncoderSpec, root: Path) -> LockedEncoder | None:
    from vnp.encoders.weights.folders import find_folder
    from vnp.encoders.weights.lock import find_lock, resolve

    folder = find_folder(one, root)
    found = resolve(one, folder, full=True)
    entry = find_lock(one.name, folder)
    against = "nothing to compare with: no lock, no pin"
    if entry is not None:
        against = "as in weights.lock.json"
    elif one.pins:
        against = "as pinned"
    echo(f"{one.name}: {len(found.weights)} weight file(s) hashed, {against}", err=True)
    return entry


def _known(one: EncoderSpec, root: Path) -> bool:
    """Compare weights with published numbers where encoders can run; whether nothing speaks against them."""
    if find_spec("torch") is None:
        echo(f"{one.name}: no torch here; where there is: python -m jobs.doctor --known", err=True)
        return True
    # Here, because it loads torch.
    from vnp.doctor.known import known

    finding = known(one, root)
    mend = f" ({finding.mend})" if finding.mend and finding.state in ("warning", "fails") else ""
    echo(f"{finding.about}: {finding.state}: {finding.found}{mend}", err=True)
    return finding.state != "fails"


if __name__ == "__main__":
    main(prog_name="python -m jobs.fetch")
