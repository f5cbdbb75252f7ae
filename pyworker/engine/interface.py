"""The walls around the engine: what drives it, what runs its steps, and what it can be replaced by.

`EngineCore` is one `Engine`; any object with these methods can stand in its place behind a `Worker`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyworker.engine.outputs import ModelRunnerOutput, SchedulerOutput, StepOutputs
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
    """What an engine may ask of the one who drives it. Both methods are called from the engine's thread."""

    def send(self, steps: StepOutputs) -> None:
        """Take one step's outputs. Never blocks."""

    def progress(self) -> None:
        """Be told that the engine is alive; called once a layer."""


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
        """Do one step. False: there was nothing to do. May block for 100 ms at most beyond its own work."""

    def stats(self) -> EngineStats:
        """State and metrics; cheap, called once a second."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


class Clock(Protocol):
    """Where the engine gets the time from; a test passes a virtual one."""

    def now(self) -> int:
        """Microseconds since some fixed moment; never decreases."""


class ModelRunner(Protocol):
    """What computes a step. Behind it: torch and a backend, or the simulator."""

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Compute one step. Every request in `out` is in the result."""

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of the memory plan by part."""

    def close(self) -> None:
        """Free the buffers."""
