"""`burstgpt:FILE`: an hourly envelope of sessions, and nothing more.

The counts are a third party's inferred sessions, so that results on it are never called "BurstGPT trace". Absent hours
have no sessions. Times inside an hour are drawn evenly: within an hour the arrivals are Poisson, given their count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadData
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.random import Generator

HOUR_SECONDS = 3_600


class BurstGpt:
    """See the module."""

    has_times = True

    def __init__(self, path: Path, rng: Generator, until: int) -> None:
        """`until`: microseconds of the envelope that are wanted."""
        self.name = f"burstgpt:{path.name}"
        self._path, self._rng, self._until = path, rng, until

    def counts(self) -> list[tuple[int, int]]:
        """(first second of the hour, sessions) of the hours that have any.

        Raises:
            BadData: file, row and field of what cannot be used.
        """
        path, before, found = self._path, -1, []
        for row, values in files.csv_rows(path, ("time_bin", "session_count")):
            hour = files.whole(path, row, "time_bin", values["time_bin"])
            if hour % HOUR_SECONDS or hour <= before:
                raise BadData(str(path), row, "time_bin", f"{hour} is not an hour after {before}")
            before = hour
            found.append((hour, files.whole(path, row, "session_count", values["session_count"])))
        return found

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`."""
        for hour, count in self.counts():
            if hour * 1_000_000 >= self._until:
                return
            inside = np.sort(self._rng.integers(HOUR_SECONDS * 1_000_000, size=count))
            for time in inside.tolist():
                yield SourceRow(time=hour * 1_000_000 + time)
