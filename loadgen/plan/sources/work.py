"""`work:FILE`: a plan of our own, as rows. Times, lengths, sharing and sessions are those of the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.plan import workload
from loadgen.plan.model import NOT_DUE
from loadgen.plan.rows import SourceRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Work:
    """See the module. `cls`: which class of the plan; None: all."""

    has_times = True

    def __init__(self, path: Path, cls: str | None = None) -> None:
        self.name = f"work:{path.name}"
        self._path, self._cls = path, cls

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`. What waits in the plan, such as the items of a job, has no time."""
        for request in workload.read(self._path).requests:
            if self._cls is not None and request.cls != self._cls:
                continue
            yield SourceRow(
                time=None if request.due == NOT_DUE else request.due,
                in_tokens=request.prompt.tokens,
                out_tokens=request.out,
                text=request.prompt.text,
                session=None if request.session is None else str(request.session),
                turn=request.turn,
                prompt=request.prompt,
            )
