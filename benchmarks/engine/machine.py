"""What the figures were measured on, and whether somebody else was at work meanwhile."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
MOST_FOREIGN_SHARE = 0.1
"""Of one core: a round during which others used more is thrown away."""


def describe() -> dict[str, object]:
    """Processor, its flags that matter, cores, memory and versions."""
    info = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    cpu = {key.strip(): value.strip() for key, value in fields.items()}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "flags": " ".join(flag for flag in wanted if flag in cpu.get("flags", "").split()),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30),
        "kernel": platform.release().split("-")[0],
        "slackwater": importlib.metadata.version("slackwater"),
        "date": time.strftime("%Y-%m-%d"),
    }


def busy_seconds() -> float:
    """Processor time of everything on this machine since its start."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def tree_seconds(pids: set[int]) -> float:
    """Processor time of these processes and of all below them, ended ones included."""
    stats = _stats()
    below = (stat for pid, stat in stats.items() if _is_below(pid, pids, stats))
    return sum(int(ticks) for stat in below for ticks in stat[11:15]) / _TICKS


def tree_pids(root: int) -> list[int]:
    """A process and all below it that live, itself first."""
    stats = _stats()
    return sorted((pid for pid in stats if _is_below(pid, {root}, stats)), key=lambda pid: pid != root)


def own_pid() -> int:
    """Of this process."""
    return os.getpid()


class IdleWatch:
    """Says how much others worked between two moments. `ours` are the processes (and their children) that may."""

    def __init__(self, ours: set[int]) -> None:
        self._ours = ours
        self._at = time.monotonic()
        self._foreign = busy_seconds() - tree_seconds(ours)

    def foreign_share(self) -> float:
        """Cores that others used since the watch began."""
        foreign = busy_seconds() - tree_seconds(self._ours) - self._foreign
        return max(0.0, foreign / (time.monotonic() - self._at))

    @property
    def disturbed(self) -> bool:
        """Whether the round does not count."""
        return self.foreign_share() > MOST_FOREIGN_SHARE


def _stats() -> dict[int, list[str]]:
    """Of every process, what the kernel says of it, from its state on."""
    found = ((int(entry.name), _stat(entry)) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return {pid: stat for pid, stat in found if stat is not None}


def _stat(entry: Path) -> list[str] | None:
    try:
        text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None  # it has just ended
    return text.rpartition(")")[2].split()


def _is_below(pid: int, roots: set[int], stats: dict[int, list[str]]) -> bool:
    while pid not in roots:
        if pid not in stats:
            return False
        pid = int(stats[pid][1])
    return True
