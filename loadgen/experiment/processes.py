"""Time and memory of a server's processes, from `/proc`: read once in a while, worked out afterwards."""

from __future__ import annotations

import csv
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROC: Final = Path("/proc")
_TICK_MICROS: Final = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_EVERY: Final = 0.25
_MOST_ROWS: Final = 1_000_000
HEADER: Final = ("at_micros", "part", "cpu_micros", "rss_bytes", "processes")


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one part of a server, its children included. `at`: monotonic microseconds; `cpu`: since its start."""

    at: int
    part: str
    cpu: int
    rss: int
    processes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Over a span. `cores`: mean number of cores used."""

    cpu_micros: float
    cores: float
    rss_before: int
    rss_after: int


@dataclass(frozen=True, slots=True)
class Stat:
    """Of `/proc/PID/stat`. `started`: ticks since the machine's start, which tells a pid from its next owner."""

    state: str
    group: int
    ticks: int
    started: int
    pages: int


def stat_of(pid: int) -> Stat | None:
    """None: no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command stands in brackets and may hold anything; the rest is counted from its end.
    fields = text[text.rindex(")") + 2 :].split()
    ticks = sum(int(each) for each in fields[11:15])
    return Stat(fields[0], int(fields[2]), ticks, int(fields[19]), int(fields[21]))


def group_members(group: int) -> list[int]:
    """Pids of a process group that live; zombies are gone."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            stat = stat_of(int(entry.name))
            if stat is not None and stat.group == group and stat.state != "Z":
                found.append(int(entry.name))
    return found


def read_part(part: str, group: int, at: int) -> Reading:
    """All processes of a part; each part leads a group of its own."""
    stats = [stat for pid in group_members(group) if (stat := stat_of(pid)) is not None]
    ticks, pages = sum(stat.ticks for stat in stats), sum(stat.pages for stat in stats)
    return Reading(at, part, ticks * _TICK_MICROS, pages * _PAGE, len(stats))


class Sampler:
    """A thread that reads the parts four times a second between `start` and `stop`."""

    def __init__(self, parts: Mapping[str, int]) -> None:
        """`parts`: process group by name."""
        self._parts = dict(parts)
        self.readings: list[Reading] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._once()
        self._thread.start()

    def stop(self) -> None:
        """End, with one last reading."""
        self._ended.set()
        self._thread.join()
        self._once()

    def _read(self) -> None:
        while not self._ended.wait(_EVERY) and len(self.readings) < _MOST_ROWS:
            self._once()

    def _once(self) -> None:
        at = time.monotonic_ns() // 1_000
        self.readings += [read_part(part, group, at) for part, group in self._parts.items()]


def write(readings: Sequence[Reading], path: Path, t0: int) -> None:
    """A table with times from `t0`, monotonic microseconds."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for each in readings:
            table.writerow((each.at - t0, each.part, each.cpu, each.rss, each.processes))


def read(path: Path) -> list[Reading]:
    """What `write` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [Reading(int(at), part, int(cpu), int(rss), int(count)) for at, part, cpu, rss, count in rows]


def usage(readings: Sequence[Reading], part: str, span: tuple[int, int]) -> Usage | None:
    """Of one part over a span of `at`; None with fewer than two readings. Between readings the line is straight."""
    mine = [each for each in readings if each.part == part]
    if len(mine) < 2 or span[1] <= span[0]:
        return None
    times = np.array([each.at for each in mine], dtype=np.float64)
    begin, end = np.interp(span, times, np.array([each.cpu for each in mine], dtype=np.float64))
    cpu = float(end - begin)
    rss = [mine[int(np.argmin(np.abs(times - at)))].rss for at in span]
    return Usage(cpu, cpu / (span[1] - span[0]), rss[0], rss[1])
