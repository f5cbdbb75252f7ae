"""Which machine this is, in the words that stand in a result."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

from loadgen.observe.procfs import PROC

SYS: Final = Path("/sys")
_FLAGS: Final = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "amx_tile", "amx_bf16", "amx_int8", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
"""Those of hundreds that change how fast a model runs."""


def identity(proc: Path = PROC, sys: Path = SYS) -> dict[str, str]:
    """Keys of `Result.identity` that the host decides; what it does not say is left out."""
    cpu = _cpuinfo(proc)
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    found = {
        "host": platform.machine(),
        "cpu": cpu.get("model name", ""),
        "cpu_flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or ""),
        "memory": _memory(proc),
        "kernel": f"{platform.system()} {platform.release()}",
        "governor": _text(sys / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "python": platform.python_version(),
    }
    return {name: value for name, value in found.items() if value}


def _cpuinfo(proc: Path) -> dict[str, str]:
    """Of the first core."""
    found: dict[str, str] = {}
    for line in _text(proc / "cpuinfo").splitlines():
        if not line.strip():
            break
        name, _, value = line.partition(":")
        found[name.strip()] = value.strip()
    return found


def _memory(proc: Path) -> str:
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemTotal:") and line.split()[1].isdigit():
            return f"{int(line.split()[1]) / (1 << 20):.1f} GiB"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
