"""The walls around the engine: what drives it, what runs its steps, and what it can be replaced by.

`EngineCore` is one `Engine`; any object with these methods can stand in its place behind a `Worker`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyworker.engine.outputs import ModelRunnerOutput, SchedulerOutput, StepOutputs, TokenMasks
    from pyworker.engine.request import Request


@dataclass(frozen=True, slots=True)
class EngineCapabilities:
    """READY's fields. `vocab_size` is the width of the logits; `features` is an open set of words, and a feature that
    the engine lacks is not named.
    """

    model_name: str
    weights_hash: str
    text_hash: str
    vocab_size: int
    block_size: int
    num_blocks: int
    max_model_len: int
    slots: int
    dtype: str
    numerics: str
    kv_layout: str
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """State of the queue and cumulative metrics; `metrics` is (name, label or None, value) with the wire's names."""

    num_running: int = 0
    num_waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    metrics: list[tuple[str, str | None, float]] = field(default_factory=list)


class EngineHost(Protocol):
    """What an engine may ask of the one who drives it. Both methods are called from the engine's thread, unless it is a
    `ConcurrentHost`.
    """

    def send(self, steps: StepOutputs) -> None:
        """Take one step's outputs. Never blocks."""

    def progress(self) -> None:
        """Be told that the engine is alive; called once a layer."""


@runtime_checkable
class ConcurrentHost(EngineHost, Protocol):
    """A host that may be called while a step runs, from a thread that is not the engine's; never is more than one of
    its methods called at a time, except `progress`.

    A step's outputs may be held until the next step has begun, as long as one is sure to follow. So whoever drives the
    engine of such a host waits for nothing between two steps after `step` has returned True, or else calls `flush`.
    """

    def drain(self) -> None:
        """Give the engine what has come for it meanwhile. It may take hold with the next step, or with the one after
        it.
        """


class Engine(Protocol):
    """Anything that turns requests into tokens. All methods are called from one thread."""

    def attach(self, host: EngineHost) -> EngineCapabilities:
        """Take the host and say what this engine is. Called once, before anything else."""

    def submit(self, request: Request) -> None:
        """Take a request; it ends exactly once, in an output with `finish`.

        Raises:
            InvalidRequest: no engine with this model would take it.
        """

    def grant(self, request_id: str, up_to: int) -> None:
        """Let a request go on to this output position. Unknown ids are ignored."""

    def cancel(self, request_id: str) -> None:
        """End a request. Idempotent; confirmed by an output with `finish` cancelled if the request was live."""

    def step(self) -> bool:
        """Do one step. False: there was nothing to do. May block for 100 ms at most beyond its own work.

        An engine may also have `ask_blocks()`: with its next step it then sends `kv_events` that rebuild the content of
        its prefix cache from nothing.
        """

    def stats(self) -> EngineStats:
        """State and metrics; cheap, called once a second."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


class Clock(Protocol):
    """Where the engine gets the time from; a test passes a virtual one."""

    def now(self) -> int:
        """Microseconds since some fixed moment; never decreases."""


class Speculator(Protocol):
    """Guesses tokens, and decides how many guesses are worth their time. Pure: no clock, no torch.

    The engine calls `propose` once a step, `observe` for each request that had drafts or emitted tokens, `forget` when
    a request has ended or was preempted.
    """

    def propose(
        self, decodes: Sequence[Request], num_tokens: int, room: int, num_emitting: int
    ) -> dict[str, list[int]]:
        """Drafts by request id, for some of these requests (each has one token to compute and credit for one more).

        `num_tokens` are scheduled without these drafts, at most `room` more may be; `num_emitting` tokens are expected
        of the step in any case, those of others among them. A request's drafts stay within its credit less one, its
        `max_tokens` and the context: the engine cuts what is too long.
        """

    def observe(self, request: Request, drafts: Sequence[int], token_ids: Sequence[int]) -> None:
        """Learn what came of the drafts (there may be none): `token_ids` were emitted and are in `output_ids` now."""

    def observe_step(self, num_tokens: int, num_rows: int, step_micros: int) -> None:
        """Learn what a step of so many tokens and requests took; 0 tokens where some have left it on the way."""

    def forget(self, request_id: str) -> None:
        """Drop what is known of a request."""


class GrammarEngine(Protocol):
    """Compiles grammars beside the engine's thread, and follows each request's output through its own."""

    def begin(self, request: Request) -> None:
        """Start compiling the request's grammar; returns at once."""

    def poll(self, request: Request) -> str | None:
        """`"ready"` once the request may run, `None` while it compiles, else the error code that ends it: also of one
        that has run, if its grammar broke its bounds since.
        """

    def message(self, request_id: str) -> str:
        """What to tell about a grammar whose `poll` gave an error code; may be empty."""

    def wait(self, micros: int) -> None:
        """Return when a compilation has ended, or after so many microseconds."""

    def cut_drafts(self, request: Request, drafts: Sequence[int]) -> list[int]:
        """The longest beginning of the drafts that the grammar allows."""

    def forced(self, request: Request, most: int) -> list[int]:
        """Up to `most` tokens that must come next, because the grammar allows nothing else there; often none."""

    def masks(self, drafts: Mapping[str, Sequence[int]], requests: Mapping[str, Request]) -> TokenMasks | None:
        """Masks for one step; `None` where no request has a grammar."""

    def accept(self, request: Request, token_ids: Sequence[int]) -> bool:
        """Follow the emitted tokens. False: the grammar did not allow them, which is a bug.

        Whether the grammar is at its end, so that only an end token may come, shows in the next mask.
        """

    def is_ended(self, request: Request) -> bool:
        """Whether the text is complete and nothing may follow it."""

    def forget(self, request_id: str) -> None:
        """Drop what is known of a request."""

    def close(self) -> None:
        """End whatever compiles. Idempotent."""


class ModelRunner(Protocol):
    """What computes a step. Behind it: torch and a backend, or the simulator."""

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Compute one step. Every request in `out` is in the result."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of the memory plan by part."""

    def close(self) -> None:
        """Free the buffers."""
