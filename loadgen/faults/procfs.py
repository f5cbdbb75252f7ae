"""Processes by pid and start time, so that a pid which was given to another process is known as such."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

GONE = ("Z", "X", "x")
"""States of a process that has ended and waits for its parent."""
STOPPED = "T"


@dataclass(frozen=True, slots=True)
class Seen:
    """`state`: the letter of `/proc/PID/stat`. `started`: clock ticks from the boot to its start."""

    state: str
    started: int
    parent: int


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever; a pid alone is reused."""

    pid: int
    started: int


def look(pid: int) -> Seen | None:
    """The process as it is now; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may hold spaces and parentheses itself.
    rest = text[text.rindex(b")") + 2 :].split()
    return Seen(rest[0].decode(), int(rest[19]), int(rest[1]))


def identity(pid: int) -> Identity | None:
    """Of a process that lives."""
    seen = look(pid)
    return None if seen is None or seen.state in GONE else Identity(pid, seen.started)


def is_there(who: Identity) -> bool:
    """Whether just this process lives."""
    return identity(who.pid) == who


def ancestors() -> frozenset[int]:
    """This process and all that it comes from: no fault is aimed at them."""
    found = {1}
    pid = os.getpid()
    while pid > 1:
        found.add(pid)
        seen = look(pid)
        pid = 0 if seen is None else seen.parent
    return frozenset(found)
