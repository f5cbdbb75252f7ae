"""A small engine under a virtual clock, and a host that keeps what it is sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

from pyworker.engine.config import EngineConfig
from pyworker.engine.core import EngineCore
from pyworker.engine.request import Request, RequestClass, SamplingParams
from pyworker.runner.sim import SimRunner, oracle_tokens, sim_capabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyworker.engine.interface import ModelRunner
    from pyworker.engine.outputs import FinishReason, RequestOutput, StepOutputs
    from pyworker.engine.planner import Planner
    from pyworker.engine.policies import Policies

VOCAB = 1000
UNLIMITED = 2**31


class ConfigOverrides(TypedDict, total=False):
    """Fields of `EngineConfig` that a test may set."""

    num_blocks: int
    max_model_len: int
    vocab_size: int
    eos_ids: frozenset[int]
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_step_drafts: int
    decode_chunk: int
    enable_prefix_caching: bool
    park_max_slices: int
    park_max_bytes: int
    park_max_micros: int
    failure_window_micros: int
    async_scheduling: bool


def config_for_test(**overrides: Unpack[ConfigOverrides]) -> EngineConfig:
    """Small numbers, so that every limit is soon reached."""
    chosen: ConfigOverrides = {
        "num_blocks": 65,
        "max_model_len": 256,
        "vocab_size": VOCAB,
        "block_size": 4,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "decode_chunk": 16,
    }
    chosen.update(overrides)
    return EngineConfig(**chosen)


def request_for_test(
    name: str,
    prompt_ids: list[int],
    *,
    output_ids: list[int] | None = None,
    credit: int = UNLIMITED,
    attempt: int = 0,
    salt: int = 0,
    params: SamplingParams | None = None,
    klass: RequestClass = RequestClass.STANDARD,
    expected: int | None = None,
    group: tuple[str, int] | None = None,
    deadline: int | None = None,
) -> Request:
    """A request with unlimited credit for eight tokens. `group` is its name and the choice's index in it."""
    return Request(
        request_id=name,
        attempt=attempt,
        prompt_ids=list(prompt_ids),
        params=params or SamplingParams(max_tokens=8, seed=7),
        output_ids=list(output_ids or []),
        klass=klass,
        salt=salt,
        credit_up_to=credit,
        expected_output=expected,
        group=group[0] if group else None,
        choice_index=group[1] if group else 0,
        deadline_micros=deadline,
    )


def oracle_of(request: Request) -> list[int]:
    """All output tokens that the simulated model gives this request, up to `max_tokens`."""
    return oracle_tokens(request.prompt_ids, request.seed, request.params.max_tokens, VOCAB)


@dataclass
class VirtualClock:
    """A `Clock` that moves only when it is told to."""

    micros: int = 0

    def now(self) -> int:
        """Microseconds."""
        return self.micros

    def sleep(self, micros: int) -> None:
        """Let time pass."""
        self.micros += micros


@dataclass
class RecordingHost:
    """An `EngineHost`: keeps all steps, and what became of each (request id, attempt)."""

    steps: list[StepOutputs] = field(default_factory=list)
    progressed: int = 0

    def send(self, steps: StepOutputs) -> None:
        """Keep a step."""
        self.steps.append(steps)

    def progress(self) -> None:
        """Count a layer."""
        self.progressed += 1

    def outputs(self, request_id: str, attempt: int = 0) -> list[RequestOutput]:
        """All outputs of one attempt, in order."""
        every = (output for step in self.steps for output in step.outputs)
        return [output for output in every if (output.request_id, output.attempt) == (request_id, attempt)]

    def tokens(self, request_id: str, attempt: int = 0) -> list[int]:
        """All tokens that one attempt has produced."""
        return [token for output in self.outputs(request_id, attempt) for token in output.token_ids]

    def finish(self, request_id: str, attempt: int = 0) -> FinishReason | None:
        """How one attempt ended; `None` while it has not."""
        ends = [output.finish for output in self.outputs(request_id, attempt) if output.finish is not None]
        if len(ends) > 1:
            raise AssertionError(f"{request_id} ended {len(ends)} times: {ends}")
        return ends[0] if ends else None


@dataclass
class BusyHost(RecordingHost):
    """A `ConcurrentHost`: the orders in its `inbox` are given while a step runs."""

    inbox: deque[Callable[[], object]] = field(default_factory=deque)
    drained: int = 0

    def drain(self) -> None:
        """Give what is there."""
        self.drained += 1
        while self.inbox:
            self.inbox.popleft()()


@dataclass
class Rig:
    """An engine over the simulated runner, its clock and its host."""

    config: EngineConfig
    clock: VirtualClock
    host: RecordingHost
    engine: EngineCore

    def run(self, limit: int = 5000) -> int:
        """Step until there is nothing to do; the number of steps that did something."""
        for done in range(limit):
            if not self.engine.step():
                return done
        raise AssertionError(f"not idle after {limit} steps")


def rig_for_test(
    runner: ModelRunner | None = None,
    policies: Policies | None = None,
    planner: Planner | None = None,
    host: RecordingHost | None = None,
    features: tuple[str, ...] = (),
    **overrides: Unpack[ConfigOverrides],
) -> Rig:
    """An attached engine; with no runner given, one that takes 1000 us and 10 us a token of virtual time.

    `features` are declared beside those of the simulator.
    """
    config, clock, host = config_for_test(**overrides), VirtualClock(), host or RecordingHost()
    sim = SimRunner(config, step_micros=(1000, 10), layers=2, sleep=clock.sleep)
    known = sim_capabilities(config)
    known = replace(known, features=(*known.features, *features))
    engine = EngineCore(config, runner or sim, clock, known, policies, planner)
    engine.attach(host)
    return Rig(config, clock, host, engine)
