"""How a request ended, in the words of the records, and why. Pure."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from loadgen.drive.spool import End
from loadgen.measure.slo import targets

if TYPE_CHECKING:
    from loadgen.drive.parsed import Parsed
    from loadgen.record import Outcome
    from loadgen.spec import Slo

_OK = 200
_ERRNO = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ETIMEDOUT: "connect_timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EMFILE: "no_sockets",
    errno.ENFILE: "no_sockets",
    errno.EADDRNOTAVAIL: "no_sockets",
}
_CAP_CODES = ("too_many_connections",)
_PLAIN: dict[End, tuple[Outcome, str | None]] = {
    End.CLOSED: ("error", "closed"),
    End.TIMEOUT: ("timeout", "timeout"),
    End.CANCELLED: ("cancelled", None),
    End.TOO_BIG: ("error", "too_big"),
    End.MALFORMED: ("error", "not_http"),
}


def outcome_of(one: Parsed) -> tuple[Outcome, str | None]:
    """Of an exchange that ended by itself or by the client's plan; `OPEN` and `UNSENT` are `left_open`'s to judge."""
    kind = End(one.end_kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind is End.REFUSED:
        closed = "connection_closed" if one.sent >= 0 else "no_connection"
        return "refused", _ERRNO.get(one.errno, closed)
    if one.error in _CAP_CODES:
        return "refused", "connection_cap"
    if one.status == 429 or (one.status == 503 and one.retry_after):
        return "shed", f"status_{one.status}"
    if 300 <= one.status < 400:
        return "error", "redirect"
    if one.status != _OK:
        return "error", f"status_{one.status}"
    if one.encoding is not None:
        return "error", "compressed"
    if one.fault is not None:
        return "error", one.fault
    return "ok", None


def left_open(due: int, first: int | None, out_want: int, slo: Slo | None, horizon: int) -> Outcome:
    """Of a request that was open at the end: `cut` if its deadline had passed, `censored` if there was time left.

    Without an SLO there is no deadline to wait for, and nothing is left out of an attainment: `cut`.
    """
    ttft, tpot = (None, None) if slo is None else targets(slo)
    deadlines = []
    if ttft is not None:
        if first is None or first > due + ttft:
            deadlines.append(due + ttft)
        else:
            deadlines.append(due + ttft + (out_want - 1) * tpot if tpot is not None else float("inf"))
    if slo is not None:
        deadlines += [due + term.bound for term in slo.per_request if term.metric == "e2e"]
    return "cut" if not deadlines or horizon > min(deadlines) else "censored"
