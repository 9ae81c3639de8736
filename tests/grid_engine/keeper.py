"""Keeps a Grid Engine of its own on this machine, as ``tests.slurm.keeper`` does with Slurm.

Its daemons listen on every address, and nothing tells them otherwise. So they get a network of their own, which has
nothing but the loopback: the keeper makes it for itself, and who asks the cell something enters it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.slurm.configuration import Wishes
from tests.slurm.keeper import Cluster, ClusterError, main

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_SET_FLAGS = 0x8914  # SIOCSIFFLAGS
_UP = 0x1
_PROGRAMS = "/usr/lib/gridengine"
_SHARED = Path("/usr/share/gridengine")


def variables(root: Path) -> dict[str, str]:
    """What Grid Engine's programs need to know; ``SGE_ND`` keeps daemons in the foreground."""
    return {
        "SGE_ROOT": str(root), "SGE_CELL": "cell", "SGE_ARCH": "lx-amd64", "SGE_QMASTER_PORT": "6444",
        "SGE_EXECD_PORT": "6445", "SGE_ND": "1",
    }  # fmt: skip


class Cell(Cluster):
    """One master and one node that are this machine."""

    def __init__(self, wishes: Wishes) -> None:
        super().__init__(wishes)
        self._environment = {**os.environ, **variables(self.root)}

    def start(self) -> None:
        """Start master and node.

        Raises:
            ClusterError: one of them does not answer.
        """
        _enter_own_network()
        for folder in ("bin", "utilbin", "lib", "cell/common", "spool/qmaster", "spool/execd", "log"):
            (self.root / folder).mkdir(parents=True)
        for folder in ("bin", "utilbin", "lib"):
            (self.root / folder / "lx-amd64").symlink_to(_PROGRAMS)
        (self.root / "util").symlink_to(_SHARED / "util")
        spool = f"{self.root}/cell/common;{self.root}/spool/qmaster"
        common = self.root / "cell/common"
        self._settings(common / "bootstrap", _SHARED / "default-bootstrap", {
            "admin_user": "none", "ignore_fqdn": "true", "spooling_method": "classic", "spooling_lib": "libspoolc",
            "spooling_params": spool, "qmaster_spool_dir": f"{self.root}/spool/qmaster",
        })  # fmt: skip
        (common / "host_aliases").write_text(f"localhost {socket.gethostname()}\n")
        (common / "act_qmaster").write_text("localhost\n")
        configuration = self.root / "configuration"
        self._settings(configuration, _SHARED / "default-configuration", {
            "execd_spool_dir": f"{self.root}/spool/execd", "min_uid": "0", "min_gid": "0", "mailer": "/bin/true",
            "load_report_time": "00:00:02",
            "reporting_params": "accounting=true reporting=false flush_time=00:00:01 joblog=false sharelog=00:00:00",
        })  # fmt: skip
        self._must(f"{_PROGRAMS}/spoolinit", "classic", "libspoolc", spool, "init")
        for what, source in (
            ("configuration", configuration), ("complexes", _SHARED / "util/resources/centry"),
            ("usersets", _SHARED / "util/resources/usersets"), ("pes", _SHARED / "util/resources/pe"),
            ("managers", "root"),
        ):  # fmt: skip
            self._must(f"{_PROGRAMS}/spooldefaults", what, str(source))
        self._start("qmaster", [f"{_PROGRAMS}/sge_qmaster"])
        self._until("qmaster", lambda: "localhost" in self._say("qconf", "-sh"))
        self._must("qconf", "-as", "localhost")
        # It looks every second, and at once when something was submitted or has ended.
        fast = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
        self._take("-Msconf", self._say("qconf", "-ssconf"), fast)
        host = re.sub(r"^(load_values|processors) .*\n", "", self._say("qconf", "-se", "template"), flags=re.MULTILINE)
        # As a site with GPUs has it: so many of a node, counted by job.
        self._take("-Mc", self._say("qconf", "-sc") + "gpu gpu INT <= YES JOB 0 0\n", {})
        self._take("-Ae", host, {"hostname": "localhost", "complex_values": "gpu=4"})
        self._take("-Ahgrp", "group_name @allhosts\nhostlist localhost\n", {})
        self._take("-Aq", self._say("qconf", "-sq"), {
            "qname": "all.q", "hostlist": "@allhosts", "load_thresholds": "NONE", "slots": str(self.wishes.cpus),
            "shell_start_mode": "unix_behavior", "notify": "00:00:03",
        })  # fmt: skip
        self._start("execd", [f"{_PROGRAMS}/sge_execd"])
        self._until("execd", lambda: "lx-amd64" in self._say("qhost", "-h", "localhost"))

    def stop(self) -> None:
        """End the daemons, and then whatever task outlived them."""
        with contextlib.suppress(ClusterError, subprocess.SubprocessError):
            self._say("qdel", "-f", "-u", "*")
        for _, daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        for pid in self._left_behind():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left_behind(self) -> Iterator[int]:
        mark = f"SGE_ROOT={self.root}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ours = mark in (folder / "environ").read_bytes().split(b"\0")
                if ours and os.readlink(folder / "ns/net") == os.readlink("/proc/self/ns/net"):
                    yield int(folder.name)

    @staticmethod
    def _settings(path: Path, source: Path, changed: dict[str, str]) -> None:
        path.write_text(_changed(source.read_text(), changed))

    def _take(self, option: str, text: str, changed: dict[str, str]) -> None:
        path = self.root / f"of{option}"
        path.write_text(_changed(text, changed))
        self._must("qconf", option, str(path))

    def _must(self, *words: str) -> None:
        done = subprocess.run(words, env=self._environment, capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise ClusterError(f"{' '.join(words)}: {done.stdout} {done.stderr}")


def _changed(text: str, values: dict[str, str]) -> str:
    """Lines of a name and a value, some with other values."""
    lines = []
    for line in text.splitlines():
        name = line.partition(" ")[0].partition("\t")[0]
        lines.append(f"{name} {values[name]}" if name in values else line)
    return "\n".join([*lines, ""])


def _enter_own_network() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        raise ClusterError(f"no network of its own: {os.strerror(ctypes.get_errno())}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh", b"lo", _UP))


if __name__ == "__main__":
    main(Cell)
