"""Jobs whose items are requests of their own, and the rules of a batch's life; all pure."""

from __future__ import annotations

import msgspec
import pytest
from support import loadgen_jobs as rig
from support.loadgen_records import record

from loadgen.jobs import batch_object
from loadgen.jobs.answer import NoAnswer
from loadgen.jobs.batch_object import BatchObject, Counts, wrong_step
from loadgen.jobs.checks import Ledger, Tally
from loadgen.jobs.files_api import window_text
from loadgen.jobs.inputs import JobItem
from loadgen.jobs.stream_job import stream_reports
from loadgen.measure.columns import columns
from loadgen.measure.jobs import figures
from loadgen.record import Record

SECOND = 1_000_000
END = 100 * SECOND


def item(number: int, at: float, **more: object) -> Record:
    """`at`: milliseconds of its end."""
    made = record(number, 0, [(at - 10, 2), (at, 1)], sent=0, cls="eval", job="eval", in_got=8, out_want=3, **more)
    return msgspec.structs.replace(made, item=number)


def test_records_make_a_job() -> None:
    asked = rig.scenario(4, submit="stream", deadline=5 * SECOND)
    plan = rig.planned(asked)
    done = [item(number, 500.0 * (number + 1)) for number in range(4)]
    [report] = stream_reports(asked, plan, [*done, record(9, 0, [(5.0, 1)], sent=0)], END)
    facts = report.facts
    assert (facts.items, facts.completed, facts.failed, facts.unfinished) == (4, 4, 0, 0)
    assert (facts.submitted, facts.finished, facts.reason) == (0, 2 * SECOND, None)
    assert (facts.in_tokens, facts.out_tokens) == (32, 12)
    assert facts.curve == ((SECOND, 2), (2 * SECOND, 4))
    assert (report.violations, facts.wrong) == ([], 0)
    assert [each.item for each in report.items] == [0, 1, 2, 3]


def test_a_stream_job_that_was_cut_is_not_finished() -> None:
    asked = rig.scenario(5, submit="stream")
    plan = rig.planned(asked)
    some = [item(0, 500.0), item(1, 600.0, outcome="error"), item(2, 700.0, outcome="cut")]
    [report] = stream_reports(asked, plan, some, END)
    facts = report.facts
    assert (facts.completed, facts.failed, facts.unfinished, facts.finished) == (1, 1, 3, None)
    assert facts.reason == "the run ended before it did"
    shown = figures(facts, columns(some))
    assert (shown.completed, shown.failed, shown.unfinished, shown.lost) == (1, 1, 3, 0)


def test_wrong_lengths_and_repeated_items_are_violations() -> None:
    asked = rig.scenario(2, submit="stream")
    short = msgspec.structs.replace(item(1, 600.0), out_got=2)
    again = msgspec.structs.replace(item(1, 700.0), id=7)
    [report] = stream_reports(asked, rig.planned(asked), [item(0, 500.0), short, again], END)
    assert (report.facts.repeated, report.facts.wrong) == (1, 1)
    assert report.violations == [
        "eval: 1 items were answered more than once",
        "eval: 1 items have another number of output tokens than asked for (1: 2 for 3)",
    ]


def test_two_answers_to_one_item_of_which_one_has_no_usage() -> None:
    asked = rig.scenario(1, submit="stream")
    twice = [item(0, 500.0), msgspec.structs.replace(item(0, 600.0), in_got=None)]
    [report] = stream_reports(asked, rig.planned(asked), twice, END)
    assert (report.facts.repeated, [each.item for each in report.items]) == (1, [0, 0])


def test_jobs_that_never_began_are_left_out() -> None:
    asked = rig.scenario(2, submit="stream", at=50 * SECOND)
    assert stream_reports(asked, rig.planned(asked), [], 40 * SECOND) == []
    [report] = stream_reports(asked, rig.planned(asked), [], 60 * SECOND)
    assert report.facts.unfinished == 2
    assert stream_reports(rig.scenario(2), rig.planned(rig.scenario(2)), [], END) == []


def batch(status: str, completed: int = 0, failed: int = 0, total: int = 10) -> BatchObject:
    return BatchObject("b", status, request_counts=Counts(total, completed, failed))


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        (batch("validating", total=0), batch("in_progress", 3), None),
        (batch("validating", total=0), batch("completed", 10), None),
        (batch("in_progress", 3), batch("cancelled", 4, 6), None),
        (batch("cancelling", 3), batch("completed", 10), None),
        (batch("finalizing", 10), batch("in_progress", 10), "went from finalizing to in_progress"),
        (batch("completed", 10), batch("cancelled", 10), "went from completed to cancelled"),
        (batch("in_progress", 3), batch("validating", 3), "went from in_progress to validating"),
        (batch("in_progress", 3), batch("in_progress", 2), "fewer items done than before"),
        (batch("in_progress", 3, 2), batch("in_progress", 4, 1), "fewer items done than before"),
        (batch("in_progress", 3), batch("in_progress", 8, 3), "more items done than there are"),
        (batch("in_progress"), batch("resting"), "does not exist"),
    ],
)
def test_how_a_batch_may_change(before: BatchObject, after: BatchObject, wrong: str | None) -> None:
    found = wrong_step(before, after)
    assert (found is None) if wrong is None else (found is not None and wrong in found)


def test_what_is_no_batch() -> None:
    for value in ({}, {"id": "b", "status": 1}, {"id": "b", "status": "x", "request_counts": {"total": "1"}}):
        with pytest.raises(NoAnswer, match="no batch"):
            batch_object.read(value)
    assert batch_object.read({"id": "b", "status": "failed", "more": 1}).first_error == "it did not say why"


def ledger() -> Ledger:
    return Ledger({f"e.{n}": JobItem(n, f"e.{n}", 3, True) for n in range(3)}, keep_text=True)


def out(custom: str, tokens: int | None = 3, status: int = 200, **choice: object) -> bytes:
    usage = {} if tokens is None else {"usage": {"prompt_tokens": 5, "completion_tokens": tokens}}
    body = {"choices": [choice or {"message": {"content": "hi"}}], **usage}
    return msgspec.json.encode({"custom_id": custom, "response": {"status_code": status, "body": body}, "error": None})


def test_lines_in_any_order_and_shape() -> None:
    book, tally = ledger(), Tally()
    lines = [out("e.2", text="completion"), b"\n", b"{broken", out("e.0"), out("e.1", None), b"[]", b'{"custom_id":5}']
    book.take(lines, book.items, "completed", tally)
    book.find_lost(book.items, "completed")
    assert [(each.item, each.status, each.out_got, each.text) for each in book.results.values()] == [
        (2, "ok", 3, "completion"),
        (0, "ok", 3, "hi"),
        (1, "ok", None, "hi"),
    ]
    assert (tally.ok, tally.tokens_in, tally.tokens_out) == (3, 10, 6)
    assert {name: count for name, count in book.counts.items() if count} == {"unreadable": 3, "wrong": 1}
    assert book.violations("e") == [
        'e: 3 items are lines that cannot be read ({broken, [], {"custom_id":5})',
        "e: 1 items have another number of output tokens than asked for (e.1: None for 3)",
    ]


def test_errors_of_items() -> None:
    book, tally = ledger(), Tally()

    def error(custom: str, code: str | None) -> bytes:
        return msgspec.json.encode({"custom_id": custom, "response": None, "error": {"code": code}})

    lines = [error("e.0", "batch_expired"), error("e.1", "batch_cancelled"), error("e.2", "request_timeout")]
    book.take(lines, book.items, "expired", tally)
    assert [each.status for each in book.results.values()] == ["expired", "cancelled", "failed"]
    assert book.counts["uncoded"] == 1
    assert tally.ok == 0
    book.find_lost({**book.items, "e.9": JobItem(9, "e.9", 3, True)}, "expired")
    assert book.counts["lost"] == 1
    book.find_lost({"e.8": JobItem(8, "e.8", 3, True)}, "cancelled")
    assert book.counts["lost"] == 1
    failed = ledger()
    failed.take([out("e.0", 2, 500)], failed.items, "completed", Tally())
    assert failed.results["e.0"].error == "status_500"
    assert failed.counts["wrong"] == 0


def test_only_some_names_are_kept() -> None:
    book = ledger()
    for number in range(10):
        book.note("lost", f"e.{number}")
    assert book.violations("e") == ["e: 10 items came back in no file (e.0, e.1, e.2, ...)"]


def test_windows() -> None:
    assert [window_text(each) for each in (None, 86_400 * SECOND, 1_080 * SECOND, 90 * SECOND, 1_500_000)] == [
        "24h",
        "24h",
        "18m",
        "90s",
        "1500ms",
    ]
