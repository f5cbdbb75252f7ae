"""The tables of a run's figures, as text in cells: the same ones in the terminal, in Markdown and on the page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loadgen.report import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loadgen.measure.evaluate import Outcome
    from loadgen.result import ClassResult, Result, Sessions

_BAD = ("error", "refused", "shed", "timeout", "cut")
_KEY_METRICS = ("ttft", "tpot", "tbt", "max_gap", "e2e", "lag")
_SESSION_QUANTILES = (0.5, 0.99)
_TIMES = ("yield_time", "fill_time", "recovered")


@dataclass(frozen=True, slots=True)
class Table:
    """`rows`: cells by column; the first `left` columns are words. `note`: what the reader must know of it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    note: str = ""


def of_run(result: Result, checks: Sequence[Outcome] = ()) -> list[Table]:
    """All that have something to say, the most important first."""
    made: list[Callable[[], Table]] = [
        lambda: classes(result),
        lambda: asserted(checks),
        lambda: bad(result),
        lambda: attainment(result),
        lambda: population(result),
        lambda: sessions(result),
        lambda: jobs(result),
        lambda: faults(result),
        lambda: steps(result),
        lambda: latencies(result),
        lambda: tokens(result),
    ]
    return [table for table in (each() for each in made) if table.rows]


def classes(result: Result) -> Table:
    """A row a class that sent requests."""
    head = ("class", "offered", "rate", "ok", "attainment", "TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "tokens/s")
    rows = []
    for name, each in _present(result):
        rate = "closed" if each.closed else f"{show.number(each.offered_per_s)}/s"
        rows.append(
            (
                label(name, each),
                show.count(each.offered),
                rate if each.online else show.UNKNOWN,
                show.share(each.outcomes["ok"] / each.offered) if each.offered else show.UNKNOWN,
                attained(each),
                *(_latency(each, name, q) for name in ("ttft", "tpot") for q in (0.5, 0.99)),
                show.number(each.tokens_per_s.value if each.tokens_per_s else None),
            )
        )
    note = "TTFT: from the due time to the first token; TPOT: time per token after it"
    return Table("Classes", head, tuple(rows), note=note)


def _latency(each: ClassResult, name: str, q: float) -> str:
    """Nobody waits for an offline request: its due time is its job's, and tells of the queue of items alone."""
    return show.quantile_of(each.metrics.get(name), q) if each.online else show.UNKNOWN


def label(name: str, each: ClassResult) -> str:
    """The class, and what changes how its figures are read."""
    kind = "" if each.online else " offline"
    return f"{name}{kind}{' closed' if each.closed else ''}{' OVERLOADED' if each.overloaded else ''}"


def attained(each: ClassResult) -> str:
    """Attainment, or that nothing was promised."""
    return show.share(each.attainment.value) if each.attainment is not None else "no slo"


def asserted(checks: Sequence[Outcome]) -> Table:
    """What had to hold, and whether it did."""
    rows = tuple(
        (
            "holds" if each.holds else "FAILS",
            each.text,
            each.value.reason or show.number(each.value.number),
        )
        for each in checks
    )
    return Table("Assertions", ("", "assertion", "found (us, shares, counts)"), rows, left=2)


def bad(result: Result) -> Table:
    """Answers that nobody got, and why."""
    rows = []
    for name, each in _present(result):
        lost = show.counts((outcome, each.outcomes[outcome]) for outcome in (*_BAD, "cancelled", "censored"))
        if lost:
            said = "; ".join(f"{reason}: {text}" for reason, text in each.messages.items())
            reasons = show.counts(each.reasons.items()) or show.UNKNOWN
            rows.append((name, lost, show.plain(reasons), show.plain(said or show.UNKNOWN)))
    return Table("Not served", ("class", "outcomes", "reasons", "the server's first words"), tuple(rows), left=4)


def attainment(result: Result) -> Table:
    """Of each class with a promise per request."""
    head = (
        "class",
        "slo",
        "attainment [95 % in the run]",
        "good",
        "censored",
        "cut",
        "goodput",
        "late tokens",
    )
    rows = []
    for name, each in _present(result):
        told = each.attainment
        if told is not None:
            rows.append(
                (
                    name,
                    told.slo,
                    show.interval(told.interval, "share") if told.interval else show.share(told.value),
                    f"{told.good:,} of {told.counted:,}",
                    show.count(told.censored),
                    show.count(told.cut),
                    f"{show.number(told.goodput)}/s",
                    show.share(told.late_tokens),
                )
            )
    note = "good / counted: whoever failed, was refused or cut counts as bad"
    return Table("Attainment", head, tuple(rows), left=2, note=note)


def population(result: Result) -> Table:
    """Promises for a class as a whole."""
    rows = []
    for name, each in _present(result):
        for told in each.population:
            found = "endless" if told.infinite else show.time(told.value)
            few = told.value is None and not told.infinite
            found = f"- (n>={told.needed:,})" if few else found
            rows.append((name, told.slo, found, show.yes(told.passed), show.count(told.count)))
    return Table("Promises for the whole class", ("class", "slo", "found", "kept", "n"), tuple(rows), left=2)


def sessions(result: Result) -> Table:
    """Live conversations of each class that has some."""
    rows = []
    for name, each in _present(result):
        told = each.sessions
        if told is not None:
            late = f"{told.late:,} ({show.share(told.late / told.begun)})" if told.begun else show.UNKNOWN
            mean = show.UNKNOWN if told.mean is None else show.change(told.mean)
            rows.append((name, show.count(told.begun), late, show.count(told.failed), mean, *_lateness(told)))
    qs = [f"p{q * 100:g}" for q in _SESSION_QUANTILES]
    head = ("class", "begun", "late", "failed", "mean lateness", *qs)
    note = "against a server that answers each turn just within the SLO; failed ones are late, and in no mean"
    return Table("Sessions", head, tuple(rows), note=note)


def _lateness(told: Sessions) -> Iterator[str]:
    by_q = {found.q: found for found in told.quantiles}
    for q in _SESSION_QUANTILES:
        found = by_q.get(q)
        yield show.quantile(found) if found is None or found.value is None else show.change(found.value)


def jobs(result: Result) -> Table:
    """A row an offline job."""
    head = (
        "job",
        "class",
        "done",
        "not done",
        "took",
        "in time",
        "items/s",
        "tokens/s",
        "last 1 %",
        "retries",
        "wasted",
    )
    rows = []
    for name, each in result.jobs.items():
        missing = show.counts(
            (what, getattr(each, what)) for what in ("failed", "expired", "lost", "repeated", "unknown", "wrong")
        )
        met = show.yes(each.deadline_met)
        rows.append(
            (
                name,
                each.cls,
                f"{each.completed:,} of {each.items:,}",
                missing or "0",
                "not ended" if each.completion is None else show.time(each.completion),
                met if each.deadline_met is None else f"{met} ({each.deadline_judge})",
                show.number(each.items_per_s),
                show.number(each.tokens_per_s),
                show.time(each.tail1),
                show.count(each.retries),
                show.count(each.wasted),
            )
        )
    return Table(
        "Offline jobs", head, tuple(rows), left=2, note="tokens/s: prompts count once, recomputed tokens never"
    )


def faults(result: Result) -> Table:
    """A row a fault, with how long each class took to recover."""
    head = ("fault", "at", "for", "seen", "in flight", "lost", "retried", "longest gap", "recovery")
    rows = []
    for name, each in result.faults.items():
        back = [
            f"{cls} {'never' if found.never else show.time(found.micros)}"
            for cls, every in result.classes.items()
            if every.attainment is not None and (found := every.recovery.get(name)) is not None
        ]
        rows.append(
            (
                name,
                show.at(each.at),
                show.UNKNOWN if each.until is None else show.time(each.until - each.at),
                show.yes(each.proved),
                show.count(each.in_flight),
                show.count(each.lost),
                show.count(each.retried),
                show.time(each.longest_gap),
                ", ".join(back) or show.UNKNOWN,
            )
        )
    return Table("Faults", head, tuple(rows))


def steps(result: Result) -> Table:
    """Planned changes of load, and how soon the server followed."""
    rows = []
    for name, every in result.classes.items():
        for each in every.steps:
            times = ("never" if what in each.never else show.time(getattr(each, what)) for what in _TIMES)
            change = f"{show.number(each.before)}/s to {show.number(each.after)}/s"
            rows.append((name, change, show.at(each.at), *times))
    head = ("class", "step", "at", "offline yields in", "offline fills in", "attainment recovers in")
    return Table("Steps of load", head, tuple(rows), left=2)


def latencies(result: Result, names: Sequence[str] = _KEY_METRICS, *, all_classes: bool = False) -> Table:
    """A row an online class and metric."""
    rows = []
    for name, each in _present(result):
        for metric in names if each.online or all_classes else ():
            found = each.metrics.get(metric)
            if found is not None and found.count:
                quantiles = (show.quantile(one) for one in found.quantiles)
                mean = show.interval(found.mean, "time")
                rows.append((name, metric, show.count(found.count), mean, *quantiles, show.time(found.greatest)))
    head = ("class", "metric", "n", "mean [95 % in the run]", "p50", "p90", "p95", "p99", "p99.9", "max")
    return Table("Latencies", head, tuple(rows), left=2, note="of the requests that have the metric")


def every_latency(result: Result) -> Table:
    """All metrics, those on the wire's clock too."""
    names = sorted({name for _, each in _present(result) for name in each.metrics})
    return replace(latencies(result, names, all_classes=True), title="All latencies")


def tokens(result: Result) -> Table:
    """What was asked for and what came."""
    head = ("class", "prompt sent", "prompt counted", "out asked", "out got", "wrong length", "counted by", "cached")
    rows = []
    for name, each in _present(result):
        told = each.tokens
        by = ", ".join(f"{source} {show.share(part)}" for source, part in told.sources.items())
        of_ideal = "" if told.cached_of_ideal is None else f" ({show.share(told.cached_of_ideal)} of ideal)"
        numbers = (told.in_want, told.in_got, told.out_want, told.out_got, told.wrong_length)
        rows.append(
            (name, *(show.count(one) for one in numbers), by or show.UNKNOWN, f"{show.count(told.cached)}{of_ideal}")
        )
    return Table("Tokens of whole answers", head, tuple(rows))


def identity(result: Result) -> Table:
    """Which run this was."""
    rows = [(name, show.plain(value, 400)) for name, value in result.identity.items()]
    rows += [(f"{name}, trace", show.plain(value, 400)) for name, value in result.transforms.items()]
    rows += [(name, show.number(value)) for name, value in result.realised.items()]
    return Table("Identity", ("", ""), tuple(rows), left=2)


def _present(result: Result) -> Iterator[tuple[str, ClassResult]]:
    """Classes with requests in the window; a job by the Batch API has none of its own."""
    for name, each in result.classes.items():
        if each.offered or each.online:
            yield name, each
