"""Several turns by one user.

The first turn is open loop. `live`: later turns wait for the answer and the think time, and the answer becomes part of
the prompt. `recorded`: all turns have fixed times and the replies are those of the source: truly open loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from loadgen.plan.model import NOT_DUE, Prompt, Segment
from loadgen.plan.streams import seed_of, stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.plan.rows import SourceRow
    from loadgen.spec import SessionSpec


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn before it has an id. `due`: microseconds, or `NOT_DUE` with a `think` time."""

    prompt: Prompt
    out: int
    due: int
    turn: int = 0
    think: int = 0


def turn_counts(spec: SessionSpec, seed: int, cls: str) -> Iterator[int]:
    """Turns of each session: normal with the asked mean and deviation, rounded, at least 1."""
    rng = stream(seed, cls, "turns")
    while True:
        draws = rng.normal(spec.turns_mean, spec.turns_deviation, 256)
        yield from np.maximum(1, np.rint(draws)).astype(np.int64).tolist()


def thinks(spec: SessionSpec | None, seed: int, cls: str) -> Iterator[int]:
    """Think times in microseconds; 0 where none are asked."""
    rng = stream(seed, cls, "think")
    while True:
        if spec is None or spec.think is None:
            yield 0
        else:
            yield from np.rint(spec.think.draw(rng, 256)).astype(np.int64).tolist()


def session(
    prompts: Sequence[Prompt],
    outs: Sequence[int],
    first: int,
    pauses: Sequence[int],
    mode: Literal["live", "recorded"],
) -> list[Turn]:
    """The turns of one session. `first`: when it begins; `pauses`: before each later turn, microseconds.

    In a closed loop `first` is `NOT_DUE`, and then all turns wait.
    """
    found = [Turn(prompts[0], outs[0], first)]
    for number in range(1, len(prompts)):
        pause = pauses[number - 1]
        if mode == "live" or first == NOT_DUE:
            found.append(Turn(prompts[number], outs[number], NOT_DUE, number, pause))
        else:
            found.append(Turn(prompts[number], outs[number], found[-1].due + pause, number, pause))
    return found


def with_recorded_history(prompts: Sequence[Prompt], outs: Sequence[int], seed: int, name: int) -> list[Prompt]:
    """Synthetic turns, each with all before it: the user's words, then a made-up reply as long as was asked."""
    found: list[Prompt] = []
    before: tuple[Segment, ...] = ()
    for number, (prompt, out) in enumerate(zip(prompts, outs, strict=True)):
        segments = before + prompt.segments
        found.append(replace(prompt, segments=segments, tokens=sum(segment.tokens for segment in segments)))
        before = (*segments, Segment(seed_of(seed, "reply", name, number), out))
    return found


def recorded_messages(rows: Sequence[SourceRow]) -> list[Prompt]:
    """Real turns, each with all before it and the source's own replies between."""
    found: list[Prompt] = []
    before: tuple[tuple[str, str], ...] = ()
    for row in rows:
        messages = (*before, ("user", row.text or ""))
        found.append(Prompt(None, messages=messages))
        before = (*messages, ("assistant", row.answer)) if row.answer else messages
    return found
