"""What stands on the page of one run, and of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.report import against as sides
from loadgen.report import chart_lanes, chart_latency, chart_pairs, chart_slo, chart_time, charts, show, story, tables
from loadgen.report import runs as several
from loadgen.report.html import Card, Folded, Item, Listing, Row, Section, Stack, page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadgen.report.against import Against
    from loadgen.report.charts import Chart
    from loadgen.report.load import LoadedRun
    from loadgen.report.tables import Table

_CHARTS_OF = 6
"""Of more runs than these each has its tables only: a page is read in a browser."""
_STAMPS = ("INVALID", "INCOMPLETE", "VIRTUAL")


def report(runs: Sequence[LoadedRun], against: Sequence[Against], bucket: int) -> str:
    """The file. `bucket`: of timelines, microseconds.

    Raises:
        BadInput: plotly is not installed.
    """
    kinds = [flag.kind for run in runs for flag in story.flags(run.result, complete=run.complete)]
    stamp = next((each for each in _STAMPS if each in kinds), "")
    if len(runs) == 1:
        sections = [*_run(runs[0], bucket), *_against(against), _limits(runs[0])]
        return page(runs[0].name, sections, status=runs[0].result.status, stamp=stamp)
    sections = [_overview(runs)]
    for run in runs:
        with_charts = len(runs) <= _CHARTS_OF
        found = [*(_run(run, bucket) if with_charts else _tables(run)), _limits(run)]
        sections += [Section(run.name, (), found[0].flags, found[0].facts, found[0].cards), *_untitled(found)]
    sections += _against(against)
    return page(f"{len(runs)} runs", sections, stamp=stamp)


def _untitled(found: Sequence[Section]) -> Iterator[Section]:
    """Below a run's own heading the names of its parts are those of their tables and charts."""
    for each in found:
        if each.items:
            yield Section("", each.items)


def _run(run: LoadedRun, bucket: int) -> Iterator[Section]:
    result = run.result
    summary = _kept(tables.classes(result), tables.asserted(run.checks), tables.bad(result))
    flags = story.flags(result, complete=run.complete)
    yield Section("", summary, flags, [*story.facts(result), *_warned(run)], tuple(_cards(run)))
    attainment = _kept(tables.attainment(result), tables.population(result), tables.sessions(result))
    scale = chart_slo.by_scale([run])
    if scale is not None:
        yield Section("Attainment", [Row((scale, *attainment[:1])), *attainment[1:]])
    elif attainment:
        yield Section("Promises", attainment)
    line = chart_time.timeline(run, bucket)
    if line is not None:
        yield Section("Over time", [line, *_kept(tables.faults(result), tables.steps(result))])
    cdfs = chart_latency.cdfs(run)
    if cdfs:
        yield Section("Latency", [Row(tuple(cdfs)), *_kept(tables.latencies(result))])
    if result.jobs:
        yield Section("Offline work", [tables.jobs(result)])
    bars = chart_lanes.lanes(run)
    if bars is not None:
        yield Section("Requests", [bars])


def _tables(run: LoadedRun) -> Iterator[Section]:
    result = run.result
    flags = story.flags(result, complete=run.complete)
    yield Section("", tables.of_run(result, run.checks), flags, [*story.facts(result), *_warned(run)], ())


def _limits(run: LoadedRun) -> Section:
    result = run.result
    listing = Listing("What this run cannot claim", tuple(story.limits(result)))
    more: tuple[Item, ...] = tuple(_kept(tables.tokens(result), tables.every_latency(result), tables.identity(result)))
    return Section("Limits and details", [listing, Folded("Tokens, all latencies, identity of the run", more)])


def _overview(runs: Sequence[LoadedRun]) -> Section:
    made = [chart_slo.by_rate(runs), chart_slo.frontier(runs)]
    made += [chart_slo.by_scale(runs)] if len(runs) <= _CHARTS_OF else []
    found: list[Chart] = [each for each in made if each is not None]
    rows = [Row(tuple(found[place : place + 2])) for place in range(0, len(found), 2)]
    return Section("", [*_kept(several.table(runs), several.repeats(runs)), *rows])


def _against(found: Sequence[Against]) -> Iterator[Section]:
    for each in found:
        made = chart_pairs.differences(each)
        told = sides.tables(each)
        beside: list[Item | Row] = [Row((Stack(tuple(made[:2])), *told[1:]))] if made else list(told[1:])
        rest: list[Item | Row] = [Row(tuple(made[2:]))] if len(made) > 2 else []
        yield Section(f"Interference: {each.run.name} against {each.other.name}", [*told[:1], *beside, *rest])


def _kept(*found: Table) -> list[Table]:
    return [each for each in found if each.rows]


def _warned(run: LoadedRun) -> list[story.Fact]:
    return [story.Fact("warning", each, alarming=True) for each in run.warnings]


def _cards(run: LoadedRun) -> Iterator[Card]:
    tint = charts.colours(list(run.facts.classes))
    for name, each in run.result.classes.items():
        if each.online:
            told = each.attainment
            big = show.share(told.value) if told is not None else show.share(each.outcomes["ok"] / max(each.offered, 1))
            rows = [
                (f"{title} p50 / p99", f"{show.quantile_of(found, 0.5)} / {show.quantile_of(found, 0.99)}")
                for title, metric in (("TTFT", "ttft"), ("TPOT", "tpot"))
                if (found := each.metrics.get(metric)) is not None and found.count
            ]
            rate = "closed loop" if each.closed else f"{show.number(each.offered_per_s)}/s"
            rows.append(("offered", f"{show.count(each.offered)}, {rate}"))
            what = f"attainment of {told.slo}" if told is not None else "answered; no SLO was given"
            yield Card(tables.label(name, each), tint[name], big, what, tuple(rows))
    for name, job in run.result.jobs.items():
        rows = [
            ("items done", f"{job.completed:,} of {job.items:,}"),
            ("took", "not ended" if job.completion is None else show.time(job.completion)),
            ("in time", show.yes(job.deadline_met)),
        ]
        big = f"{show.number(job.tokens_per_s)} tok/s"
        yield Card(f"{name} offline job", tint.get(job.cls, charts.MUTED), big, "prompt and output tokens", tuple(rows))
