"""A mock in a process of its own, and the CPU time that processes use."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from loadgen.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")


class MockProcess:
    """`python -m loadgen.mock` with these flags, from entering to leaving."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.control = ""
        """Where its truth is."""
        self.pid = 0

    def __enter__(self) -> Self:
        """Raises Unreachable: it does not come up."""
        command = [sys.executable, "-m", "loadgen.mock", *self._flags]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own module
        self.pid = self._process.pid
        stream = self._process.stdout
        ready = stream is not None and select.select([stream], [], [], _START_SECONDS)[0]
        line = stream.readline() if stream is not None and ready else b""
        if not line:
            self._stop()
            raise Unreachable("the mock", f"it did not say where it listens within {_START_SECONDS:.0f} s")
        told = json.loads(line)
        self.url = f"http://{told['listening']}"
        self.control = f"http://{told['control'][0]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of these processes and of all their threads; those that are gone count nothing."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


class CpuWatch:
    """What `load` and `others` use from its beginning on."""

    def __init__(self, load: Iterable[int], others: Iterable[int] = ()) -> None:
        self._load, self._others = tuple(load), tuple(others)
        self._before = {pid: cpu_seconds([pid]) for pid in (*self._load, *self._others)}

    def seconds(self) -> float:
        """Of all of `load`."""
        return sum(self._used(pid) for pid in self._load)

    def share(self, seconds: float) -> float:
        """Of a core, by the busiest of `load`, if all was used in so many seconds."""
        return self._share(self._load, seconds)

    def others_share(self, seconds: float) -> float:
        """The same of `others`."""
        return self._share(self._others, seconds)

    def _used(self, pid: int) -> float:
        return cpu_seconds([pid]) - self._before[pid]

    def _share(self, pids: tuple[int, ...], seconds: float) -> float:
        return max((self._used(pid) for pid in pids), default=0.0) / max(1e-9, seconds)
