"""What a reader sees first, what is said of what is not known, and what no figure may look like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from support.loadgen_records import SECOND, facts, record, slo, streamed

from loadgen.measure.evaluate import Outcome, Value
from loadgen.measure.facts import ClassFacts
from loadgen.measure.summarise import summarise
from loadgen.plan.model import Plan, PlannedJob, PlannedRequest, Prompt, Segment
from loadgen.report import markdown, show, tables
from loadgen.report.text import plan_summary, summary
from loadgen.result import Quantile, Sessions
from loadgen.spec import SloTerm

if TYPE_CHECKING:
    from loadgen.report.load import LoadedRun
    from loadgen.result import Result


def _result(count: int = 100, **given: Any) -> Result:
    made = [streamed(each, 100.0 * each, 50, 10, 5) for each in range(count)]
    fields: dict[str, Any] = {"classes": {"chat": ClassFacts(slo=slo(ttft=100))}, **given}
    return summarise(made, facts(count / 10, **fields))


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({"invalid": ("load process 0: send lag p99 3.20 ms, bound 1.00 ms",)}, "INVALID: "),
        ({"interrupted": True}, "INTERRUPTED: "),
        ({"disturbed": ("swap",)}, "DISTURBED: "),
        ({"mode": "virtual"}, "VIRTUAL: "),
        ({"quick": True}, "QUICK: "),
        ({}, "sent "),
    ],
)
def test_what_spoils_the_figures_is_said_first(given: dict[str, Any], first: str) -> None:
    text = summary(_result(**given))
    assert text.startswith(first)
    assert all(reason in text for reason in (*given.get("invalid", ()), *given.get("disturbed", ())))


def test_invalid_stands_before_all_other_flags() -> None:
    text = summary(_result(invalid=("a",), disturbed=("b",), interrupted=True), complete=False)
    places = [text.index(word) for word in ("INVALID", "INCOMPLETE", "INTERRUPTED", "DISTURBED", "sent ")]
    assert places == sorted(places)


def test_an_overloaded_class_is_named() -> None:
    made = [streamed(each, 100.0 * each, 50 + 30 * each, 10, 5) for each in range(600)]
    text = summary(summarise(made, facts()))
    assert text.startswith("OVERLOADED: ")
    assert "requests piled up: chat" in text


def test_too_few_samples_show_how_many_are_needed() -> None:
    table = tables.classes(_result(60))
    cells = dict(zip(table.head, table.rows[0], strict=True))
    assert (cells["TTFT p50"], cells["TTFT p99"], cells["attainment"]) == ("50.0 ms", "- (n>=299)", "100 %")
    assert "-" in summary(_result(3))


def test_a_closed_loop_has_no_rate() -> None:
    text = summary(_result(classes={"chat": ClassFacts(closed=True)}))
    row = next(line for line in text.splitlines() if line.startswith("  chat closed"))
    assert row.split()[2:4] == ["100", "closed"]
    assert "chat: closed loop" in text


@pytest.mark.parametrize(
    ("cache", "red"), [("as-is", True), ("as-is: whatever", True), ("cold: reset", False), ("", True)]
)
def test_a_cache_of_unknown_content_is_red(cache: str, red: bool) -> None:
    text = summary(_result(identity={"cache": cache}), colour=True)
    line = next(line for line in text.splitlines() if line.startswith("cache"))
    assert ("\x1b[31m" in line) == red
    assert "\x1b[" not in summary(_result(identity={"cache": cache}))


def test_failures_stand_with_their_reasons() -> None:
    made = [
        *(streamed(each, 100.0 * each, 50, 10, 5) for each in range(95)),
        *(record(each, 100.0 * each, outcome="error", reason="no_done") for each in range(95, 98)),
        *(record(each, 100.0 * each, outcome="shed", reason="status_429") for each in range(98, 100)),
    ]
    promise = slo((SloTerm("ttft", 1e6, 0.5),), ttft=100)
    given = facts(10, classes={"chat": ClassFacts(slo=promise, messages={"status_429": "come back later"})})
    found = {table.title: table for table in tables.of_run(summarise(made, given))}
    [row] = found["Not served"].rows
    assert row == ("chat", "3 error, 2 shed", "3 no_done, 2 status_429", "status_429: come back later")
    promised = found["Promises for the whole class"].rows
    assert promised == (("chat", "p50.ttft<=1s", "50.0 ms", "yes", "100"),)


def test_jobs_faults_and_lengths_are_told(run: LoadedRun) -> None:
    text = summary(run.result, folder="runs/x")
    for part in (
        "2,400 requests to http://127.0.0.1:8000 (model synthetic data, dialect slackwater)",
        "output lengths were forced",
        "chat 9.90/s realised (CV of gaps 1.02)",
        "400 of 400",
        "yes (client)",
        "chat 15.0 s, code 20.0 s",
        "What this run cannot claim",
        "runs/x",
    ):
        assert part in text
    offline = next(line for line in text.splitlines() if line.startswith("  eval offline"))
    # Nobody waits for an item of a job, so it has no latency to be told.
    assert offline.split()[6:] == ["no", "slo", "-", "-", "-", "-", "267"]
    assert max(map(len, text.splitlines())) < 140


def test_assertions_say_whether_they_hold() -> None:
    checks = (
        Outcome("chat.attainment>=0.9", True, Value(0.95)),
        Outcome("chat.p99.ttft<=1s", False, Value(None, "60 samples are too few, 299 are needed")),
    )
    rows = tables.asserted(checks).rows
    assert [row[0] for row in rows] == ["holds", "FAILS"]
    assert rows[1][2] == "60 samples are too few, 299 are needed"


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0 ms"), (85, "85 us"), (1234, "1.23 ms"), (12_345, "12.3 ms"), (999_600, "1.00 s"), (65e6, "65.0 s")],
)
def test_times(micros: float, text: str) -> None:
    assert show.time(micros) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.9999, "99.99 %"), (0.99996, "99.996 %"), (0.0001, "0.01 %"), (0.5, "50.0 %")],
)
def test_what_is_not_all_never_reads_as_all(value: float, text: str) -> None:
    assert show.share(value) == text


def test_minutes_and_numbers() -> None:
    assert show.time(200e6) == "3 m 20 s"
    assert [show.number(each) for each in (0.12345, 1.2345, 12.345, 12345.0, 0.0, 1e-6)] == [
        "0.123",
        "1.23",
        "12.3",
        "12,345",
        "0",
        "1.0e-06",
    ]


def test_markdown_holds_whatever_a_server_says(run: LoadedRun) -> None:
    nasty = "| a <b> `c` *d* \n [e](f)"
    result = msgspec.structs.replace(run.result, invalid=[nasty], identity={**run.result.identity, "model": nasty})
    text = markdown.summary([type(run)(run.folder, True, result, run.facts, run.at, run.server, run.host)])
    assert r"\| a \<b\> \`c\` \*d\* \[e\](f)" in text
    assert text.index("**INVALID**") < text.index("### Classes")
    rows = [line for line in text.splitlines() if line.startswith("| chat")]
    heads = [line for line in text.splitlines() if line.startswith("| class")]
    assert rows
    assert rows[0].count("|") == heads[0].count("|")


def test_a_plan_before_it_is_sent() -> None:
    prompt = Prompt(40, (Segment(1, 40),))
    requests = [PlannedRequest(each, "chat", each * SECOND, prompt, 10) for each in range(6)]
    requests += [PlannedRequest(6, "eval", -1, Prompt(None, text="x"), 5, job="eval", item=0)]
    jobs = [PlannedJob("eval", "eval", 0, 60 * SECOND, (6,))]
    changed = {"chat": "scale=x0.1", "eval": "none"}
    plan = Plan(3, requests, jobs, (0, 5 * SECOND), changed, {"chat.rate": 1.0})
    lines = plan_summary(plan, "abc").splitlines()
    assert lines[0] == "plan      abc, seed 3; nothing is sent"
    assert [line for line in lines if line.startswith("trace")] == ["trace     chat: scale=x0.1"]
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert rows["chat"] == ["6", "1.00/s", "-", "240", "60"]
    assert rows["eval"] == ["eval", "0.0", "s", "1", "60.0", "s"]


def test_live_sessions_have_a_table() -> None:
    result = _result()
    assert tables.sessions(result).rows == ()
    told = Sessions(
        begun=20,
        failed=1,
        late=5,
        mean=-1_500_000.0,
        quantiles=[Quantile(0.5, 2_000_000.0, None, None, 19, 1), Quantile(0.99, None, None, None, 19, 299)],
    )
    classes = {"chat": msgspec.structs.replace(result.classes["chat"], sessions=told)}
    made = tables.sessions(msgspec.structs.replace(result, classes=classes))
    assert made.rows == (("chat", "20", "5 (25.0 %)", "1", "-1.50 s", "+2.00 s", "- (n>=299)"),)
    assert "against a server that answers each turn just within the SLO" in summary(
        msgspec.structs.replace(result, classes=classes)
    )
