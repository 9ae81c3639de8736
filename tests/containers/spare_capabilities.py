"""Lets Apptainer run where root lacks some capabilities, as in most containers.

Apptainer gives root every capability there is, and the kernel refuses that if one is missing. This writes into the
configuration of a private Apptainer which ones root has, and prints the shell line that drops the others.

    python3 spare_capabilities.py FOLDER >> FOLDER/environment
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

# In the order of their numbers in linux/capability.h.
NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""


def main() -> None:
    """Write the configuration; print what the environment needs."""
    folder = Path(sys.argv[1]) / "etc" / "apptainer"
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapPrm:\s*([0-9a-f]+)$", status, re.MULTILINE)
    assert match is not None, "the kernel does not say what this process may do"
    permitted = int(match.group(1), 16)
    has = {f"CAP_{name}": bool(permitted >> number & 1) for number, name in enumerate(NAMES.split())}
    lacks = [name for name, there in has.items() if not there]
    if not lacks:
        return
    (folder / "capability.json").write_text(json.dumps({"users": {"root": [name for name in has if has[name]]}}))
    configuration = folder / "apptainer.conf"
    text, count = re.subn(
        r"^root default capabilities = .*$",
        "root default capabilities = file",
        configuration.read_text(),
        flags=re.MULTILINE,
    )
    assert count == 1, f"{configuration} does not look as expected"
    configuration.write_text(text)
    sys.stdout.write(f"export APPTAINER_DROP_CAPS={','.join(lacks)}\n")


if __name__ == "__main__":
    main()
