"""An experiment without a server: a small plan, and a runner whose outcome is drawn from what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from loadgen.errors import ExitCode
from loadgen.experiment.plan_read import parse_plan
from loadgen.experiment.runner import Context, Experiment
from loadgen.experiment.schedule import Selection
from loadgen.experiment.server import Running
from loadgen.measure.facts import ClassFacts, RunFacts
from loadgen.measure.summarise import summarise
from loadgen.plan import build, workload
from loadgen.plan.streams import stream
from loadgen.run.files import RunFolder
from loadgen.run.stage import RunOutcome
from support.loadgen_records import streamed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from loadgen.experiment.plan import Plan, Server
    from loadgen.options import RunOptions
    from loadgen.record import Record
    from loadgen.result import Result
    from loadgen.run.stage import Stage

HOST = {"cpu": "none", "name": "here"}
TABLES: dict[str, Any] = {
    "name": "small",
    "baseline": "A0",
    "windows": 2,
    "repeats": 1,
    "duration": "4s",
    "warmup": "1s",
    "tables": ["pooled", "tolerance", "frontier"],
    "quick_arms": ["A0", "A4"],
    "vars": {"rate": "5"},
    "server": {"fake": {"target": "http://127.0.0.1:1", "ready": ""}},
    "arm": [
        {"name": "A0", "server": "fake", "load": "online"},
        {"name": "A4", "server": "fake", "knob": "chunk", "settings": ["64", "128"]},
        {"name": "A6", "server": "fake", "knob": "budget", "settings": ["10ms", "20ms"]},
    ],
    "load": {
        "both": {
            "dialect": "vllm",
            "online": [{"name": "chat", "arrivals": "poisson:{rate}/s", "in": "8", "out": "4", "slo": "ttft<=90ms"}],
            "offline": [{"name": "work", "source": "synth", "submit": "stream", "items": 8, "in": "8", "out": "4"}],
        }
    },
    "run": [
        {
            "id": "E1",
            "arms": ["A0", "A4", "A6"],
            "load": "both",
            "settings": 2,
            "tolerances": [0.5],
            "vary": {"rate": 5},
        },
        {"id": "E2", "arms": ["A0", "A4"], "load": "both", "vary": {"rate": 5}},
    ],
    "tune": [
        {"arm": "A4", "knob": "chunk", "search": "bisect", "lo": "16", "hi": "1024", "probes": 3, "tolerance": 0.5},
        {"arm": "A6", "knob": "budget", "search": "grid", "lo": "5ms", "hi": "200ms", "probes": 3, "tolerance": 0.5},
    ],
}


_SEEN: dict[bytes, Result] = {}


class Killed(BaseException):
    """As SIGKILL: nobody may catch it."""


@dataclass
class Fuse:
    """Counts moments, and ends everything at the one it was set for. `at` 0: never."""

    at: int = 0
    count: int = 0

    def burn(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed


@dataclass
class FakeServers:
    """Nothing is started. `started`: the folders it was asked for."""

    started: list[Path] = field(default_factory=list)

    def start(self, asked: Server, values: Mapping[str, str], folder: Path) -> Running:
        self.started.append(folder)
        return Running(asked, dict(values), folder, folder, target=asked.target)

    def stop(self, running: Running) -> list[str]:  # noqa: ARG002 - the form of `Servers`
        return []


@dataclass
class FakeRunner:
    """Writes what a run writes. `verdict` gives (invalid, disturbed) reasons by (arm, attempt's folder name)."""

    data: Path
    fuse: Fuse = field(default_factory=Fuse)
    verdict: Callable[[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = lambda _arm, _folder: ((), ())
    interrupt: Callable[[str], bool] = lambda _arm: False
    mode: str = "measured"
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def __call__(self, options: RunOptions, stage: Stage | None = None) -> RunOutcome:
        assert stage is not None
        assert stage.experiment
        labels = options.scenario.labels
        arm, setting = labels["arm"], labels["setting"]
        self.fuse.burn()
        folder = RunFolder.create(options.out or "")
        self.asked.append((arm, setting, folder.path.name))
        made = build.build(options.scenario, self.data)
        workload.write(made, folder.workload)
        self.fuse.burn()
        drawn = stream(options.scenario.seed, f"{arm}/{setting}", "outcome")
        records = list(_records(made.requests, drawn, arm, setting))
        invalid, disturbed = self.verdict(arm, folder.path.name)
        names = [spec.name for spec in options.scenario.online]
        offline = [spec.name for spec in options.scenario.offline]
        facts = RunFacts(
            window=made.window,
            horizon=made.window[1] + 30_000_000,
            classes={name: ClassFacts(slo=options.scenario.online[0].slo) for name in names}
            | {name: ClassFacts(online=False) for name in offline},
            invalid=invalid,
            disturbed=disturbed,
            interrupted=self.interrupt(arm),
            mode=self.mode,  # type: ignore[arg-type]
            quick=stage.quick,
            identity={**stage.identity, "cache": "cold"},
        )
        with folder.records_writer() as writer:
            for record in records:
                writer.write(record)
        folder.write_facts(facts)
        # The same question has the same answer, and a test of many sittings asks it often.
        key = msgspec.json.encode((facts, arm, setting, options.scenario.seed))
        result = _SEEN[key] if key in _SEEN else _SEEN.setdefault(key, summarise(records, facts))
        folder.write_result(result)
        self.fuse.burn()
        codes = {ExitCode.INTERRUPTED} if facts.interrupted else {ExitCode.OK}
        return RunOutcome(folder.path, result, frozenset(codes))


def _records(requests: Any, drawn: np.random.Generator, arm: str, setting: str) -> Any:
    """Slower with a larger setting, and more offline tokens then."""
    size = float("".join(letter for letter in setting if letter.isdigit() or letter == ".") or "1")
    slow = 1.0 if arm == "A0" else 1.0 + size / 500
    for place, request in enumerate(requests):
        due = request.due / 1e3 if request.job is None else 1_000 + 3_000 * place / len(requests) / slow
        first = slow * (20 + 10 * drawn.random())
        record: Record = streamed(request.id, due, first, 5 * slow, request.out, cls=request.cls, job=request.job)
        yield record


def small_plan(**changes: Any) -> Plan:
    tables = {**TABLES, **changes}
    names = {arm["name"] for arm in tables["arm"]}
    tables["quick_arms"] = [name for name in tables["quick_arms"] if name in names]
    return parse_plan(tables, "small")


def context(folder: Path, runner: FakeRunner, **given: Any) -> Context:
    return Context(folder=folder, data=folder, runner=runner, servers=FakeServers(), host=HOST, **given)


def experiment(
    folder: Path, runner: FakeRunner, plan: Plan | None = None, chosen: Selection | None = None, resume: bool = False
) -> Experiment:
    folder.mkdir(exist_ok=True)
    return Experiment(plan or small_plan(), chosen or Selection(), context(folder, runner), resume=resume)
