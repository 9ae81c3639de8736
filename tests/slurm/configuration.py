"""The files that make a Slurm cluster of one machine."""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from pathlib import Path

_MEMORY = [
    "JobAcctGatherType=jobacct_gather/linux",
    "JobAcctGatherFrequency=task=1",
    "JobAcctGatherParams=OverMemoryKill",
]


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a test cluster should be.

    Args:
        root: its folder, empty or not there, that all users can reach.
        nodes: how many nodes, all of them on this machine.
        gpus: fake GPUs of a node.
        cpus: cores that each node claims to have.
        accounting: with slurmdbd and a database, so that sacct answers.
        max_array_size: Slurm's MaxArraySize.
        remembered: seconds for which finished jobs are remembered (MinJobAge).
        kill_wait: seconds between TERM and KILL.
        grace: seconds that a preempted job of partition ``low`` has.
        memory: end steps that use more memory than they asked for.
        clean: delete the folder in the end.
    """

    root: str
    nodes: int = 2
    gpus: int = 4
    cpus: int = 8
    accounting: bool = True
    max_array_size: int = 1001
    remembered: int = 300
    kill_wait: int = 2
    grace: int = 60
    memory: bool = False
    clean: bool = False

    @property
    def node_names(self) -> list[str]:
        """``n1``, ``n2`` …"""
        return [f"n{number + 1}" for number in range(self.nodes)]


def write_configuration(wishes: Wishes, ports: list[int]) -> None:
    """Write slurm.conf and what belongs to it.

    Args:
        wishes: how the cluster should be.
        ports: of slurmctld, slurmdbd and each node.
    """
    root = Path(wishes.root)
    control, accounting, *nodes = ports
    (root / "slurm.conf").write_text(
        "\n".join([*_general(wishes, control), *_accounting(wishes, accounting), *_nodes(wishes, nodes), ""])
    )
    devices = f"{root / 'dev'}/gpu[0-{wishes.gpus - 1}]"
    (root / "gres.conf").write_text(
        "".join(f"NodeName={name} Name=gpu Type=fake File={devices}\n" for name in wishes.node_names)
    )
    (root / "cgroup.conf").write_text("CgroupAutomount=no\n")
    if wishes.accounting:
        path = root / "slurmdbd.conf"
        path.write_text("\n".join([*_database(root, accounting), ""]))
        path.chmod(0o600)


def _door(root: Path) -> Path:
    return root / "munge" / "door" / "socket"


def _general(wishes: Wishes, port: int) -> list[str]:
    root, user, host = Path(wishes.root), getpass.getuser(), socket.gethostname().split(".")[0]
    return [
        "ClusterName=test",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={port}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        # A requeued job waits until its credential has expired, and one second more.
        f"AuthInfo=socket={_door(root)},cred_expire=5",
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
        f"StateSaveLocation={root / 'state'}",
        f"SlurmdSpoolDir={root / 'spool'}/%n",
        f"SlurmctldPidFile={root / 'run'}/slurmctld.pid",
        f"SlurmdPidFile={root / 'run'}/%n.pid",
        f"SlurmctldLogFile={root / 'log'}/slurmctld.log",
        f"SlurmdLogFile={root / 'log'}/%n.log",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        *(_MEMORY if wishes.memory else ["JobAcctGatherType=jobacct_gather/none"]),
        "MailProg=/bin/true",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "PropagateResourceLimits=NONE",
        "SchedulerType=sched/backfill",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,bf_resolution=1",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "PriorityType=priority/basic",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "JobRequeue=1",
        f"MaxArraySize={wishes.max_array_size}",
        f"MinJobAge={wishes.remembered}",
        f"KillWait={wishes.kill_wait}",
        "MessageTimeout=10",
        "UnkillableStepTimeout=10",
        "SlurmctldTimeout=30",
        "SlurmdTimeout=60",
        "BatchStartTimeout=20",
        "CompleteWait=0",
        "TCPTimeout=2",
        "GresTypes=gpu",
    ]


def _accounting(wishes: Wishes, port: int) -> list[str]:
    if not wishes.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={port}",
        f"AccountingStoragePass={_door(Path(wishes.root))}",
        "AccountingStorageTRES=gres/gpu",
    ]


def _nodes(wishes: Wishes, ports: list[int]) -> list[str]:
    host = socket.gethostname().split(".")[0]
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={wishes.cpus} Boards=1 "
        f"SocketsPerBoard=1 CoresPerSocket={wishes.cpus} ThreadsPerCore=1 RealMemory=64000 "
        f"Gres=gpu:fake:{wishes.gpus} State=UNKNOWN"
        for name, port in zip(wishes.node_names, ports, strict=True)
    ]
    everywhere = f"Nodes={','.join(wishes.node_names)} MaxTime=INFINITE DefaultTime=60 State=UP"
    return [
        *lines,
        f"PartitionName=main {everywhere} Default=YES PriorityTier=10",
        f"PartitionName=low {everywhere} PriorityTier=1 GraceTime={wishes.grace}",
        f"PartitionName=high {everywhere} PriorityTier=20 PreemptMode=OFF",
    ]


def _database(root: Path, port: int) -> list[str]:
    user, host = getpass.getuser(), socket.gethostname().split(".")[0]
    return [
        "AuthType=auth/munge",
        f"AuthInfo=socket={_door(root)}",
        f"DbdHost={host}",
        "DbdAddr=127.0.0.1",
        f"DbdPort={port}",
        "CommunicationParameters=NoInAddrAny",
        f"SlurmUser={user}",
        "MessageTimeout=5",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        "StorageUser=slurm",
        "StoragePass=slurm",
        "StorageLoc=slurm_acct_db",
        f"LogFile={root / 'log'}/slurmdbd.log",
        f"PidFile={root / 'run'}/slurmdbd.pid",
    ]
