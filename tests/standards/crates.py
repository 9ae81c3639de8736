"""Checks Process Run Crates with RO-Crate's own validator, offline; runs in an environment of its own, see .ci/run.

    python crates.py FOLDER...

Prints what is wrong, and ends with 1 if something is. The one document that the validator would fetch, the JSON-LD
context of RO-Crate, is taken from ro-crate-py.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rocrate_validator import models, services
from rocrate_validator.utils.http import HttpRequester

CONTEXT = "https://w3id.org/ro/crate/1.1/context"


def get(_self: Any, url: str, *_words: Any, **_more: Any) -> SimpleNamespace:
    """In place of a request."""
    found = find_spec("rocrate")
    assert url == CONTEXT, f"asked for {url}"
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "data/ro-crate.jsonld").read_text()
    headers = {"Content-Type": "application/ld+json"}
    return SimpleNamespace(status_code=200, headers=headers, text=text, json=lambda: json.loads(text), url=url)


def main() -> None:
    """Check them."""
    HttpRequester.get = get
    issues = []
    for folder in sys.argv[1:]:
        settings = services.ValidationSettings(
            rocrate_uri=folder,
            profile_identifier="process-run-crate",
            requirement_severity=models.Severity.REQUIRED,
            offline=True,
        )
        issues += [
            f"{folder}: {issue.check.identifier}: {issue.message}" for issue in services.validate(settings).get_issues()
        ]
    sys.stdout.write("".join(f"{line}\n" for line in issues))
    sys.exit(1 if issues else 0)


if __name__ == "__main__":
    main()
