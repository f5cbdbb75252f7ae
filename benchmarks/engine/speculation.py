"""What guessing brings: the same prompts with and without it, in turns, in one process; the tokens must be equal.

Two times are taken of each request: the whole of it, and its decode phase, from the first token that comes out to the
last. Guessing can shorten only the second. Every round is a tenant of its own, so that nobody knows a prompt or an
answer from the round before.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.engine.figures import Figure, ratios
from benchmarks.engine.machine import MOST_FOREIGN_SHARE, IdleWatch, own_pid
from pyworker.config import build_engine, options_of
from pyworker.engine.request import Request, SamplingParams
from pyworker.models.prepare import prepare
from pyworker.texts import TextSide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.engine.corpus import Corpus
    from benchmarks.engine.figures import Results
    from pyworker.engine.outputs import StepOutputs

_OUTPUT_TOKENS = 128
_PROMPT_CHARACTERS = 6_000
_COPY_HEAVY = 24
_PHASES = {"decode": "decode phase, first to last output token", "whole": "whole requests, prompts included"}


def measure(model: str, dtype: str, proposer: str, corpus: Corpus, results: Results, rounds: int) -> None:
    """Copy-heavy tasks one at a time, chat at batch 1, 4 and 8."""
    side = TextSide(prepare(model).model_dir)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [side.encode_chat([{"role": "user", "content": text[:_PROMPT_CHARACTERS]}]) for text in texts]

    plain, guessing = (_Engine(model, dtype, name) for name in ("off", proposer))
    try:
        copy = encode(corpus.copy_heavy[:: max(1, len(corpus.copy_heavy) // _COPY_HEAVY)])
        loads = [_Load("copy-heavy tasks, 1 stream", copy, 1, 1.5)]
        loads += [
            _Load(f"chat, batch {batch}", encode(corpus.chat[: 16 if batch > 1 else 8]), batch, 0.98)
            for batch in (1, 4, 8)
        ]
        for load in loads:
            for figure in _compare(f"speculation ({proposer}, {dtype}) on", plain, guessing, load, rounds):
                figure.note = f"{_mean(load.prompts)} prompt tokens in the mean, {corpus.label}"
                results.add(figure)
    finally:
        plain.close()
        guessing.close()


@dataclass(frozen=True, slots=True)
class _Load:
    name: str
    prompts: list[list[int]]
    batch: int
    goal: float


@dataclass(slots=True)
class _Times:
    """Seconds, added up: of the decode phases of all requests, and of all groups of requests."""

    decode: float = 0.0
    whole: float = 0.0


@dataclass(slots=True)
class _Seen:
    """What came out of one request, and when."""

    tokens: list[int] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0
    ended: bool = False


class _Engine:
    """An engine in this process, and the host that its outputs go to."""

    def __init__(self, model: str, dtype: str, speculative: str) -> None:
        options = {"dtype": dtype, "max_num_seqs": 16, "kv_cache_bytes": 1 << 30, "speculative": speculative}
        self._engine = build_engine(prepare(model), options_of(options))
        self._engine.attach(self)
        self._seen: dict[str, _Seen] = {}
        self._count = 0

    def send(self, steps: StepOutputs) -> None:
        """Note each output's time."""
        now = time.perf_counter()
        for output in steps.outputs:
            seen = self._seen[output.request_id]
            if output.token_ids:
                seen.tokens += output.token_ids
                seen.first, seen.last = seen.first or now, now
            seen.ended = output.finish is not None

    def progress(self) -> None:
        """Nobody watches."""

    def run(self, prompts: list[list[int]], salt: int, times: _Times) -> list[list[int]]:
        """One group, to the end of the last; adds to `times`, gives the tokens."""
        self._seen = {}
        for prompt in prompts:
            self._count += 1
            name = f"bench-{self._count}"
            self._seen[name] = _Seen()
            params = SamplingParams(max_tokens=_OUTPUT_TOKENS, temperature=0.0)
            self._engine.submit(Request(name, 0, list(prompt), params, credit_up_to=2**31, salt=salt))
        began = time.perf_counter()
        while not all(seen.ended for seen in self._seen.values()):
            self._engine.step()
        times.whole += time.perf_counter() - began
        times.decode += sum(seen.last - seen.first for seen in self._seen.values())
        return [seen.tokens for seen in self._seen.values()]

    def close(self) -> None:
        """Let go of the model."""
        self._engine.close()


def _compare(name: str, plain: _Engine, guessing: _Engine, load: _Load, rounds: int) -> list[Figure]:
    kept: list[tuple[_Times, _Times]] = []
    discarded = 0
    raw: list[dict[str, object]] = []
    while len(kept) < rounds and discarded < rounds:
        watch = IdleWatch({own_pid()})
        times = _round(plain, guessing, load)
        share = watch.foreign_share()
        disturbed = share > MOST_FOREIGN_SHARE
        seconds = {
            f"{who}_{phase}_s": getattr(one, phase)
            for who, one in zip(("plain", "guessing"), times, strict=True)
            for phase in _PHASES
        }
        raw.append({**seconds, "foreign": share, "counts": not disturbed})
        sys.stderr.write(f"{load.name}: {raw[-1]}\n")
        if disturbed:
            discarded += 1
        else:
            kept.append(times)
    figures = []
    for phase, words in _PHASES.items():
        values = ratios([getattr(a, phase) for a, _ in kept], [getattr(b, phase) for _, b in kept])
        figures.append(Figure(f"{name} {load.name}: {words}", values, load.goal, discarded=discarded, raw=raw))
    return figures


def _round(plain: _Engine, guessing: _Engine, load: _Load) -> tuple[_Times, _Times]:
    """Each group by the one and then by the other, in changing order."""
    times = (_Times(), _Times())
    salt = time.monotonic_ns()
    for at in range(0, len(load.prompts), load.batch):
        group = load.prompts[at : at + load.batch]
        pairs = list(zip((plain, guessing), times, strict=True))
        if at // load.batch % 2:
            pairs.reverse()
        answers = [engine.run(group, salt, spent) for engine, spent in pairs]
        if answers[0] != answers[1]:
            raise RuntimeError(f"{load.name}: the tokens differ, so nothing else is worth measuring")
    return times


def _mean(prompts: list[list[int]]) -> int:
    return sum(map(len, prompts)) // max(1, len(prompts))
