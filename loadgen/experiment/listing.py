"""What `--list` and `--dry-run` print: questions and arms of a plan; its runs, and the hours that they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.experiment.plan import cell_name
from loadgen.experiment.schedule import OVERHEAD_MICROS, hours, schedule, tuned_arms

if TYPE_CHECKING:
    from loadgen.experiment.plan import Plan
    from loadgen.experiment.schedule import Selection


def listing(plan: Plan) -> str:
    """Questions, arms, servers."""
    lines = [f"{plan.name}: {plan.about}", "", "runs"]
    for question in plan.questions:
        cells = "; ".join(cell_name(cell) for cell in question.cells)
        lines += [f"  {question.id:<5} {question.ask}", f"        arms {' '.join(question.arms)}; {cells}"]
    lines += ["", "arms"]
    for arm in plan.arms.values():
        base = " (baseline)" if arm.name == plan.baseline else ""
        knob = f", knob {arm.knob}" if arm.knob else ""
        lines.append(f"  {arm.name:<16} {arm.title or arm.server}: {arm.load}{knob}{base}")
    return "\n".join(lines) + "\n"


def dry_run(plan: Plan, chosen: Selection) -> str:
    """Every run in its order, then the hours of each step. Settings that tuning will choose stand as their first
    values.
    """
    runs = schedule(plan, chosen, "here", {}, {})
    lines, block = [], ""
    for run in runs:
        if run.block != block:
            block = run.block
            lines.append(f"block {block}")
        lines.append(f"  {run.folder}  {run.duration / 1e6:g} s  {' '.join(run.questions)}")
    tested = hours(runs)
    probes, calibration = (0.0, 0.0) if chosen.quick else (_tuning_hours(plan, chosen), _calibration_hours(plan))
    lines += ["", f"{len(runs)} runs, {tested:.1f} h"]
    lines += [f"tuning {probes:.1f} h"] if probes else []
    lines += [f"calibration {calibration:.1f} h at most"] if calibration else []
    lines.append(f"all together {tested + probes + calibration:.1f} h")
    return "\n".join(lines) + "\n"


def _tuning_hours(plan: Plan, chosen: Selection) -> float:
    wanted = tuned_arms(plan, chosen)
    runs = sum(asked.probes for asked in plan.tunes if asked.arm in wanted)
    return (runs + bool(runs)) * ((plan.tune_duration or plan.duration) + plan.warmup + OVERHEAD_MICROS) / 3.6e9


def _calibration_hours(plan: Plan) -> float:
    asked = plan.calibrate
    if asked is None:
        return 0.0
    each = plan.warmup + OVERHEAD_MICROS
    return ((asked.probes + 2) * (asked.duration + each) + asked.confirm + each) / 3.6e9
