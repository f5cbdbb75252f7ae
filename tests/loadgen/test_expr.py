from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import BadInput, LoadgenError
from loadgen.measure.expr import METRICS, SPREAD, Expr, Figure, parse, parse_figure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("chat.attainment>=0.99", Expr("chat", None, False, "attainment", "window", None, ">=", 0.99)),
        ("chat.attainment >= 99%", Expr("chat", None, False, "attainment", "window", None, ">=", 0.99)),
        ("eval.deadline_met==1", Expr("eval", None, False, "deadline_met", "window", None, "==", 1.0)),
        ("chat.recovery(after kill1)<=10s", Expr("chat", None, False, "recovery", "after", "kill1", "<=", 1e7)),
        ("all.errors==0", Expr("all", None, False, "errors", "window", None, "==", 0.0)),
        ("chat.p99.9.ttft(all)<1s", Expr("chat", 0.9990000000000001, False, "ttft", "all", None, "<", 1e6)),
        ("chat.mean.tbt(during k)!=5ms", Expr("chat", None, True, "tbt", "during", "k", "!=", 5e3)),
        ("eval.tokens_per_s>5/m", Expr("eval", None, False, "tokens_per_s", "window", None, ">", 5 / 60)),
        ("chat.recovery(after k)<inf", Expr("chat", None, False, "recovery", "after", "k", "<", float("inf"))),
    ],
)
def test_expressions(text: str, expected: Expr) -> None:
    found = parse(text)
    assert found.quantile == pytest.approx(expected.quantile)
    assert (found.cls, found.mean, found.metric, found.part, found.fault, found.op, found.value) == (
        expected.cls,
        expected.mean,
        expected.metric,
        expected.part,
        expected.fault,
        expected.op,
        expected.value,
    )
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "chat",
        "chat.attainment",
        "chat.attainment>=2",
        "chat.attainment=>1",
        "chat.ttft<=1s",
        "chat.p99.attainment>=1",
        "chat.p100.ttft<=1s",
        "chat.p0.ttft<=1s",
        "chat.p99.ttft<=1",
        "chat.p99.tfft<=1s",
        "chat.errors==0.5",
        "chat.errors==-1",
        "chat.recovery<=1s",
        "chat.p99.ttft(before k)<=1s",
        "__import__('os').x==1",
        "chat.errors==nan",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse(text)


def test_nearest_metric() -> None:
    with pytest.raises(BadInput) as caught:
        parse("chat.p99.tfft<=1s")
    assert caught.value.nearest == "ttft"


def test_every_metric_reads() -> None:
    for metric in METRICS:
        stat = "p50." if metric in SPREAD else ""
        part = "(after k)" if metric == "recovery" else ""
        assert parse_figure(f"c.{stat}{metric}{part}").metric == metric


def test_figure() -> None:
    assert parse_figure("chat.p99.ttft") == Figure("chat", 0.99, False, "ttft", "window", None)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except LoadgenError as error:
        code = error.code
    else:
        return
    assert code == 2
