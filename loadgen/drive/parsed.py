"""An exchange whose answer has been read: the costly half of the scribe's work, which may run beside the sending."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import xxhash

from loadgen.drive.answer import Answer, error_code, error_message, parse
from loadgen.drive.spool import End

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.spool import Entry

_OK = 200
_WORKER = ("x-slackwater-worker", "x-worker-id")


class Parsed(msgspec.Struct, kw_only=True):
    """Times in microseconds from t0, -1 where nothing happened. `text` and `reasoning` only if they are to be kept."""

    id: int
    attempt: int
    end_kind: int
    new_connection: bool
    retried: bool
    status: int
    errno: int
    due: int
    sent: int
    header: int
    end: int
    retry_after: bool = False
    worker: str | None = None
    encoding: str | None = None
    error: str | None = None
    """The code in the body of an answer that is an error."""
    message: str | None = None
    """What it says in words."""
    stamps: list[int] = []
    counts: list[int] = []
    visible: int | None = None
    in_tokens: int | None = None
    out_tokens: int | None = None
    cached_tokens: int | None = None
    source: str | None = None
    finish_reason: str | None = None
    fault: str | None = None
    text_hash: str | None = None
    text: str | None = None
    reasoning: str | None = None


def read(entry: Entry, count_text: Callable[[str], int] | None = None, *, keep_text: bool = False) -> Parsed:
    """What an entry says. `count_text`: tokens of a text, where the server does not count."""
    found = Parsed(
        id=entry.id,
        attempt=entry.attempt,
        end_kind=int(entry.end_kind),
        new_connection=entry.new_connection,
        retried=entry.retried,
        status=entry.status,
        errno=entry.errno,
        due=entry.due,
        sent=entry.sent,
        header=entry.header,
        end=entry.end,
    )
    headers = _headers(entry.headers)
    found.retry_after = "retry-after" in headers or "retry-after-ms" in headers
    found.worker = next((headers[name] for name in _WORKER if name in headers), None)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    found.encoding = None if encoding == "identity" else encoding[:64]
    if found.encoding is not None:
        return found
    if entry.status == _OK:
        whole = entry.body.lstrip()[:1] == b"{"
        if not whole or entry.end_kind is End.COMPLETE:
            answer = parse(entry.body, entry.lengths, entry.stamps, streamed=not whole, count_text=count_text)
            _take(found, answer, keep_text=keep_text)
    elif entry.status:
        found.error, found.message = error_code(entry.body), error_message(entry.body)
    return found


def _headers(kept: bytes) -> dict[str, str]:
    pairs = (line.partition(": ") for line in kept.decode("latin-1").split("\n") if line)
    return {name: value for name, _, value in pairs}


def _take(found: Parsed, answer: Answer, *, keep_text: bool) -> None:
    found.stamps, found.counts, found.visible = answer.stamps, answer.counts, answer.visible
    found.in_tokens, found.out_tokens, found.cached_tokens = answer.in_tokens, answer.out_tokens, answer.cached_tokens
    found.source, found.finish_reason, found.fault = answer.source, answer.finish_reason, answer.fault
    text = answer.reasoning + answer.text
    # A server may send half a surrogate pair as an escape: it counts as it is.
    found.text_hash = xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass"))
    if keep_text:
        found.text, found.reasoning = _sound(answer.text), _sound(answer.reasoning)


def _sound(text: str) -> str:
    """As UTF-8 can hold it."""
    return text.encode("utf-8", "replace").decode()
