"""Reads the server's counters once a second, beside the run and on its time axis: `server.csv`."""

from __future__ import annotations

import asyncio
import csv
from collections import deque
from typing import TYPE_CHECKING, Final

from loadgen.errors import Unreachable
from loadgen.measure.facts import Curve
from loadgen.observe import fetch, pause
from loadgen.observe.prometheus import ROLES, Folder, Sample, parse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from loadgen.drive.clock import Clock

SECOND: Final = 1_000_000
MOST_ROWS: Final = 200_000
"""Two days at 1 Hz; the oldest go first."""
COLUMNS: Final = ("t_micros", *ROLES)

Row = tuple[int, dict[str, float | None]]


class Scraper:
    """A task of the parent. `rows`: (microseconds from `t0`, value by role); a page that could not be read has no row
    and counts in `failures`. `first` and `last`: all samples of those pages, for what no column tells.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        every: int = SECOND,
        *,
        get: Callable[[str], Awaitable[bytes]] = fetch.get,
    ) -> None:
        """`every`: microseconds."""
        self._url, self._clock, self._every, self._get = url, clock, every, get
        self._folder = Folder()
        self.rows: deque[Row] = deque(maxlen=MOST_ROWS)
        self.first: list[Sample] = []
        self.last: list[Sample] = []
        self.failures = 0
        self.why: str | None = None
        """Why the last failure."""

    async def run(self, end: int | None = None) -> None:
        """Read until `end` (microseconds) or until cancelled, at whole multiples of `every` from now on."""
        due = self._clock.now()
        while end is None or due <= end:
            await pause.until(self._clock, due)
            await self.once()
            # A slow page leaves its successors out and does not shift them.
            due += self._every * max(1, -((due - self._clock.now()) // self._every))

    async def once(self) -> None:
        """Read the page now; a failure is counted and not raised, since a server under a fault may be down."""
        asked = self._clock.now()
        try:
            page = await self._get(self._url)
        except Unreachable as error:
            self.failures += 1
            self.why = error.why
            return
        samples = parse(page.decode("utf-8", "replace"))
        self.first = self.first or samples
        self.last = samples
        self.rows.append(((asked + self._clock.now()) // 2, self._folder.fold(samples)))

    @property
    def series(self) -> dict[str, list[tuple[int, float]]]:
        """By role that was ever told: (time, value)."""
        found: dict[str, list[tuple[int, float]]] = {}
        for at, values in self.rows:
            for name, value in values.items():
                if value is not None:
                    found.setdefault(name, []).append((at, value))
        return found

    def curve(self, role: str = "offline_tokens") -> Curve | None:
        """A counter as `RunFacts.offline_curve` wants it; None where the server does not tell it."""
        points = self.series.get(role)
        if not points:
            return None
        return Curve(times=tuple(at for at, _ in points), counts=tuple(round(value) for _, value in points))

    def write_csv(self, path: Path) -> None:
        """One row a page; an empty cell is not told."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for at, values in self.rows:
                writer.writerow([at, *("" if values[name] is None else f"{values[name]:.12g}" for name in ROLES)])


async def read_once(url: str) -> list[Sample]:
    """The samples that a page has now.

    Raises:
        Unreachable: it cannot be read.
    """
    return await asyncio.wait_for(_samples(url), 10)


async def _samples(url: str) -> list[Sample]:
    return parse((await fetch.get(url)).decode("utf-8", "replace"))
