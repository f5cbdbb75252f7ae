"""What an importer yields: a row of a trace, or of a set of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadgen.plan.model import Prompt


@dataclass(frozen=True, slots=True)
class SourceRow:
    """Parts that a source does not know are `None`."""

    time: int | None = None
    """Microseconds from the trace's beginning."""
    in_tokens: int | None = None
    out_tokens: int | None = None
    blocks: tuple[int, ...] | None = None
    """Ids of the prompt's blocks: equal ids are equal text, and so may be found in a cache."""
    block_tokens: int | None = None
    text: str | None = None
    answer: str | None = None
    """What is right, where the data set says."""
    group: str | None = None
    """Rows of one group begin with the same long text: a subject's examples, a document."""
    session: str | None = None
    turn: int = 0
    prompt: Prompt | None = None
    """As it stands in a plan of our own, with all that it shares with others."""


class Source(Protocol):
    """One kind of source: `azure:FILE` and so on."""

    name: str
    has_times: bool

    def rows(self) -> Iterator[SourceRow]:
        """All rows in order, checked.

        Raises:
            BadData: file, row and field of what cannot be used.
        """
