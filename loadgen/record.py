"""One line of `records.jsonl.gz`: all that is known of one request. Every figure can be computed again from these.

Times are microseconds from `t0` on the monotonic clock. What is not known is null, never missing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

RECORD_VERSION = 1

Outcome = Literal["ok", "error", "refused", "shed", "timeout", "cancelled", "cut", "censored"]
CountSource = Literal["usage", "chunk_usage", "token_ids", "tokenizer", "chunks"]
Phase = Literal["warmup", "window", "drain"]


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """See the fields; `docs/loadgen.md` has them as a table."""

    id: int
    """Unique in a run; the plan's own number, so that two runs of one plan can be paired."""
    cls: str = msgspec.field(name="class")
    """Of the scenario; `probe` and `flood_NAME` are made by flags."""
    tenant: str | None
    """Whose request it was, where the class names a tenant."""
    session: int | None
    """Number of the conversation."""
    turn: int
    """Its place in the conversation, from 0."""
    job: str | None
    """Name of the offline job."""
    item: int | None
    """Its place in the job, from 0."""
    attempt: int
    """How often it was sent before; the last attempt decides, and times count from the first due time."""
    due_micros: int
    """When it should be sent, by the plan."""
    sent_micros: int | None
    """When the bytes were handed to the socket."""
    hdr_micros: int | None
    """When the status line was there."""
    first_micros: int | None
    """The first token."""
    end_micros: int | None
    """When the answer had ended."""
    outcome: Outcome
    """`cut`: open at the end with its deadline passed; `censored`: open with time left."""
    reason: str | None
    """Why it is not `ok`, as a code: `connection_cap`, `no_done`, `bad_json`, `status_500`, ..."""
    status: int | None
    """Of HTTP."""
    in_want: int
    """Prompt tokens by the plan, 0 where only the server knows."""
    in_got: int | None
    """Prompt tokens by the server's count."""
    out_want: int
    """Output tokens that were asked for."""
    out_got: int | None
    """Output tokens that came."""
    cached_tokens: int | None
    """Prompt tokens that the server found in its cache."""
    count_source: CountSource | None
    """Who counted `out_got`."""
    conn: Literal["kept", "new"] | None
    """Whether a connection had to be opened for it, after it was due."""
    worker: str | None
    """Who served it, if the server says so."""
    ts: list[int]
    """Microseconds from `sent_micros` of each chunk that held tokens."""
    k: list[int]
    """Tokens of each of these chunks."""
    visible: int | None
    """Index into `ts` of the first chunk of the answer itself, after reasoning."""
    text_hash: str | None
    """XXH3-64 of the whole text, in hex."""
    fault: str | None
    """The fault that was on while it ran."""
    phase: Phase
    """By its due time."""
