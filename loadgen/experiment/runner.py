"""Carries an experiment out step by step: calibrate, scale, tune, test. What is done is in `experiment.json` before
the next thing begins, so that one that is broken off at any moment goes on where it was.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec
import xxhash

from loadgen.errors import BadInput
from loadgen.experiment import calibrate, host, load, room, server, state, tune
from loadgen.experiment import keep as keeping
from loadgen.experiment.armrun import ArmRunner, Job
from loadgen.experiment.figures import figures, probed_p99
from loadgen.experiment.plan import arm_values, cell_name
from loadgen.experiment.schedule import PlannedRun, arms_of, schedule, selected, settings_of, tuned_arms
from loadgen.experiment.state import DONE, Attempt, Entry, Probe, State, best_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from loadgen.experiment.armrun import Servers
    from loadgen.experiment.plan import Arm, Calibrate, Plan, Question, Tune
    from loadgen.experiment.schedule import Selection
    from loadgen.experiment.state import RunState
    from loadgen.experiment.tune import Tried
    from loadgen.run.stage import Runner
    from loadgen.selftest.limits import Limits

TUNING_WINDOW: Final = -1
_STATE_OF: Final[dict[str, RunState]] = {"disturbed": "disturbed"}
_QUICK_OFFLINE: Final = 30_000_000


def _silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Which of the runs of a setting. `known`: rates that are not those of the calibration."""

    window: int
    repeat: int = 0
    known: Mapping[str, float] | None = None
    probe: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What an experiment needs of its surroundings. `host`: identity of the machine; `virtual`: runs are simulated;
    `keep`: where finished blocks are kept; `limits`: what the host can send, None: nobody knows, or nothing is sent.
    """

    folder: Path
    data: Path
    runner: Runner
    servers: Servers
    host: dict[str, str] = field(default_factory=dict)
    virtual: bool = False
    keep: Path | None = None
    limits: Limits | None = None
    say: Callable[[str], None] = _silent


class Experiment:
    """One folder. `run` does all steps that are not done."""

    def __init__(self, plan: Plan, chosen: Selection, context: Context, *, resume: bool) -> None:
        """Raises:
        BadInput: the folder holds another experiment, or one and `resume` was not asked for.
        """
        self.plan, self.chosen, self.context = plan, chosen, context
        self.fingerprint = host.fingerprint(context.host)
        self.state = self._open(resume)
        self._arms = ArmRunner(
            plan=plan,
            runner=context.runner,
            servers=context.servers,
            data=context.data,
            shared=None if context.virtual else context.folder / "shared",
            identity={"fingerprint": self.fingerprint, "experiment": plan.name},
            quick=chosen.quick,
            extras=bool({"overhead", "cache"} & set(plan.tables)),
            say=context.say,
        )
        self._traces = load.Traces(plan, context.data)
        self._hashes: dict[str, dict[str, str]] = {}
        self._has_room: set[tuple[str, str]] = set()
        if context.keep is not None:
            keeping.check(context.keep, self.state)

    def _open(self, resume: bool) -> State:
        found = state.load(self.context.folder)
        mode = "virtual" if self.context.virtual else "measured"
        hash_ = plan_hash(self.plan)
        if found is None:
            return State(
                plan=self.plan.name,
                plan_hash=hash_,
                mode="virtual" if self.context.virtual else "measured",
                quick=self.chosen.quick,
                seed=self.plan.seed,
            )
        if not resume:
            raise BadInput("--out", "", str(self.context.folder), "holds an experiment: --resume goes on with it")
        if (found.mode, found.quick) != (mode, self.chosen.quick):
            kind = "quick" if found.quick else found.mode
            why = f"holds a {kind} experiment; a {mode}{' quick' if self.chosen.quick else ''} one goes elsewhere"
            raise BadInput("--out", "", str(self.context.folder), why)
        if found.plan_hash != hash_:
            raise BadInput(
                "--out", "", str(self.context.folder), "holds an experiment of another plan, or of other --set"
            )
        return found

    def save(self) -> None:
        """Write `experiment.json`, and `tuning.jsonl` beside it."""
        state.save(self.state, self.context.folder)

    def run(self) -> None:
        """All steps.

        Raises:
            KeyboardInterrupt: stopped; everything up to here is kept.
            LoadgenError: a step without which the rest has no sense.
        """
        self.state.hosts[self.fingerprint] = self.context.host
        self.state.sittings += 1
        self.state.skipped = self.skipped()
        for name, why in self.state.skipped.items():
            self.context.say(f"{name} is left out: {why}")
        self.save()
        self._look_for_room()
        if self.plan.calibrate is not None and self._needs_scaling():
            self._calibrate(self.plan.calibrate)
            self._look_for_room()
        if not self.chosen.quick:
            self._tune_all()
        self._keep()
        self._test()

    def _look_for_room(self) -> None:
        """Say which loads are near what this host can send, once their rates are known."""
        known = self.context.limits
        if known is None:
            return
        for run in self.planned():
            place = run.load, cell_name(run.cell)
            is_known = "trace" not in run.cell or {"c_off", "r_sat"} <= self.state.calibration.keys()
            if run.key.arm != self.plan.baseline or place in self._has_room or not is_known:
                continue
            self._has_room.add(place)
            job = self._planned_job(run)
            for why in room.too_much(known, load.planned(self.plan, job, self.context.data), self.context.data):
                self._note(f"{' '.join(place)}: {why}")

    def _note(self, text: str) -> None:
        self.context.say(f"warning: {text}")
        if text not in self.state.notes:
            self.state.notes.append(text)

    def _keep(self) -> None:
        if self.context.keep is None:
            return
        try:
            keeping.keep(self.state, self.context.folder, self.context.keep)
        except OSError as error:
            # The experiment's own folder has all of it.
            self.context.say(f"warning: not kept in {self.context.keep}: {error.strerror or error}")

    def skipped(self) -> dict[str, str]:
        """Arms that cannot run here, and why.

        Raises:
            BadInput: the baseline is one of them.
        """
        found = {}
        for question in selected(self.plan, self.chosen):
            for name in arms_of(self.plan, question, self.chosen, {}):
                arm = self.plan.arms[name]
                asked = self.plan.servers[arm.server]
                values = arm_values(self.plan, arm, question.cells[0], "") | {"tree": str(server.TREE)}
                why = server.missing(asked, values)
                if self.context.virtual and asked.simulate is None:
                    why = f"{asked.name} has no command that simulates it"
                if why is not None:
                    found[name] = why
        if self.plan.baseline in found:
            raise BadInput(
                "experiment",
                "",
                self.plan.baseline,
                f"is what all else is compared with, and {found[self.plan.baseline]}",
            )
        return found

    def _needs_scaling(self) -> bool:
        return any("trace" in cell for question in selected(self.plan, self.chosen) for cell in question.cells)

    # Calibration

    def _calibrate(self, asked: Calibrate) -> None:
        known = self.state.calibration
        window = self._tuning_window()
        if "c_off" not in known:
            duration = _QUICK_OFFLINE if self.chosen.quick else asked.duration
            probe = self._calibration_run("c_off", self.plan.arms[asked.offline], asked.start, duration)
            found = probe.figures.get("offline.tokens_per_s")
            if not found or probe.status == "invalid":
                why = "is INVALID; remove it to try again" if found else "did not say its tokens/s"
                # Not kept as known: the next sitting tries it again.
                self.state.calibration_runs.remove(probe)
                self.save()
                raise BadInput("[calibrate]", "offline", asked.offline, f"{probe.folder} {why}")
            known["c_off"] = found
            self.save()
        if "r_sat" in known:
            return
        if self.chosen.quick:
            known["r_sat"] = calibrate.estimated(known["c_off"], self._traces.facts(asked.cell["trace"], window))
            self.state.notes.append("r_sat is estimated from c_off, not measured")
        else:
            known["r_sat"] = self._saturation(asked)
        self.save()

    def _saturation(self, asked: Calibrate) -> float:
        arm = self.plan.arms[asked.online]
        probes: list[calibrate.RateProbe] = []
        while (rate := calibrate.next_rate(asked, probes)) is not None:
            # The last one is longer: a backlog that grows slowly shows in ten minutes and not in three.
            found = self._calibration_run(f"rate-{len(probes):02d}", arm, rate, asked.duration)
            overloaded = bool(found.figures.get(f"{asked.online_class}.overloaded"))
            probes.append(calibrate.RateProbe(rate, found.figures.get("p99"), overloaded))
        rate_found = calibrate.saturation(asked, probes)
        if rate_found is None:
            raise BadInput("[calibrate]", "start", f"{asked.start}", "not even this rate could be measured")
        return self._confirmed(asked, arm, rate_found, probes[0].p99 or 0.0)

    def _confirmed(self, asked: Calibrate, arm: Arm, rate: float, unloaded: float) -> float:
        """Over a longer time; a rate that does not hold there is lowered by a tenth, at most three times."""
        for step in range(3):
            found = self._calibration_run(f"confirm-{step}", arm, rate, asked.confirm)
            probe = calibrate.RateProbe(
                rate, found.figures.get("p99"), bool(found.figures.get(f"{asked.online_class}.overloaded"))
            )
            if calibrate.passes(probe, unloaded, asked.factor):
                return rate
            rate *= 0.9
        self.state.notes.append("r_sat did not hold over the longer time, and was lowered three times")
        return rate

    def _calibration_run(self, name: str, arm: Arm, rate: float, duration: int) -> Probe:
        asked = self.plan.calibrate
        assert asked is not None  # noqa: S101 - only called with one
        known = next((each for each in self.state.calibration_runs if each.name == name), None)
        if known is not None:
            return known
        knob = settings_of(self.plan, arm.name, 1, {})[0]
        job = self._job(
            arm, asked.cell, knob, asked.load, (duration, self.plan.warmup), _Place(TUNING_WINDOW, 0, {"rate": rate})
        )
        made = self._probe(f"calibration/{name}", name, f"{rate:g}", job)
        if made.status not in ("failed", "invalid") and arm.load != "offline":
            p99 = probed_p99(self.context.folder / made.folder, asked.online_class)
            # Endless is no figure: measured against it every rate would pass.
            made.figures["p99"] = p99 if p99 is not None and math.isfinite(p99) else None
        self.state.calibration_runs.append(made)
        self.save()
        return made

    # Tuning

    def _tune_all(self) -> None:
        wanted = tuned_arms(self.plan, self.chosen)
        for asked in self.plan.tunes:
            if asked.arm in wanted and asked.arm not in self.state.skipped and asked.arm not in self.state.tuned:
                self._tune(asked)

    def _tune(self, asked: Tune) -> None:
        question = self._question_of(asked.arm)
        base = self._base_probe(question)
        probes = self.state.probes.setdefault(asked.arm, [])
        while (value := tune.next_value(asked, _tried(probes), base.figures.get(asked.metric))) is not None:
            name = f"{len(probes):02d}"
            job = self._tuning_job(question, self.plan.arms[asked.arm], value, len(probes))
            probes.append(self._probe(f"tuning/{asked.arm}/{name}", name, value, job))
            self._save_tuning()
        # Of the whole plan, whatever part of it was asked for: what is tuned once is tuned for all.
        asking = [each for each in self.plan.questions if asked.arm in each.arms]
        tolerances = sorted({each for one in asking for each in one.tolerances})
        self.state.tuned[asked.arm] = tune.ranked(asked, _tried(probes), base.figures, tolerances)
        self.save()

    def _base_probe(self, question: Question) -> Probe:
        known = self.state.probes.get("baseline")
        if known:
            return known[0]
        arm = self.plan.arms[self.plan.baseline]
        knob = settings_of(self.plan, arm.name, 1, {})[0]
        made = self._probe("tuning/baseline", "baseline", knob or "", self._tuning_job(question, arm, knob, 0))
        self.state.probes["baseline"] = [made]
        self._save_tuning()
        return made

    def _tuning_job(self, question: Question, arm: Arm, knob: str | None, repeat: int) -> Job:
        # Values of a short list come round again: with another seed each time, else nothing would be learnt.
        seed = repeat if self._repeats(arm.name, repeat) else 0
        lengths = self.plan.tune_duration or question.duration or self.plan.duration, self.plan.warmup
        return self._job(arm, question.cells[0], knob, question.load, lengths, _Place(TUNING_WINDOW, seed))

    def _repeats(self, arm: str, number: int) -> bool:
        asked = next((each for each in self.plan.tunes if each.arm == arm), None)
        return asked is not None and bool(asked.values) and number >= len(asked.values)

    def _question_of(self, arm: str) -> Question:
        """The first of the plan that has the arm, so that tuning does not depend on what was asked for."""
        return next((each for each in self.plan.questions if arm in each.arms), self.plan.questions[0])

    def _save_tuning(self) -> None:
        rows = [
            {"arm": arm, **msgspec.to_builtins(probe)} for arm, probes in self.state.probes.items() for probe in probes
        ]
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        state.write_atomic(self.context.folder / "tuning.jsonl", lines)
        self.save()

    # Test runs

    def planned(self) -> list[PlannedRun]:
        """All test runs of what was asked for: blocks that another machine has finished stay its own, all others are
        of this one.
        """
        runs = schedule(self.plan, self.chosen, self.fingerprint, self.state.tuned, self.state.skipped)
        mine = self.fingerprint
        fit = [entry for entry in self.state.runs if entry.host == mine or not _is_invalid(entry)]
        done = {entry.key() for entry in fit if entry.state in DONE}
        blocks: dict[str, list[PlannedRun]] = {}
        for run in runs:
            blocks.setdefault(run.block, []).append(run)
        return [run for block in blocks.values() for run in self._placed(block, done)]

    def _placed(self, block: list[PlannedRun], done: set[tuple[str, str, int, int, str]]) -> list[PlannedRun]:
        for host_name in (self.fingerprint, *self.state.hosts):
            there = [replace(run, key=replace(run.key, host=host_name)) for run in block]
            if all(astuple(run.key) in done for run in there):
                return there
        return block

    def _test(self) -> None:
        runs = self.planned()
        for run in runs:
            self._entry(run)
        self.save()
        for number, run in enumerate(runs, 1):
            entry = self._entry(run)
            # What was INVALID to the last is tried again in the next sitting: it says nothing of the server.
            if entry.state not in DONE or (_is_invalid(entry) and entry.sitting < self.state.sittings):
                self.context.say(f"[{number}/{len(runs)}] {run.block}: {run.key.arm} {run.key.setting}")
                self._carry_out(run, entry)
                if number == len(runs) or runs[number].block != run.block:
                    self._keep()

    def _entry(self, run: PlannedRun) -> Entry:
        key = (run.key.arm, run.key.setting, run.key.window, run.key.repeat, run.key.host)
        found = next((each for each in self.state.runs if each.key() == key), None)
        if found is None:
            found = Entry(
                arm=run.key.arm,
                setting=run.key.setting,
                window=run.key.window,
                repeat=run.key.repeat,
                host=run.key.host,
                block=run.block,
                cell=dict(run.cell),
                knob=run.knob,
            )
            self.state.runs.append(found)
        found.questions = list(dict.fromkeys([*found.questions, *run.questions]))
        return found

    def _carry_out(self, run: PlannedRun, entry: Entry) -> None:
        arm = self.plan.arms[run.key.arm]
        entry.state, entry.sitting = "running", self.state.sittings
        entry.binaries = self._binaries(arm)
        # A run that failed left nothing to keep; those that have a result stay and are counted.
        entry.attempts = [each for each in entry.attempts if each.status != "failed"]
        self.save()
        job = self._planned_job(run)
        base = self.context.folder / run.folder
        if run.key.host != next(iter(self.state.hosts)):
            base = base.with_name(f"{base.name}@{run.key.host}")
        more = self.plan.attempts if _is_invalid(entry) else 0
        self._arms.attempts(base, job, entry.attempts, self._save_relative(entry.attempts), more)
        last, best = entry.attempts[-1], entry.result()
        entry.state = "failed" if best is None or last.status == "failed" else _STATE_OF.get(best.status, "done")
        self.save()

    def _planned_job(self, run: PlannedRun) -> Job:
        place = _Place(run.key.window, run.key.repeat, probe=run.probe)
        lengths = run.duration, run.warmup
        return self._job(self.plan.arms[run.key.arm], run.cell, run.knob, run.load, lengths, place)

    def _save_relative(self, attempts: list[Attempt]) -> Callable[[], None]:
        """Folders are written relative to the experiment's, so that it can be moved."""

        def save() -> None:
            for each in attempts:
                each.folder = self._relative(each.folder)
            self.save()

        return save

    def _relative(self, folder: str) -> str:
        return folder.removeprefix(f"{self.context.folder}/")

    # Both

    def _job(
        self,
        arm: Arm,
        cell: Mapping[str, str],
        knob: str | None,
        load_name: str,
        lengths: tuple[int, int],
        place: _Place,
    ) -> Job:
        (duration, warmup), window, repeat = lengths, place.window, place.repeat
        span = self._tuning_window() if window == TUNING_WINDOW else load.windows_of(self.plan)[window]
        values, numbers = load.solved(
            self._traces, self.plan, cell, span, duration + warmup, place.known or self.state.calibration
        )
        if numbers and place.known is None:
            self.state.scaled[f"{cell_name(cell)}/{window}"] = numbers
        return Job(
            arm=arm,
            cell=cell,
            knob=knob,
            load=load_name,
            duration=duration,
            warmup=warmup,
            seed=load.seed_for(self.plan, window, repeat),
            values=values,
            probe=place.probe,
            labels={"experiment": self.plan.name, "setting": knob or "", "window": str(window), "repeat": str(repeat)},
        )

    def _probe(self, place: str, name: str, value: str, job: Job) -> Probe:
        self.context.say(f"{place}: {job.arm.name} {value}")
        attempts: list[Attempt] = []
        self._arms.attempts(self.context.folder / place, job, attempts, lambda: None)
        best = best_of(attempts) or attempts[-1]
        found = {} if best.status == "failed" else figures(self.context.folder / self._relative(best.folder))
        return Probe(name=name, value=value, folder=self._relative(best.folder), status=best.status, figures=found)

    def _tuning_window(self) -> tuple[int, int]:
        return self.plan.scaling.tuning if self.plan.scaling is not None else (0, 0)

    def _binaries(self, arm: Arm) -> dict[str, str]:
        """Hashes of what is measured: each program of the server, and our own packages."""
        if arm.name not in self._hashes:
            asked = self.plan.servers[arm.server]
            values = arm_values(self.plan, arm, {}, "") | {"tree": str(server.TREE)}
            path = server.search_path(asked, values)
            found = {name: host.binary_hash(name, path) for name in server.programs(asked, values)}
            found["packages"] = self._packages()
            self._hashes[arm.name] = found
        return self._hashes[arm.name]

    def _packages(self) -> str:
        known = self._hashes.get("", {}).get("packages")
        if known is None:
            folders = [server.TREE / name for name in ("slackwater", "pyworker", "loadgen")]
            known = host.tree_hash(folder for folder in folders if folder.is_dir())
            self._hashes[""] = {"packages": known}
        return known


def _tried(probes: list[Probe]) -> list[Tried]:
    return [tune.tried(each) for each in probes]


def _is_invalid(entry: Entry) -> bool:
    found = entry.result()
    return found is not None and found.status == "invalid"


def plan_hash(plan: Plan) -> str:
    """Of a plan with its arms and `--set`; where it is kept makes no other plan of it."""
    raw = {name: value for name, value in plan.raw.items() if name != "keep"}
    text = repr((raw, sorted((name, repr(arm)) for name, arm in plan.arms.items())))
    return xxhash.xxh3_128_hexdigest(text.encode())
