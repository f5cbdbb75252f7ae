"""One step ahead under random load: tokens, logprobs and ends are those of requests that run alone, step by step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from random import Random

import pytest
from support.engine_rig import UNLIMITED, BusyHost, ConfigOverrides, VirtualClock, rig_for_test
from support.scheduler_storm import FullStorm, Storm
from support.scheduler_stubs import Pressure, StubGrammar, StubSpeculator, wild_guess
from support.scheduler_world import World

from pyworker.engine.interface import EngineHost
from pyworker.engine.outputs import ModelRunnerOutput, SchedulerOutput
from pyworker.engine.planner import InlinePlanner, Planner
from pyworker.engine.planner_thread import ThreadPlanner
from pyworker.engine.policies import Policies
from pyworker.engine.request import Request
from pyworker.errors import InvalidRequest
from pyworker.runner.safepoint import Yield
from pyworker.runner.sim import SimRunner


class AheadStorm(Storm):
    """The scheduler's storm with plans."""

    foreseen = 0

    def make_world(self) -> World:
        self.limits["num_blocks"] = self.rng.choice([self.limits["num_blocks"], 60])
        world = super().make_world()
        world.planner = InlinePlanner(late=self.rng.random() < 0.5)
        return world

    def step(self) -> bool:
        self.foreseen += self.world.scheduler.has_plan
        return super().step()


class FullAheadStorm(AheadStorm, FullStorm):
    """And with all that a scheduler can be given."""


@pytest.mark.parametrize(("kind", "seeds"), [(AheadStorm, 50), (FullAheadStorm, 16)])
def test_plans_change_no_token(kind: type[AheadStorm], seeds: int) -> None:
    foreseen = 0
    for seed in range(1000, 1000 + seeds):
        storm = kind(seed)
        try:
            storm.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}; last steps {storm.trace[-5:]}") from error
        foreseen += storm.foreseen
    assert foreseen > 10 * seeds


class StormyRunner:
    """A simulated runner that takes a moment, and fails now and then."""

    def __init__(self, sim: SimRunner, rng: Random, pause: Callable[[], None]) -> None:
        self.sim, self.rng, self.pause = sim, rng, pause
        self.failures = 0

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        fails = self.rng.random() < 0.05 and len(out.num_scheduled_tokens) > 1
        if fails and self.rng.random() < 0.5:
            self.failures += 1
            raise ZeroDivisionError("before")
        self.pause()
        result = self.sim.execute(out, host)
        self.pause()
        if fails:
            self.failures += 1
            raise ZeroDivisionError("after")
        return result

    def memory_bytes(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self.sim.close()


class EngineStorm:
    """A whole engine, whose host gives orders between steps and during them. Requests are those of a `FullStorm`."""

    def __init__(self, seed: int, planner: Planner | None, pause: Callable[[], None]) -> None:
        self.rng, self.pressure = Random(seed), Pressure()
        self.source = source = FullStorm(seed)
        limits: ConfigOverrides = {**source.limits, "failure_window_micros": 0, "park_max_slices": 2}
        limits["num_blocks"] = self.rng.choice([20, 60, 200])
        limits["async_scheduling"] = planner is not None
        source.limits["num_blocks"] = limits["num_blocks"]
        self.host, self.clock = BusyHost(), VirtualClock()
        policies = Policies(
            joins=self.pressure,
            grammar=StubGrammar(),
            speculator=StubSpeculator(wild_guess(seed)) if seed % 2 else None,
        )
        probe = rig_for_test(**limits)
        self.sim = SimRunner(probe.config, step_micros=(2500, 100), layers=3)
        self.runner = StormyRunner(self.sim, self.rng, pause)
        self.rig = rig_for_test(self.runner, policies, planner, self.host, **limits)
        self.live: dict[str, Request] = {}
        self.every: list[Request] = []
        self.cancelled: set[str] = set()

    def run(self) -> None:
        for _ in range(self.rng.randint(30, 60)):
            orders = [self.order() for _ in range(self.rng.choice([0, 0, 1, 2]))]
            for order in orders:
                if self.rng.random() < 0.5:
                    self.host.inbox.append(order)
                else:
                    order()
            self.step()
        while self.host.inbox:
            self.host.inbox.popleft()()
        for name in self.live:
            self.rig.engine.grant(name, UNLIMITED)
        for _ in range(3000):
            if not self.step() and not self.pressure.on and all(row.status.is_finished for row in self.every):
                break
        self.check()

    def step(self) -> bool:
        if self.rng.random() < 0.2:
            self.sim.ask_at(self.rng.randrange(3), Yield.OFFLINE_LEAVES)
        self.pressure.on = self.rng.random() < 0.2
        moved = self.rig.engine.step()
        self.sim.safepoint.clear()
        self.rig.clock.sleep(3000)
        return moved

    def order(self) -> Callable[[], None]:
        kind = self.rng.choice(["arrive", "arrive", "grant", "cancel"])
        if kind == "arrive" or not self.live:
            requests = self.arrivals()
            return partial(self.submit, requests)
        name = self.rng.choice(list(self.live))
        if kind == "grant":
            return partial(self.rig.engine.grant, name, self.rng.randint(1, 20))
        if self.rng.random() < 0.6:
            return lambda: None
        self.cancelled.add(name)
        return partial(self.rig.engine.cancel, name)

    def arrivals(self) -> list[Request]:
        """What the other storm would give its own engine."""
        before = set(self.source.world.requests)
        self.source.arrive()
        requests = [row for key, row in self.source.world.requests.items() if key not in before]
        self.live.update({row.request_id: row for row in requests})
        return requests

    def submit(self, requests: list[Request]) -> None:
        for request in requests:
            try:
                self.rig.engine.submit(request)
            except InvalidRequest as refusal:
                if refusal.code != "kv_never_fits":
                    raise
                del self.live[request.request_id]
            else:
                self.every.append(request)

    def check(self) -> None:
        host, source = self.host, self.source
        assert not self.rig.engine.step()
        stats = self.rig.engine.stats()
        assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)
        for request in self.every:
            name, alone = request.request_id, source.alone(request)
            outputs, whole = host.outputs(name), alone.host.tokens("alone")
            first = outputs[0].start
            tokens, end = host.tokens(name), first + len(host.tokens(name))
            assert tokens == whole[first:end] == request.output_ids[first:]
            assert [output.start for output in outputs] == [
                first + sum(len(each.token_ids) for each in outputs[:index]) for index in range(len(outputs))
            ]
            logprobs = [one for output in alone.host.outputs("alone") for one in output.logprobs]
            assert [one for output in outputs for one in output.logprobs] == logprobs[first:end]
            if name not in self.cancelled or host.finish(name) is alone.host.finish("alone"):
                assert host.finish(name) is alone.host.finish("alone")
                assert request.output_ids == whole


PLANNERS: dict[str, Callable[[], Planner | None]] = {
    "off": lambda: None,
    "early": InlinePlanner,
    "late": partial(InlinePlanner, late=True),
    "thread": ThreadPlanner,
}


@pytest.mark.parametrize("planner", PLANNERS)
def test_an_engine_in_a_storm_gives_the_same_with_any_planner(planner: str) -> None:
    rng, counted = Random(5), Counter[str]()

    def pause() -> None:
        if planner == "thread":
            time.sleep(rng.choice([0, 0.0001, 0.0003]))

    for seed in range(2000, 2012):
        storm = EngineStorm(seed, PLANNERS[planner](), pause)
        try:
            storm.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        finally:
            storm.rig.engine.close()
        counted["failures"] += storm.runner.failures
        counted["drained"] += storm.host.drained
        metrics = {name: int(value) for name, label, value in storm.rig.engine.stats().metrics if label is None}
        counted.update(metrics)
    assert counted["failures"] > 12
    assert counted["drained"] > 200 or planner == "off"
    assert min(counted["forks"], counted["parked_slices"], counted["preemptions"]) > 5
    assert counted["accepted_draft_tokens"] > 20
