"""What `/proc` tells of the host and of its processes. Every reader takes the folder, so that a test can write one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

PROC: Final = Path("/proc")
_KTHREADD: Final = 2
_LISTEN: Final = "0A"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")


@dataclass(frozen=True, slots=True)
class Task:
    """One process. `group`: of processes that one command line started. `ticks`: of CPU so far. `start`: tells it from
    a later process with the same pid.
    """

    pid: int
    parent: int
    group: int
    ticks: int
    start: int


def tasks(proc: Path = PROC) -> dict[int, Task]:
    """All processes that may be read but the kernel's own threads, by pid."""
    found: dict[int, Task] = {}
    for pid in _pids(proc):
        task = _task(proc, pid)
        if task is not None and _KTHREADD not in (task.pid, task.parent):
            found[task.pid] = task
    return found


def _pids(proc: Path) -> list[int]:
    return [int(folder.name) for folder in proc.iterdir() if folder.name.isdigit()]


def _task(proc: Path, pid: int) -> Task | None:
    try:
        text = (proc / str(pid) / "stat").read_bytes()
        # The name stands in parentheses and may hold spaces and parentheses itself.
        rest = text[text.rindex(b")") + 2 :].split()
        return Task(pid, int(rest[1]), int(rest[2]), int(rest[11]) + int(rest[12]), int(rest[19]))
    except (OSError, ValueError, IndexError):
        return None


def family(roots: Iterable[int], among: dict[int, Task]) -> set[int]:
    """The roots and all that come from them."""
    children: dict[int, list[int]] = {}
    for task in among.values():
        children.setdefault(task.parent, []).append(task.pid)
    found: set[int] = set()
    left = [pid for pid in roots if pid in among]
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, [])
    return found


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Ticks of all cores since the boot."""

    total: int
    steal: int


def cpu_times(proc: Path = PROC) -> CpuTimes | None:
    """None where the host does not say."""
    try:
        line = (proc / "stat").read_text().split("\n", 1)[0].split()
        # user nice system idle iowait irq softirq steal; guest times are in user and nice already.
        values = [int(value) for value in line[1:9]]
    except (OSError, ValueError):
        return None
    return CpuTimes(sum(values), values[7]) if len(values) == 8 else None


def swapped_pages(proc: Path = PROC) -> int | None:
    """Pages swapped in and out since the boot."""
    try:
        rows = dict(line.split() for line in (proc / "vmstat").read_text().splitlines() if line.startswith("pswp"))
        return int(rows["pswpin"]) + int(rows["pswpout"])
    except (OSError, ValueError, KeyError):
        return None


def clock_mhz(proc: Path = PROC) -> float | None:
    """Mean over the cores, as the kernel sees it."""
    try:
        lines = (proc / "cpuinfo").read_text().splitlines()
        found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    except (OSError, ValueError):
        return None
    return sum(found) / len(found) if found else None


def listeners(port: int, proc: Path = PROC) -> set[int]:
    """Pids that listen on a TCP port of this machine, as far as they may be seen."""
    inodes = {inode for name in ("tcp", "tcp6") for inode in _inodes(proc / "net" / name, port)}
    if not inodes:
        return set()
    return {pid for pid in _pids(proc) if _holds(proc / str(pid) / "fd", inodes)}


def _inodes(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    wanted = f"{port:04X}"
    return [row[9] for row in rows if len(row) > 9 and row[3] == _LISTEN and row[1].rpartition(":")[2] == wanted]


def _holds(folder: Path, inodes: set[str]) -> bool:
    try:
        for link in folder.iterdir():
            match = _SOCKET.fullmatch(str(link.readlink()))
            if match is not None and match[1] in inodes:
                return True
    except OSError:
        return False
    return False
