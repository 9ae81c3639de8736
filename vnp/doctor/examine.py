"""The whole examination."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from vnp.doctor import machine
from vnp.doctor.finding import Finding, guarded


def examine(
    run: Path | None = None,
    weights: Path | None = None,
    *,
    named: Collection[str] = (),
    full: bool = False,
) -> Iterator[Finding]:
    """Look at everything that a run needs, cheap things first.

    Args:
        run: where the run is or would go; None for the working directory.
        weights: the user's ``--weights``, if any.
        named: encoders that are needed; the weights of others may be missing.
        full: hash every weight file again.

    Yields:
        Findings, one after the other.
    """
    folder = Path.cwd() if run is None else run
    temporary = Path(tempfile.gettempdir())
    looks = (
        ("Python", machine.python, ""),
        ("libraries", machine.libraries, ""),
        ("cores", machine.cores, ""),
        ("disk (run)", partial(machine.space, folder, "run"), ""),
        ("disk (temporary files)", partial(machine.space, temporary, "temporary files"), "set TMPDIR"),
        ("HDF5", partial(machine.hdf5, folder), "pip install h5py"),
        ("scheduler", machine.scheduler, ""),
        ("container", machine.container, ""),
    )
    for about, look, mend in looks:
        yield guarded(about, look, mend)
    # Late and here, because this loads torch.
    from vnp.doctor.accelerator import accelerator
    from vnp.doctor.weights import weights as look_at_weights

    yield from accelerator()
    yield from look_at_weights(weights, named, full=full)
