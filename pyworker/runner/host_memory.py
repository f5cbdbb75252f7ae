"""How much memory this machine and its control groups leave to this process, and how much it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyworker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class _Version:
    """Names of a version's control files. `cache` are the lines of `memory.stat` that the kernel gives back on need."""

    limit: str
    used: str
    cache: tuple[str, str]


_V1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = _Version("memory.max", "memory.current", ("inactive_file", "active_file"))


def memory_limit(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may take: the least of available memory and what each control group around it has left.

    Pages of files count as free, as they do in the machine's own figure: else a model file that was just written would
    leave no room for the model.
    """
    least = _available(proc / "meminfo")
    for folder, version in _groups(proc / "self" / "cgroup", cgroup):
        limit = _read_number(folder / version.limit)
        if limit is not None:
            used = (_read_number(folder / version.used) or 0) - _read_cache(folder / "memory.stat", version.cache)
            least = min(least, max(0, limit - max(0, used)))
    return least


def resident_bytes(proc: Path = Path("/proc")) -> int:
    """Bytes of this process that are in memory now, pages of mapped files left out."""
    for line in (proc / "self" / "status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "RssAnon":
            return int(rest.split()[0]) * 1024
    raise ConfigError("memory", proc / "self" / "status", "has no line RssAnon")


def _available(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    raise ConfigError("memory", meminfo, "has no line MemAvailable")


def _groups(own: Path, cgroup: Path) -> Iterator[tuple[Path, _Version]]:
    """Every folder from this process's groups up to their mounts; not all of them need exist.

    In a container the path may be the host's, and the mount then is the group itself.
    """
    lines = own.read_text().splitlines() if own.is_file() else []
    mounts = {"": ((cgroup, _V2), (cgroup / "unified", _V2)), "memory": ((cgroup / "memory", _V1),)}
    for line in ["0::/", *lines]:
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            below = Path(path.lstrip("/"))
            # A group outside of this process's view; only the mount can be seen.
            chain = [] if ".." in below.parts else [below, *below.parents]
            for mount, version in mounts.get(name, ()):
                yield from ((mount / part, version) for part in chain or [Path()])


def _read_cache(stat: Path, names: tuple[str, str]) -> int:
    if not stat.is_file():
        return 0
    pairs = (line.partition(" ") for line in stat.read_text().splitlines())
    return sum(int(value) for name, _, value in pairs if name in names and value.isdigit())


def _read_number(path: Path) -> int | None:
    """The number in a control file; `None` where there is no file or no limit."""
    if not path.is_file():
        return None
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None
