"""`agent:FILE`: recorded calls of agents with their real text; the gaps between calls are the tools' time.

Each prompt is whole, history included. Calls are put in the order of time: by that every miniswe prompt extends
the one before it (72 % in the order of the file's lines); in taubench two parties' calls interleave. A session's
times count from its own first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Agent:
    """See the module."""

    has_times = True

    def __init__(self, path: Path) -> None:
        self.name = f"agent:{path.name}"
        self._path = path

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`; in the order of time. All sessions begin at 0: when they were recorded says nothing of load."""
        path = self._path
        found: list[tuple[str, int, str, str]] = []
        begin: dict[str, int] = {}
        turns: dict[str, int] = {}
        for row, values in files.json_rows(path, ("timestamp", "input", "output", "session_id")):
            session = files.text(path, row, "session_id", values["session_id"])
            stamp = files.whole(path, row, "timestamp", values["timestamp"])
            begin[session] = min(stamp, begin.get(session, stamp))
            text = files.text(path, row, "input", values["input"])
            answer = files.text(path, row, "output", values["output"])
            found.append((session, stamp, text, answer))
        # The lines of a session are not all in the order of time.
        found.sort(key=lambda call: call[1] - begin[call[0]])
        for session, stamp, text, answer in found:
            turn = turns[session] = turns.get(session, -1) + 1
            yield SourceRow(time=stamp - begin[session], text=text, answer=answer, session=session, turn=turn)
