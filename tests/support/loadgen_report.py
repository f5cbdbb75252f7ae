"""A run made up for tests of reports: two online classes, a job that streams, a fault that slows both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from loadgen.measure.columns import OUTCOMES, SOURCES
from loadgen.measure.facts import ClassFacts, Curve, FaultFacts, JobFacts, LoadStep, RunFacts
from loadgen.record import Record
from loadgen.run.files import RunFolder
from support.loadgen_records import SECOND, record, slo

if TYPE_CHECKING:
    from pathlib import Path


SECONDS = 120
WARMUP = 20
FAULT = 80


def made_up(online: int = 2000, items: int = 400, seed: int = 1, slower: float = 1.0) -> tuple[list[Record], RunFacts]:
    """`online` requests of `chat` and `code` over 140 s, of which 20 are warm-up, beside one job of `items`."""
    rng = np.random.Generator(np.random.Philox(seed))
    # Times of arrival are the plan's, so they do not depend on how slow the server is.
    due = np.sort(rng.uniform(0, (WARMUP + SECONDS) * 1000, online))
    is_code, noise = rng.random(online) < 0.3, rng.lognormal(0, 0.5, online)
    lengths, luck = rng.integers(2, 60, online), rng.random(online)
    made = [
        _online(number, float(at), "code" if code else "chat", float(each), int(length), float(fate), slower)
        for number, (at, code, each, length, fate) in enumerate(zip(due, is_code, noise, lengths, luck, strict=True))
    ]
    made += [_item(online + number, number, items, rng) for number in range(items)]
    return made, _facts(made, items)


def _online(id_: int, due: float, cls: str, noise: float, tokens: int, fate: float, slower: float) -> Record:
    struck = FAULT * 1000 <= due < (FAULT + 12) * 1000
    wait = (900 if struck else 150) * noise * slower
    pace = 30 * slower * (2 if struck else 1) * (0.8 + 0.4 * noise / (1 + noise))
    given: dict[str, Any] = {
        "cls": cls,
        "phase": "warmup" if due < WARMUP * 1000 else "window",
        "sent": due + 0.1,
        "in_want": 100,
    }
    given |= {"in_got": 100, "cached_tokens": 40, "fault": "kill1" if struck else None}
    if struck and fate < 0.1:
        return record(id_, due, [(due + wait, 1)], outcome="error", reason="no_done", out_want=tokens, **given)
    if fate > 0.995:
        given |= {"in_got": None, "end": due + 3}
        return record(id_, due, None, outcome="shed", reason="status_429", status=429, out_want=tokens, **given)
    return record(id_, due, [(due + wait + pace * each, 1) for each in range(tokens)], **given)


def _item(id_: int, item: int, items: int, rng: np.random.Generator) -> Record:
    sent = 25_000 + 100_000 * item / items
    chunks = [(sent + 800 + 60 * each + float(rng.uniform(0, 20)), 4) for each in range(20)]
    return record(id_, 25_000, chunks, sent=sent, cls="eval", job="eval", item=item, in_want=300, in_got=300)


def _facts(made: list[Record], items: int) -> RunFacts:
    planned = {name: sum(each.cls == name for each in made) for name in ("chat", "code")}
    times = np.arange(0, WARMUP + SECONDS + 1)
    busy = np.clip(times - 25, 0, 100) - 0.6 * np.clip(times - FAULT, 0, 12)
    return RunFacts(
        window=(WARMUP * SECOND, (WARMUP + SECONDS) * SECOND),
        horizon=(WARMUP + SECONDS + 30) * SECOND,
        classes={
            "chat": ClassFacts(slo=slo(ttft=500, tpot=50), planned=planned["chat"], ideal_cached_tokens=80_000),
            "code": ClassFacts(slo=slo(ttft=300), planned=planned["code"]),
        }
        | ({"eval": ClassFacts(online=False, planned=items)} if items else {}),
        warmup=WARMUP * SECOND,
        faults=(FaultFacts(name="kill1", at=FAULT * SECOND, until=(FAULT + 12) * SECOND),),
        jobs=()
        if not items
        else (
            JobFacts(
                name="eval",
                cls="eval",
                submitted=25 * SECOND,
                finished=127 * SECOND,
                items=items,
                deadline=120 * SECOND,
            ),
        ),
        offline_curve=None
        if not items
        else Curve(
            times=tuple(int(each) * SECOND for each in times), counts=tuple(round(float(each) * 1520) for each in busy)
        ),
        identity={
            "target": "http://127.0.0.1:8000",
            "model": "synthetic data",
            "dialect": "slackwater",
            "api": "chat",
            "cache": "as-is",
            "lengths": "exact",
            "seed": "1",
            "plan_hash": "00112233445566778899aabbccddeeff",
        },
        realised={"chat.rate": 9.9, "chat.cv": 1.02, "code.rate": 4.3, "code.cv": 0.98},
        transforms={"chat": "scale=x0.1"},
    )


def server_csv() -> str:
    """As a scraper writes it."""
    lines = ["t_micros,queue,running,kv_use,preemptions,offline_tokens\n"]
    for second in range(WARMUP + SECONDS + 1):
        struck = FAULT <= second < FAULT + 12
        use = min(0.1 + second / 60, 0.7) + 0.1 * np.sin(second / 3) + (0.15 if struck else 0)
        lines.append(
            f"{second * SECOND},{9 if struck else second % 3},{12 + second % 5},{use:.3f},{second // 30},{second}\n"
        )
    return "".join(lines)


def folder(path: Path, made: list[Record], facts: RunFacts) -> RunFolder:
    """Records and facts as a run leaves them; the rest is `publish`'s."""
    found = RunFolder.create(path)
    with found.records_writer() as writer:
        for each in made:
            writer.write(each)
    found.write_facts(facts)
    found.server.write_text(server_csv(), encoding="utf-8")
    return found


def anything(seed: int) -> tuple[list[Record], RunFacts]:
    """Up to 500 records and facts of a run that no server would have thought of."""
    rng = np.random.Generator(np.random.Philox(seed))
    return [_any_record(each, rng) for each in range(int(rng.integers(0, 500)))], _any_facts(rng)


def _any_record(id_: int, rng: np.random.Generator) -> Record:
    """Whatever may stand in a record, in combinations that no server would think of."""
    due = int(rng.integers(0, 100 * SECOND))
    sent = None if rng.random() < 0.1 else due + int(rng.integers(0, SECOND))
    count = 0 if sent is None else int(rng.integers(0, 12))
    ts = np.cumsum(rng.integers(1, 400_000, count)).tolist()
    k = rng.integers(1, 4, count).tolist()
    outcome = str(rng.choice(OUTCOMES))
    end = None if sent is None or rng.random() < 0.1 else sent + (ts[-1] if ts else 0) + int(rng.integers(0, 50_000))
    some: dict[str, Any] = {
        "tenant": None,
        "session": None,
        "job": "eval" if id_ % 5 == 0 else None,
        "item": id_ if id_ % 5 == 0 else None,
        "reason": None if outcome == "ok" else f"code_{rng.integers(0, 4)}",
        "status": None if sent is None else int(rng.choice([200, 429, 500])),
        "in_got": None if rng.random() < 0.2 else int(rng.integers(1, 500)),
        "out_got": None if rng.random() < 0.3 else int(sum(k)),
        "cached_tokens": None if rng.random() < 0.3 else int(rng.integers(0, 100)),
        "count_source": None if rng.random() < 0.1 else str(rng.choice(SOURCES)),
        "conn": None if sent is None else str(rng.choice(["kept", "new"])),
        "visible": int(rng.integers(0, count)) if count and rng.random() < 0.8 else None,
        "fault": "kill1" if rng.random() < 0.1 else None,
    }
    return Record(
        id=id_,
        cls="eval" if id_ % 5 == 0 else ("chat", "code")[id_ % 2],
        turn=0,
        attempt=int(rng.integers(0, 3)),
        due_micros=due,
        sent_micros=sent,
        hdr_micros=None,
        first_micros=sent + ts[0] if sent is not None and ts else None,
        end_micros=end,
        outcome=outcome,  # type: ignore[arg-type]
        in_want=int(rng.integers(1, 500)),
        out_want=int(sum(k)) or 1,
        worker=None,
        ts=ts,
        k=k,
        text_hash=None,
        phase="window",
        **some,
    )


def _any_facts(rng: np.random.Generator) -> RunFacts:
    start = int(rng.integers(0, 30)) * SECOND
    steps = (LoadStep(at=50 * SECOND, until=80 * SECOND, before=1.0, after=3.0),)
    curve = Curve(times=tuple(range(0, 110 * SECOND, SECOND)), counts=tuple(range(0, 5500, 50)))
    return RunFacts(
        window=(start, 100 * SECOND),
        horizon=int(rng.integers(100, 120)) * SECOND,
        classes={
            "chat": ClassFacts(slo=slo(ttft=600, tpot=150), steps=steps, exact=bool(rng.random() < 0.5)),
            "code": ClassFacts(slo=slo(e2e=2000, max_gap=300), closed=bool(rng.random() < 0.3)),
            "eval": ClassFacts(online=False, planned=int(rng.integers(90, 110))),
        },
        warmup_auto=bool(rng.random() < 0.5),
        faults=(FaultFacts(name="kill1", at=40 * SECOND, until=None, proved=bool(rng.random() < 0.8)),),
        jobs=(JobFacts(name="eval", cls="eval", submitted=0, finished=90 * SECOND, items=100),),
        offline_curve=curve if rng.random() < 0.5 else None,
        invalid=("load process 0: it was slow",) if rng.random() < 0.2 else (),
        disturbed=("steal",) if rng.random() < 0.2 else (),
        identity={"seed": "7"},
        realised={"chat.rate": 2.5},
    )
