"""What a run cannot claim, said by the run itself, and what makes it say nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure.slo import CENSORED_AT_MOST
from loadgen.measure.supply import ran_dry
from loadgen.stats.quantile import samples_needed

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns
    from loadgen.measure.facts import RunFacts
    from loadgen.result import ClassResult
    from loadgen.stats.warmup import Cut

_FLAGGED = 0.01
"""Above this share wrong lengths and disagreeing counts are pointed out."""


def invalid_reasons(
    at: Columns,
    by_class: dict[str, Columns],
    classes: dict[str, ClassResult],
    facts: RunFacts,
) -> list[str]:
    """What the records themselves say against the run; the gate's own reasons stand beside these."""
    found = []
    known = sum(len(each) for each in by_class.values())
    if known != len(at):
        found.append(f"{len(at) - known} records are of a class that the plan does not have")
    for name, each in by_class.items():
        planned = facts.classes[name].planned
        if planned is not None and planned != len(each):
            found.append(f"{name}: {planned} requests were planned and {len(each)} have a record")
        dry = ran_dry(each, facts.classes[name].supply, facts.window) if facts.classes[name].closed else None
        if dry is not None:
            found.append(f"{name}: the closed loop had nothing more to send from {dry / 1e6:.1f} s on")
        early = int(np.count_nonzero(each.sent < each.due))
        if early:
            found.append(f"{name}: {early} requests were sent before they were due")
        told = classes[name].attainment
        if told is not None and told.censored > CENSORED_AT_MOST * told.offered:
            found.append(
                f"{name}: {told.censored} of {told.offered} requests were still open, their deadline not passed"
            )
    found += [f"fault {each.name} was not seen to happen" for each in facts.faults if not each.proved]
    return found


def notes(classes: dict[str, ClassResult], facts: RunFacts, window: tuple[int, int], cut: Cut | None) -> list[str]:
    """One line each, for the reader of any output."""
    found = ["one run: its intervals say nothing about another run; claims want at least 6 runs"]
    if facts.warmup == 0:
        found.append("no warm-up: the first requests met a server that was not warm")
    if cut is not None and not cut.steady:
        found.append("not steady: TTFT had not settled by the middle of the window")
    if cut is not None and window[0] > facts.window[0]:
        found.append(f"the window begins {(window[0] - facts.window[0]) // 1_000_000} s later, when TTFT had settled")
    if facts.allow_lag:
        found.append("--allow-lag: the client's own lag was not judged")
    if not facts.curve_agrees:
        found.append("the server's counter of offline tokens and the jobs' own counts differ by more than 1 %")
    for name, each in classes.items():
        found += [f"{name}: {text}" for text in _of_class(each)]
    return found


def _of_class(each: ClassResult) -> list[str]:
    found = []
    ttft = each.metrics["ttft"].count
    missing = [f"p{q * 100:g} ({samples_needed(q)})" for q in (0.95, 0.99, 0.999) if ttft < samples_needed(q)]
    if missing and each.online:
        found.append(f"{ttft} samples are too few for {', '.join(missing)} of ttft")
    if each.closed:
        found.append("closed loop: its rate is the server's doing, so nothing is said about rates")
    if each.overloaded:
        found.append("OVERLOADED: its latencies depend on how long the run was")
    answers = each.outcomes["ok"]
    by_chunk = each.tokens.sources.get("chunks", 0.0)
    if by_chunk:
        found.append(f"{by_chunk:.1%} of answers have their tokens counted as chunks, which may hold several")
    if answers and each.tokens.wrong_length > _FLAGGED * answers:
        found.append(f"{each.tokens.wrong_length} of {answers} answers are not as long as asked for")
    if answers and each.tokens.chunks_disagree > _FLAGGED * answers:
        found.append(
            f"{each.tokens.chunks_disagree} of {answers} answers have chunks that do not add up to their count"
        )
    if each.attainment is not None and each.attainment.unmeasured:
        found.append(f"{each.attainment.unmeasured} requests count as bad since their records lack what the SLO asks")
    return found
