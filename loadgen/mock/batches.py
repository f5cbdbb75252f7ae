"""`/v1/batches` in memory: each line of a file becomes a request to the mock's own engine."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import xxhash

from loadgen.mock.ask import ApiError, load_json
from loadgen.units import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.mock.faults import FaultBox, Faults
    from loadgen.mock.files import Files
    from loadgen.mock.timers import Timers

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
MOST_LINES = 50_000
_WINDOW = 64
"""Items of one job in the engine at once."""
_MOST_BATCHES = 1_000
_MOST_METADATA = 16
_DAY = 86_400_000_000
TERMINAL = ("completed", "failed", "expired", "cancelled")
_EXPIRED = {"code": "batch_expired", "message": "The completion window ended before this request was executed."}
_UNCODED = {"message": "The batch ended."}
_CANCELLED = {"code": "batch_cancelled", "message": "The batch was cancelled before this request was executed."}


class Executor(Protocol):
    """Runs one line's request."""

    def execute(
        self, endpoint: str, body: dict[str, Any], done: Callable[[int, dict[str, Any]], None]
    ) -> Callable[[], None]:
        """`done` gets status and answer, later or at once; the result cancels it."""


@dataclass(eq=False, slots=True)
class Batch:
    """One job. Times in seconds since 1970."""

    id: str
    endpoint: str
    input_file: str
    window: str
    metadata: dict[str, str] | None
    created: int
    expires: int
    status: str = "validating"
    stamps: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, object]] = field(default_factory=list)
    output_file: str | None = None
    error_file: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    todo: deque[tuple[str, dict[str, Any], Faults]] = field(default_factory=deque)
    running: dict[str, Callable[[], None]] = field(default_factory=dict)
    output: list[bytes] = field(default_factory=list)
    error: list[bytes] = field(default_factory=list)
    miscount: int = 0
    late: tuple[int, bytes] | None = None
    """Reads of the output before it, and the line."""

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more."""
        return self.status in TERMINAL

    def as_json(self) -> dict[str, object]:
        """The batch object."""
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        usage = {
            "input_tokens": self.tokens_in,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.tokens_out,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.tokens_in + self.tokens_out,
        }
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file,
            "completion_window": self.window,
            "status": self.status,
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": self.created,
            "expires_at": self.expires,
            **{f"{name}_at": self.stamps.get(name) for name in names},
            "request_counts": {
                "total": self.total,
                "completed": self.completed + self.miscount,
                "failed": self.failed,
            },
            "usage": usage,
            "metadata": self.metadata,
        }


class Batches:
    """All jobs. `now` in microseconds of the timers' clock, `wall` in seconds since 1970."""

    def __init__(
        self,
        files: Files,
        executor: Executor,
        timers: Timers,
        faults: FaultBox,
        *,
        now: Callable[[], int],
        wall: Callable[[], int],
    ) -> None:
        self._files, self._executor, self._timers, self._faults = files, executor, timers, faults
        self._now, self._wall = now, wall
        self._batches: dict[str, Batch] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        """Idempotency key to (hash of the body, id)."""
        self._starting: set[Batch] = set()

    def create(self, raw: bytes, key: str | None) -> Batch:
        """Begin a job; the same key with the same body gives the same job.

        Raises:
            ApiError: a field that cannot be, no such file, or a key that stood for another body.
        """
        digest = xxhash.xxh3_64_hexdigest(raw)
        if key is not None and key in self._keys:
            seen, batch_id = self._keys[key]
            if seen != digest:
                raise ApiError(422, "this Idempotency-Key came with another body", code="idempotency_key_reused")
            return self._batches[batch_id]
        body = load_json(raw)
        micros = self._check(body)
        if len(self._batches) >= _MOST_BATCHES:
            raise ApiError(429, "the mock holds no more jobs")
        created = self._wall()
        batch = Batch(
            f"batch_mock_{len(self._batches) + 1:06d}",
            body["endpoint"],
            body["input_file_id"],
            body["completion_window"],
            body.get("metadata"),
            created,
            created + -(-micros // 1_000_000),
        )
        self._batches[batch.id] = batch
        if key is not None:
            self._keys[key] = (digest, batch.id)
        now = self._now()
        self._timers.at(now, lambda: self._validate(batch))
        self._timers.at(now + micros, lambda: self._expire(batch))
        return batch

    def get(self, batch_id: str) -> Batch:
        """A job.

        Raises:
            ApiError: there is none.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            raise ApiError(404, f"no such batch: {batch_id}", param="batch_id")
        return batch

    def list(self) -> dict[str, object]:
        """All of them, newest first."""
        data = [batch.as_json() for batch in reversed(self._batches.values())]
        return {"object": "list", "data": data, "has_more": False}

    def cancel(self, batch_id: str) -> Batch:
        """Stop a job; what is done stays readable.

        Raises:
            ApiError: there is none, or it is over.
        """
        batch = self.get(batch_id)
        if batch.is_over:
            raise ApiError(409, f"the batch is {batch.status} already")
        if batch.status != "cancelling":
            self._enter(batch, "cancelling")
            self._timers.at(self._now(), lambda: self._stop(batch, "cancelled", _CANCELLED))
        return batch

    def _check(self, body: dict[str, Any]) -> int:
        if body.get("endpoint") not in ENDPOINTS:
            raise ApiError(400, f"endpoint is one of {', '.join(ENDPOINTS)}", param="endpoint")
        file_id = body.get("input_file_id")
        if not isinstance(file_id, str):
            raise ApiError(400, "input_file_id is missing", param="input_file_id")
        self._files.get(file_id)
        metadata = body.get("metadata")
        if metadata is not None and not (
            isinstance(metadata, dict)
            and len(metadata) <= _MOST_METADATA
            and all(isinstance(value, str) for value in metadata.values())
        ):
            raise ApiError(400, f"metadata is at most {_MOST_METADATA} texts by name", param="metadata")
        window = body.get("completion_window")
        try:
            return min(duration(window), 14 * _DAY) if isinstance(window, str) else duration("")
        except ValueError as error:
            raise ApiError(400, f"completion_window: {error}", param="completion_window") from error

    def _enter(self, batch: Batch, status: str) -> None:
        batch.status = status
        batch.stamps[status] = self._wall()

    def _validate(self, batch: Batch) -> None:
        if batch.status != "validating":
            return
        try:
            lines = self._files.get(batch.input_file).content.splitlines()
        except ApiError as error:
            lines = []
            batch.errors.append({"code": "invalid_file", "message": error.message, "line": None, "param": None})
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._read_line(batch, number, line, seen)
        if not batch.todo and not batch.errors:
            batch.errors.append({"code": "empty_file", "message": "there is no line", "line": None, "param": None})
        if len(batch.todo) > MOST_LINES:
            message = f"more than {MOST_LINES} lines"
            batch.errors.append({"code": "too_many_lines", "message": message, "line": None, "param": None})
        if batch.errors:
            batch.todo.clear()
            self._enter(batch, "failed")
            return
        batch.total = len(batch.todo)
        self._enter(batch, "in_progress")
        self._feed(batch)

    def _read_line(self, batch: Batch, number: int, line: bytes, seen: set[str]) -> None:
        def wrong(message: str, param: str | None) -> None:
            if len(batch.errors) < MOST_LINES:
                batch.errors.append({"code": "invalid_line", "message": message, "line": number, "param": param})

        try:
            item = load_json(line)
        except ApiError as error:
            wrong(error.message, None)
            return
        custom = item.get("custom_id")
        if not isinstance(custom, str) or not custom:
            wrong("custom_id is missing", "custom_id")
        elif custom in seen:
            wrong(f"custom_id {custom} comes twice", "custom_id")
        elif item.get("method") != "POST" or item.get("url") != batch.endpoint:
            wrong(f"the line must be a POST to {batch.endpoint}", "url")
        elif not isinstance(item.get("body"), dict):
            wrong("body is missing", "body")
        else:
            seen.add(custom)
            batch.todo.append((custom, item["body"], self._faults.for_item()))

    def _feed(self, batch: Batch) -> None:
        """Keep the engine busy with this job. Answers may come at once, so this must not call itself."""
        if batch in self._starting:
            return
        self._starting.add(batch)
        while batch.status == "in_progress" and batch.todo and len(batch.running) < _WINDOW:
            custom, body, faults = batch.todo.popleft()
            if faults.get("batch_expire") is not None:
                self._write_error(batch, custom, _EXPIRED)
                continue
            if faults.get("batch_uncoded") is not None:
                self._write_error(batch, custom, _UNCODED)
                continue
            batch.running[custom] = _nothing
            cancel = self._executor.execute(batch.endpoint, body, partial(self._done, batch, custom, faults))
            if custom in batch.running:
                batch.running[custom] = cancel
        self._starting.discard(batch)
        if batch.status == "in_progress" and not batch.todo and not batch.running:
            self._enter(batch, "finalizing")
            self._timers.at(self._now(), lambda: self._finish(batch, "completed"))

    def _done(self, batch: Batch, custom: str, faults: Faults, status: int, answer: dict[str, Any]) -> None:
        if batch.running.pop(custom, None) is None:
            return
        good = status < 400
        batch.completed += good
        batch.failed += not good
        usage = answer.get("usage")
        if isinstance(usage, dict):
            batch.tokens_in += usage["prompt_tokens"]
            batch.tokens_out += usage["completion_tokens"]
            batch.cached += usage["prompt_tokens_details"]["cached_tokens"]
            batch.tokens_out += faults.get("batch_usage") is not None
            if faults.get("batch_short") is not None:
                batch.tokens_out -= 1
                usage["completion_tokens"] -= 1
        response = {"status_code": status, "request_id": f"req-{batch.id}-{custom}", "body": answer}
        line = _line(batch, custom, response, None)
        batch.miscount += faults.get("batch_miscount") is not None
        late = faults.get("batch_late")
        if late is not None:
            batch.late = (late.reads, line)
        elif faults.get("batch_lost") is None:
            (batch.output if good else batch.error).append(line)
        if faults.get("batch_repeat") is not None:
            batch.output.append(line)
        if faults.get("batch_unknown") is not None:
            batch.output.append(_line(batch, f"unknown-{custom}", response, None))
        self._feed(batch)

    def _write_error(self, batch: Batch, custom: str, error: dict[str, str]) -> None:
        batch.failed += 1
        batch.error.append(_line(batch, custom, None, error))

    def _expire(self, batch: Batch) -> None:
        if not batch.is_over:
            self._stop(batch, "expired", _EXPIRED)

    def _stop(self, batch: Batch, status: str, error: dict[str, str]) -> None:
        """End a job before its time: what is not done is told as an error."""
        if batch.is_over:
            return
        for custom, cancel in list(batch.running.items()):
            cancel()
            self._write_error(batch, custom, error)
        batch.running.clear()
        for custom, _, _ in batch.todo:
            self._write_error(batch, custom, error)
        batch.todo.clear()
        self._finish(batch, status)

    def _finish(self, batch: Batch, status: str) -> None:
        if batch.is_over:
            return
        if batch.output:
            batch.output_file = self._files.add(f"{batch.id}_output.jsonl", "batch_output", b"".join(batch.output)).id
        if batch.error:
            batch.error_file = self._files.add(f"{batch.id}_error.jsonl", "batch_output", b"".join(batch.error)).id
        batch.output, batch.error = [], []
        self._enter(batch, status)
        if batch.late is not None and batch.output_file is not None:
            file_id, (reads, line) = batch.output_file, batch.late
            if reads:
                self._files.append_when_read(file_id, reads, line)
                return
            self._timers.at(self._now() + 1_000_000, lambda: self._append(file_id, line))

    def _append(self, file_id: str, line: bytes) -> None:
        with suppress(ApiError):  # somebody has deleted it
            self._files.append(file_id, line)


def _nothing() -> None:
    """Cancels what has not begun."""


def _line(batch: Batch, custom: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    value = {"id": f"batch_req_{batch.id}_{custom}", "custom_id": custom, "response": response, "error": error}
    return orjson.dumps(value) + b"\n"
