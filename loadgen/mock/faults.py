"""What the mock does wrong on purpose, to which requests. Pure: `FaultBox` decides, others do it.

`kind[:arguments][;rate=2%|;nth=3]`, such as `cut:after=3;nth=2`, `status:503;retry_after=2;rate=10%`, `stall:10;2s`.
Without `rate` or `nth` every request is hit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen.errors import BadInput
from loadgen.units import duration, share

if TYPE_CHECKING:
    from collections.abc import Iterable

_POSITIONAL = {"status": ("status",), "slow_start": ("delay",), "stall": ("at", "for")}
_KEYS = {
    "die": ("after",),
    "cut": ("after",),
    "hang": ("after",),
    "status": ("status", "retry_after"),
    "slow_start": ("delay",),
    "stall": ("at", "for"),
    "error_event": ("after",),
    "truncate": ("after",),
    "no_usage": (),
    "wrong_length": ("delta",),
    "bad_json": ("after",),
    "split": ("seed",),
    "batch_lost": (),
    "batch_repeat": (),
    "batch_unknown": (),
    "batch_expire": (),
    "batch_miscount": (),
    "batch_late": ("reads",),
    "batch_short": (),
    "batch_usage": (),
    "batch_uncoded": (),
}
KINDS = tuple(_KEYS)
_REQUIRED = {"status": ("status",), "slow_start": ("delay",), "stall": ("at", "for")}


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. `after`: tokens that come before it; `delay`, `stall_for` in microseconds. `reads`: how often
    a file has been read when a late line is put into it; 0: a second after its batch is over.

    `stall_at_tokens` and `stall_at_micros` (from the receipt): one of them. Batch faults count items of a job, the
    others requests for tokens.
    """

    kind: str
    text: str
    after: int = 0
    status: int = 500
    retry_after: str | None = None
    delay: int = 0
    stall_at_tokens: int | None = None
    stall_at_micros: int | None = None
    stall_for: int = 0
    delta: int = -1
    seed: int = 0
    reads: int = 0
    rate: float | None = None
    nth: int | None = None

    @property
    def is_batch(self) -> bool:
        """Whether it belongs to the items of a job."""
        return self.kind.startswith("batch_")


def parse_fault(text: str) -> Fault:
    """A fault of its text.

    Raises:
        BadInput: an unknown kind or key, or a value that cannot be.
    """
    kind, _, rest = text.partition(":")
    if ";" in kind:
        kind, _, rest = text.partition(";")
    if kind not in _KEYS:
        raise BadInput("--fault", "", kind, "is no fault", KINDS)
    given = _split(kind, rest)
    for key in given:
        if key not in (*_KEYS[kind], "rate", "nth"):
            raise BadInput("--fault", key, given[key], f"{kind} has no such key", (*_KEYS[kind], "rate", "nth"))
    for key in _REQUIRED.get(kind, ()):
        if key not in given:
            raise BadInput("--fault", key, "", f"{kind} needs it")
    if "rate" in given and "nth" in given:
        raise BadInput("--fault", "nth", given["nth"], "contradicts rate")
    values = {name: value for key in given for name, value in _value(kind, key, given[key]).items()}
    return Fault(kind, text, **values)


def _split(kind: str, rest: str) -> dict[str, str]:
    given: dict[str, str] = {}
    names = iter(_POSITIONAL.get(kind, ()))
    for part in filter(None, rest.replace(",", ";").split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = next(names, ""), part
            if not key:
                raise BadInput("--fault", "", part, f"{kind} takes no such value", _KEYS[kind])
        given[key.strip()] = value.strip()
    return given


def _value(kind: str, key: str, text: str) -> dict[str, Any]:
    try:
        if key == "at":
            return {"stall_at_tokens": int(text)} if text.isdigit() else {"stall_at_micros": duration(text)}
        if key == "for":
            return {"stall_for": duration(text)}
        if key == "delay":
            return {"delay": duration(text)}
        if key == "rate":
            return {"rate": share(text)}
        if key == "retry_after":
            return {"retry_after": text}
        number = int(text)
    except ValueError as error:
        raise BadInput("--fault", key, text, str(error)) from error
    least = {"delta": None, "status": 400, "nth": 1}.get(key, 0)
    if (least is not None and number < least) or (key == "status" and number > 599):
        raise BadInput("--fault", key, text, f"{kind} wants another number")
    return {key: number}


class _Chooser:
    """Which of a sequence are hit: the nth, a share of them by a seeded draw, or all."""

    def __init__(self, fault: Fault, seed: int) -> None:
        self.fault = fault
        self._count = 0
        self._rng = np.random.Generator(np.random.Philox(key=np.array([seed, fault.seed], dtype=np.uint64)))
        self.hits = 0

    def next(self) -> bool:
        """Whether the next one is hit."""
        self._count += 1
        fault = self.fault
        if fault.nth is not None:
            hit = self._count == fault.nth
        else:
            hit = fault.rate is None or bool(self._rng.random() < fault.rate)
        self.hits += hit
        return hit


@dataclass(frozen=True, slots=True)
class Faults:
    """Those that hit one request, by kind."""

    by_kind: dict[str, Fault] = field(default_factory=dict)

    def get(self, kind: str) -> Fault | None:
        """The fault of this kind."""
        return self.by_kind.get(kind)

    def __bool__(self) -> bool:
        return bool(self.by_kind)

    @property
    def text(self) -> str | None:
        """For the truth log."""
        return " ".join(fault.text for fault in self.by_kind.values()) or None


NO_FAULTS = Faults()


class FaultBox:
    """All faults that are on."""

    def __init__(self, faults: Iterable[Fault] = (), seed: int = 0) -> None:
        self._seed = seed
        self._choosers: list[_Chooser] = []
        self.set(faults)

    def set(self, faults: Iterable[Fault]) -> None:
        """Replace them, with counts from the beginning."""
        self._choosers = [_Chooser(fault, self._seed + at) for at, fault in enumerate(faults)]

    def for_request(self) -> Faults:
        """What hits the next request for tokens."""
        return self._choose(batch=False)

    def for_item(self) -> Faults:
        """What hits the next item of a job."""
        return self._choose(batch=True)

    def as_json(self) -> list[dict[str, object]]:
        """For `GET /mock/fault`: each with the number of its hits."""
        return [{"fault": chooser.fault.text, "hits": chooser.hits} for chooser in self._choosers]

    def _choose(self, *, batch: bool) -> Faults:
        if not self._choosers:
            return NO_FAULTS
        hit = {c.fault.kind: c.fault for c in self._choosers if c.fault.is_batch == batch and c.next()}
        return Faults(hit) if hit else NO_FAULTS
