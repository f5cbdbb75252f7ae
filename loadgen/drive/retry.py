"""Retries as the OpenAI SDK makes them: which ends are tried again, and after how long. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.drive.spool import End

if TYPE_CHECKING:
    from loadgen.drive.exchange import Exchange

MOST_RETRIES = 2
_STATUS = (408, 409, 429)
_MOST_WAIT = 60_000_000
_FIRST_WAIT, _LAST_WAIT = 500_000, 8_000_000


def is_retried(exchange: Exchange) -> bool:
    """Lost connections, and the statuses that may pass; the server's `x-should-retry` decides where it is given."""
    if exchange.attempt >= MOST_RETRIES:
        return False
    if exchange.end_kind is End.COMPLETE and exchange.status >= 300:
        if b"x-should-retry: true\n" in exchange.kept_headers:
            return True
        if b"x-should-retry: false\n" in exchange.kept_headers:
            return False
        return exchange.status in _STATUS or exchange.status >= 500
    # Once an answer has begun the SDK hands it out as it comes, and a break is the caller's to deal with.
    return exchange.end_kind is End.REFUSED


def wait_of(exchange: Exchange) -> int:
    """Microseconds until the next attempt: what the server says, up to a minute, or twice as long each time."""
    said = {}
    for line in bytes(exchange.kept_headers).splitlines():
        name, _, value = line.partition(b": ")
        said[name] = value
    for name, factor in ((b"retry-after-ms", 1_000), (b"retry-after", 1_000_000)):
        try:
            wait = round(float(said.get(name, b"")) * factor)
        except (ValueError, OverflowError):
            continue
        if 0 < wait <= _MOST_WAIT:
            return wait
    wait = min(_FIRST_WAIT << exchange.attempt, _LAST_WAIT)
    # Up to a quarter less, by the request's number: a plan must give the same waits each time.
    return wait - wait * (exchange.id * 2_654_435_761 % 1_024) // 4_096
