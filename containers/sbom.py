"""Prints what is in an image as a CycloneDX 1.6 document: its Python and Debian packages.

    /opt/vnp/bin/python sbom.py

Python packages are those that ``pip inspect`` tells of; what they need of each other comes from their metadata.
There is no serial number and no time in it: of two images with the same packages it is the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import requires
from typing import Any

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT = "vnp"
_DEBIAN = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n"


def main() -> None:
    """Print it."""
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "inspect", "--local"]
    # What pip warns of is on the other stream.
    inspected = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    found = [entry["metadata"] for entry in inspected["installed"]]
    python = {canonicalize_name(one["name"]): _python(one) for one in found}
    root = {**python.pop(ROOT), "type": "application"}
    listed = subprocess.run(["dpkg-query", "-W", f"-f={_DEBIAN}"], stdout=subprocess.PIPE, text=True, check=True).stdout
    release = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)  # noqa: PTH123, SIM115
    system = release["ID"].strip('"')
    debian = [
        _debian(system, *fields)
        for installed, *fields in (line.split("\t") for line in listed.splitlines())
        if installed == "installed"
    ]
    components = [python[name] for name in sorted(python)] + sorted(debian, key=lambda one: str(one["bom-ref"]))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
        "dependencies": [
            {"ref": one["bom-ref"], "dependsOn": sorted(python[name]["bom-ref"] for name in _needs(one) & set(python))}
            for one in [root, *(python[name] for name in sorted(python))]
        ],
    }
    json.dump(document, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _python(metadata: dict[str, Any]) -> dict[str, Any]:
    """A component of what ``pip inspect`` says of a package."""
    purl = f"pkg:pypi/{canonicalize_name(metadata['name'])}@{metadata['version'].replace('+', '%2B')}"
    made = {
        "type": "library", "bom-ref": purl, "name": metadata["name"], "version": metadata["version"], "purl": purl,
    }  # fmt: skip
    if metadata.get("summary"):
        made["description"] = metadata["summary"]
    # Older packages say it in a field where some have the whole text, or among their classifiers.
    told = [one.rpartition(" :: ")[2] for one in metadata.get("classifier", []) if one.startswith("License :: ")]
    named = (metadata.get("license") or "").strip().splitlines()[:1] or told
    if metadata.get("license_expression"):
        made["licenses"] = [{"expression": metadata["license_expression"]}]
    elif named:
        made["licenses"] = [{"license": {"name": name}} for name in named]
    return made


def _debian(system: str, name: str, version: str, architecture: str) -> dict[str, Any]:
    purl = f"pkg:deb/{system}/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _needs(component: dict[str, Any]) -> set[str]:
    """Names of what a package needs here; of what extras need, too, where it is installed."""
    found = map(Requirement, requires(component["name"]) or [])
    return {
        canonicalize_name(one.name)
        for one in found
        if one.marker is None or "extra" in str(one.marker) or one.marker.evaluate()
    } - {canonicalize_name(component["name"])}


if __name__ == "__main__":
    main()
