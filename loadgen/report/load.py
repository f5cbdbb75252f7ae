"""Reads a run's folder for a report. All figures come from its records again, and are held against `result.json`.

So another SLO or another window can be asked for years later, and a file that was changed by hand shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen import result as tree
from loadgen.errors import BadData, BadInput
from loadgen.measure.columns import columns
from loadgen.measure.evaluate import Outcome, evaluate
from loadgen.measure.expr import parse
from loadgen.measure.facts import ClassFacts, RunFacts
from loadgen.measure.summarise import summarise_columns, with_window
from loadgen.run.files import RunFolder
from loadgen.run.series import Series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loadgen.measure.columns import Columns
    from loadgen.result import Result
    from loadgen.spec import Slo

_CLOSE = 1e-9
"""Sums in floating point differ in their last bits from one processor to another."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedRun:
    """One run. `at`: its records, none where only its result was kept. `warnings`: what is amiss with its files."""

    folder: RunFolder
    complete: bool
    result: Result
    facts: RunFacts
    at: Columns
    server: Series
    host: Series
    checks: tuple[Outcome, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder as it was given, which is what the reader knows it by."""
        return str(self.folder.path)

    @property
    def window(self) -> tuple[int, int]:
        """What was measured, after MSER-5 had its say."""
        return self.result.window.start, self.result.window.end

    def of_class(self, name: str) -> Columns:
        """All requests of one class, whatever their phase."""
        return self.at.where(self.at.cls == name)


def runs_under(path: str | Path) -> list[Path]:
    """The folder itself if it is a run's, else the runs in it, by name: those of `--repeat` or of a sweep."""
    place = Path(path)
    below = sorted(each for each in place.iterdir() if each.is_dir()) if place.is_dir() else []
    if _is_run(place):
        return [place]
    # By number where the names are numbers, so that the tenth repeat does not stand after the first.
    runs = sorted((each for each in below if _is_run(each)), key=lambda each: (len(each.name), each.name))
    return runs or [place]


def _is_run(path: Path) -> bool:
    folder = RunFolder(path)
    return folder.facts.is_file() or folder.complete


def load(
    path: str | Path,
    slos: Mapping[str, Slo] | None = None,
    window: tuple[int, int] | None = None,
) -> LoadedRun:
    """`slos`: by class, in place of the scenario's; classes that the run lacks are passed over. `window`: from `t0`.

    Raises:
        BadData: no run stands there, or its files contradict themselves.
        BadInput: another window or SLO is asked of a run whose records were not kept, or a window outside of the run.
    """
    folder = RunFolder(path)
    if not folder.path.is_dir():
        raise BadData(str(path), 0, "", "is no folder")
    changed = bool(slos) or window is not None
    if folder.complete and not folder.records.is_file():
        if changed:
            raise BadInput(str(path), "", "", "its records were not kept, so its figures cannot be computed again")
        return _kept_result(folder)
    if not folder.facts.is_file():
        raise BadData(str(folder.facts), 0, "", "there is none: the run ended before anything was sent")
    facts = _seen(folder.load_facts(), slos or {}, window, str(path))
    run = judged(folder, facts, folder.load_records(torn=not folder.complete))
    return replace(run, complete=folder.complete, warnings=tuple(_warnings(folder, run.result, changed=changed)))


def judged(folder: RunFolder, facts: RunFacts, at: Columns) -> LoadedRun:
    """A run whose records and facts are at hand, with what its folder holds beside them."""
    result = summarise_columns(at, facts)
    checks = _checks(folder, at, facts, (result.window.start, result.window.end))
    return LoadedRun(folder, True, result, facts, at, folder.load_server(), folder.load_host(), tuple(checks))


def checks_of(asserts: tuple[str, ...], at: Columns, facts: RunFacts, window: tuple[int, int]) -> list[Outcome]:
    """What had to hold, judged on the records; figures that want a second run have none."""
    return [evaluate(parse(text), at, facts, window, {}) for text in asserts]


def differences(stored: Result, computed: Result) -> list[str]:
    """Paths at which two results disagree by more than rounding."""
    # As JSON, in which what is not a number is null on both sides.
    one, other = (msgspec.json.decode(tree.encode(each)) for each in (stored, computed))
    return list(_differences(one, other, ""))


def _seen(facts: RunFacts, slos: Mapping[str, Slo], window: tuple[int, int] | None, where: str) -> RunFacts:
    if slos:
        classes = {
            name: msgspec.structs.replace(each, slo=slos[name]) if name in slos else each
            for name, each in facts.classes.items()
        }
        facts = msgspec.structs.replace(facts, classes=classes)
    if window is None:
        return facts
    if window[0] >= facts.horizon:
        last = facts.horizon / 1e6
        raise BadInput("--window", "", f"{window[0] / 1e6:g}s..{window[1] / 1e6:g}s", f"{where} ended at {last:g} s")
    return with_window(facts, window)


def _checks(folder: RunFolder, at: Columns, facts: RunFacts, window: tuple[int, int]) -> Iterator[Outcome]:
    if folder.scenario.is_file():
        yield from checks_of(folder.load_scenario().asserts, at, facts, window)


def _warnings(folder: RunFolder, result: Result, *, changed: bool) -> Iterator[str]:
    if not folder.complete:
        yield "this run is incomplete: there is no result.json, and these figures are of the records that were written"
    elif not changed:
        found = differences(folder.load_result(), result)
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            yield f"result.json disagrees with the records, which stand here: {', '.join(found[:3])}{more}"


def _kept_result(folder: RunFolder) -> LoadedRun:
    result = folder.load_result()
    facts = RunFacts(
        window=(result.window.start, result.window.end),
        horizon=result.window.end,
        classes={name: ClassFacts(online=each.online, closed=each.closed) for name, each in result.classes.items()},
        mode=result.mode,
        identity=result.identity,
    )
    warning = "its records were not kept: tables are of result.json, and there are no charts of requests"
    at = columns(())
    return LoadedRun(folder, True, result, facts, at, folder.load_server(), folder.load_host(), (), (warning,))


def _differences(one: Any, other: Any, path: str) -> Iterator[str]:  # noqa: ANN401  JSON as it comes
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, f"{path}[{place}]")
    elif isinstance(one, float) or isinstance(other, float):
        if one is None or other is None or not math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE):
            yield path
    elif one != other:
        yield path
