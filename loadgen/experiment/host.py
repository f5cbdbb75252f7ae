"""Which machine this is, whether it is quiet, and which programs are measured."""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import xxhash

from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PROC: Final = Path("/proc")
_IDLE_SECONDS: Final = 10.0
MOST_FOREIGN: Final = 0.05
"""Of a core."""
_LEAST_DISK: Final = 2 << 30
_TICK: Final = os.sysconf("SC_CLK_TCK")
_FLAGS: Final = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "sve")


def identity() -> dict[str, str]:
    """Model, flags that matter, cores, kernel, governor, memory. What is not known is `unknown`."""
    info = _cpuinfo()
    flags = info.get("flags", info.get("Features", "")).split()
    return {
        "cpu": info.get("model name", "unknown"),
        "flags": " ".join(flag for flag in _FLAGS if flag in flags) or "unknown",
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or "unknown",
        "memory_mb": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20),
        "name": platform.node(),
    }


def fingerprint(found: dict[str, str]) -> str:
    """12 hex digits of an identity."""
    text = "\n".join(f"{name}={value}" for name, value in sorted(found.items()))
    return xxhash.xxh3_64_hexdigest(text.encode())[:12]


def binary_hash(program: str, path: str) -> str:
    """XXH3-128 of a program's file as found on `path`; `unknown` where it is none."""
    found = shutil.which(program, path=path)
    if found is None:
        return "unknown"
    state = xxhash.xxh3_128()
    with Path(found).open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def tree_hash(folders: Iterable[Path]) -> str:
    """XXH3-128 over the programs' own files: Python sources and compiled modules, by name and content."""
    state = xxhash.xxh3_128()
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".so") and file.is_file():
                state.update(f"{file.relative_to(folder)}\0".encode())
                state.update(file.read_bytes())
    return state.hexdigest()


def preflight(folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """What speaks against measuring now, each a sentence; takes 10 s.

    Raises:
        BadInput: too little disk to keep the runs.
    """
    free = shutil.disk_usage(folder).free
    if free < _LEAST_DISK:
        raise BadInput("--out", "", str(folder), f"has {free >> 20} MB free, wanted {_LEAST_DISK >> 20}")
    warnings = []
    before, stolen, started = busy_ticks(), _steal(), time.monotonic()
    sleep(_IDLE_SECONDS)
    seconds = time.monotonic() - started
    busy = (busy_ticks() - before) / _TICK / max(seconds, 1e-3)
    steal = (_steal() - stolen) / _TICK / max(seconds, 1e-3)
    if busy > MOST_FOREIGN:
        warnings.append(f"other processes use {busy:.0%} of a core, wanted at most {MOST_FOREIGN:.0%}")
    if steal > 0.01:
        warnings.append(f"the host was given away {steal:.1%} of the time (steal)")
    if _swapped():
        warnings.append("swap is in use")
    governor = _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
    if governor and governor != "performance":
        warnings.append(f"the cores' governor is {governor}, not performance")
    return warnings


def busy_ticks() -> int:
    """Ticks of all cores outside idle, but for this process."""
    line = _text(_PROC / "stat").splitlines()[:1]
    fields = [int(each) for each in line[0].split()[1:9]] if line else [0] * 8
    own = os.times()
    mine = round((own.user + own.system) * _TICK)
    return sum(fields[:3]) + sum(fields[5:7]) - mine


def _steal() -> int:
    line = _text(_PROC / "stat").splitlines()[:1]
    return int(line[0].split()[8]) if line else 0


def _swapped() -> bool:
    rows = _text(_PROC / "swaps").splitlines()[1:]
    return any(int(row.split()[3]) > 0 for row in rows)


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in _text(_PROC / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
