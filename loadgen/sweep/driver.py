"""Carries out a sweep: the points first, then the search, each run kept and noted as soon as it is there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from loadgen.campaign import Interrupted, carry_out, part_of, work_ran_out
from loadgen.errors import ExitCode, LoadgenError, first_of
from loadgen.measure.evaluate import evaluate
from loadgen.run.files import write_whole
from loadgen.sweep import axis, record, search
from loadgen.sweep.record import Found, Mode, Point, Purpose, SweepRecord

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.campaign import Tools
    from loadgen.options import SweepOptions
    from loadgen.run.stage import RunOutcome
    from loadgen.spec import Scenario

MOST_SEARCH_RUNS = 60
"""Of one search, confirmations included: a condition that is a coin's throw has no answer."""
_UNJUDGED_TRIES = 2
"""A run in which the client was the bottleneck is made so often before nothing more is claimed."""


@dataclass(slots=True)
class Sweep:
    """One sweep. `natural`: rate of a class that follows a trace, as its scenario has it."""

    options: SweepOptions
    folder: Path
    tools: Tools
    natural: float | None = None
    record: SweepRecord = field(init=False)
    codes: set[ExitCode] = field(default_factory=set)
    _alone: float | None = None

    def __post_init__(self) -> None:
        self.record = SweepRecord(
            cls=self.options.vary.cls,
            find=None if self.options.find is None else str(self.options.find),
            tolerance=self.options.tolerance,
            with_offline=self.options.with_offline,
        )

    @property
    def modes(self) -> tuple[Mode, ...]:
        """See `modes_of`."""
        return modes_of(self.options)

    def rates(self) -> tuple[float, ...]:
        """Of the points."""
        return axis.rates(self.options.vary, self.options.points)

    def run(self) -> ExitCode:
        """All of it. What there is by then stays when the user or an error ends it.

        Raises:
            LoadgenError: a run could not be made; those before are kept.
        """
        try:
            self._run()
        except (Interrupted, KeyboardInterrupt) as ended:
            self.record.interrupted = True
            self.codes.add(ExitCode.INTERRUPTED)
            outcome = ended.outcome if isinstance(ended, Interrupted) else None
            if outcome is not None and outcome.result.records:
                self.tools.say(f"the run in {outcome.folder.name} was interrupted, and is kept beside the others")
        except LoadgenError:
            self.record.interrupted = True
            self._save()
            raise
        self._save()
        return self._code()

    def _run(self) -> None:
        if len(self.modes) == 2:
            self._jobs_alone()
        for rate in self.rates():
            for mode in self.modes:
                self._trial(rate, mode, self.options.run.scenario.seed, "point")
        if self.options.find is not None:
            for mode in self.modes:
                self.record.found.append(self._search(mode))
                self._save()

    def _jobs_alone(self) -> None:
        scenario = axis.jobs_alone(self.options.run.scenario)
        outcome = self._carry_out(scenario, "jobs-alone")
        rate = outcome.result.offline_tokens_per_s
        ran_out = work_ran_out(self.tools.opener(outcome))
        self._alone = None if rate is None or ran_out else rate.value
        if ran_out:
            self.tools.say("the jobs alone ended within their run, so no harvest is known: more items, or pool=closed")
        self._note(outcome, _blank(outcome, self.folder, "on", "alone", scenario.seed))

    def _search(self, mode: Mode) -> Found:
        wanted, tolerance = self.options.confirm, self.options.tolerance
        for _ in range(MOST_SEARCH_RUNS):
            found = search.bracket(self._trials(mode))
            rate = search.next_rate(found, tolerance)
            if rate is not None:
                self._trial(rate, mode, self.options.run.scenario.seed, "search")
                continue
            if found.low is None or self._confirmed(found.low, mode) >= wanted:
                return self._found(found, mode)
            self._trial(found.low, mode, self._fresh_seed(found.low, mode), "confirm")
        return self._found(search.bracket(self._trials(mode)), mode)

    def _found(self, found: search.Bracket, mode: Mode) -> Found:
        limit: Literal["condition", "client", "range", "unfinished"] = "condition"
        confirmed = 0 if found.low is None else self._confirmed(found.low, mode)
        if found.high is None:
            limit = "range"
        elif all(each.holds is not False for each in self._at(found.high, mode)):
            limit = "client"
        if found.low is not None and confirmed < self.options.confirm:
            limit = "unfinished"
        return Found(
            mode=mode,
            low=found.low,
            high=found.high,
            within_tolerance=found.within(self.options.tolerance),
            confirmed=confirmed,
            wanted=self.options.confirm,
            limit=limit,
        )

    def _at(self, rate: float, mode: Mode) -> list[Point]:
        return [each for each in self.record.points if each.rate == rate and each.mode == mode]

    def _trials(self, mode: Mode) -> list[search.Trial]:
        """An attempt that could not be judged does not count where another with its seed could."""
        mine = [each for each in self.record.points if each.mode == mode and each.rate is not None]
        judged = {(each.rate, each.seed) for each in mine if each.holds is not None}
        counted = [each for each in mine if each.holds is not None or (each.rate, each.seed) not in judged]
        return [search.Trial(each.rate or 0.0, each.holds is True) for each in counted]

    def _confirmed(self, rate: float, mode: Mode) -> int:
        return sum(each.purpose == "confirm" and each.holds is True for each in self._at(rate, mode))

    def _fresh_seed(self, rate: float, mode: Mode) -> int:
        used = {each.seed for each in self._at(rate, mode)}
        return max(used | {self.options.run.scenario.seed}) + 1

    def _trial(self, rate: float, mode: Mode, seed: int, purpose: Purpose) -> None:
        for number in range(_UNJUDGED_TRIES):
            scenario = axis.at_rate(self.options.run.scenario, self.options.vary.cls, rate, self.natural)
            if mode == "off":
                scenario = axis.without_jobs(scenario)
            scenario = replace(scenario, seed=seed)
            name = _name(rate, mode, seed, number, both=len(self.modes) == 2)
            outcome = self._carry_out(scenario, name)
            point = self._judged(outcome, _blank(outcome, self.folder, mode, purpose, seed), rate)
            self._note(outcome, point)
            if self.options.find is None or point.holds is not None:
                return

    def _carry_out(self, scenario: Scenario, name: str) -> RunOutcome:
        return carry_out(self.tools, part_of(self.options.run, scenario, self.folder / name))

    def _judged(self, outcome: RunOutcome, point: Point, rate: float) -> Point:
        result = outcome.result
        point = _with(
            point,
            rate=rate,
            realised=result.realised.get(f"{self.options.vary.cls}.rate"),
            harvest=self._harvest(outcome, point),
        )
        find = self.options.find
        if find is None:
            return point
        if result.invalid:
            return _with(point, reason=f"INVALID: {result.invalid[0]}")
        if result.overloaded:
            return _with(point, holds=False, reason=f"OVERLOADED: {', '.join(result.overloaded)}")
        if ExitCode.UNREACHABLE in outcome.codes:
            return _with(point, holds=False, reason="stopped by --abort")
        evidence = self.tools.opener(outcome)
        other = {} if point.harvest is None else {f"{find.cls}.harvest": point.harvest}
        judged = evaluate(find, evidence.at, evidence.facts, evidence.window, other)
        return _with(point, holds=judged.holds, value=judged.value.number, reason=judged.value.reason)

    def _harvest(self, outcome: RunOutcome, point: Point) -> float | None:
        offline = point.offline_tokens_per_s
        if offline is None or not self._alone or point.mode == "off":
            return None
        return None if work_ran_out(self.tools.opener(outcome)) else offline / self._alone

    def _note(self, outcome: RunOutcome, point: Point) -> None:
        self.codes |= outcome.codes - {ExitCode.UNREACHABLE}
        self.record.lengths = outcome.result.identity.get("lengths", "unknown")
        self.record.points.append(point)
        self._save()
        self.tools.say(_line(point))

    def _save(self) -> None:
        write_whole(self.folder / "sweep.json", record.encode(self.record))

    def _code(self) -> ExitCode:
        codes = set(self.codes)
        if self.options.find is not None:
            # What fails on the way up is what a search is for; only its answer counts.
            codes.discard(ExitCode.ASSERTION)
            complete = len(self.record.found) == len(self.modes)
            if not complete or not all(each.settled for each in self.record.found):
                codes.add(ExitCode.ASSERTION)
        return first_of(codes)


def modes_of(options: SweepOptions) -> tuple[Mode, ...]:
    """Beside the jobs, without, or both: in the order in which each rate is run."""
    if not options.run.scenario.offline:
        return ("on",)
    table: dict[str, tuple[Mode, ...]] = {"on": ("on",), "off": ("off",), "both": ("off", "on")}
    return table[options.with_offline]


def _blank(outcome: RunOutcome, folder: Path, mode: Mode, purpose: Purpose, seed: int) -> Point:
    offline = outcome.result.offline_tokens_per_s
    return Point(
        rate=None,
        realised=None,
        mode=mode,
        purpose=purpose,
        seed=seed,
        folder=_within(outcome.folder, folder),
        status=outcome.result.status,
        invalid=list(outcome.result.invalid),
        classes=record.rows(outcome.result),
        offline_tokens_per_s=None if offline is None else offline.value,
    )


def _within(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _with(point: Point, **changes: object) -> Point:
    return msgspec.structs.replace(point, **changes)


def _name(rate: float, mode: Mode, seed: int, number: int, *, both: bool) -> str:
    parts = [f"rate-{rate:.5g}", *([f"jobs-{mode}"] if both else []), f"seed-{seed}"]
    return "_".join(parts) + (f"_again-{number}" if number else "")


def _line(point: Point) -> str:
    rate = "jobs alone" if point.rate is None else f"{point.rate:.4g}/s jobs {point.mode} seed {point.seed}"
    held = {True: ", holds", False: ", does not hold", None: ""}[point.holds]
    return f"{point.purpose} {rate}: {point.status}{held}{f' ({point.reason})' if point.reason else ''}"


def planned(options: SweepOptions) -> str:
    """What `--dry-run` prints: the runs that are sure, and how long they take at least."""
    rates, modes = axis.rates(options.vary, options.points), modes_of(options)
    scenario = options.run.scenario
    warmup = scenario.warmup_micros
    runs = len(rates) * len(modes) + (len(modes) == 2)
    lines = [f"{options.vary.cls}.rate: {', '.join(f'{each:.4g}/s' for each in rates)}"]
    lines.append(f"{runs} runs, at least {runs * (warmup + scenario.duration) / 1e6:.0f} s without drains")
    if options.find is not None:
        lines.append(f"then a search for {options.find} to {options.tolerance:.0%}, {options.confirm} fresh seeds")
    return "\n".join(lines) + "\n"
