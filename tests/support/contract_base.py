"""What a suite for engines stands on: an engine that is driven, and requests whose lengths are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pyworker.engine.request import Grammar, GrammarKind, RequestClass, SamplingParams
from support.engine_rig import UNLIMITED, RecordingHost, request_for_test

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyworker.engine.interface import Engine, EngineCapabilities
    from pyworker.engine.outputs import FinishReason, TokenLogprobs
    from pyworker.engine.request import Request

MOST_STEPS = 3000
LENGTH = 10


@dataclass
class WatchedHost(RecordingHost):
    """A host that can do something at each layer."""

    on_progress: Callable[[], object] = lambda: None

    def progress(self) -> None:
        """Count a layer."""
        super().progress()
        self.on_progress()


class Driven:
    """An attached engine and what it has sent."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.host = WatchedHost()
        self.capabilities: EngineCapabilities = engine.attach(self.host)

    def step_until(self, done: Callable[[], bool]) -> None:
        """Step until `done`, which must come to pass within `MOST_STEPS`."""
        for _ in range(MOST_STEPS):
            if done():
                return
            self.engine.step()
        raise AssertionError(f"not done after {MOST_STEPS} steps")

    def step_until_idle(self) -> None:
        """Step until there is nothing to do."""
        self.step_until(lambda: not self.engine.step())

    def finished(self, request: Request) -> bool:
        """Whether this attempt has ended (and not twice)."""
        return self.host.finish(request.request_id, request.attempt) is not None

    def finish_all(self, requests: Sequence[Request]) -> None:
        """Step until all of these have ended."""
        self.step_until(lambda: all(map(self.finished, requests)))

    def outcome(self, request: Request) -> tuple[list[int], list[TokenLogprobs], FinishReason | None]:
        """All that a client would see of this attempt."""
        name, attempt = request.request_id, request.attempt
        logprobs = [each for output in self.host.outputs(name, attempt) for each in output.logprobs]
        return self.host.tokens(name, attempt), logprobs, self.host.finish(name, attempt)

    def is_empty(self) -> bool:
        """Whether the engine says that it holds nothing."""
        stats = self.engine.stats()
        return (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)

    def run(self, *requests: Request) -> list[list[int]]:
        """Submit all, run them to their ends, and give each one's new tokens."""
        for request in requests:
            self.engine.submit(request)
        self.finish_all(requests)
        self.step_until_idle()
        return [self.host.tokens(request.request_id, request.attempt) for request in requests]


class ContractBase(ABC):
    """How an engine is made, and what is asked of it. Requests ignore end tokens, so that lengths are known.

    `also` are words for what no feature of READY says: `stops` (it ends at the tokens that a request names), `sampling`
    (it chooses by all parameters that there are), `metrics` (it counts its steps). A deriving class names them for its
    engine.
    """

    also: ClassVar[frozenset[str]] = frozenset()
    grammar: ClassVar[Grammar] = Grammar(GrammarKind.REGEX, "[a-f]{2}fedc[a-f]{40}")
    """A grammar that the engine understands, and whose texts do not end before `LENGTH` tokens."""
    bad_grammar: ClassVar[Grammar] = Grammar(GrammarKind.REGEX, "(")

    @abstractmethod
    def make_engine(self) -> Engine:
        """A fresh engine that nobody has attached to, with a context of at least 64 tokens and four slots."""

    def make_plain_engine(self) -> Engine:
        """An engine that must give the same in the plainest way, with nothing that could go wrong; a fresh one too."""
        return self.make_engine()

    def matches(self, token_ids: Sequence[int]) -> bool:
        """Whether `grammar` allows a text that begins with these tokens."""
        return (
            all(token in b"abcdef" for token in token_ids)
            and bytes(token_ids[2:6]) == b"fedc"[: max(0, len(token_ids) - 2)]
        )

    @pytest.fixture
    def driven(self) -> Iterator[Driven]:
        """The engine, attached; closed at the end, twice, since closing is idempotent."""
        driven = Driven(self.make_engine())
        yield driven
        driven.engine.close()
        driven.engine.close()

    @staticmethod
    def request(
        name: str,
        *,
        attempt: int = 0,
        history: list[int] | None = None,
        credit: int = UNLIMITED,
        prompt: list[int] | None = None,
        klass: RequestClass = RequestClass.STANDARD,
        group: tuple[str, int] | None = None,
        **params: Any,
    ) -> Request:
        """A request whose prompt depends on its name, for `LENGTH` tokens. `params` are fields of `SamplingParams`."""
        usual = SamplingParams(max_tokens=LENGTH, seed=len(name) + 40, ignore_eos=True)
        return request_for_test(
            name,
            prompt or [*name.encode(), *range(1, 20)],
            params=replace(usual, **params),
            attempt=attempt,
            output_ids=history,
            credit=credit,
            klass=klass,
            group=group,
        )

    def needs(self, driven: Driven, *words: str) -> None:
        """Skip where the engine does not claim all of this."""
        for word in words:
            if word not in driven.capabilities.features and word not in self.also:
                pytest.skip(f"the engine does not declare {word}")
