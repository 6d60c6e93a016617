"""Which machine and process this is: for the lease, and for whoever has to find it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Process:
    """A process, so named that another one can tell whether it still lives."""

    machine: str
    """Equal for two processes that see each other's numbers: host, boot and, in containers, the
    namespace of process numbers."""
    pid: int
    born: str
    """When it started, in the kernel's ticks: a number may be given to another process later."""


def this_process() -> Process:
    """The process that asks."""
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    namespace = str(_NAMESPACE.readlink()) if _NAMESPACE.is_symlink() else ""
    machine = "/".join((platform.node(), boot, namespace))
    return Process(machine, os.getpid(), _born(os.getpid()))


def is_dead(process: Process) -> bool:
    """Whether it is certain that a process lives no more; False where that cannot be told."""
    if process.machine != this_process().machine or not process.born:
        return False
    if "" in process.machine.split("/"):
        return False  # without the boot and the namespace, two machines of one name look the same
    return _born(process.pid) != process.born


def _born(pid: int) -> str:
    """Field 22 of /proc/PID/stat (see proc(5)); empty where there is no such process or file.

    A zombie has died: its parent has not looked yet.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
