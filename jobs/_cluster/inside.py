"""Planning for a host that has Click and submitit and nothing else: the profile's image does it on this machine.

Both ends of the conversation are here. The host writes one JSON object to ``python -m jobs._cluster.inside`` in the
image and reads one from it; progress and errors pass through to the user.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs._cluster.image import libraries_here, run_in_image
from jobs._cluster.profile import KINDS, Profile, Resources, load_profile
from vnp.encoders.weights.folders import weights_root
from vnp.errors import UsageError, VnpError
from vnp.runs.planning.options import RunOptions
from vnp.runs.request import Position, Run, Shard


def plan(ask: RunOptions, out: Path, site: Profile | None, *, force: bool) -> tuple[Run, bool, list[Shard]]:
    """Plan a run, here or in the image.

    Args:
        ask: what is wanted.
        out: the run directory.
        site: names the image; None plans here.
        force: begin anew where another run stands.

    Returns:
        The run, whether it was there before, and its shards.

    Raises:
        VnpError: planning failed.
    """
    if libraries_here() or site is None:
        from jobs._cluster.plan import plan_here

        return plan_here(ask, out, force)
    root = out.absolute()
    made = not root.exists()
    # It must be there to be bound.
    root.mkdir(parents=True, exist_ok=True)
    paths = [root, *_files(ask), *([weights_root(ask.weights)] if ask.needs_weights else [])]
    try:
        answer = _asked(site, paths, {"ask": ask.as_json(), "root": str(root), "force": force})
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                root.rmdir()
        raise
    return Run.open(root), answer["before"], _shards(answer)


def shard_table(run: Run, site: Profile | None) -> list[Shard]:
    """Read the shard table of a planned run, here or in the image of ``site`` (None: the environment's profile).

    Raises:
        VnpError: it cannot be read.
    """
    if libraries_here():
        from vnp.runs.planning.plan import read_plan

        return read_plan(run.paths.plan, run.request.plan_sha256)
    return _shards(_asked(site, [run.paths.root], {"ask": None, "root": str(run.paths.root), "force": False}))


def main() -> None:
    """Answer the host: plan what is asked, if anything, and tell the shard table."""
    # Nothing else may get between the lines of the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    wish = json.load(sys.stdin)
    root = Path(wish["root"])
    try:
        if wish["ask"] is None:
            before, shards = True, shard_table(Run.open(root), None)
        else:
            _, before, shards = plan(RunOptions.from_json(wish["ask"]), root, None, force=wish["force"])
    except VnpError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    json.dump({"before": before, "shards": [asdict(shard) for shard in shards]}, answer)


def _files(ask: RunOptions) -> list[Path]:
    """The files that planning reads."""
    return [path for file in ask.files for path in (file.path, file.dataset) if path is not None]


def _asked(site: Profile | None, paths: list[Path], wish: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run_in_image(_with_image(site), paths, ["python", "-m", "jobs._cluster.inside"], json.dumps(wish))
    )
    return found


def _with_image(site: Profile | None) -> Resources:
    profile = load_profile(None) if site is None else site
    for kind in reversed(KINDS):
        if profile.of(kind).image:
            return profile.of(kind)
    raise UsageError(
        "this Python has no numpy and h5py, which reading a run needs: name a profile with an image (--profile or "
        "VNP_PROFILE), plan in a job (--plan-job), or install vnp with its dependencies"
    )


def _shards(answer: dict[str, Any]) -> list[Shard]:
    return [Shard(**{**entry, "start": Position(**entry["start"])}) for entry in answer["shards"]]


if __name__ == "__main__":
    main()
