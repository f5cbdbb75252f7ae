"""`synth`: nothing is known of a row, so that lengths and text are the class's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.plan.rows import SourceRow

if TYPE_CHECKING:
    from collections.abc import Iterator


class Synth:
    """See the module."""

    name = "synth"
    has_times = False

    def rows(self) -> Iterator[SourceRow]:
        """One row that stands for any number."""
        yield SourceRow()
