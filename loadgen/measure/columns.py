"""Records as arrays, so that 10^5 requests of 300 tokens are measured in a second and not in a minute.

Times are f64 microseconds from `t0` with NaN for what is not known: exact up to 2^53, which is 285 years.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from loadgen.errors import BadData
from loadgen.record import CountSource, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from loadgen.record import Record

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

OUTCOMES: tuple[str, ...] = get_args(Outcome)
SOURCES: tuple[str, ...] = get_args(CountSource)
_NAN = float("nan")


def code(outcome: str) -> int:
    """Number of an outcome in `Columns.outcome`."""
    return OUTCOMES.index(outcome)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """n requests. `stamps` and `tokens` are of all chunks, one request after the other: request i has those from
    `begin[i]` up to `begin[i + 1]`. `visible` -1: no part of the answer itself arrived. `session` -1: of none.
    """

    id: Ints
    cls: NDArray[np.str_]
    job: NDArray[np.str_]
    fault: NDArray[np.str_]
    reason: NDArray[np.str_]
    conn: NDArray[np.str_]
    session: Ints
    turn: Ints
    attempt: Ints
    due: Floats
    sent: Floats
    hdr: Floats
    first: Floats
    end: Floats
    outcome: Ints
    source: Ints
    in_want: Floats
    in_got: Floats
    out_want: Floats
    out_got: Floats
    cached: Floats
    visible: Ints
    begin: Ints
    stamps: Floats
    tokens: Ints

    def __len__(self) -> int:
        return len(self.id)

    @property
    def chunks(self) -> Ints:
        """Chunks of each request, i64[n]."""
        return np.diff(self.begin)

    def where(self, mask: Bools) -> Columns:
        """The requests for which `mask`, bool[n], holds."""
        return self.taken(np.flatnonzero(mask))

    def taken(self, order: Ints) -> Columns:
        """The same requests in another order, i64[n] of places."""
        chunks = self.chunks[order]
        begin = np.concatenate(([0], np.cumsum(chunks))).astype(np.int64)
        flat = np.arange(begin[-1]) + np.repeat(self.begin[:-1][order] - begin[:-1], chunks)
        parts = {
            each.name: getattr(self, each.name)[flat if each.name in ("stamps", "tokens") else order]
            for each in fields(self)
            if each.name != "begin"
        }
        return Columns(**parts, begin=begin)

    def is_(self, outcome: str) -> Bools:
        """Which requests ended so, bool[n]."""
        which: Bools = self.outcome == code(outcome)
        return which


_TEXTS = ("cls", "job", "fault", "reason", "conn")
_INTS = ("id", "session", "turn", "attempt", "outcome", "source", "visible", "tokens")
_FLOATS = (
    ("due", "due_micros"),
    ("sent", "sent_micros"),
    ("hdr", "hdr_micros"),
    ("first", "first_micros"),
    ("end", "end_micros"),
    ("in_want", "in_want"),
    ("in_got", "in_got"),
    ("out_want", "out_want"),
    ("out_got", "out_got"),
    ("cached", "cached_tokens"),
)


def columns(records: Iterable[Record], file: str = "records") -> Columns:
    """Sorted by (due, id), so that the order in which load processes wrote them changes nothing.

    Raises:
        BadData: two records of one id, unequally many stamps and token counts, or stamps without a sending time.
    """
    ordered = sorted(records, key=lambda each: (each.due_micros, each.id))
    _check(ordered, file)
    floats = {name: array("d") for name, _ in _FLOATS}
    ints = {name: array("q") for name in _INTS}
    stamps, begin = array("d"), array("q", [0])
    for each in ordered:
        for name, key in _FLOATS:
            value = getattr(each, key)
            floats[name].append(_NAN if value is None else value)
        ints["id"].append(each.id)
        ints["session"].append(-1 if each.session is None else each.session)
        ints["turn"].append(each.turn)
        ints["attempt"].append(each.attempt)
        ints["outcome"].append(code(each.outcome))
        ints["source"].append(-1 if each.count_source is None else SOURCES.index(each.count_source))
        ints["visible"].append(-1 if each.visible is None else each.visible)
        ints["tokens"].extend(each.k)
        stamps.extend(each.ts)
        begin.append(len(stamps))
    parts: dict[str, Any] = {
        name: np.asarray([getattr(each, name) or "" for each in ordered], np.str_) for name in _TEXTS
    }
    parts |= {name: np.array(held, dtype=np.float64) for name, held in floats.items()}
    parts |= {name: np.array(held, dtype=np.int64) for name, held in ints.items()}
    return Columns(**parts, begin=np.array(begin, dtype=np.int64), stamps=np.array(stamps, dtype=np.float64))


def _check(ordered: list[Record], file: str) -> None:
    seen: set[int] = set()
    for each in ordered:
        if each.id in seen:
            raise BadData(file, 0, "id", f"request {each.id} has two records")
        seen.add(each.id)
        if len(each.ts) != len(each.k):
            raise BadData(file, 0, "k", f"request {each.id} has {len(each.ts)} stamps and {len(each.k)} token counts")
        if each.ts and each.sent_micros is None:
            raise BadData(file, 0, "sent_micros", f"request {each.id} has stamps and no time of sending")
        if each.visible is not None and not 0 <= each.visible < max(len(each.ts), 1):
            raise BadData(file, 0, "visible", f"request {each.id} has no chunk {each.visible}")
