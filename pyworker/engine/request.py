"""A request as the engine holds it, and how its tokens are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyworker.kvcache.block_pool import KVCacheBlock


class RequestStatus(Enum):
    """Where a request stands. Everything from `FINISHED_STOPPED` on is final."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED_STOPPED = "stop"
    FINISHED_LENGTH = "length"
    FINISHED_CANCELLED = "cancelled"
    FINISHED_ERROR = "error"

    @property
    def is_finished(self) -> bool:
        """Whether the request can never be scheduled again."""
        return self not in _UNFINISHED


_UNFINISHED = frozenset({RequestStatus.WAITING, RequestStatus.RUNNING, RequestStatus.PREEMPTED})


class RequestClass(Enum):
    """Class of a request, first served first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    OFFLINE = "offline"

    @property
    def rank(self) -> int:
        """Place in that order, from 0."""
        return _RANKS[self]


_RANKS = {klass: rank for rank, klass in enumerate(RequestClass)}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `max_tokens` and `min_tokens` count output tokens since the request began, those before a resume included.
    `temperature` 0 is greedy (below 1e-5 it is treated as 0). `seed` is an unsigned 64-bit key; `None` draws one where
    the request is made (the engine itself always has a number). `stop` strings are matched
    outside the engine; one alone may be given as it is.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False
    stop: tuple[str, ...] | str = ()


@dataclass(eq=False, slots=True)
class Request:
    """One sequence in the engine. `output_ids` holds the history too where the request was resumed from elsewhere.

    `num_computed_tokens` counts positions whose KV is in the cache; `credit_up_to` is the output position up to which
    tokens may be produced; `arrival` numbers requests in the order in which the engine took them. The scheduler owns
    every mutable field.
    """

    request_id: str
    attempt: int
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = field(default_factory=list)
    choice_index: int = 0
    klass: RequestClass = RequestClass.STANDARD
    salt: int = 0
    deadline_micros: int | None = None
    credit_up_to: int = 0
    status: RequestStatus = RequestStatus.WAITING
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    arrival: int = 0
    block_table: list[KVCacheBlock] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Key of the counter-based generator; 0 where none was given."""
        return self.params.seed or 0

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens known so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def has_credit(self) -> bool:
        """Whether the next output token may be produced."""
        return len(self.output_ids) < self.credit_up_to

    def token_ids(self, start: int, stop: int) -> list[int]:
        """Known tokens at positions `start..stop`, prompt first."""
        prompt = self.prompt_ids
        if stop <= len(prompt):
            return prompt[start:stop]
        begin = max(0, start - len(prompt))
        return prompt[start:] + self.output_ids[begin : stop - len(prompt)]
