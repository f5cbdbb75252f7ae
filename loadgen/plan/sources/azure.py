"""`azure:FILE`: the Azure LLM inference traces of 2023. Arrival times and lengths; no text, no sessions.

The conversation trace is nearly Poisson (CV of gaps 1.1) and its outputs are capped at 1,000 tokens; the code trace
comes in clumps (CV 12.6). That pair is the burst test.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from loadgen.errors import BadData
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)\.(\d{1,7})")
# The trace names no zone, and only differences are used.
_EPOCH = datetime(1970, 1, 1)


class Azure:
    """See the module."""

    has_times = True

    def __init__(self, path: Path, least: int = 1) -> None:
        """`least`: the shortest length that is taken; 0 where a `floor` was asked for."""
        self.name = f"azure:{path.name}"
        self._path, self._least = path, least

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`. Times are whole microseconds from the first row, rounded down from 100 ns."""
        path, first, before = self._path, None, 0
        for row, values in files.csv_rows(path, ("TIMESTAMP", "ContextTokens", "GeneratedTokens")):
            ticks = _ticks(path, row, values["TIMESTAMP"])
            if first is None:
                first = ticks
            before = files.forward(path, row, "TIMESTAMP", (ticks - first) // 10, before)
            yield SourceRow(
                time=before,
                in_tokens=files.whole(path, row, "ContextTokens", values["ContextTokens"], self._least),
                out_tokens=files.whole(path, row, "GeneratedTokens", values["GeneratedTokens"], self._least),
            )


def _ticks(path: Path, row: int, value: str) -> int:
    """Units of 100 ns. `datetime` alone would refuse or drop the seventh digit."""
    found = _TIME.fullmatch(value)
    if found is None:
        raise BadData(str(path), row, "TIMESTAMP", f"{value!r} is not YYYY-MM-DD hh:mm:ss.fffffff")
    try:
        moment = datetime.fromisoformat(f"{found[1]} {found[2]}")
    except ValueError as error:
        raise BadData(str(path), row, "TIMESTAMP", str(error)) from error
    seconds = round((moment - _EPOCH).total_seconds())
    return seconds * 10_000_000 + int(found[3].ljust(7, "0"))
