"""Whether the runs of an experiment may stand in one table. Pure: reasons against it, each a sentence; none: they may.

Requests that failed or did not end are misses in every figure already (`measure/slo.py`), so they are not looked for
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loadgen.experiment.state import DONE, counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadgen.experiment.plan import Plan
    from loadgen.experiment.state import Entry, State

SAME: Final = ("cache", "lengths", "tokenizer", "model_hash", "kernels", "numerics", "kv_blocks", "dialect")
"""What all runs of a block must have in common, where their servers say it."""
PER_SERVER: Final = ("server_version", "commit")
"""What all runs of one server must have in common."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What fairness looks at in a run that is in the table."""

    entry: Entry
    status: str
    mode: str
    quick: bool
    server: str
    classes: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
    reasons: Sequence[str] = ()


def refusals(plan: Plan, state: State, seen: Sequence[Seen]) -> list[str]:
    """Reasons against the table."""
    found = [*_kinds(plan, seen), *_probes(plan, state, seen), *_windows(plan)]
    for block, runs in _by_block(seen).items():
        found += [f"block {block}: {why}" for why in _block(plan, runs)]
    found += _servers(seen)
    return list(dict.fromkeys(found))


def unfinished(state: State) -> list[str]:
    """Runs that have no result on any machine; a table without them is one of what is there, and says so."""
    there = {entry.key()[:4] for entry in counted(state.runs) if entry.state in DONE}
    return [
        f"{entry.arm} {entry.setting} {entry.window}-{entry.repeat} is {entry.state}"
        for entry in state.runs
        if entry.key()[:4] not in there
    ]


def _kinds(plan: Plan, seen: Sequence[Seen]) -> list[str]:
    found = []
    modes = sorted({each.mode for each in seen})
    if len(modes) > 1:
        found.append(
            f"runs of different modes: {' and '.join(modes)}; a simulated figure never stands beside a measured one"
        )
    elif modes == ["virtual"]:
        found.append("the runs are simulated: a simulated figure is no measurement")
    if any(each.quick for each in seen):
        found.append("quick runs are for a first look only")
    # A table of routers marks such a cell as void, and has no figure of it.
    for each in () if "overhead" in plan.tables else seen:
        if each.status == "invalid":
            why = each.reasons[0] if each.reasons else "see its result"
            found.append(f"{_name(each)} is INVALID: {why}")
    return found


def _probes(plan: Plan, state: State, seen: Sequence[Seen]) -> list[str]:
    found = [
        f"{plan.baseline} is INVALID on the tuning window, where all else is held against it"
        for each in state.probes.get("baseline", [])
        if each.status == "invalid"
    ]
    numbers = {
        asked.arm: len(state.probes.get(asked.arm, []))
        for asked in plan.tunes
        if asked.arm not in state.skipped and (asked.arm in state.probes or asked.arm in state.tuned)
    }
    # An arm with a knob that nobody turned was not given its best either.
    turned = [plan.arms[each.entry.arm] for each in seen if plan.arms[each.entry.arm].knob is not None]
    for name in {arm.like or arm.name for arm in turned}:
        numbers.setdefault(name, len(state.probes.get(name, [])))
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{arm} {count}" for arm, count in sorted(numbers.items()))
        found.append(f"arms were tuned with unequal numbers of probes: {told}")
    return found


def _windows(plan: Plan) -> list[str]:
    if plan.scaling is None:
        return []
    low, high = plan.scaling.tuning
    return [
        f"test window {number} overlaps the tuning window"
        for number, (start, end) in enumerate(plan.scaling.windows)
        if start < high and low < end
    ]


def _block(plan: Plan, runs: Sequence[Seen]) -> list[str]:
    found = []
    if not any(each.entry.arm == plan.baseline for each in runs):
        found.append(f"{plan.baseline} is missing, with which all else is paired")
    for name in sorted({name for each in runs for name in each.classes}):
        hashes = {each.classes[name] for each in runs if name in each.classes}
        if len(hashes) > 1:
            found.append(f"class {name} was not the same plan in all arms")
    found += [f"{_name(each)} does not say what was planned" for each in runs if not each.classes]
    for name in SAME:
        values = _values(runs, name)
        if len(values) > 1:
            found.append(f"{name} differs: {' and '.join(sorted(values))}")
    return found


def _servers(seen: Sequence[Seen]) -> list[str]:
    found = []
    for server in sorted({each.server for each in seen}):
        for block, runs in _by_block([each for each in seen if each.server == server]).items():
            if len({tuple(sorted(each.entry.binaries.items())) for each in runs}) > 1:
                found.append(f"block {block}: the program of {server} changed between its runs")
            found += [
                f"block {block}: {name} of {server} differs" for name in PER_SERVER if len(_values(runs, name)) > 1
            ]
    return found


def _values(runs: Sequence[Seen], name: str) -> set[str]:
    return {each.identity[name] for each in runs if each.identity.get(name, "unknown") not in ("", "unknown")}


def _by_block(seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    """A block is of one machine: what two machines did of it are two blocks, and each wants its baseline."""
    blocks: dict[tuple[str, str], list[Seen]] = {}
    for each in seen:
        blocks.setdefault((each.entry.block, each.entry.host), []).append(each)
    several = len({host for _, host in blocks}) > 1
    return {f"{block} on {host}" if several else block: runs for (block, host), runs in blocks.items()}


def _name(each: Seen) -> str:
    return f"{each.entry.arm} {each.entry.setting} {each.entry.window}-{each.entry.repeat}"
