"""From spools to records: what is told of each request, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.loadgen_drive import (
    DONE,
    HEAD,
    Script,
    chunk,
    event,
    in_memory,
    later,
    plan_of,
    planned,
    stream,
    usage,
)

from loadgen.drive import parsed_file
from loadgen.drive.outcome import left_open
from loadgen.drive.parsed import Parsed
from loadgen.drive.schedule import ClassRules
from loadgen.drive.scribe import Output, ScribeContext, records_of
from loadgen.drive.spool import SpoolError, SpoolWriter, read_spool
from loadgen.measure.columns import columns
from loadgen.plan.model import NOT_DUE
from loadgen.record import Record
from loadgen.spec import Slo, SloTerm

MS = 1_000
END = 10**9


def context(**more: Any) -> ScribeContext:
    return ScribeContext(**{"window": (0, END), "horizon": END, **more})


def quick(_: int) -> Script:
    return stream([MS, 2 * MS, 3 * MS])


def test_a_record_in_full(tmp_path: Path) -> None:
    head = HEAD.replace(b"200 OK\r\n", b"200 OK\r\nx-slackwater-worker: w7\r\n")
    script = [
        (MS, head),
        (2 * MS, chunk(event("", usage=None).replace(b"{}", b'{"role":"assistant","content":""}'))),
        (3 * MS, chunk(event("").replace(b"{}", b'{"reasoning_content":"hm"}'))),
        (4 * MS, chunk(event("a"))),
        (5 * MS, chunk(event("b") + event("c"))),
        (6 * MS, chunk(usage(4) + DONE) + b"0\r\n\r\n"),
    ]
    (request,) = later(planned([5], out=4), tenant="t", session=3, turn=2)
    run = in_memory(tmp_path, plan_of([request]), lambda _: script, context=context(window=(0, 4)))
    assert run.records == [
        Record(
            id=0,
            cls="chat",
            tenant="t",
            session=3,
            turn=2,
            job=None,
            item=None,
            attempt=0,
            due_micros=5,
            sent_micros=5,
            hdr_micros=5 + MS,
            first_micros=5 + 3 * MS,
            end_micros=5 + 6 * MS,
            outcome="ok",
            reason=None,
            status=200,
            in_want=3,
            in_got=3,
            out_want=4,
            out_got=4,
            cached_tokens=None,
            count_source="usage",
            conn="new",
            worker="w7",
            ts=[3 * MS, 4 * MS, 5 * MS, 5 * MS],
            k=[1, 1, 1, 1],
            visible=1,
            text_hash=run.records[0].text_hash,
            fault=None,
            phase="drain",
        )
    ]
    assert run.records[0].text_hash is not None
    assert len(run.records[0].text_hash) == 16


def test_phases_are_by_due_time(tmp_path: Path) -> None:
    run = in_memory(tmp_path, plan_of(planned([9, 10, 20, 21])), quick, context=context(window=(10, 20)))
    assert [record.phase for record in run.records] == ["warmup", "window", "window", "drain"]


def test_faults_that_were_on(tmp_path: Path) -> None:
    faults = [("kill1", 3 * MS, 10 * MS), ("net", 50 * MS, None)]
    plan = plan_of(planned([0, 8 * MS, 20 * MS, 48 * MS, 90 * MS]))
    run = in_memory(tmp_path, plan, quick, context=context(faults=faults))
    assert [record.fault for record in run.records] == ["kill1", "kill1", None, "net", "net"]


def test_a_sample_of_stamps_is_the_same_each_time(tmp_path: Path) -> None:
    plan = plan_of(planned([MS * n for n in range(40)], out=3))
    kept = []
    for number in range(2):
        run = in_memory(tmp_path, plan, quick, context=context(tokens=("sample", 7)), connections=41 + number)
        kept.append({record.id for record in run.records if record.ts})
        assert all(bool(record.k) == bool(record.ts) for record in run.records)
        assert all(record.out_got == 3 and record.first_micros is not None for record in run.records)
    assert kept[0] == kept[1]
    assert len(kept[0]) == 7
    assert kept[0] != set(range(7)), "spread over the run, not its beginning"
    run = in_memory(tmp_path, plan, quick, context=context(tokens=("none", 0)))
    assert not any(record.ts for record in run.records)
    assert len(columns(run.records)) == 40, "the records can be measured without stamps"


def test_outputs_are_handed_over(tmp_path: Path) -> None:
    kept: list[Output] = []
    in_memory(tmp_path, plan_of(planned([0, MS])), quick, context=context(keep_outputs=kept.append))
    assert kept == [Output(number, "chat", " t0 t1 t2", "", None) for number in range(2)]


def test_a_spool_that_breaks_off_loses_only_what_it_misses(tmp_path: Path) -> None:
    plan = plan_of(planned([0, MS, 2 * MS]))
    whole = in_memory(tmp_path, plan, quick)
    data = (tmp_path / "spool").read_bytes()
    ends = []
    for size in range(0, len(data), 7):
        (tmp_path / "spool").write_bytes(data[:size])
        found = list(records_of([tmp_path / "spool"], plan, context(died=True)))
        assert sorted(record.id for record in found) == [0, 1, 2]
        ok = [record for record in found if record.outcome == "ok"]
        assert ok == whole.records[: len(ok)]
        assert {(r.outcome, r.reason) for r in found if r not in ok} <= {("cut", "process_died")}
        ends.append(len(ok))
    assert (ends[0], max(ends)) == (0, 2)


def test_a_file_that_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"something else that is long enough")
    with pytest.raises(SpoolError, match="not a spool"):
        list(records_of([tmp_path / "spool"], plan_of(planned([0])), context()))


def test_requests_that_were_never_offered_have_no_record(tmp_path: Path) -> None:
    plan = plan_of([*planned([NOT_DUE]), *later(planned([5, 7]), id=0)][:1] + later(planned([5]), id=1))
    SpoolWriter(str(tmp_path / "spool")).close()
    found = list(records_of([tmp_path / "spool"], plan, context()))
    assert [(record.id, record.outcome, record.reason) for record in found] == [(1, "cut", "not_sent")]


@pytest.mark.parametrize(
    ("terms", "first", "horizon", "outcome"),
    [
        ({}, None, 0, "cut"),
        ({"ttft": 100}, None, 100, "censored"),
        ({"ttft": 100}, None, 101, "cut"),
        ({"ttft": 100}, 50, 10_000, "censored"),
        ({"ttft": 100}, 150, 10_000, "cut"),
        ({"ttft": 100, "tpot": 10}, 50, 190, "censored"),
        ({"ttft": 100, "tpot": 10}, 50, 191, "cut"),
        ({"e2e": 300}, 50, 300, "censored"),
        ({"e2e": 300}, 50, 301, "cut"),
    ],
)
def test_what_is_open_at_the_end(terms: Mapping[Any, int], first: int | None, horizon: int, outcome: str) -> None:
    slo = Slo(tuple(SloTerm(name, bound) for name, bound in terms.items()))
    assert left_open(0, first, 10, slo, horizon) == outcome


def test_a_spool_is_read_back_as_written(tmp_path: Path) -> None:
    in_memory(tmp_path, plan_of(planned([0, 9 * MS], out=3)), quick, ClassRules(), connections=1)
    first, second = read_spool(str(tmp_path / "spool"))
    assert (first.id, first.attempt, first.status, first.due, first.sent, first.end) == (0, 0, 200, 0, 0, 3 * MS)
    assert first.stamps.tolist() == [MS, 2 * MS, 3 * MS, 3 * MS]
    assert first.lengths[-1] == len(first.body)
    assert first.body == event(" t0") + event(" t1") + event(" t2") + usage(3) + DONE
    assert second.id == 1


def test_a_parsed_file_counts_only_when_it_is_whole(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    path = parsed_file.beside(spool)
    assert parsed_file.parsed_of(spool, keep_text=False) is None
    fields = dict.fromkeys(("attempt", "end_kind", "status", "errno", "due", "sent", "header", "end"), 0)
    one = Parsed(id=5, new_connection=False, retried=False, **fields)
    with path.open("wb") as file:
        parsed_file.write_begin(file, keep_text=False)
        parsed_file.write(file, one)
        parsed_file.write(file, one)
        parsed_file.write_end(file)
    assert list(parsed_file.parsed_of(spool, keep_text=False) or ()) == [one, one]
    assert parsed_file.parsed_of(spool, keep_text=True) is None, "it has no texts"
    data = path.read_bytes()
    for size in range(0, len(data), 5):
        path.write_bytes(data[:size])
        assert parsed_file.parsed_of(spool, keep_text=False) is None
