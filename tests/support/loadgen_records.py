"""Records made by hand for tests of measuring: milliseconds in, so that cases can be read."""

from __future__ import annotations

from typing import Any

from loadgen.measure.columns import Columns, columns
from loadgen.measure.facts import ClassFacts, RunFacts
from loadgen.record import Record
from loadgen.spec import Slo, SloTerm

MS = 1000
SECOND = 1_000_000


def record(id_: int, due: float, chunks: list[tuple[float, int]] | None = None, **given: Any) -> Record:
    """`due` and the chunks' times in ms from `t0`; chunks are (time, tokens). Sent when due unless `sent` is given."""
    sent = given.pop("sent", due)
    chunks = chunks if chunks is not None else []
    count = sum(tokens for _, tokens in chunks)
    last = chunks[-1][0] if chunks else sent
    end = given.pop("end", last)
    outcome = given.get("outcome", "ok")
    fields: dict[str, Any] = {
        "id": id_,
        "cls": "chat",
        "tenant": None,
        "session": None,
        "turn": 0,
        "job": None,
        "item": None,
        "attempt": 0,
        "due_micros": round(due * MS),
        "sent_micros": None if sent is None else round(sent * MS),
        "hdr_micros": None,
        "first_micros": round(chunks[0][0] * MS) if chunks else None,
        "end_micros": None if end is None else round(end * MS),
        "outcome": outcome,
        "reason": None,
        "status": 200 if outcome == "ok" else None,
        "in_want": 10,
        "in_got": 10 if outcome == "ok" else None,
        "out_want": count or 1,
        "out_got": count if chunks else None,
        "cached_tokens": None,
        "count_source": "usage" if chunks else None,
        "conn": "kept",
        "worker": None,
        "ts": [round((time - sent) * MS) for time, _ in chunks] if sent is not None else [],
        "k": [tokens for _, tokens in chunks],
        "visible": 0 if chunks else None,
        "text_hash": None,
        "fault": None,
        "phase": "window",
    }
    return Record(**{**fields, **given})


def streamed(id_: int, due: float, first: float, pace: float, tokens: int, **given: Any) -> Record:
    """One token a chunk, the first `first` ms after `due`."""
    return record(id_, due, [(due + first + pace * each, 1) for each in range(tokens)], **given)


def table(*records: Record) -> Columns:
    """As arrays."""
    return columns(records)


def slo(population: tuple[SloTerm, ...] = (), **bounds: float) -> Slo:
    """Per-request bounds in ms, such as `ttft=500`; `late` as it is."""
    terms = [SloTerm(name, value if name == "late" else value * MS) for name, value in bounds.items()]  # type: ignore[arg-type]
    return Slo(tuple(terms), population)


def facts(seconds: float = 60.0, start: float = 0.0, drain: float = 30.0, **given: Any) -> RunFacts:
    """One class `chat` unless `classes` is given; the window in seconds from `start`."""
    window = (round(start * SECOND), round((start + seconds) * SECOND))
    fields: dict[str, Any] = {
        "window": window,
        "horizon": window[1] + round(drain * SECOND),
        "classes": {"chat": ClassFacts()},
        "warmup": 1,
    }
    return RunFacts(**{**fields, **given})
