"""The requests of one online class, in the order in which they were drawn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadInput
from loadgen.plan import arrivals, conversations, lengths, transforms
from loadgen.plan.model import NOT_DUE, Prompt, Segment
from loadgen.plan.prefix import Shared, trace_segments
from loadgen.plan.streams import seed_of, stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.plan.conversations import Turn
    from loadgen.plan.rows import Source, SourceRow
    from loadgen.spec import OfflineSpec, OnlineSpec

CLOSED_PER_SLOT_SECOND = 10
"""Requests that a closed loop may use: a plan is finite, so a faster server runs out, and the run is then not valid."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """`until`: microseconds from `t0`; `requests`: the most of a class; `block`: tokens of the server's cache block."""

    until: int
    requests: int
    block: int


class Prompting:
    """Makes the prompts and output lengths of one class."""

    def __init__(self, spec: OnlineSpec | OfflineSpec, seed: int, source: str) -> None:
        self._spec, self._seed, self._source = spec, seed, source
        self._shared = Shared(spec.prefix, seed, spec.name, stream(seed, spec.name, "prefix"))
        self._in = lengths.drawn(spec.input or lengths.DEFAULT_IN, seed, spec.name, "in")
        self._out = lengths.drawn(spec.output or lengths.DEFAULT_OUT, seed, spec.name, "out")
        self._made = 0

    def prompt(self, row: SourceRow) -> Prompt:
        """Text as it is, the trace's own blocks, or words with the class's shared beginning.

        A trace's blocks, and the prompt of a plan of our own, are kept unless the class has a `tree` or `groups` of its
        own: dropping them in silence would make another workload of it.
        """
        self._made += 1
        own = self._spec.prefix.kind in ("tree", "groups")
        # A length that was scaled or cut is another prompt.
        if row.prompt is not None and not own and row.in_tokens == row.prompt.tokens:
            return row.prompt
        if row.text is not None:
            return Prompt(row.in_tokens, text=row.text)
        segments = () if own else trace_segments(row, self._seed, self._source)
        if segments:
            return Prompt(row.in_tokens, segments)
        tokens = row.in_tokens if row.in_tokens is not None else next(self._in)
        return Prompt(tokens, self._shared.segments(tokens, self._made))

    def out(self, row: SourceRow) -> int:
        """Output tokens: the row's own, unless the class asks for a distribution or the row has none."""
        if row.out_tokens is None or self._spec.output is not None:
            return next(self._out)
        return row.out_tokens


def turns(spec: OnlineSpec, source: Source, seed: int, bounds: Bounds) -> list[tuple[int | None, Turn]]:
    """(number of the session in its class, turn) of all requests.

    Raises:
        BadInput: arrivals, source and transforms that do not go together.
        BadData: a row that cannot be used.
    """
    rng = stream(seed, spec.name, "thin")
    rows = source.rows() if not _endless(source) else islice(source.rows(), 1)
    planned = transforms.apply(list(rows), spec.transforms, bounds.block, rng)
    if not planned:
        raise BadInput("--online", "source", source.name, "it has no rows after the transforms")
    live = spec.session is not None and spec.session.mode == "live"
    waits = spec.arrivals.kind == "closed" or (live and spec.arrivals.kind == "trace")
    if source.has_times and waits and any(row.turn for row in planned):
        why = f"{source.name} has what was said before in its prompts already, so that no turn may wait for an answer"
        raise BadInput("--online", "source", source.name, why)
    prompting = Prompting(spec, seed, source.name)
    if spec.arrivals.kind == "trace":
        if not source.has_times:
            raise BadInput("--online", "arrivals", "trace", f"{source.name} has no times")
        if any(row.time is None for row in planned):
            why = f"{source.name} holds requests without a time, such as items of jobs: name a class of it, ;class=NAME"
            raise BadInput("--online", "arrivals", "trace", why)
        return _by_trace(spec, planned, prompting, bounds)
    groups = _sessions(planned)
    return _by_draw(spec, source, groups, prompting, seed, bounds)


def _endless(source: Source) -> bool:
    return source.name == "synth"


def _sessions(rows: Sequence[SourceRow]) -> list[list[SourceRow]]:
    found: dict[str, list[SourceRow]] = {}
    for place, row in enumerate(rows):
        found.setdefault(f"#{place}" if row.session is None else row.session, []).append(row)
    return list(found.values())


def _by_trace(
    spec: OnlineSpec, rows: Sequence[SourceRow], prompting: Prompting, bounds: Bounds
) -> list[tuple[int | None, Turn]]:
    """Due times are the trace's own. Later turns wait for their answers only if `mode=live` was asked for."""
    live = spec.session is not None and spec.session.mode == "live"
    numbers: dict[str, int] = {}
    before: dict[str, int] = {}
    found: list[tuple[int | None, Turn]] = []
    for row in rows:
        time = row.time or 0
        if time >= bounds.until or len(found) >= bounds.requests:
            continue
        session = None if row.session is None else numbers.setdefault(row.session, len(numbers))
        waits = live and row.session in before
        think = time - before[row.session] if waits and row.session is not None else 0
        if row.session is not None:
            before[row.session] = time
        prompt, out = prompting.prompt(row), prompting.out(row)
        found.append((session, conversations.Turn(prompt, out, NOT_DUE if waits else time, row.turn, think)))
    return found


def _by_draw(
    spec: OnlineSpec,
    source: Source,
    groups: Sequence[Sequence[SourceRow]],
    prompting: Prompting,
    seed: int,
    bounds: Bounds,
) -> list[tuple[int | None, Turn]]:
    """Sessions, or single requests, begin at drawn times (or slots) and take the source's rows in a drawn order."""
    if spec.arrivals.kind == "closed":
        seconds = bounds.until / 1e6
        each = spec.arrivals.rate or CLOSED_PER_SLOT_SECOND
        count = min(bounds.requests, max(1, round(spec.arrivals.slots * seconds * each)))
        starts = [NOT_DUE] * count
    else:
        starts = arrivals.due_times(spec.arrivals, bounds.until, seed, spec.name, bounds.requests).tolist()
    order = _order(len(groups), len(starts), seed, spec.name, source.name.startswith("lengths"))
    drawn = spec.session is not None and spec.session.turns_mean > 0
    sizes = conversations.turn_counts(spec.session, seed, spec.name) if drawn and spec.session else None
    pauses = conversations.thinks(spec.session, seed, spec.name)
    # An agent's prompts hold their history already, so that nothing may wait for an answer to be put before them.
    whole = source.has_times
    mode = "recorded" if whole else spec.session.mode if spec.session else "live"
    own_times = whole and (spec.session is None or spec.session.think is None)
    found: list[tuple[int | None, Turn]] = []
    for number, (start, place) in enumerate(zip(starts, order, strict=True)):
        rows = list(groups[place])
        if sizes is not None and len(rows) == 1 and rows[0].text is None:
            rows = rows * next(sizes)
        prompts, outs = [prompting.prompt(row) for row in rows], [prompting.out(row) for row in rows]
        if mode == "recorded" and len(rows) > 1 and not whole:
            prompts = _recorded(rows, prompts, outs, seed_of(seed, spec.name), number)
        session = number if len(rows) > 1 else None
        waits = _gaps(rows) if own_times else [next(pauses) for _ in rows[1:]]
        found += [(session, turn) for turn in conversations.session(prompts, outs, start, waits, mode)]
    return [entry for entry in found if entry[1].due < bounds.until][: bounds.requests]


def _gaps(rows: Sequence[SourceRow]) -> list[int]:
    """The source's own times between its calls: think time, or a tool's."""
    return [(after.time or 0) - (before.time or 0) for before, after in pairwise(rows)]


def _recorded(
    rows: Sequence[SourceRow], prompts: Sequence[Prompt], outs: Sequence[int], seed: int, number: int
) -> list[Prompt]:
    if rows[0].text is not None:
        return conversations.recorded_messages(rows)
    return conversations.with_recorded_history(prompts, outs, seed, number)


def _order(groups: int, count: int, seed: int, cls: str, independent: bool) -> Iterator[int]:
    """Which row each arrival takes: lengths are drawn with replacement, texts go round in shuffled order."""
    rng = stream(seed, cls, "rows")
    if groups == 1:
        return iter([0] * count)
    if independent:
        return iter(rng.integers(groups, size=count).tolist())
    rounds = [rng.permutation(groups) for _ in range(-(-count // groups))]
    return iter(np.concatenate(rounds)[:count].tolist() if rounds else [])


def own_words(seed: int, cls: str, number: int, tokens: int) -> Prompt:
    """A prompt that shares nothing."""
    return Prompt(tokens, (Segment(seed_of(seed, cls, "own", number), tokens),))
