"""``benchmark controls``: windows that are no viruses, called as a user would call them."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs._cli.command import echo
from vnp.errors import InputError, UsageError

_FASTA, _CALLS = "windows.fna", "calls"


def call_windows(fasta: Path, checkpoint: str, out: Path, embedding: Mapping[str, Any]) -> dict[str, float]:
    """Call the records of a FASTA file by ``predict`` and give their probabilities by name.

    ``checkpoint`` is as ``predict`` takes it, ``embedding`` its options that say how sequences are embedded; those that
    are None are left out.
    """
    from jobs.predict import main as predict
    from vnp.controls.rates import read_probabilities

    words = [str(fasta), "--out", str(out), "--checkpoint", checkpoint, "--cluster", "inline", "--no-fasta"]
    for name, value in embedding.items():
        if value not in (None, False):
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with contextlib.redirect_stdout(sys.stderr):
        code = predict.main(words, prog_name="vnp predict", standalone_mode=False)
    if code:
        # It has said why.
        raise SystemExit(code)
    return read_probabilities(out / "predictions.tsv")


def lengths_of(text: str) -> list[int]:
    """Bases of windows from a list with commas.

    Raises:
        UsageError: it is none.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 100 <= int(word) <= 1_000_000 for word in words):
        raise UsageError(f"--lengths {text}: whole numbers from 100 to 1,000,000 with commas between, such as 500,3000")
    return sorted({int(word) for word in words})


def measure_controls(
    sheet: Path,
    out: Path,
    *,
    checkpoint: str,
    lengths: str,
    windows: int,
    seed: int,
    force: bool,
    as_json: bool,
    **embedding: Any,
) -> None:
    """Do what ``benchmark controls`` does."""
    sizes = lengths_of(lengths)
    from vnp.controls.material import cut, gather, read_sheet
    from vnp.controls.rates import FILES, missing, rates, terminal_lines, thresholds_of, write_rates
    from vnp.files.claims import alone, make_folder, require_free
    from vnp.files.durable import write_text
    from vnp.prediction.classifiers import find_classifier

    classifier, sha256 = find_classifier(checkpoint)
    made = [out / name for name in (*FILES, _FASTA, _CALLS)]
    require_free(made, force=force)
    default, thresholds = thresholds_of(classifier)
    files = read_sheet(sheet)
    make_folder(out)
    with alone(out, "measurement"):
        require_free(made, force=force)
        shutil.rmtree(out / _CALLS, ignore_errors=True)
        cuts = list(cut(gather(files), sizes, windows, seed))
        if not cuts:
            raise InputError(f"holds no sequence of {sizes[0]:,} bases or more", path=sheet)
        echo(f"{len(cuts):,} windows, {sum(one.length for one in cuts) / 1e6:,.1f} Mbp", err=True)
        write_text(out / _FASTA, "".join(f">{one.name}\n{one.bases.decode()}\n" for one in cuts))
        lines = rates(cuts, call_windows(out / _FASTA, checkpoint, out / _CALLS, embedding), sizes, thresholds)
        about = {
            "checkpoint": checkpoint, "checkpoint_sha256": sha256, "default": default, "seed": seed,
            "windows": windows, "lengths": sizes, "sheet": str(sheet),
        }  # fmt: skip
        paths = write_rates(lines, about, default, out)
    if as_json:
        echo(paths[1].read_text(encoding="utf-8"))
        return
    for line in terminal_lines(lines, default):
        echo(line)
    for note in missing(lines):
        echo(f"note: {note}")
    echo(f"wrote {', '.join(path.name for path in paths)} in {out}")
