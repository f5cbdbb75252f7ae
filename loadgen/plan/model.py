"""The plan of a run: every request with its due time, fixed before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_DUE = -1
"""Due time of a request that waits for another: a slot of a closed loop, or a live turn."""


@dataclass(frozen=True, slots=True)
class Segment:
    """`tokens` one-token words, drawn from `seed`: equal seeds give equal words, which is how prefixes are shared."""

    seed: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: words by seed, or text as it is. `tokens` is what it should count, `None` if only the server
    knows.
    """

    tokens: int | None
    segments: tuple[Segment, ...] = ()
    text: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    """(role, content) of a recorded conversation up to here."""


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request. All times in microseconds from `t0`."""

    id: int
    cls: str
    due: int
    prompt: Prompt
    out: int
    """Output tokens wanted."""
    tenant: str | None = None
    session: int | None = None
    turn: int = 0
    think: int = 0
    """From the end of the turn before, where `due` is `NOT_DUE`."""
    cancel_after: int | None = None
    """Hang up so long after sending."""
    slow_bytes_per_second: int | None = None
    job: str | None = None
    item: int | None = None
    answer: str | None = None
    """What is right, where the data set says."""


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One offline job: its items are requests whose `job` is its name, and whose `due` is `NOT_DUE`."""

    name: str
    cls: str
    at: int
    deadline: int | None
    items: tuple[int, ...]
    """Ids of its requests."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All requests in the order of (due, id), jobs beside them."""

    seed: int
    requests: Sequence[PlannedRequest]
    jobs: Sequence[PlannedJob]
    window: tuple[int, int]
    """First and last microsecond that is measured: the warm-up's end, and the last due time."""
    transforms: dict[str, str] = field(default_factory=dict)
    """By class: what was done to its trace, in words for the report."""
    realised: dict[str, float] = field(default_factory=dict)
    """`CLASS.rate`, `CLASS.cv`, `CLASS.in_tokens`, `CLASS.out_tokens`, `CLASS.ideal_hits` as the plan came out."""
