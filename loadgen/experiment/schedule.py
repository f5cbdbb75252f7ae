"""Which runs a plan asks for, in which order, and how long they take. Pure: the same plan and seed give the same
list.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from loadgen.errors import BadInput
from loadgen.experiment.plan import Plan, cell_name, setting_name
from loadgen.plan.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loadgen.experiment.plan import Question

OVERHEAD_MICROS: Final = 25_000_000
"""Of a run beside its load: start, drain, end."""
QUICK_WARMUP: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class RunKey:
    """What makes a run the same run; it is never done twice."""

    arm: str
    setting: str
    window: int
    repeat: int
    host: str


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One arm-run. `questions`: those that use it. Durations in microseconds."""

    key: RunKey
    block: str
    cell: dict[str, str]
    knob: str | None
    load: str
    duration: int
    warmup: int
    probe: str = ""
    questions: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Below the experiment's, without the number of the attempt."""
        return f"runs/{self.key.arm}/{self.key.setting}/{self.key.window}-{self.key.repeat}"


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a plan is asked for. Empty and None: all of it."""

    runs: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    windows: int | None = None
    repeats: int | None = None
    quick: bool = False


def selected(plan: Plan, chosen: Selection) -> list[Question]:
    """The questions that were asked for.

    Raises:
        BadInput: an id or arm that the plan does not have.
    """
    ids = [question.id for question in plan.questions]
    for name in chosen.runs:
        if name not in ids:
            raise BadInput("--runs", "", name, "no such run", ids)
    for name in chosen.arms:
        plan.arm(name)
    return [question for question in plan.questions if not chosen.runs or question.id in chosen.runs]


def schedule(
    plan: Plan,
    chosen: Selection,
    host: str,
    tuned: Mapping[str, Sequence[str]],
    skipped: Mapping[str, str],
) -> list[PlannedRun]:
    """All runs, block by block. `tuned`: chosen settings by arm; `skipped`: arms that cannot run here.

    Within a block arms are in a seeded random order; blocks of two are AB, then BA. The baseline is in every block.

    Raises:
        BadInput: two runs of one key that differ in load or length.
    """
    questions = selected(plan, chosen)
    blocks: dict[str, dict[RunKey, PlannedRun]] = {}
    for question in questions[:1] if chosen.quick else questions:
        for run in _runs(plan, question, chosen, host, (tuned, skipped)):
            block = blocks.setdefault(run.block, {})
            block[run.key] = _joined(block[run.key], run) if run.key in block else run
    ordered = [_ordered(name, list(block.values()), plan, place) for place, (name, block) in enumerate(blocks.items())]
    return [run for block in ordered for run in block]


def arms_of(plan: Plan, question: Question, chosen: Selection, skipped: Mapping[str, str]) -> list[str]:
    """The baseline, and the question's arms that were asked for and can run."""
    names = plan.quick_arms if chosen.quick and plan.quick_arms else question.arms
    wanted = [name for name in names if not chosen.arms or name in chosen.arms]
    return [name for name in dict.fromkeys([plan.baseline, *wanted]) if name not in skipped]


def tuned_arms(plan: Plan, chosen: Selection) -> set[str]:
    """Arms whose tuned settings the runs want: those asked for, and those whose settings they take."""
    names = {name for question in selected(plan, chosen) for name in arms_of(plan, question, chosen, {})}
    return names | {plan.arms[name].like for name in names if plan.arms[name].like}


def settings_of(plan: Plan, arm: str, count: int, tuned: Mapping[str, Sequence[str]]) -> list[str | None]:
    """Values of an arm's knob: those that were tuned, else its own first ones.

    An arm with one kind of load has one: what others are compared with must not be several.
    """
    if plan.arms[arm].knob is None:
        return [None]
    count = count if plan.arms[arm].load == "both" and arm != plan.baseline else 1
    found: list[str | None] = [*(tuned.get(arm) or tuned.get(plan.arms[arm].like) or plan.arms[arm].settings)]
    return found[:count]


def hours(runs: Sequence[PlannedRun]) -> float:
    """How long they take one after the other."""
    return sum(run.duration + run.warmup + OVERHEAD_MICROS for run in runs) / 3.6e9


def _runs(
    plan: Plan,
    question: Question,
    chosen: Selection,
    host: str,
    known: tuple[Mapping[str, Sequence[str]], Mapping[str, str]],
) -> Iterator[PlannedRun]:
    windows = 1 if chosen.quick else chosen.windows or question.windows or plan.windows
    repeats = 1 if chosen.quick else chosen.repeats or question.repeats or plan.repeats
    tuned, skipped = known
    duration = plan.quick_duration if chosen.quick else question.duration or plan.duration
    warmup = question.warmup if question.warmup is not None else plan.warmup
    if plan.scaling is not None and windows > len(plan.scaling.windows):
        raise BadInput("--windows", "", str(windows), f"the plan has {len(plan.scaling.windows)}")
    places = [(window, repeat) for window in range(windows) for repeat in range(repeats)]
    for window, repeat in places:
        for cell in question.cells[:1] if chosen.quick else question.cells:
            for name in arms_of(plan, question, chosen, skipped):
                arm = plan.arms[name]
                for knob in settings_of(plan, name, 1 if chosen.quick else question.settings, tuned):
                    place = cell if len(plan.loads) == 1 else {"load": question.load} | cell
                    yield PlannedRun(
                        RunKey(name, setting_name(place, arm, knob), window, repeat, host),
                        f"{cell_name(place)}/{window}-{repeat}",
                        cell,
                        knob,
                        question.load,
                        duration,
                        min(QUICK_WARMUP, warmup) if chosen.quick else warmup,
                        question.probe,
                        (question.id,),
                    )


def _joined(one: PlannedRun, other: PlannedRun) -> PlannedRun:
    if (one.load, one.duration, one.warmup) != (other.load, other.duration, other.warmup):
        why = f"differs in length between {one.questions[0]} and {other.questions[0]}"
        raise BadInput("[[run]]", "", f"{one.key.arm} {one.key.setting}", why)
    questions = tuple(dict.fromkeys([*one.questions, *other.questions]))
    return replace(one, questions=questions, probe=one.probe or other.probe)


def _ordered(name: str, runs: list[PlannedRun], plan: Plan, place: int) -> list[PlannedRun]:
    if len(runs) == 2:
        return runs if place % 2 == 0 else runs[::-1]
    order = stream(plan.seed, name, "order").permutation(len(runs))
    return [runs[number] for number in order]
