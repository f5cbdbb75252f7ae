"""`--cache primed`: every prefix that requests of the plan share is sent once, before the run begins."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from loadgen.errors import Unreachable
from loadgen.plan import payload
from loadgen.plan.model import PlannedRequest, Prompt
from loadgen.plan.streams import seed_of
from loadgen.run.cache import PRIMED_MOST
from loadgen.run.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from loadgen.plan.model import Segment
    from loadgen.run.prepare import Prepared

_AT_ONCE = 4
_TIMEOUT = 120.0


def shared_prefixes(prompts: Iterable[Sequence[Segment]], most: int = PRIMED_MOST) -> list[tuple[Segment, ...]]:
    """The longest leading runs of segments that at least two prompts have, each once; at most `most`."""
    kept = [tuple(each) for each in prompts if each]
    times: Counter[int] = Counter()
    for segments in kept:
        times.update(_chains(segments))
    found: dict[int, tuple[Segment, ...]] = {}
    for segments in kept:
        chains = _chains(segments)
        shared = sum(1 for chain in chains if times[chain] > 1)
        if shared:
            found.setdefault(chains[shared - 1], segments[:shared])
    return list(found.values())[:most]


def prime(prepared: Prepared, key: str | None) -> int:
    """Send them; how many there were.

    Raises:
        Unreachable: the target refuses one.
    """
    by_class: dict[str, list[tuple[Segment, ...]]] = {}
    for request in prepared.plan.requests:
        by_class.setdefault(request.cls, []).append(request.prompt.segments)
    asked = [
        PlannedRequest(0, cls, 0, Prompt(None, segments), 1)
        for cls, prompts in by_class.items()
        for segments in shared_prefixes(prompts)
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # The list is what raises the first refusal.
        list(pool.map(lambda request: _send(request, prepared, key), asked))
    return len(asked)


def _send(request: PlannedRequest, prepared: Prepared, key: str | None) -> None:
    server = Server(prepared.scenario.target, key, _TIMEOUT)
    try:
        reply = server.call("POST", payload.PATHS[prepared.scenario.api], payload.body(request, prepared.wire, False))
    finally:
        server.close()
    if reply.status != 200:
        raise Unreachable(
            server.base_url, f"priming the cache was answered {reply.status}; --cache cold needs no priming"
        )


def _chains(segments: Sequence[Segment]) -> list[int]:
    """Names of each leading run: equal for equal beginnings only."""
    chain, found = 0, []
    for segment in segments:
        chain = seed_of(chain, segment.seed, segment.tokens)
        found.append(chain)
    return found
