"""What ``jobs.fetch --refseq`` does: ask, show, fetch, and say what came."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs._cli.progress import Progress
from vnp.errors import UsageError

if TYPE_CHECKING:
    from vnp.refseq.lock import Lock

URL = "https://ftp.ncbi.nlm.nih.gov/refseq/release/"


def fetch_refseq(
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
    from vnp.refseq.fetch import fetch, preview
    from vnp.refseq.lock import Asked
    from vnp.refseq.lock import as_json as lock_json
    from vnp.refseq.server import Server

    if folder is None:
        raise UsageError("--refseq needs --out DIR, the folder for the files")
    server = Server(url)
    asked = Asked(server.base, parse_groups(groups), seed, files, fasta)
    if dry_run:
        lock = preview(server, asked, folder, connections=connections, force=force)
        if as_json:
            click.echo(json.dumps(lock_json(lock), indent=2))
        else:
            _show(lock)
        return
    with Progress("RefSeq", None, "MB", 1e6) as bar:
        fetched = fetch(
            server,
            asked,
            folder,
            connections=connections,
            force=force,
            progress=lambda done, total: bar.to(done, f" of {total / 1e6:,.0f} MB" if total else ""),
            say=lambda text: click.echo(text, err=True),
        )
    size = sum(one.size or 0 for one in fetched.lock.files.values()) / 1e6
    release = fetched.lock.release or "without a number"
    what = f"{len(fetched.lock.files)} files, {size:,.0f} MB, {len(fetched.new)} of them fetched now"
    click.echo(f"RefSeq release {release}: {what} -> {folder}", err=True)
    if not fasta:
        click.echo("without FASTA files, GenBank records that have no bases of their own cannot be used", err=True)
    if as_json:
        click.echo(json.dumps(lock_json(fetched.lock), indent=2))
    else:
        click.echo(f"next: python -m jobs.dataset {shlex.quote(str(fetched.sheet))} --out DATASET")


def _show(lock: Lock) -> None:
    width = max(map(len, lock.files))
    for name, one in lock.files.items():
        size = "unknown" if one.size is None else f"{one.size / 1e6:,.1f} MB"
        state = "here" if one.sha256 else one.kind
        click.echo(f"{name:<{width}}  {one.group:<20}  {size:>12}  {state}")
    known = sum(one.size or 0 for one in lock.files.values())
    unknown = sum(one.size is None for one in lock.files.values())
    more = f", and {unknown} of unknown size" if unknown else ""
    release = lock.release or "without a number"
    click.echo(
        f"RefSeq release {release}: {len(lock.files)} files, {known / 1e6:,.1f} MB{more}; nothing was downloaded"
    )
