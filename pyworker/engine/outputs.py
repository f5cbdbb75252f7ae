"""What passes between scheduler, runner and host in one step. Plain data: no tensors, no sockets."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.engine.request import Request


class TokenMasks(Protocol):
    """Which tokens the grammars of a step's requests allow. Read when the logits are there, not before."""

    def __contains__(self, request_id: object) -> bool:
        """Whether this request has a grammar."""

    def fill(self, rows: Sequence[tuple[str, int]], masks: NDArray[np.int32]) -> None:
        """Set a row of bits for each (request id, number of drafts before this position): i32 `[R, ceil(V / 32)]`.

        Bit `v % 32` of word `v // 32` allows token v. Rows of requests without a grammar are not touched.
        """


@dataclass(eq=False, slots=True)
class ParkedSlice:
    """Rows that left a step at a layer: what they had reached, so that a later step can take them on from there.

    `num_tokens` by request id, in the order of the rows; `layer` is the first one that they have not been through;
    `state` is the runner's own (their hidden rows). Blocks stay held, `num_computed_tokens` was not advanced.
    """

    layer: int
    num_tokens: dict[str, int]
    state: object
    num_bytes: int = 0


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

    `drafts` are guesses at what comes after the known tokens; they are among the request's `n`, and the runner samples
    one more token for each that turns out right. Those of the requests in `forced` are no guesses: their grammars allow
    nothing else. They are verified all the same, and the runner makes no difference.

    `block_copies` (from, to) are done before the step computes: the partial tails of forked choices. `joins` are slices
    parked earlier, whose rows come in when the step reaches their layer; their requests are in `num_scheduled_tokens`
    too. `masks` says which tokens grammars allow.
    """

    num_scheduled_tokens: dict[str, int] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    new_requests: list[str] = field(default_factory=list)
    finished_ids: list[str] = field(default_factory=list)
    drafts: dict[str, list[int]] = field(default_factory=dict)
    forced: set[str] = field(default_factory=set)
    block_copies: list[tuple[int, int]] = field(default_factory=list)
    joins: list[ParkedSlice] = field(default_factory=list)
    masks: TokenMasks | None = None

    @property
    def total_tokens(self) -> int:
        """Tokens of the whole batch."""
        return sum(self.num_scheduled_tokens.values())

    @property
    def num_drafts(self) -> int:
        """Drafts among them, those of rows that join included."""
        return sum(map(len, self.drafts.values()))


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of the raw distribution at one position: of the token that stands there, and of the likeliest
    ones, descending (equal ones by lower id).
    """

    logprob: float
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


@dataclass(slots=True)
class RowResult:
    """What the runner made of one request: sampled ids (none while its prefill is unfinished), or an error code.

    With drafts there are as many ids as drafts that turned out right, and one more. `logprobs`, where they are asked
    for, stand beside the ids; `prompt_logprobs` beside the prompt positions computed in this step, the first of the
    prompt excepted (nothing comes before it). `parked`: the row left in the middle and has computed nothing yet.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    parked: bool = False
    error: str | None = None
    message: str = ""


@dataclass(slots=True)
class ModelRunnerOutput:
    """Result of one step by request id; every scheduled request is in it. `parked` are the slices that left."""

    rows: dict[str, RowResult]
    step_micros: int = 0
    parked: list[ParkedSlice] = field(default_factory=list)


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
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_cached_tokens: int = 0
    finish: FinishReason | None = None
    error_code: str | None = None
    error_message: str = ""


def cancelled_output(request_id: str, attempt: int, start: int = 0) -> RequestOutput:
    """The answer to a cancel; whoever is told to cancel a request that no engine has says the same."""
    return RequestOutput(request_id, attempt, start, finish=FinishReason.CANCELLED)


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block that the prefix cache can find from now on: its hash, that of the block before it (the salt for a first
    one), and the salt.
    """

    block_hash: int
    parent_hash: int
    salt: int


@dataclass(slots=True)
class KVEvents:
    """What changed in the prefix cache, in this order: cleared, removed `(salt, hash)`, stored."""

    cleared: bool = False
    removed: list[tuple[int, int]] = field(default_factory=list)
    stored: list[StoredBlock] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether anything did."""
        return self.cleared or bool(self.removed) or bool(self.stored)


@dataclass(slots=True)
class StepOutputs:
    """One step's outputs for all its requests; `step_micros` is 0 where they were made outside a step. `kv_events`
    became true with this step.
    """

    outputs: list[RequestOutput] = field(default_factory=list)
    step_micros: int = 0
    kv_events: KVEvents = field(default_factory=KVEvents)
