"""Token budgets that were measured on this machine: ``benchmark speed --tune`` writes them, encoders read them.

They are in one JSON file of the user's, by name of the GPU, encoder and precision. A file that is damaged counts as
none: a budget changes how fast an encoder is, and never what it computes beyond rounding.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vnp.files.records import write_json

log = logging.getLogger(__name__)

FILE_NAME = "token_budgets.json"
SCHEMA = "vnp-token-budgets/1"


@dataclass(frozen=True, slots=True)
class TunedBudget:
    """What was found best.

    Attributes:
        tokens: of a batch.
        tokens_per_second: that it gave.
        peak_gib: memory that it took, weights included; None where that is not known.
        measured: when, in UTC, ISO 8601.
        torch: version that it was measured with.
    """

    tokens: int
    tokens_per_second: float
    peak_gib: float | None
    measured: str
    torch: str


def tuned_path() -> Path:
    """Say where budgets are kept.

    Returns:
        ``token_budgets.json`` in ``$VNP_CONFIG``; else in ``vnp`` in the user's folder of settings
        (``$XDG_CONFIG_HOME``, else ``~/.config``).
    """
    if os.environ.get("VNP_CONFIG"):
        return Path(os.environ["VNP_CONFIG"]).expanduser() / FILE_NAME
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vnp" / FILE_NAME


def read_tuned(device_name: str, encoder: str, precision: str) -> int | None:
    """Look up a budget.

    Args:
        device_name: of the GPU, as ``torch.cuda.get_device_name`` has it.
        encoder: its name, such as ``fastesm2_650``.
        precision: such as ``fp16``.

    Returns:
        Tokens of a batch, or None if nobody measured; a file that cannot be used is told of as a warning.
    """
    found = _read(tuned_path()).get(device_name, {}).get(encoder, {}).get(precision)
    return None if found is None else int(found["tokens"])


def write_tuned(device_name: str, encoder: str, precision: str, budget: TunedBudget) -> Path:
    """Keep a budget; what is known of other devices, encoders and precisions stays.

    Args:
        device_name: of the GPU.
        encoder: its name.
        precision: such as ``fp16``.
        budget: what was found.

    Returns:
        The file.

    Raises:
        StorageError: it cannot be written.
    """
    path = tuned_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    budgets = _read(path)
    budgets.setdefault(device_name, {}).setdefault(encoder, {})[precision] = asdict(budget)
    write_json(path, {"schema": SCHEMA, "budgets": budgets})
    return path


def _read(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The budgets of a file; empty if there is none or it cannot be used."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']!r}")
        budgets: dict[str, dict[str, dict[str, Any]]] = content["budgets"]
        sizes = [one["tokens"] for named in budgets.values() for kinds in named.values() for one in kinds.values()]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError("a budget in it is not a number of tokens")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning(
            "%s is ignored (%s: %s): measure again with python -m jobs.benchmark speed --tune",
            path, type(error).__name__, error,
        )  # fmt: skip
        return {}
    return budgets
