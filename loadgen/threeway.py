"""`threeway`: the stream alone, the jobs alone, and both together: what each costs the other.

With `--repeat` each round has a seed of its own and begins with another of the three, so that a drift weighs on all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from loadgen.campaign import QUIET, Evidence, Interrupted, carry_out, in_columns, part_of, shown, value_in, work_ran_out
from loadgen.errors import ExitCode, LoadgenError, first_of
from loadgen.measure import expr
from loadgen.measure.evaluate import evaluate
from loadgen.measure.expr import Figure
from loadgen.measure.interference import harvest, interference, over_runs, spread_of
from loadgen.run.files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from loadgen.campaign import Tools
    from loadgen.measure.interference import Interference
    from loadgen.options import RunOptions
    from loadgen.run.stage import RunOutcome
    from loadgen.spec import Scenario
    from loadgen.stats.paired import Spread

THREEWAY_VERSION = 1
Part = Literal["online", "offline", "both"]
PARTS: tuple[Part, ...] = ("online", "offline", "both")
RAN_OUT = "its jobs ended within one of the runs, so no harvest is known: give them more items, or pool=closed"
_OF_TWO_RUNS = ("harvest", "interference")


class RunEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One of the three runs of a round."""

    round: int
    part: Part
    seed: int
    folder: str
    status: str
    invalid: list[str]
    offline_tokens_per_s: float | None


class ChangeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A figure alone and beside the jobs, microseconds."""

    metric: str
    statistic: str
    alone: float | None
    beside: float | None
    ratio: float | None


class ClassEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the jobs cost one online class in one round. `loss`: attainment alone less beside, over `pairs` requests
    that counted in both; its interval is from within the run.
    """

    round: int
    pairs: int
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    changes: list[ChangeEntry]


class SpreadEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Over rounds; `low` and `high` are the 95 % t interval, from six rounds on."""

    least: float
    median: float
    most: float
    low: float | None
    high: float | None


class CheckEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An assertion on figures that want two runs."""

    round: int
    text: str
    holds: bool
    reason: str | None


class ThreewayRecord(msgspec.Struct, kw_only=True):
    """`threeway.json`; written anew after every run."""

    version: int = THREEWAY_VERSION
    rounds: int = 1
    interrupted: bool = False
    runs: list[RunEntry] = []
    classes: dict[str, list[ClassEntry]] = {}
    harvest: dict[str, list[float | None]] = {}
    """By class of jobs, a number a round: tokens a second beside the stream over alone."""
    loss_over_rounds: dict[str, SpreadEntry | None] = {}
    ratios_over_rounds: dict[str, dict[str, SpreadEntry | None]] = {}
    harvest_over_rounds: dict[str, SpreadEntry | None] = {}
    checks: list[CheckEntry] = []
    notes: list[str] = []


def encode(record: ThreewayRecord) -> bytes:
    """As it stands in the file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(text: bytes) -> ThreewayRecord:
    """What `encode` wrote.

    Raises:
        msgspec.ValidationError: not such a tree.
    """
    return msgspec.json.decode(text, type=ThreewayRecord)


@dataclass(slots=True)
class Threeway:
    """All rounds."""

    options: RunOptions
    folder: Path
    tools: Tools
    record: ThreewayRecord = field(default_factory=ThreewayRecord)
    codes: set[ExitCode] = field(default_factory=set)
    _found: dict[str, list[Interference]] = field(default_factory=dict)

    def run(self) -> ExitCode:
        """What there is by then stays when the user or an error ends it.

        Raises:
            LoadgenError: a run could not be made.
        """
        self.record.rounds = self.options.scenario.repeat
        try:
            for number in range(self.record.rounds):
                self._round(number)
        except (Interrupted, KeyboardInterrupt):
            self.record.interrupted = True
            self.codes.add(ExitCode.INTERRUPTED)
        except LoadgenError:
            self.record.interrupted = True
            raise
        finally:
            self._save()
        return first_of(self.codes)

    def _round(self, number: int) -> None:
        seed = self.options.scenario.seed + number
        outcomes: dict[Part, RunOutcome] = {}
        for place in range(len(PARTS)):
            part = PARTS[(place + number) % len(PARTS)]
            name = f"{number + 1:02}-{part}" if self.record.rounds > 1 else part
            scenario = replace(part_scenario(self.options.scenario, part), seed=seed)
            outcome = carry_out(self.tools, part_of(self.options, scenario, self.folder / name), QUIET)
            outcomes[part] = outcome
            self._note(number, part, seed, outcome)
        evidence = {part: self.tools.opener(outcome) for part, outcome in outcomes.items()}
        self._interference(number, evidence)
        self._harvest(outcomes, evidence)
        self._check(number, evidence["both"])
        self._save()

    def _note(self, number: int, part: Part, seed: int, outcome: RunOutcome) -> None:
        self.codes |= outcome.codes
        rate = outcome.result.offline_tokens_per_s
        entry = RunEntry(
            round=number,
            part=part,
            seed=seed,
            folder=outcome.folder.name,
            status=outcome.result.status,
            invalid=list(outcome.result.invalid),
            offline_tokens_per_s=None if rate is None else rate.value,
        )
        self.record.runs.append(entry)
        self._save()
        self.tools.say(f"{part}: {entry.status}")

    def _interference(self, number: int, evidence: dict[Part, Evidence]) -> None:
        alone, beside = evidence["online"], evidence["both"]
        # Both are looked at over the later of their windows: MSER-5 may have shortened one.
        window = (max(alone.window[0], beside.window[0]), min(alone.window[1], beside.window[1]))
        for spec in self.options.scenario.online:
            at = [each.at.where((each.at.cls == spec.name) & _within(each, window)) for each in (alone, beside)]
            facts = beside.facts.classes[spec.name]
            horizons = (alone.facts.horizon, beside.facts.horizon)
            found = interference(at[0], at[1], facts, window, horizons)
            self._found.setdefault(spec.name, []).append(found)
            self.record.classes.setdefault(spec.name, []).append(_entry(number, found))

    def _harvest(self, outcomes: dict[Part, RunOutcome], evidence: dict[Part, Evidence]) -> None:
        rates = [outcomes[part].result.offline_tokens_per_s for part in ("both", "offline")]
        whole = harvest(*(None if each is None else each.value for each in rates))
        jobs = self.options.scenario.offline
        for spec in jobs:
            ran_out = [work_ran_out(evidence[part], spec.name) for part in ("both", "offline")]
            figure = Figure(spec.name, None, False, "tokens_per_s", "window", None)
            own = harvest(*(value_in(figure, evidence[part]).number for part in ("both", "offline")))
            # The rate within the window is what counts, unless there was not work for all of it; with several classes
            # only their own jobs tell them apart.
            known = own if all(ran_out) or len(jobs) > 1 else whole
            if any(ran_out) and not all(ran_out):
                known = None
                self.record.notes.append(f"{spec.name}: {RAN_OUT}")
            self.record.harvest.setdefault(spec.name, []).append(known)

    def _check(self, number: int, evidence: Evidence) -> None:
        other = {f"{name}.harvest": values[-1] for name, values in self.record.harvest.items()}
        other |= {f"{name}.interference": entries[-1].loss for name, entries in self.record.classes.items()}
        known = {name: value for name, value in other.items() if value is not None}
        for text in self.options.scenario.asserts:
            parsed = expr.parse(text, "--assert")
            if parsed.metric in _OF_TWO_RUNS:
                found = evaluate(parsed, evidence.at, evidence.facts, evidence.window, known)
                entry = CheckEntry(round=number, text=found.text, holds=found.holds, reason=found.value.reason)
                self.record.checks.append(entry)
                if not found.holds:
                    self.codes.add(ExitCode.ASSERTION)

    def _save(self) -> None:
        record = self.record
        together = {name: over_runs(found) for name, found in self._found.items()}
        record.loss_over_rounds = {name: _spread(each.loss) for name, each in together.items()}
        record.ratios_over_rounds = {
            name: {which: _spread(spread) for which, spread in each.ratios.items()} for name, each in together.items()
        }
        record.harvest_over_rounds = {name: _spread(spread_of(each)) for name, each in record.harvest.items()}
        write_whole(self.folder / "threeway.json", encode(record))


def part_scenario(scenario: Scenario, part: Part) -> Scenario:
    """One of the three. What belongs to classes that are left out goes with them."""
    if part == "both":
        kept = tuple(each for each in scenario.asserts if expr.parse(each).metric not in _OF_TWO_RUNS)
        return replace(scenario, asserts=kept, repeat=1)
    if part == "online":
        names = {expr.ALL, *(spec.name for spec in scenario.online)}
        aborts = tuple(each for each in scenario.aborts if expr.parse(each, "--abort").cls in names)
        return replace(scenario, offline=(), asserts=(), aborts=aborts, repeat=1)
    return replace(scenario, online=(), probe=None, faults=(), asserts=(), aborts=(), repeat=1)


def text(record: ThreewayRecord) -> str:
    """As a table; times in ms."""
    parts = ["INTERRUPTED: this is what there was\n"] if record.interrupted else []
    bad = [f"{each.folder}: {each.status.upper()} {'; '.join(each.invalid)}" for each in record.runs if each.invalid]
    parts += [f"{line.rstrip()}\n" for line in bad]
    for name, entries in record.classes.items():
        parts.append(_class_text(name, entries, record))
    for name, values in record.harvest.items():
        told = ", ".join(shown(each, "%") for each in values)
        parts.append(f"{name}: harvest {told}{_over(record.harvest_over_rounds.get(name), '%')}\n")
    parts += [f"{'holds' if each.holds else 'FAILS'}: {each.text}{_why(each)}\n" for each in record.checks]
    parts += [f"{note}\n" for note in dict.fromkeys(record.notes)]
    if len(record.runs) < 3 * 6 and record.runs:
        parts.append("fewer than 6 rounds carry no claim about another run: --repeat 6\n")
    return "".join(parts)


def _class_text(name: str, entries: list[ClassEntry], record: ThreewayRecord) -> str:
    last = entries[-1]
    interval = "" if last.loss_low is None else f" ({shown(last.loss_low, '%')}..{shown(last.loss_high, '%')})"
    over = _over(record.loss_over_rounds.get(name), "%")
    lines = [f"{name}: attainment lost {shown(last.loss, '%')}{interval} over {last.pairs} pairs of requests{over}\n"]
    rows: list[tuple[str, ...]] = [("  ms", "alone", "beside", "ratio")]
    for each in last.changes:
        cells = (shown(each.alone, "ms"), shown(each.beside, "ms"), shown(each.ratio))
        rows.append((f"  {each.metric} {each.statistic}", *cells))
    return "".join([*lines, in_columns(rows)])


def _over(spread: SpreadEntry | None, unit: str) -> str:
    if spread is None or spread.least == spread.most:
        return ""
    interval = "" if spread.low is None else f", 95 % {shown(spread.low, unit)}..{shown(spread.high, unit)}"
    told = (shown(each, unit) for each in (spread.least, spread.median, spread.most))
    return f"; over rounds {' / '.join(told)}{interval}"


def _why(each: CheckEntry) -> str:
    return f" ({each.reason})" if each.reason else ""


def _within(evidence: Evidence, window: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return (evidence.at.due >= window[0]) & (evidence.at.due <= window[1])


def _entry(number: int, found: Interference) -> ClassEntry:
    share = found.attainment
    return ClassEntry(
        round=number,
        pairs=found.pairs,
        loss=None if share is None else 0.0 - share.value,
        loss_low=None if share is None or share.high is None else 0.0 - share.high,
        loss_high=None if share is None or share.low is None else 0.0 - share.low,
        changes=[
            ChangeEntry(
                metric=each.metric, statistic=each.statistic, alone=each.alone, beside=each.beside, ratio=each.ratio
            )
            for each in found.changes
        ],
    )


def _spread(found: Spread | None) -> SpreadEntry | None:
    if found is None:
        return None
    inside = found.interval
    return SpreadEntry(
        least=found.lowest,
        median=found.median,
        most=found.highest,
        low=None if inside is None else inside.low,
        high=None if inside is None else inside.high,
    )
