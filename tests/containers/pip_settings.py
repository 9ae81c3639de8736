"""Takes this machine's settings of pip into a container that is being built.

    python pip_settings.py FOLDER

Writes FOLDER/pip.conf, with the certificate authority beside it, for use as /mnt, and prints what ``apptainer build``
must bind, one option a line: FOLDER itself, and each local folder that pip takes packages from.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

INSIDE = "/mnt"
LOCATIONS = ("index-url", "extra-index-url", "find-links")


def main() -> None:
    """Write the settings and print the binds."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = read_settings()
    binds = [f"{folder}:{INSIDE}"]
    for key in LOCATIONS:
        places = [moved(place, folder, binds) for place in settings.get(key, "").split()]
        if places:
            settings[key] = "\n    ".join(places)
    if "cert" in settings:
        shutil.copy(settings["cert"], folder / "ca.crt")
        settings["cert"] = f"{INSIDE}/ca.crt"
    lines = [f"{key} = {value}" for key, value in sorted(settings.items())]
    (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    sys.stdout.write("".join(f"--bind\n{bind}\n" for bind in binds))


def read_settings() -> dict[str, str]:
    """pip's settings on this machine; the environment's win over files'."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^(global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    wanted = {*LOCATIONS, "cert", "timeout", "default-timeout", "trusted-host"}
    return {key: value for _, key, value in sorted(found, key=lambda entry: entry[0] == ":env:") if key in wanted}


def moved(place: str, folder: Path, binds: list[str]) -> str:
    """What a place is called inside; a local folder is bound below ``INSIDE``."""
    local = Path(place.removeprefix("file://"))
    if not local.is_absolute() or not local.exists():
        return place
    # An index refers to files beside it.
    outside, name = (local.parent, local.name) if place.startswith("file://") else (local, "")
    inside = f"packages-{len(binds)}"
    (folder / inside).mkdir(exist_ok=True)
    binds.append(f"{outside}:{INSIDE}/{inside}")
    address = f"{INSIDE}/{inside}/{name}".rstrip("/")
    return f"file://{address}" if place.startswith("file://") else address


if __name__ == "__main__":
    main()
