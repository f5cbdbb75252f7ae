"""`result.json`: what a run found, as one tree. Its JSON schema is `schema/result.schema.json`.

Times are microseconds, rates a second. `null` says not known, not enough samples, or not asked for; a reason stands in
`notes`. A number that is infinite (never recovered) has a flag beside it, since JSON has no word for it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from loadgen.record import RECORD_VERSION, Record

RESULT_VERSION = 1


class Interval(msgspec.Struct, frozen=True):
    """95 %, from within one run by batch means: it carries no claim about another run."""

    value: float
    low: float | None
    high: float | None
    count: int


class Quantile(msgspec.Struct, frozen=True):
    """Order statistic with its distribution-free interval, "if independent". `value` `None` below `needed` samples."""

    q: float
    value: float | None
    low: float | None
    high: float | None
    count: int
    needed: int


class MetricResult(msgspec.Struct, frozen=True, kw_only=True):
    """Of the requests that have the metric; `missing`: counted ones without, so nobody takes survivors for all."""

    count: int
    missing: int
    mean: Interval | None
    least: float | None
    greatest: float | None
    quantiles: list[Quantile]


class Attainment(msgspec.Struct, frozen=True, kw_only=True):
    """Good over counted. `offered` = counted + censored + cancelled."""

    slo: str
    value: float | None
    interval: Interval | None
    offered: int
    counted: int
    good: int
    censored: int
    cut: int
    unmeasured: int
    goodput: float | None
    """Good requests a second of the window."""
    good_tokens_per_s: float | None
    late_tokens: float | None
    """Share of the class's tokens after their deadline."""
    stalled: float | None
    """Share of requests in which a buffered reader would have run dry."""


class PopulationSlo(msgspec.Struct, frozen=True, kw_only=True):
    """Such as `p99.ttft<=1s`, over all counted requests; those that failed are endlessly slow (`infinite`)."""

    slo: str
    value: float | None
    infinite: bool
    passed: bool | None
    count: int
    needed: int


class Trend(msgspec.Struct, frozen=True):
    """Line through 10 s means; `grows` by the rule of overload."""

    slope: float
    low: float
    high: float
    rise: float
    mean: float
    grows: bool


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Who counted, and whether what came is what was asked for; over whole answers of the window."""

    sources: dict[str, float]
    """Share of answers by count source."""
    in_want: int
    in_got: int | None
    out_want: int
    out_got: int
    wrong_length: int
    chunks_disagree: int
    """Answers whose chunks do not add up to the count of a better source."""
    cached: int | None
    cached_of_ideal: float | None


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """A planned change of load; `never`: the names of what did not settle before the next."""

    at: int
    before: float
    after: float
    yield_time: float | None
    fill_time: float | None
    recovered: float | None
    never: list[str]


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """After one fault. `micros` `None` with `never` false: nothing to compare with."""

    micros: float | None
    never: bool


class Sessions(msgspec.Struct, frozen=True, kw_only=True):
    """Live conversations against a server that answers each turn just within the SLO; `begun` within the window.

    `late`: those that ended later than with that server, `failed` ones among them. `mean` and `quantiles` are of
    those that did not fail: microseconds, below zero where they were ahead.
    """

    begun: int
    failed: int
    late: int
    mean: float | None
    quantiles: list[Quantile]


class ClassResult(msgspec.Struct, frozen=True, kw_only=True):
    """One class over the window."""

    online: bool
    closed: bool
    offered: int
    """Due in the window."""
    planned: int | None
    outcomes: dict[str, int]
    reasons: dict[str, int]
    messages: dict[str, str]
    """By reason: what the server said with the first of them."""
    offered_per_s: float | None
    completed_per_s: Interval | None
    tokens_per_s: Interval | None
    """Output tokens by the time at which they came."""
    concurrency: float | None
    """Mean number in flight, counted from `due`."""
    attainment: Attainment | None
    population: list[PopulationSlo]
    metrics: dict[str, MetricResult]
    tokens: Tokens
    new_connections: int
    in_flight_trend: Trend | None
    ttft_trend: Trend | None
    overloaded: bool
    recovery: dict[str, Recovery]
    steps: list[StepResult]
    sessions: Sessions | None = None
    """`null`: no live sessions, or no bounds on TTFT and TPOT."""


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """One offline job. `completed + failed + expired + lost + unfinished` should be `items`. `right`: by the data set.
    `checks`: by name, how often each rule of the Batch API was broken.
    """

    cls: str = msgspec.field(name="class")
    items: int
    completed: int
    failed: int
    expired: int
    lost: int
    repeated: int
    unknown: int
    wrong: int
    retries: int
    completion: float | None
    deadline_met: bool | None
    deadline_judge: Literal["server", "client"]
    items_per_s: float | None
    tokens_per_s: float | None
    tail1: float | None
    wasted: int | None
    unfinished: int
    right: int | None
    reason: str | None
    checks: dict[str, int]
    violations: list[str]


class FaultResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one fault did to the requests that it met."""

    kind: str | None
    at: int
    until: int | None
    proved: bool
    why: str | None
    in_flight: int
    """At its beginning."""
    met: int
    """In flight at any time while it lasted; all below is of these."""
    lost: int
    """Did not end well, those that were to be cancelled left out."""
    retried: int
    longest_gap: float | None
    """Without a chunk, of the gaps that ended after its beginning; or up to the end of an answer that failed."""
    checked: int | None
    """Outputs that were compared token by token; the counts below are of these, and null where there are none."""
    tokens_lost: int | None
    tokens_repeated: int | None
    tokens_wrong: int | None
    tokens_billed: int | None
    """Output tokens by usage beyond those in the text."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: requests due within. `cut`: what MSER-5 took from its beginning beyond the warm-up."""

    start: int
    end: int
    cut: int
    steady: bool | None
    """`None`: the warm-up's length was given, so nobody looked."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. `status` is the worst of its flags."""

    version: int
    mode: Literal["measured", "virtual"]
    quick: bool
    status: Literal["ok", "disturbed", "overloaded", "invalid"]
    invalid: list[str]
    disturbed: list[str]
    overloaded: list[str]
    interrupted: bool
    window: Window
    outcomes: dict[str, int]
    """Of all records, all phases."""
    records: int
    classes: dict[str, ClassResult]
    jobs: dict[str, JobResult]
    faults: dict[str, FaultResult]
    offline_tokens_per_s: Interval | None
    """By the server's counter if there is one, else by the stamps of requests, else by the curves of batch jobs."""
    identity: dict[str, str]
    realised: dict[str, float]
    transforms: dict[str, str]
    notes: list[str]
    """What this run cannot claim, and why."""


def schemas() -> dict[str, dict[str, Any]]:
    """By file name, the JSON schemas that stand in `schema/`."""
    return {
        "result.schema.json": _schema(Result, RESULT_VERSION),
        "record.schema.json": _schema(Record, RECORD_VERSION),
    }


def schema_text(schema: dict[str, Any]) -> str:
    """As committed: keys in order, one line each, so that a change shows as a change."""
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2).decode() + "\n"


def _schema(of: type[msgspec.Struct], version: int) -> dict[str, Any]:
    made = msgspec.json.schema(of)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "version": version, **made}


def encode(result: Result) -> bytes:
    """`result.json`. Keys in the order of the tree."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def decode(text: bytes) -> Result:
    """What `encode` wrote.

    Raises:
        msgspec.ValidationError: not such a tree, or of another version.
    """
    found = msgspec.json.decode(text, type=Result)
    if found.version != RESULT_VERSION:
        raise msgspec.ValidationError(f"result.json is of version {found.version}, this program reads {RESULT_VERSION}")
    return found
