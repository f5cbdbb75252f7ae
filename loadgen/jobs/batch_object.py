"""A batch as the server tells of it, and how its status may change. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from loadgen.jobs.answer import NoAnswer

TERMINAL: Final = frozenset(("completed", "failed", "expired", "cancelled"))
STATUSES: Final = frozenset(("validating", "in_progress", "finalizing", "cancelling")) | TERMINAL

_NEXT: Final[dict[str, tuple[str, ...]]] = {
    "validating": ("in_progress", "failed", "expired", "cancelling"),
    "in_progress": ("finalizing", "cancelling", "failed", "expired"),
    "finalizing": ("completed", "expired", "cancelled", "failed"),
    # A job may be done before its cancelling is.
    "cancelling": ("cancelled", "finalizing"),
}


class Counts(msgspec.Struct, frozen=True):
    """Items of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a batch."""

    input_tokens: int = 0
    output_tokens: int = 0


class BatchObject(msgspec.Struct, frozen=True):
    """The fields that are looked at; a server may send more."""

    id: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: Counts | None = None
    usage: Usage | None = None
    errors: Any = None

    @property
    def counts(self) -> Counts:
        """Zeros where the server says nothing."""
        return self.request_counts or Counts()

    @property
    def is_over(self) -> bool:
        """Whether nothing may change any more."""
        return self.status in TERMINAL

    @property
    def first_error(self) -> str:
        """Why it failed, in the server's words."""
        data = self.errors.get("data") if isinstance(self.errors, dict) else None
        first = data[0] if isinstance(data, list) and data else None
        if not isinstance(first, dict):
            return "it did not say why"
        place = "" if first.get("line") is None else f"line {first['line']}: "
        return f"{place}{first.get('message') or first.get('code')}"[:200]


def read(value: dict[str, Any]) -> BatchObject:
    """Of a JSON object.

    Raises:
        NoAnswer: it is no batch.
    """
    try:
        return msgspec.convert(value, BatchObject)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"the answer is no batch: {error}") from error


def _reachable() -> dict[str, frozenset[str]]:
    """From each status all that may follow; polls see only some of the steps between."""
    found = {status: {status, *after} for status, after in _NEXT.items()} | {each: {each} for each in TERMINAL}
    for _ in STATUSES:
        for reached in found.values():
            reached |= {later for status in tuple(reached) for later in found[status]}
    return {status: frozenset(reached) for status, reached in found.items()}


_REACHABLE: Final = _reachable()


def wrong_step(before: BatchObject, after: BatchObject) -> str | None:
    """What between two looks at a batch cannot be, as a sentence."""
    if after.status not in STATUSES:
        return f"batch {after.id} has the status {after.status[:32]!r}, which does not exist"
    if before.status in STATUSES and after.status not in _REACHABLE[before.status]:
        return f"batch {after.id} went from {before.status} to {after.status}"
    if after.counts.completed < before.counts.completed or after.counts.failed < before.counts.failed:
        return f"batch {after.id} counts fewer items done than before"
    total = after.counts.total
    if after.counts.completed + after.counts.failed > total:
        return f"batch {after.id} counts more items done than there are ({total})"
    return None
