"""What a mock is told to be: the flags of `slackwater-loadgen mock`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from loadgen.mock.canned import Shape
from loadgen.mock.engine import PRESETS, BatchEngine
from loadgen.mock.oracle import Scheme, Tokenizer
from loadgen.mock.paced import PacedEngine
from loadgen.units import Dist

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.mock.faults import Fault
    from loadgen.mock.work import MockEngine


@dataclass(frozen=True, slots=True)
class MockOptions:
    """Times in microseconds. `listen` is loopback. `ttft` or `tpot` choose the simple form of engine mode."""

    listen: tuple[str, int] = ("127.0.0.1", 0)
    mode: Literal["canned", "engine"] = "canned"
    model: str = "mock"
    shape: Shape = field(default_factory=lambda: Shape("json", 16))
    text: Literal["prompt", "fixed"] = "prompt"
    preset: str = "gpu-like"
    ttft: Dist | None = None
    tpot: Dist | None = None
    slots: int | None = None
    speed: float = 1.0
    tokenizer: Scheme = "words"
    vocab: int = 32_768
    tokens_per_chunk: int = 1
    reasoning: int = 0
    natural: Dist | None = None
    default_tokens: int = 16
    faults: tuple[Fault, ...] = ()
    kv_events: str | None = None
    max_waiting: int = 10_000
    max_connections: int = 20_000
    seed: int = 0
    procs: int = 1
    wire: str | None = None
    """Endpoint of a router of ours: be `workers` workers of it instead of a server."""
    workers: int = 1
    model_dir: str | None = None

    def make_tokenizer(self) -> Tokenizer:
        """The tokeniser."""
        return Tokenizer(self.vocab, self.tokenizer)

    def make_engine(self) -> MockEngine:
        """A new engine."""
        if self.mode == "canned":
            gap = Dist("fixed", self.shape.gap) if self.shape.gap else None
            return PacedEngine(gap, gap, vocab=self.vocab)
        if self.ttft is not None or self.tpot is not None:
            ttft, tpot = (_faster(each, self.speed) for each in (self.ttft, self.tpot))
            return PacedEngine(ttft, tpot, slots=self.slots, vocab=self.vocab, seed=self.seed)
        config = PRESETS[self.preset].faster(self.speed)
        return BatchEngine(config.with_output(self.vocab, kv_events=self.kv_events is not None))


def _faster(given: Dist | None, speed: float) -> Dist | None:
    if given is None or speed == 1:
        return given
    second = given.second / speed if given.kind == "uniform" else given.second
    return Dist(given.kind, given.first / speed, second, tuple(v / speed for v in given.values), given.weights)


def parse(flags: Sequence[str]) -> MockOptions:
    """The flags of `slackwater-loadgen mock`, for those who start one in their own process.

    Raises:
        BadInput: flags that cannot be.
    """
    from loadgen import cli_build, cli_parse

    return cli_build.build_mock(cli_parse.parse("mock", list(flags)))
