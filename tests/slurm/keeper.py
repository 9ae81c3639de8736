"""Keeps a Slurm cluster of its own on this machine, for as long as somebody holds its standard input open.

    python -m tests.slurm.keeper '{"root": "/tmp/cluster", ...}'

The cluster listens on loopback only. It prints one line of JSON when jobs can be submitted, or one that says why not,
and takes everything down when its standard input ends: also when whoever started it was killed. The daemons are its
children and are told to end with it, should it be killed itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.slurm.configuration import Wishes, write_configuration

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_LIBC = ctypes.CDLL(None, use_errno=True)


class ClusterError(Exception):
    """The cluster does not start; the message has the last lines of the log of what failed."""


class Cluster:
    """The daemons of one cluster.

    Args:
        wishes: how it should be.
    """

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.root = Path(wishes.root)
        self._daemons: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._environment = {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons one behind the other, each when the one before answers.

        Raises:
            ClusterError: one of them does not.
        """
        for folder in ("munge", "run", "log", "state", "spool", "dev", "data"):
            (self.root / folder).mkdir(parents=True)
        (self.root / "munge").chmod(0o711)
        ports = _free_ports(self.wishes.nodes + 2)
        write_configuration(self.wishes, ports)
        self._make_devices()
        self._start_munge()
        if self.wishes.accounting:
            self._start_accounting(ports[1])
        self._start("slurmctld", ["slurmctld", "-D", "-c"])
        self._until("slurmctld", lambda: " UP" in self._say("scontrol", "ping"))
        for node in self.wishes.node_names:
            (self.root / "spool" / node).mkdir()
            self._start(node, ["slurmd", "-D", "-N", node])
        names = set(self.wishes.node_names)
        self._until(
            self.wishes.node_names[-1],
            lambda: set(self._say("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()) == names,
        )

    def stop(self) -> None:
        """Cancel what runs, end the daemons, and then whatever task outlived them."""
        with contextlib.suppress(ClusterError, subprocess.SubprocessError):
            user = getpass.getuser()
            for extra in (["--state=PENDING"], []):
                self._say("scancel", "--user", user, *extra)
            self._until("slurmctld", lambda: not self._say("squeue", "-h").strip(), 5)
        for _, daemon in reversed(self._daemons):
            if daemon.poll() is None:
                daemon.terminate()
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        for pid in self._left_behind():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left_behind(self) -> Iterator[int]:
        """Tasks of this cluster that no daemon watches over any more: their environment names its configuration."""
        marks = {f"SLURM_CONF={self.root / 'slurm.conf'}".encode()}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = set((folder / "environ").read_bytes().split(b"\0"))
                of_a_job = any(word.startswith(b"SLURM_JOB_ID=") for word in words)
                keeper_of_one = (folder / "comm").read_text().startswith("slurmstepd")
                if marks <= words and (of_a_job or keeper_of_one) and int(folder.name) != os.getpid():
                    yield int(folder.name)

    def _make_devices(self) -> None:
        # Slurm wants character devices to count as GPUs; these are copies of /dev/null.
        for number in range(self.wishes.gpus):
            os.mknod(self.root / "dev" / f"gpu{number}", 0o20666, os.makedev(1, 3))

    def _start_munge(self) -> None:
        folder = self.root / "munge"
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        (folder / "door").mkdir(mode=0o755)
        door = folder / "door" / "socket"
        files = {"key-file": key, "socket": door, "seed-file": folder / "seed", "pid-file": folder / "pid"}
        files["log-file"] = self.root / "log" / "munged.log"
        self._start("munged", ["munged", "--foreground", *(f"--{name}={path}" for name, path in files.items())])
        self._until("munged", door.exists)

    def _start_accounting(self, port: int) -> None:
        data, door = self.root / "data", self.root / "run" / "mysql"
        tables = Path("/usr/share/mysql")
        names = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
        script = "\n".join(
            [
                "create database mysql;",
                "use mysql;",
                "set @auth_root_socket=NULL;",
                "set @skip_auth_anonymous=1;",
                *((tables / name).read_text(errors="replace") for name in names),
            ]
        )
        user = getpass.getuser()
        small = ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]
        made = subprocess.run(
            ["mariadbd", "--no-defaults", "--bootstrap", f"--user={user}", f"--datadir={data}", *small,
             "--enforce-storage-engine=", "--max-allowed-packet=8M", "--log-warnings=0"],
            input=script.encode(), capture_output=True,
        )  # fmt: skip
        if made.returncode:
            raise ClusterError(f"mariadbd --bootstrap: {made.stderr.decode(errors='replace')[-2000:]}")
        grants = self.root / "grants.sql"
        grants.write_text(
            "create database slurm_acct_db;\n"
            "create user slurm@localhost identified by 'slurm';\n"
            "grant all on slurm_acct_db.* to slurm@localhost;\n"
        )
        self._start(
            "mariadbd",
            ["mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", f"--socket={door}", *small,
             "--skip-networking", f"--init-file={grants}", "--innodb-flush-log-at-trx-commit=0",
             "--innodb-lock-wait-timeout=900", "--skip-log-bin", f"--pid-file={self.root / 'run' / 'mariadb.pid'}"],
        )  # fmt: skip
        self._until("mariadbd", door.exists)
        self._environment["MYSQL_UNIX_PORT"] = str(door)
        self._start("slurmdbd", ["slurmdbd", "-D"])
        self._until("slurmdbd", lambda: _answers(port))

    def _start(self, name: str, words: list[str]) -> None:
        with (self.root / "log" / f"{name}.out").open("wb") as log:
            self._daemons.append(
                (
                    name,
                    subprocess.Popen(
                        words,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env=self._environment,
                        start_new_session=True,
                        preexec_fn=_die_with_parent,
                    ),
                )
            )

    def _say(self, *words: str) -> str:
        done = subprocess.run(words, env=self._environment, capture_output=True, text=True, timeout=10)
        return done.stdout

    def _until(self, name: str, holds: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            ended = [who for who, daemon in self._daemons if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = [self.root / "log" / f"{who}.out" for who in ended or [name]]
                words = "\n".join(path.read_text(errors="replace")[-2000:] for path in logs)
                raise ClusterError(f"{', '.join(ended or [name])}: {'ended' if ended else 'no answer'}\n{words}")
            time.sleep(0.05)


def _die_with_parent() -> None:
    _LIBC.prctl(_DEATH_SIGNAL, signal.SIGTERM)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; below those that the system gives to outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = 20_000 + secrets.randbelow(10_000)
        if port not in found and not _answers(port):
            found.append(port)
    return found


def main(make: Callable[[Wishes], Cluster] = Cluster) -> None:
    """Start a cluster, wait until standard input ends, and stop it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wishes = Wishes(**json.loads(sys.argv[1]))
    cluster = make(wishes)
    try:
        problem = ""
        try:
            cluster.start()
        except (ClusterError, OSError, subprocess.SubprocessError) as error:
            problem = str(error) or type(error).__name__
        sys.stdout.write(json.dumps({"problem": problem}) + "\n")
        sys.stdout.flush()
        if not problem:
            sys.stdin.buffer.read()
    finally:
        cluster.stop()
        if wishes.clean:
            shutil.rmtree(wishes.root, ignore_errors=True)


if __name__ == "__main__":
    main()
