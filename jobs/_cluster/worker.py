"""The process of a task: how it is started, and what it does first.

    python -P -u -m jobs._cluster.worker CODE FUNCTION ARGUMENTS [SHARD]

The command line says all, so nothing that others could have changed meanwhile decides what is run. Neither the working
directory nor a relative entry of PYTHONPATH is searched for modules, and a task whose own code is not CODE refuses.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import vnp
from jobs._cli.ending import about, keep_streams, logs_json, tell
from jobs._cluster.task import FAILED
from vnp.files.hashing import code_digest
from vnp.files.records import parse_json
from vnp.runs.done.receipts import job_id

# Behind the name of a Python.
SAFELY = ("-P", "-u", "-m")


def task_words(function: Callable[..., str], arguments: Sequence[Any]) -> list[str]:
    """What stands behind the name of a Python that is to be a task; the number of a shard may follow."""
    called = f"{function.__module__}:{function.__name__}"
    return [*SAFELY, __name__, code_digest(), called, json.dumps(arguments, ensure_ascii=False)]


def search_path(given: str | None = None) -> str:
    """What PYTHONPATH is for a task: the absolute entries of ``given``, by default of this process's.

    Others mean the working directory. Where this code is found only there, its own folder comes first.
    """
    entries = (os.environ.get("PYTHONPATH", "") if given is None else given).split(os.pathsep)
    kept = [entry for entry in entries if entry.startswith(os.sep)]
    own = str(Path(vnp.__file__).resolve().parent.parent)
    # The first place is that of the script, or of the working directory.
    found = sys.path if sys.flags.safe_path else sys.path[1:]
    if all(os.path.realpath(entry) != own for entry in [*kept, *filter(None, found)]):
        kept.insert(0, own)
    return os.pathsep.join(kept)


def environment() -> dict[str, str]:
    """The variables of a Python that this process starts."""
    return {**os.environ, "PYTHONPATH": search_path(), "PYTHONSAFEPATH": "1"}


def main() -> None:
    """Do what the command line says."""
    code, function, arguments, *shard = sys.argv[1:]
    if logs_json():
        keep_streams()
    module, _, name = function.partition(":")
    request, *more = parse_json(arguments)
    chosen = [[int(number)] for number in shard]
    about.update(run=str(Path(request).parent), shard=int(shard[0]) if shard else None)
    tell(f"Starting with vnp {vnp.__version__} on {socket.gethostname()}, job {job_id()}")
    if code_digest() != code:
        print(
            f"error: {Path(vnp.__file__).parent} is not the code that this task was submitted with: it was changed "
            "meanwhile, or this machine has another one. Submit again with the code that tasks find: rerun RUN",
            file=sys.stderr,
        )
        sys.exit(FAILED)
    tell(getattr(import_module(module), name)(request, *chosen, *more))


if __name__ == "__main__":
    main()
