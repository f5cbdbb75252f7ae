"""Records and facts to the result tree. Pure: a report made next year from the same files says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from loadgen import result as tree
from loadgen.measure import metrics
from loadgen.measure.classes import class_result, due_within, interval, outcomes
from loadgen.measure.columns import columns
from loadgen.measure.fault import fault_result
from loadgen.measure.jobs import figures, tokens_within
from loadgen.measure.notes import invalid_reasons, notes
from loadgen.measure.slo import check
from loadgen.measure.steps import rates
from loadgen.stats.batch_means import rate_interval, t_interval
from loadgen.stats.warmup import Cut, mser5, per_second

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadgen.measure.columns import Columns
    from loadgen.measure.facts import JobFacts, RunFacts
    from loadgen.record import Record

IDENTITY = (
    "seed",
    "plan_hash",
    "model_hash",
    "server_command",
    "server_version",
    "commit",
    "cpu_flags",
    "cores",
    "governor",
    "kernel",
    "loadgen_version",
    "cache",
    "lengths",
    "dialect",
)
"""What says which run this was; what is not known is `unknown` and never blank."""


def summarise(records: Iterable[Record], facts: RunFacts) -> tree.Result:
    """The tree of `result.json`.

    Raises:
        BadData: records that contradict themselves, or of a class that the facts do not know.
        BadInput: an SLO that cannot be judged.
    """
    return summarise_columns(columns(records), facts)


def summarise_columns(at: Columns, facts: RunFacts) -> tree.Result:
    """The same, of records that are arrays already."""
    for name, each in facts.classes.items():
        check(each.slo, name)
    by_class = {name: at.where(at.cls == name) for name in facts.classes}
    window, cut = measured_window(by_class, facts)
    classes = {name: class_result(by_class[name], facts.classes[name], facts, window) for name in facts.classes}
    invalid = [*facts.invalid, *invalid_reasons(at, by_class, classes, facts)]
    overloaded = [name for name, each in classes.items() if each.overloaded]
    return tree.Result(
        version=tree.RESULT_VERSION,
        mode=facts.mode,
        quick=facts.quick,
        status=_status(invalid, overloaded, facts),
        invalid=invalid,
        disturbed=list(facts.disturbed),
        overloaded=overloaded,
        interrupted=facts.interrupted,
        window=_window(facts, window, cut),
        outcomes=outcomes(at),
        records=len(at),
        classes=classes,
        jobs={each.name: _job(each, at) for each in facts.jobs},
        faults={each.name: fault_result(each, at) for each in facts.faults},
        offline_tokens_per_s=_offline_rate(by_class, facts, window),
        identity=_identity(facts.identity),
        realised=dict(facts.realised),
        transforms=dict(facts.transforms),
        notes=notes(classes, facts, window, cut),
    )


def with_window(facts: RunFacts, window: tuple[int, int]) -> RunFacts:
    """The same run seen through another window (`report --window`), which nothing shortens."""
    # What the best cache would have found is known of the planned window alone.
    classes = {name: msgspec.structs.replace(each, ideal_cached_tokens=None) for name, each in facts.classes.items()}
    return msgspec.structs.replace(facts, window=window, warmup_auto=False, classes=classes)


def measured_window(by_class: dict[str, Columns], facts: RunFacts) -> tuple[tuple[int, int], Cut | None]:
    """The window, shortened by MSER-5 where the warm-up was `auto`: the largest cut of any online class.

    A class that has not settled by the middle says so and cuts nothing: half a run thrown away would not mend it.
    """
    start, end = facts.window
    if not facts.warmup_auto:
        return facts.window, None
    cuts = []
    for name, at in by_class.items():
        if facts.classes[name].online:
            inside = at.where(due_within(at, facts.window))
            found = mser5(per_second(inside.due, metrics.ttft(inside), start, end))
            cuts += [found] if found is not None else []
    if not cuts:
        return facts.window, None
    seconds = max((each.seconds for each in cuts if each.steady), default=0)
    return (start + seconds * 1_000_000, end), Cut(seconds, all(each.steady for each in cuts))


def _identity(known: dict[str, str]) -> dict[str, str]:
    return {**dict.fromkeys(IDENTITY, "unknown"), **{key: value or "unknown" for key, value in known.items()}}


def _window(facts: RunFacts, window: tuple[int, int], cut: Cut | None) -> tree.Window:
    return tree.Window(
        start=window[0],
        end=window[1],
        cut=window[0] - facts.window[0],
        steady=None if cut is None else cut.steady,
    )


def _status(
    invalid: list[str],
    overloaded: list[str],
    facts: RunFacts,
) -> Literal["ok", "disturbed", "overloaded", "invalid"]:
    if invalid:
        return "invalid"
    if overloaded:
        return "overloaded"
    return "disturbed" if facts.disturbed else "ok"


def _job(job: JobFacts, at: Columns) -> tree.JobResult:
    found = figures(job, at.where(at.job == job.name))
    return tree.JobResult(
        cls=job.cls,
        deadline_judge=job.deadline_judge,
        **{name: getattr(found, name) for name in found.__dataclass_fields__},
    )


def _offline_rate(by_class: dict[str, Columns], facts: RunFacts, window: tuple[int, int]) -> tree.Interval | None:
    if facts.offline_curve is not None and len(facts.offline_curve.times) > 1:
        seconds = rates(facts.offline_curve, *window)
        whole = len(seconds) // 10 * 10
        return interval(t_interval(seconds[:whole].reshape(10, -1).mean(axis=1))) if whole else None
    times = [metrics.delivery_times(at) for name, at in by_class.items() if not facts.classes[name].online]
    if not times or not sum(len(each) for each in times):
        return _offline_rate_of_batches(facts, window)
    pooled = np.concatenate(times)
    return interval(rate_interval(pooled, np.ones(len(pooled)), window))


def _offline_rate_of_batches(facts: RunFacts, window: tuple[int, int]) -> tree.Interval | None:
    """Without the server's counters: no interval, since items that end between two polls cannot be told apart."""
    found = [tokens_within(each, window) for each in facts.jobs]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found) or window[1] <= window[0]:
        return None
    return tree.Interval(sum(known) / ((window[1] - window[0]) / 1e6), None, None, 0)
