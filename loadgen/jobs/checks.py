"""What came back of a job against what was sent, item by item. Pure: lines in, counts and sentences out.

Every `custom_id` must be there exactly once over output and error files, in any order; counts and usage of the batch
must be those of its lines; an item that was not done must say by its code why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.jobs.answer import shown
from loadgen.jobs.report import ItemResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loadgen.jobs.batch_object import BatchObject
    from loadgen.jobs.inputs import JobItem
    from loadgen.jobs.report import ItemStatus

_NOT_DONE: dict[str, ItemStatus] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
_CODE_OF = {"expired": "batch_expired", "cancelled": "batch_cancelled"}
_NAMED = 3
"""Items that a sentence names."""

CHECKS = {
    "lost": "came back in no file",
    "repeated": "came back more than once",
    "unknown": "came back and were never sent",
    "unreadable": "are lines that cannot be read",
    "wrong": "have another number of output tokens than asked for",
    "uncoded": "were not done and do not carry the code that says why",
    "miscounted": "",
    "usage": "",
    "late": "",
    "steps": "",
    "partial": "",
}
"""Names of the counted figures, with what a sentence says of items."""


class _Response(msgspec.Struct):
    status_code: int = 0
    body: Any = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice]


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: Any = None


@dataclass(slots=True)
class Ledger:
    """Takes the lines of one job's files, then says what is wrong. `keep_text`: keep what was answered."""

    items: Mapping[str, JobItem]
    """By custom id."""
    keep_text: bool = False
    results: dict[str, ItemResult] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    named: dict[str, list[str]] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    def take(self, lines: Iterable[bytes], sent: Mapping[str, JobItem], status: str, tally: Tally) -> None:
        """Some lines of one batch's output or error file. `sent`: its own items; `status`: of the batch, which ended
        so; `tally`: what its lines add up to.
        """
        decoder = msgspec.json.Decoder(_Line)
        for raw in lines:
            try:
                line = decoder.decode(raw)
            except msgspec.DecodeError:
                if raw.strip():
                    self.note("unreadable", shown(raw[:40].decode("utf-8", "replace")))
                continue
            if line.custom_id not in sent:
                self.note("unknown", shown(line.custom_id))
            elif line.custom_id in self.results:
                self.note("repeated", line.custom_id)
            else:
                self._take(line, tally, status)

    def find_lost(self, sent: Mapping[str, JobItem], status: str) -> None:
        """After the last line of a batch. One that was cancelled need not list what it never began, and one that
        failed began nothing.
        """
        if status in ("completed", "expired"):
            for custom in sent:
                if custom not in self.results:
                    self.note("lost", custom)

    def note(self, check: str, what: str, count: int = 1) -> None:
        """One more thing that breaks a rule."""
        self.counts[check] += count
        found = self.named.setdefault(check, [])
        if len(found) < _NAMED:
            found.append(what)

    def say(self, check: str, sentence: str) -> None:
        """A broken rule that has a sentence of its own."""
        self.counts[check] += 1
        self.sentences.append(sentence)

    def violations(self, job: str) -> list[str]:
        """All that is wrong, in sentences."""
        found = []
        for check, names in self.named.items():
            count = self.counts[check]
            listed = ", ".join(names) + (", ..." if count > len(names) else "")
            found.append(f"{job}: {count} items {CHECKS[check]} ({listed})")
        return found + [f"{job}: {sentence}" for sentence in self.sentences]

    def _take(self, line: _Line, tally: Tally, status: str) -> None:
        item = self.items[line.custom_id]
        result = self._result(line, item, status)
        self.results[line.custom_id] = result
        tally.ok += result.status == "ok"
        tally.lines += 1
        tally.tokens_in += result.in_got or 0
        tally.tokens_out += result.out_got or 0
        if result.status == "ok" and not _length_is_right(item, result.out_got):
            self.note("wrong", f"{line.custom_id}: {result.out_got} for {item.out_want}")

    def _result(self, line: _Line, item: JobItem, status: str) -> ItemResult:
        response = line.response
        if response is None:
            code = line.error.get("code") if isinstance(line.error, dict) else None
            ended = _NOT_DONE.get(str(code), "failed")
            wanted = _CODE_OF.get(status)
            if wanted is not None and code is None:
                self.note("uncoded", f"{line.custom_id}: no code")
            elif wanted is not None and ended != "failed" and code != wanted:
                self.note("uncoded", f"{line.custom_id}: {code}")
            return ItemResult(item.item, ended, None, None, None, shown(code or "no code"))
        tokens_in, tokens_out = _usage(response.body)
        if not 200 <= response.status_code < 300:
            return ItemResult(item.item, "failed", tokens_in, tokens_out, None, f"status_{response.status_code}")
        text = _text(response.body) if self.keep_text else None
        return ItemResult(item.item, "ok", tokens_in, tokens_out, text, None)


@dataclass(slots=True)
class Tally:
    """What the lines of one batch add up to."""

    ok: int = 0
    lines: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


def compare(batch: BatchObject, tally: Tally, sent: int, ledger: Ledger) -> bool:
    """The batch's own counts and usage with its lines; whether the usage agrees."""
    counts = batch.counts
    if batch.status != "failed" and counts.completed + counts.failed != counts.total:
        ledger.say(
            "miscounted",
            f"batch {batch.id} is {batch.status} with {counts.completed} completed and {counts.failed} failed of "
            f"{counts.total} items",
        )
    if batch.status != "failed" and counts.total != sent:
        ledger.say("miscounted", f"batch {batch.id} counts {counts.total} items; {sent} were sent")
    if counts.completed != tally.ok:
        ledger.say("miscounted", f"batch {batch.id} counts {counts.completed} completed; its output has {tally.ok}")
    usage = batch.usage
    if usage is None or (usage.input_tokens, usage.output_tokens) == (tally.tokens_in, tally.tokens_out):
        return True
    ledger.say(
        "usage",
        f"batch {batch.id} charges {usage.input_tokens} + {usage.output_tokens} tokens; its items add up to "
        f"{tally.tokens_in} + {tally.tokens_out}",
    )
    return False


def _length_is_right(item: JobItem, got: int | None) -> bool:
    """A count that nobody gave cannot be right."""
    if got is None:
        return False
    return got == item.out_want if item.exact else 0 <= got <= item.out_want


def _usage(body: object) -> tuple[int | None, int | None]:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None, None
    found = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    first, second = (each if type(each) is int else None for each in found)
    return first, second


def _text(body: object) -> str | None:
    """Of a chat completion or a completion."""
    try:
        choice = msgspec.convert(body, _Body).choices[0]
    except (msgspec.ValidationError, IndexError):
        return None
    return choice.text if choice.message is None else choice.message.content
