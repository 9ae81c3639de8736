"""Checks a CycloneDX document, from standard input, against its schema; runs in an environment of its own, see .ci/run.

Prints what is wrong, and ends with 1 if something is.
"""

from __future__ import annotations

import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
if problem is not None:
    sys.exit(str(problem)[:2000])
