"""From spools to records: one record a request, whatever became of it. Pure over files.

Requests of the open loop have a record each, sent or not. Those that wait for something (a closed loop's, later turns,
the items of a job) have one if they were sent: the others were never offered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import xxhash

from loadgen.drive.outcome import left_open, outcome_of
from loadgen.drive.parsed import Parsed, read
from loadgen.drive.parsed_file import parsed_of
from loadgen.drive.spool import End, SpoolError, read_spool
from loadgen.plan.model import NOT_DUE
from loadgen.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from loadgen.plan.model import Plan, PlannedRequest
    from loadgen.record import CountSource, Outcome, Phase
    from loadgen.spec import Slo

_UNFINISHED = (End.OPEN, End.UNSENT)


class Output(NamedTuple):
    """What a request answered."""

    id: int
    cls: str
    text: str
    reasoning: str
    finish_reason: str | None


@dataclass(frozen=True)
class ScribeContext:
    """`horizon`: end of the drain, microseconds from t0. `slos`: by class, for the deadline of open requests. `tokens`:
    of how many requests a class the stamps are kept. `faults`: (name, at, until). `died`: a load process died.
    """

    window: tuple[int, int]
    horizon: int
    slos: Mapping[str, Slo] = field(default_factory=dict)
    tokens: tuple[Literal["all", "sample", "none"], int] = ("all", 0)
    faults: Sequence[tuple[str, int, int | None]] = ()
    count_text: Callable[[str], int] | None = None
    keep_outputs: Callable[[Output], None] | None = None
    died: bool = False
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    """By (class, reason): what the server said with the first such error. Filled by `records_of`."""


def records_of(spools: Sequence[Path], plan: Plan, context: ScribeContext) -> Iterator[Record]:
    """One record for every request that was offered, in the order in which they ended; the unsent come last.

    A spool may end in the middle of an entry, as that of a process that died does; what it misses is `cut`.

    Raises:
        SpoolError: a file that is no spool.
        KeyError: an entry for a request that the plan does not have.
    """
    planned = {request.id: request for request in plan.requests}
    sampled = _sampled(plan, context.tokens)
    done: set[int] = set()
    waiting: dict[int, Parsed] = {}
    for one in _all_parsed(spools, context):
        if one.retried:
            waiting[one.id] = one  # the next attempt decides, if it came to one
            continue
        waiting.pop(one.id, None)
        done.add(one.id)
        yield _record(planned[one.id], one, context, sampled)
    for one in waiting.values():
        done.add(one.id)
        yield _record(planned[one.id], one, context, sampled)
    for request in plan.requests:
        if request.due != NOT_DUE and request.id not in done:
            yield _unsent(request, context)


def _all_parsed(spools: Sequence[Path], context: ScribeContext) -> Iterator[Parsed]:
    for path in spools:
        # Only who has the tokeniser can count by it.
        ready = None
        if context.count_text is None:
            ready = parsed_of(path, keep_text=context.keep_outputs is not None)
        yield from _parsed(path, context) if ready is None else ready


def _parsed(path: Path, context: ScribeContext) -> Iterator[Parsed]:
    entries = read_spool(str(path))
    while True:
        try:
            entry = next(entries, None)
        except SpoolError as error:
            if error.is_cut:
                return
            raise
        if entry is None:
            return
        yield read(entry, context.count_text, keep_text=context.keep_outputs is not None)


def _record(request: PlannedRequest, one: Parsed, context: ScribeContext, sampled: set[int] | None) -> Record:
    end_kind = End(one.end_kind)
    first = one.stamps[0] if one.stamps else None
    reason: str | None = None
    if end_kind in _UNFINISHED:
        outcome = left_open(one.due, first, request.out, context.slos.get(request.cls), context.horizon)
        reason = "open" if end_kind is End.OPEN else "not_sent"
    else:
        outcome, reason = outcome_of(one)
        if reason is not None and one.message is not None:
            context.messages.setdefault((request.cls, reason), one.message)
    sent = one.sent if one.sent >= 0 else None
    keeps = sampled is None or one.id in sampled
    if context.keep_outputs is not None and one.text is not None:
        context.keep_outputs(Output(one.id, request.cls, one.text, one.reasoning or "", one.finish_reason))
    return Record(
        id=one.id,
        cls=request.cls,
        tenant=request.tenant,
        session=request.session,
        turn=request.turn,
        job=request.job,
        item=request.item,
        attempt=one.attempt,
        due_micros=one.due,
        sent_micros=sent,
        hdr_micros=one.header if one.header >= 0 else None,
        first_micros=first,
        end_micros=one.end if end_kind not in _UNFINISHED else None,
        outcome=outcome,
        reason=reason,
        status=one.status or None,
        in_want=request.prompt.tokens or 0,
        in_got=one.in_tokens,
        out_want=request.out,
        out_got=one.out_tokens if end_kind is End.COMPLETE else sum(one.counts) if one.counts else None,
        cached_tokens=one.cached_tokens,
        count_source=cast("CountSource | None", one.source),
        conn=None if sent is None else "new" if one.new_connection else "kept",
        worker=one.worker,
        ts=[stamp - one.sent for stamp in one.stamps] if keeps else [],
        k=one.counts if keeps else [],
        # Without stamps there is nothing to point into but the first.
        visible=one.visible if keeps or one.visible == 0 else None,
        text_hash=one.text_hash,
        fault=_fault(one.due, one.end if one.end >= 0 else context.horizon, context),
        phase=_phase(one.due, context),
    )


def _unsent(request: PlannedRequest, context: ScribeContext) -> Record:
    outcome: Outcome = "cut"
    if not context.died:
        outcome = left_open(request.due, None, request.out, context.slos.get(request.cls), context.horizon)
    return Record(
        id=request.id,
        cls=request.cls,
        tenant=request.tenant,
        session=request.session,
        turn=request.turn,
        job=request.job,
        item=request.item,
        attempt=0,
        due_micros=request.due,
        sent_micros=None,
        hdr_micros=None,
        first_micros=None,
        end_micros=None,
        outcome=outcome,
        reason="process_died" if context.died else "not_sent",
        status=None,
        in_want=request.prompt.tokens or 0,
        in_got=None,
        out_want=request.out,
        out_got=None,
        cached_tokens=None,
        count_source=None,
        conn=None,
        worker=None,
        ts=[],
        k=[],
        visible=None,
        text_hash=None,
        fault=_fault(request.due, context.horizon, context),
        phase=_phase(request.due, context),
    )


def _phase(due: int, context: ScribeContext) -> Phase:
    if due < context.window[0]:
        return "warmup"
    return "window" if due <= context.window[1] else "drain"


def _fault(begin: int, end: int, context: ScribeContext) -> str | None:
    """The first fault that was on at some time between."""
    for name, at, until in context.faults:
        if at <= end and (until is None or begin <= until):
            return name
    return None


def _sampled(plan: Plan, tokens: tuple[Literal["all", "sample", "none"], int]) -> set[int] | None:
    """Requests whose stamps are kept, None: all. The same for every run of a plan, and spread over it."""
    mode, most = tokens
    if mode == "all":
        return None
    found: set[int] = set()
    if mode == "sample":
        by_class: dict[str, list[int]] = {}
        for request in plan.requests:
            by_class.setdefault(request.cls, []).append(request.id)
        for ids in by_class.values():
            ids.sort(key=lambda number: xxhash.xxh3_64_intdigest(number.to_bytes(8, "little")))
            found.update(ids[:most])
    return found
