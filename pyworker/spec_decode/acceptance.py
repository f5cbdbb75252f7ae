"""How often guesses come true: by request, and until that is known by kind of guess over all requests."""

from __future__ import annotations

from dataclasses import dataclass

_PRIOR_WEIGHT = 8.0
_DECAY = 0.98
_TABLE_DECAY = 0.999
_FIRST_ALPHA = 0.5
_BUCKETS = (2, 3, 7, 15)


@dataclass(slots=True)
class _Counts:
    """Guesses that were looked at and guesses that came true, older ones fading."""

    accepted: float = 0.0
    seen: float = 0.0

    def add(self, accepted: int, seen: int, decay: float) -> None:
        self.accepted = self.accepted * decay + accepted
        self.seen = self.seen * decay + seen


class Acceptance:
    """Beta posteriors. A request's prior is the table's mean for (proposer, length of the match), with weight 8."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, int], _Counts] = {}
        self._requests: dict[str, _Counts] = {}

    def alpha(self, request_id: str, proposer: str, match_len: int) -> float:
        """The chance that a guess comes true whose predecessors all did."""
        kind = self._table.get((proposer, _bucket(match_len)), _Counts())
        prior = (kind.accepted + _FIRST_ALPHA) / (kind.seen + 1.0)
        own = self._requests.get(request_id, _Counts())
        return (_PRIOR_WEIGHT * prior + own.accepted) / (_PRIOR_WEIGHT + own.seen)

    def observe(self, request_id: str, proposer: str, match_len: int, num_drafts: int, num_accepted: int) -> None:
        """Learn from one verified draft: the guess after the last right one was looked at too, those behind it not."""
        seen = min(num_drafts, num_accepted + 1)
        self._table.setdefault((proposer, _bucket(match_len)), _Counts()).add(num_accepted, seen, _TABLE_DECAY)
        self._requests.setdefault(request_id, _Counts()).add(num_accepted, seen, _DECAY)

    def forget(self, request_id: str) -> None:
        """Drop the request's own counts."""
        self._requests.pop(request_id, None)


def _bucket(match_len: int) -> int:
    return next((most for most in _BUCKETS if match_len <= most), _BUCKETS[-1] + 1)
