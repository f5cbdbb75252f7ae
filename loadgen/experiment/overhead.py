"""The table of routers: what each adds to the same mock in the same cell and block, and what it uses itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from loadgen.experiment.analyse import Run, Table, groups, median_of, number
from loadgen.experiment.quickack import verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.experiment.processes import Usage

MOCK_BOUND: Final = 0.70
"""Of a core: above it the mock, and not the router, is what is measured."""
_CHAT: Final = "POST /v1/chat/completions"
ADDED: Final = ("p50", "p99")


@dataclass(frozen=True, slots=True)
class Machine:
    """Beside a run: use of the router's and the mock's processes over the window, calls by route of each mock,
    medians of `quickack`.
    """

    router: Usage | None = None
    mock: Usage | None = None
    requests: float = 0.0
    chunks: float = 0.0
    routes: Sequence[Mapping[str, int]] = ()
    quickack: Mapping[str, float] = field(default_factory=dict)


def machine_figures(found: Machine) -> dict[str, float | None]:
    """By name, to stand among the run's figures; CPU in microseconds, memory in bytes."""
    router, mock = found.router, found.mock
    figures: dict[str, float | None] = {
        "router.cpu_us_per_request": None
        if router is None or not found.requests
        else router.cpu_micros / found.requests,
        "router.cpu_us_per_chunk": None if router is None or not found.chunks else router.cpu_micros / found.chunks,
        "router.cores": None if router is None else router.cores,
        "router.rss_before": None if router is None else float(router.rss_before),
        "router.rss_after": None if router is None else float(router.rss_after),
        "mock.cores": None if mock is None else mock.cores,
    }
    for route in sorted({route for each in found.routes for route in each}):
        figures[f"mock.calls.{route}"] = float(sum(each.get(route, 0) for each in found.routes))
    figures["mock.hot_spot"] = hot_spot([each.get(_CHAT, 0) for each in found.routes])
    return figures | {f"quickack.{name}": value for name, value in found.quickack.items()}


def hot_spot(calls: list[int]) -> float | None:
    """Workers x the largest one's share of the calls: 1 is even. None with one worker, or no call."""
    total = sum(calls)
    return len(calls) * max(calls) / total if len(calls) > 1 and total else None


def overhead_table(runs: Sequence[Run], baseline: str, cls: str, notes: Mapping[str, str]) -> Table:
    """A line a cell and router. Added latency in milliseconds: the router's less the baseline's of the same block."""
    header = (
        "cell",
        "arm",
        "blocks",
        *(f"added_{each}_ms_{way}" for each in ADDED for way in ("min", "median", "max")),
    )
    header += ("cpu_us_per_request", "cpu_us_per_chunk", "router_cores", "rss_before_mb", "rss_after_mb")
    header += ("mock_cores", "extra_calls_per_request", "stall", "void", "note")
    rows = []
    fit = [run for run in runs if run.status != "invalid"]
    for (cell, arm, _), every in groups(runs).items():
        mine = [run for run in every if run.status != "invalid"]
        added = [text for each in ADDED for text in _added(mine, fit, baseline, f"{cls}.{each}.e2e")]
        used = [median_of(mine, f"router.{name}") for name in ("cpu_us_per_request", "cpu_us_per_chunk", "cores")]
        memory = [_mega(median_of(mine, f"router.rss_{when}")) for when in ("before", "after")]
        mock = median_of(mine, "mock.cores")
        direct = [run for run in fit if run.arm == baseline and run.cell == cell]
        rows.append((
            cell, arm, str(len(mine)), *added, *(number(each) for each in (*used, *memory, mock)), _extra(mine),
            _stall(mine, direct), _void(every) or ("" if direct else "no baseline"), notes.get(arm, ""),
        ))  # fmt: skip
    return Table("overhead", header, tuple(rows))


def _added(mine: Sequence[Run], runs: Sequence[Run], baseline: str, name: str) -> tuple[str, str, str]:
    base = {run.block: run.figures.get(name) for run in runs if run.arm == baseline}
    pairs = [(run.figures.get(name), base.get(run.block)) for run in mine]
    found = sorted((one - other) / 1e3 for one, other in pairs if one is not None and other is not None)
    if not found:
        return "-", "-", "-"
    middle = found[len(found) // 2] if len(found) % 2 else (found[len(found) // 2 - 1] + found[len(found) // 2]) / 2
    return number(found[0]), number(middle), number(found[-1])


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _extra(mine: Sequence[Run]) -> str:
    """Calls at the mock that were not the request itself, such as `/render`, for each that was. Both are counted from
    the mock's start on, warm-up included.
    """
    found = []
    for run in mine:
        calls = {name: count or 0.0 for name, count in run.figures.items() if name.startswith("mock.calls.POST")}
        asked = sum(count for name, count in calls.items() if name.endswith("/completions"))
        if asked:
            found.append((sum(calls.values()) - asked) / asked)
    # The client itself asks for a few words once a run: hundredths are not the router's.
    return number(round(sum(found) / len(found), 2)) if found else "-"


def _stall(mine: Sequence[Run], direct: Sequence[Run]) -> str:
    medians = []
    for runs in (mine, direct):
        found = {name: median_of(runs, f"quickack.{name}") for name in ("plain", "quickack")}
        medians.append({name: value for name, value in found.items() if value is not None})
    return verdict(*medians) or "-"


def _void(mine: Sequence[Run]) -> str:
    if any(run.status == "invalid" for run in mine):
        return "client-bound"
    mock = median_of(mine, "mock.cores")
    return "mock-bound" if mock is not None and mock > MOCK_BOUND else ""
