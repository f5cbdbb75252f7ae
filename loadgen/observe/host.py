"""Watches the host once a second: who else used it while a run was measured. `host.csv`, and the gate's `HostMeters`.

Processes are of three kinds: our own (this process and its children), the server's (whoever listens on the target's
port, its process group and their children), and the others. Of one that lives less than a second a part is missed.
"""

from __future__ import annotations

import csv
import os
from collections import deque
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from loadgen.drive.gate import HostMeters
from loadgen.observe import pause, procfs
from loadgen.observe.machine import identity
from loadgen.target import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from loadgen.drive.clock import Clock

__all__ = ["HostRow", "HostWatch", "identity"]

SECOND: Final = 1_000_000
MOST_ROWS: Final = 200_000
_MOST_PAUSE: Final = 30
"""Looks between two searches for a server that was not found."""


@dataclass(frozen=True, slots=True)
class HostRow:
    """One second up to `t_micros`. CPU in cores (1.5: one and a half), None where the host does not say."""

    t_micros: int
    steal: float | None
    """Share of all cores' time that the machine beneath gave to others."""
    foreign_cpu: float | None
    """`None`: the server is here, but its processes cannot be told from others."""
    server_cpu: float | None
    own_cpu: float
    swapped_bytes: int | None
    clock_mhz: float | None


class HostWatch:
    """A task of the parent. `rows`: one a second."""

    def __init__(
        self,
        clock: Clock,
        target: str,
        *,
        related: Callable[[], Iterable[int]] = tuple,
        proc: Path = procfs.PROC,
        own: int | None = None,
    ) -> None:
        """`target`: its URL. `related`: pids that belong to the server though they do not listen there."""
        self._clock, self._related, self._proc = clock, related, proc
        parts = urlsplit(target)
        self._here = is_loopback(parts.hostname or "")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._own = os.getpid() if own is None else own
        self._tick = 1e6 / os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.rows: deque[HostRow] = deque(maxlen=MOST_ROWS)
        self._server: set[int] = set()
        self._pause, self._left = 0, 0
        self._before = self._look()

    async def run(self, end: int | None = None) -> None:
        """Look once a second until `end` (microseconds) or until cancelled."""
        self._before = self._look()
        due = self._before.at + SECOND
        while end is None or due <= end:
            await pause.until(self._clock, due)
            self.once()
            due += SECOND * max(1, -((due - self._clock.now()) // SECOND))

    def once(self) -> None:
        """Note what happened since the last time."""
        before, now = self._before, self._look()
        self._before = now
        span = now.at - before.at
        if span <= 0:
            return
        pages = None if before.pages is None or now.pages is None else max(0, now.pages - before.pages)
        own, server, others = self._by_kind(before.tasks, now.tasks, self._tick / span)
        unknown = self._here and not self._server
        self.rows.append(
            HostRow(
                t_micros=now.at,
                steal=_steal(before.cpu, now.cpu),
                foreign_cpu=None if unknown else others,
                server_cpu=server if self._server else None,
                own_cpu=own,
                swapped_bytes=None if pages is None else pages * self._page,
                clock_mhz=now.mhz,
            )
        )

    def _look(self) -> _Look:
        return _Look(
            self._clock.now(),
            procfs.tasks(self._proc),
            procfs.cpu_times(self._proc),
            procfs.swapped_pages(self._proc),
            procfs.clock_mhz(self._proc),
        )

    def _by_kind(
        self, before: dict[int, procfs.Task], now: dict[int, procfs.Task], scale: float
    ) -> tuple[float, float, float]:
        mine = procfs.family([self._own], now)
        server = self._server_pids(now, mine)
        sums = [0, 0, 0]
        for pid, task in now.items():
            old = before.get(pid)
            grown = task.ticks - (old.ticks if old is not None and old.start == task.start else 0)
            sums[0 if pid in mine else 1 if pid in server else 2] += grown
        return sums[0] * scale, sums[1] * scale, sums[2] * scale

    def _server_pids(self, now: dict[int, procfs.Task], mine: set[int]) -> set[int]:
        """Who they are is looked up again only when one of them is gone: it costs a read of every open file."""
        roots = {pid for pid in self._server if pid in now}
        if self._here and (not roots or len(roots) < len(self._server)):
            roots = self._listeners()
        self._server = roots
        ours = now[self._own].group if self._own in now else None
        groups = {now[pid].group for pid in roots if pid in now} - {ours}
        members = {pid for pid, task in now.items() if task.group in groups}
        return procfs.family({*roots, *members, *self._related()}, now) - mine

    def _listeners(self) -> set[int]:
        """Nobody, for longer each time, where nobody was found: another user's server may not be seen at all, and the
        parent has other things to do than to read every open file of the host each second.
        """
        if self._left:
            self._left -= 1
            return set()
        found = procfs.listeners(self._port, self._proc)
        self._left = 0 if found else self._pause
        self._pause = 0 if found else min(2 * self._pause + 1, _MOST_PAUSE)
        return found

    def meters(self, window: tuple[int, int]) -> HostMeters:
        """Over the measured window, for `gate.judge`."""
        rows = [row for row in self.rows if window[0] < row.t_micros <= window[1] + SECOND]
        clocks = [row.clock_mhz for row in rows if row.clock_mhz]
        swapped = [row.swapped_bytes for row in rows if row.swapped_bytes is not None]
        return HostMeters(
            steal=_mean([row.steal for row in rows]),
            foreign_cpu=_mean([row.foreign_cpu for row in rows]),
            swapped_bytes=sum(swapped) if swapped else None,
            clock_change=1 - min(clocks) / max(clocks) if clocks else None,
        )

    def write_csv(self, path: Path) -> None:
        """One row a second; an empty cell is not told."""
        names = [field.name for field in fields(HostRow)]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            for row in self.rows:
                writer.writerow([_cell(getattr(row, name)) for name in names])


@dataclass(frozen=True, slots=True)
class _Look:
    at: int
    tasks: dict[int, procfs.Task]
    cpu: procfs.CpuTimes | None
    pages: int | None
    mhz: float | None


def _steal(before: procfs.CpuTimes | None, now: procfs.CpuTimes | None) -> float | None:
    if before is None or now is None or now.total <= before.total:
        return None
    return max(0, now.steal - before.steal) / (now.total - before.total)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cell(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
