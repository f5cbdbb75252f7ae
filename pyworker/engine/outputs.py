"""What passes between scheduler, runner and host in one step. Plain data: no tensors, no sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyworker.engine.request import Request


@dataclass(slots=True)
class SchedulerOutput:
    """How many tokens each request gets in this step.

    A prefill chunk, a decode step, a draft and an offline row are the same thing here. Order is the batch's order:
    online rows first. `requests` holds every scheduled request by id; `new_requests` those new to the runner;
    `finished_ids` those whose rows it can free, before it takes the new ones: a preempted request is in both in turn,
    and so is one that was replaced by a higher attempt. After a failed step an id may come as new, or as finished, a
    second time.

    The runner computes `n` tokens of a request from position `num_computed_tokens` on, and samples one token if and
    only if that reaches `num_tokens`; its output position is `len(output_ids)`. It changes nothing in the request.
    """

    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    new_requests: list[str] = field(default_factory=list)
    finished_ids: list[str] = field(default_factory=list)

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole batch."""
        return sum(self.num_scheduled_tokens.values())


@dataclass(slots=True)
class RowResult:
    """What the runner made of one request: sampled ids (none while its prefill is unfinished), or an error code."""

    token_ids: list[int] = field(default_factory=list)
    error: str | None = None
    message: str = ""


@dataclass(slots=True)
class ModelRunnerOutput:
    """Result of one step by request id; every scheduled request is in it."""

    rows: dict[str, RowResult]
    step_micros: int = 0


class FinishReason(Enum):
    """How a request ended; the words of the wire."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(slots=True)
class RequestOutput:
    """One request's part of a step. No tokens and no finish: a row that is still in prefill.

    `start` is the output position of the first token, counted since the request began.
    """

    request_id: str
    attempt: int
    start: int
    token_ids: list[int] = field(default_factory=list)
    num_cached_tokens: int = 0
    finish: FinishReason | None = None
    error_code: str | None = None
    error_message: str = ""


def cancelled_output(request_id: str, attempt: int, start: int = 0) -> RequestOutput:
    """The answer to a cancel; whoever is told to cancel a request that no engine has says the same."""
    return RequestOutput(request_id, attempt, start, finish=FinishReason.CANCELLED)


@dataclass(slots=True)
class StepOutputs:
    """One step's outputs for all its requests; `step_micros` is 0 where they were made outside a step."""

    outputs: list[RequestOutput] = field(default_factory=list)
    step_micros: int = 0
