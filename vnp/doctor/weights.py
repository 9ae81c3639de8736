"""Are the weights here, and are they the ones that the lock and the pins name?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from shlex import quote

from vnp.doctor import Finding
from vnp.encoders.spec import EncoderSpec, weighted
from vnp.encoders.weights.folders import CONFIG_NAME, find_folder, weights_root
from vnp.encoders.weights.lock import LOCK_NAME, check_fit, find_lock, resolve
from vnp.errors import WeightsError


def weights(root: Path | None, named: Collection[str], *, full: bool = False) -> list[Finding]:
    """Look at the weights of each encoder; those of ``named`` must be there."""
    return [_one(spec, root, spec.name in named, full) for spec in weighted()]


def _one(spec: EncoderSpec, root: Path | None, needed: bool, full: bool) -> Finding:
    about = f"weights {spec.name}"
    place = weights_root(root)
    how = f"python -m jobs.fetch {spec.name} --weights {quote(str(place))}"
    if (place / CONFIG_NAME).is_file() and not needed and not _fits(spec, place):
        return Finding(about, "not here", f"{place} holds another model", how)
    if not (place / spec.name).is_dir() and not (place / CONFIG_NAME).is_file():
        return Finding(about, "fails" if needed else "not here", f"not fetched ({place / spec.name})", how)
    try:
        folder = find_folder(spec, root)
        found = resolve(spec, folder, full=full)
        entry = find_lock(spec.name, folder)
    except WeightsError as error:
        return Finding(about, "fails", str(error).splitlines()[0], how)
    revision = (found.revision or "unknown")[:12]
    seen = f"{folder}: revision {revision}, licence {found.licence or 'unknown'}, sha256 as "
    if entry is not None:
        return Finding(about, "ok", seen + LOCK_NAME)
    if spec.pins:
        return Finding(about, "ok", seen + "pinned")
    return Finding(about, "warning", f"{folder}: not in {LOCK_NAME}, so nothing to compare with", how)


def _fits(spec: EncoderSpec, folder: Path) -> bool:
    try:
        check_fit(spec, folder)
    except WeightsError:
        return False
    return True
