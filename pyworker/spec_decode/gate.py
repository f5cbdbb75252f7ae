"""How many guesses are worth their time in this step.

A step's value is the tokens that it is expected to emit per microsecond. Guesses stand in one list, likeliest first,
over all requests; the number of them that makes the best step is taken, if it is clearly better than none. A scan and
no derivative: a step's time is flat at first, and then has knees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORTH = 1.02
_UNCALIBRATED_TOKENS = 12
"""Before step times are known, rows of decodes with their guesses stay within this."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request's guesses, with the chance that one comes true whose predecessors did."""

    request_id: str
    num_drafts: int
    alpha: float


def choose(
    candidates: Sequence[Candidate], num_emitting: int, curve: Sequence[float] | None, room: int
) -> dict[str, int]:
    """Guesses to take by request id (those with none are left out).

    `num_emitting` requests emit a token without guesses; `curve[m]` is the time of the step with m guesses more, `None`
    if that is not known. At most `room` guesses are taken in all.
    """
    values = _values(candidates)[: max(0, room)]
    if curve is None:
        most = max(0, _UNCALIBRATED_TOKENS // max(1, num_emitting) - 1) * len(candidates)
        return _counts(values[:most])
    best, best_value, expected = 0, _WORTH * num_emitting / curve[0], float(num_emitting)
    for taken, (value, _) in enumerate(values, start=1):
        if taken >= len(curve):
            break
        expected += value
        if expected / curve[taken] > best_value:
            best, best_value = taken, expected / curve[taken]
    return _counts(values[:best])


def _values(candidates: Sequence[Candidate]) -> list[tuple[float, str]]:
    """Each guess's chance to be emitted, descending. A request's guesses stay in order, for each is less likely."""
    values = []
    for candidate in candidates:
        value = 1.0
        for _ in range(candidate.num_drafts):
            value *= candidate.alpha
            values.append((value, candidate.request_id))
    return sorted(values, key=lambda item: -item[0])


def _counts(values: Sequence[tuple[float, str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, request_id in values:
        counts[request_id] = counts.get(request_id, 0) + 1
    return counts
