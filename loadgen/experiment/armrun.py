"""One arm-run: a fresh server, its load, what is read beside it, and its end. Each has a folder of its own.

`arm.json` is written last. A folder without it is set aside under another name and never written into again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from loadgen.errors import ExitCode, LoadgenError
from loadgen.experiment import load, mock_truth, processes, quickack, server
from loadgen.experiment.plan import arm_values
from loadgen.experiment.state import Attempt, write_atomic
from loadgen.experiment.workload_hash import class_hashes
from loadgen.options import RunOptions
from loadgen.run.files import RunFolder
from loadgen.run.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from loadgen.experiment.plan import Arm, Plan, Server
    from loadgen.experiment.server import Running
    from loadgen.run.stage import Runner, RunOutcome

MARK: Final = "arm.json"
AGAIN: Final = ("disturbed", "invalid")
"""What a repeat may mend."""


@dataclass(frozen=True, slots=True)
class Job:
    """What an arm-run does. `values`: placeholders that scaling solved. Durations in microseconds."""

    arm: Arm
    cell: Mapping[str, str]
    knob: str | None
    load: str
    duration: int
    warmup: int
    seed: int
    values: Mapping[str, str] = field(default_factory=dict)
    probe: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class Beside(msgspec.Struct, kw_only=True):
    """`arm.json`: what is known of an arm-run beside its result. `t0`: monotonic microseconds of this machine, None
    where the run did not say.
    """

    command: list[str] = []
    """Of each part, as it was started."""
    notes: list[str] = []
    t0: int | None = None
    routes: list[dict[str, int]] = []
    """Of each mock behind it."""
    quickack: dict[str, float] = {}
    roles: dict[str, str] = {}


class Servers(Protocol):
    """Starts and ends servers: the module `server`, or a stand-in."""

    def start(self, asked: Server, values: Mapping[str, str], folder: Path) -> Running:
        """See `server.start`."""
        ...

    def stop(self, running: Running) -> list[str]:
        """See `server.stop`."""
        ...


class RealServers:
    """Processes of this machine."""

    def start(self, asked: Server, values: Mapping[str, str], folder: Path) -> Running:
        """See `server.start`."""
        return server.start(asked, values, folder)

    def stop(self, running: Running) -> list[str]:
        """See `server.stop`."""
        return server.stop(running)


@dataclass(slots=True)
class ArmRunner:
    """Carries arm-runs out. `extras`: processes and the mock are read beside, and a run without them is not whole."""

    plan: Plan
    runner: Runner
    servers: Servers
    data: Path
    identity: dict[str, str]
    shared: Path | None = None
    """Where a server's `prepare` puts what it makes; None: nothing is prepared."""
    quick: bool = False
    extras: bool = False
    say: Callable[[str], None] = lambda _: None

    def attempts(self, base: Path, job: Job, done: list[Attempt], save: Callable[[], None], more: int = 0) -> None:
        """Run until one is quiet, as often as the plan says, or `more` times; each goes into `done` as it ends.

        Raises:
            KeyboardInterrupt: the run was stopped; what it has is set aside.
        """
        most = len(done) + more if more else self.plan.attempts
        while len(done) < most and (not done or done[-1].status in AGAIN):
            number = len(done) + 1
            folder = base if number == 1 else base.with_name(f"{base.name}.{number}")
            done.append(self.attempt(folder, job))
            save()

    def attempt(self, folder: Path, job: Job) -> Attempt:
        """One attempt; a complete folder is taken as it is."""
        if not self._is_whole(folder):
            set_aside(folder)
            folder.mkdir(parents=True)
            try:
                self._carry_out(folder, job)
            except LoadgenError as error:
                # Its files stay: the next attempt sets the folder aside.
                self.say(f"failed: {error}")
                return Attempt(folder=str(folder), status="failed", reasons=[str(error)])
        return adopted(folder)

    def _is_whole(self, folder: Path) -> bool:
        if not (folder / "result.json").is_file() or is_interrupted(folder):
            return False
        return (folder / MARK).is_file() or not self.extras

    def _carry_out(self, folder: Path, job: Job) -> None:
        asked = self.plan.servers[job.arm.server]
        given = arm_values(self.plan, job.arm, job.cell, job.knob) | dict(job.values)
        given |= {"setting": job.knob or "", "seed": str(job.seed), "data": str(self.data.resolve())}
        given |= {"tree": str(server.TREE), "shared": str(self.shared or "")}
        if self.shared is not None and asked.prepare:
            given |= server.prepare(asked, given, self.shared)
        running = self.servers.start(asked, given, folder)
        beside = Beside(command=list(running.commands))
        beside.roles = {part.name: part.role for part in asked.parts if part.role}
        try:
            outcome = self._load(folder, job, running, beside)
            if job.probe == "quickack":
                beside.quickack = quickack.measure(running.target)
            if running.control is not None:
                beside.routes = [mock_truth.routes(each) for each in running.control.split()]
            beside.notes += [f"{name} ended by itself" for name in running.dead() if not outcome.result.faults]
            beside.notes += [f"not there to collect: {each}" for each in server.collect(running)]
        finally:
            beside.notes += self.servers.stop(running)
        if ExitCode.INTERRUPTED in outcome.codes:
            raise KeyboardInterrupt
        write_atomic(folder / MARK, msgspec.json.encode(beside))

    def _load(self, folder: Path, job: Job, running: Running, beside: Beside) -> RunOutcome:
        values = dict(job.values) | running.values
        tables = load.scenario_of(
            self.plan, job.arm, job.load, (job.cell, job.knob), values, (job.warmup, job.duration, job.seed)
        )
        tables["label"] = {**tables.get("label", {}), **job.labels, "arm": job.arm.name}
        scenario = load.build(tables, running, f"[load.{job.load}]", self.data)
        identity = self.identity | {"arm": job.arm.name, "server_command": " ; ".join(beside.command)}
        sampler = processes.Sampler(running.groups) if self.extras else None
        offset = time.time_ns() - time.monotonic_ns()
        if sampler is not None:
            sampler.start()
        try:
            outcome = self.runner(
                RunOptions(scenario, out=str(folder), ui="none"),
                Stage(experiment=True, quick=self.quick, html=False, identity=identity, say=self.say),
            )
        finally:
            if sampler is not None:
                sampler.stop()
        beside.t0 = _t0(outcome.result.identity.get("started", ""), offset)
        if sampler is not None:
            processes.write(sampler.readings, folder / "processes.csv", beside.t0 or 0)
        return outcome


def _t0(started: str, offset_nanos: int) -> int | None:
    """The run dates its `t0` by the wall clock; here it is put back on the clock by which processes are read."""
    try:
        wall = datetime.fromisoformat(started).timestamp()
    except ValueError:
        return None
    return round(wall * 1e6) - offset_nanos // 1_000


def adopted(folder: Path) -> Attempt:
    """A complete folder as an attempt."""
    result = RunFolder(folder).load_result()
    reasons = [*result.invalid, *result.disturbed]
    # An overloaded server is a finding about the server, not a fault of the run.
    status = "invalid" if result.invalid else "disturbed" if result.disturbed else "ok"
    return Attempt(folder=str(folder), status=status, reasons=reasons, classes=class_hashes(folder))


def is_interrupted(folder: Path) -> bool:
    """Its result was written after Ctrl-C: it is of a part of the window only."""
    return RunFolder(folder).load_result().interrupted


def set_aside(folder: Path) -> None:
    """What an attempt left that did not come to its end: its processes are ended, its folder gets another name."""
    if not folder.exists():
        return
    server.reap(folder)
    number = 1
    while (other := folder.with_name(f"{folder.name}.torn-{number}")).exists():
        number += 1
    folder.rename(other)


def beside_of(folder: Path) -> Beside:
    """`arm.json`; an empty one where the run had no extras."""
    path = folder / MARK
    return msgspec.json.decode(path.read_bytes(), type=Beside) if path.is_file() else Beside()
