"""A load on the scheduler that one seed decides, and what must be true of it at the end."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from pyworker.engine.outputs import FinishReason, KVEvents
from pyworker.engine.policies import Policies
from pyworker.engine.request import Grammar, GrammarKind, Request, RequestClass, SamplingParams
from pyworker.errors import InvalidRequest
from pyworker.runner.safepoint import Yield
from support.engine_rig import UNLIMITED, ConfigOverrides, oracle_of, request_for_test
from support.scheduler_stubs import Pressure, StubGrammar, StubSpeculator, wild_guess
from support.scheduler_world import World, world_for_test

if TYPE_CHECKING:
    from pyworker.engine.outputs import SchedulerOutput


class Storm:
    """A load decided by one seed: requests, resumes, replacements, cancels and credits come at random between steps."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        seqs = rng.randint(1, 5)
        self.limits: ConfigOverrides = {
            "num_blocks": rng.choice([11, 14, 20, 60]),
            "max_num_seqs": seqs,
            "max_num_batched_tokens": rng.randint(seqs + 16, 70),
            "decode_chunk": rng.choice([16, 20, 32]),
            "max_model_len": rng.choice([40, 64]),
            "block_size": rng.choice([2, 4]) if seqs > 2 else 4,
            "enable_prefix_caching": rng.random() < 0.8,
            "eos_ids": frozenset(rng.sample(range(256, 1000), 20)),
        }
        self.world = self.make_world()
        self.trace: list[object] = []
        self.credits: dict[tuple[str, int], int] = {}
        self.cancelled: set[tuple[str, int]] = set()
        self.replaced: set[tuple[str, int]] = set()

    def make_world(self) -> World:
        return world_for_test(**self.limits)

    def run(self) -> None:
        for _ in range(self.rng.randint(20, 60)):
            for _ in range(self.rng.choice([0, 1, 1, 3])):
                self.rng.choice([self.arrive, self.arrive, self.grant, self.grant, self.cancel, self.replace])()
            self.step()
        for request in self.world.live():
            self.world.scheduler.grant(request.request_id, UNLIMITED)
            self.credits[request.request_id, request.attempt] = UNLIMITED
        # Each step brings somebody on; being turned out and computing again is paid for three times over.
        for _ in range(50 + 4 * sum(len(row.prompt_ids) + row.params.max_tokens for row in self.world.live())):
            if not self.step() and not self.world.live():
                break
        self.check_ends()

    def step(self) -> bool:
        out = self.world.step()
        self.trace.append(self.traced(out))
        for output in self.world.host.steps[-1].outputs if self.world.host.steps else []:
            key = (output.request_id, output.attempt)
            assert output.start + len(output.token_ids) <= max(self.credits[key], output.start)
        return bool(out.num_scheduled_tokens)

    def traced(self, out: SchedulerOutput) -> object:
        return dict(out.num_scheduled_tokens), list(out.new_requests), list(out.finished_ids)

    def text(self) -> list[int]:
        shared = self.rng.choice([0, 4, 9, 16])
        return [1] * shared + [self.rng.randint(1, 3) for _ in range(self.rng.randint(1, 16))]

    def submit(self, request: Request) -> None:
        try:
            self.world.add(request)
        except InvalidRequest as refusal:
            if refusal.code != "kv_never_fits":
                raise
        else:
            self.credits[request.request_id, request.attempt] = request.credit_up_to

    def arrive(self) -> None:
        params = SamplingParams(
            max_tokens=self.rng.randint(1, 20), seed=self.rng.choice([1, 2]), ignore_eos=self.rng.random() < 0.5
        )
        request = request_for_test(f"r{len(self.world.requests)}", self.text(), params=params)
        request.credit_up_to = self.rng.choice([0, 1, 5, UNLIMITED])
        request.salt = self.rng.choice([0, 0, 1])
        request.klass = self.rng.choice(list(RequestClass))
        request.expected_output = self.rng.choice([None, 1, 1, 1])  # of which most are wrong, and blocks run short
        known = self.ended(request)
        request.output_ids = known[: self.rng.choice([0, 0, self.rng.randrange(len(known))])]
        self.submit(request)

    def pick(self) -> Request | None:
        live = self.world.live()
        return self.rng.choice(live) if live else None

    def grant(self) -> None:
        if request := self.pick():
            key = (request.request_id, request.attempt)
            up_to = len(request.output_ids) + self.rng.randint(0, 9)
            self.credits[key] = max(self.credits[key], up_to)
            self.world.scheduler.grant(request.request_id, up_to)

    def cancel(self) -> None:
        if (request := self.pick()) and self.rng.random() < 0.5:
            self.cancelled.add((request.request_id, request.attempt))
            self.world.scheduler.cancel(request.request_id)

    def replace(self) -> None:
        if (request := self.pick()) and self.rng.random() < 0.5:
            old = (request.request_id, request.attempt)
            again = request_for_test(request.request_id, request.prompt_ids, params=request.params)
            again.attempt, again.salt = request.attempt + 1, request.salt
            again.output_ids = list(request.output_ids)
            again.credit_up_to = self.credits[old]
            self.replaced.add(old)
            self.submit(again)

    def ended(self, request: Request) -> list[int]:
        """All tokens that an undisturbed run of this request gives."""
        config, tokens = self.world.config, oracle_of(request)
        tokens = tokens[: config.max_model_len - len(request.prompt_ids)]
        for index, token in enumerate(tokens):
            if token in config.eos_ids and not request.params.ignore_eos:
                return tokens[: index + 1]
        return tokens

    def check_ends(self) -> None:
        world, host = self.world, self.world.host
        assert (world.scheduler.num_running, world.scheduler.num_waiting, world.kv_cache.usage().used) == (0, 0, 0)
        for (name, attempt), request in world.requests.items():
            key, finish = (name, attempt), host.finish(name, attempt)
            whole = self.ended(request)
            assert request.output_ids == whole[: len(request.output_ids)]
            outputs = host.outputs(name, attempt)
            if key in self.replaced:
                assert finish is None or key not in self.cancelled
                continue
            assert finish is not None
            assert outputs[-1].finish is finish
            first = outputs[0].start
            assert host.tokens(name, attempt) == request.output_ids[first:]
            if finish is FinishReason.CANCELLED:
                assert key in self.cancelled
                continue
            stopped = whole[-1] in world.config.eos_ids and not request.params.ignore_eos
            assert finish is (FinishReason.STOP if stopped else FinishReason.LENGTH)
            assert request.output_ids == whole


class FullStorm(Storm):
    """The same with all that a scheduler can be given: choices of one prompt, drafts, grammars, rows that leave in the
    middle, logprobs of prompts, and somebody who keeps books of the prefix cache from its events alone.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.pressure = Pressure()
        self.grammar = StubGrammar()
        self.told: dict[tuple[int, int], int] = {}
        self.known: dict[object, World] = {}
        self.forced = 0
        super().__init__(seed)

    def make_world(self) -> World:
        speculator = StubSpeculator(wild_guess(self.seed)) if self.seed % 4 else None
        policies = Policies(joins=self.pressure, grammar=self.grammar, speculator=speculator)
        limits: ConfigOverrides = {**self.limits, "park_max_slices": self.seed % 3, "park_max_micros": 30_000}
        return world_for_test(policies, 3, **limits)

    def run(self) -> None:
        super().run()
        assert self.grammar.known == {}
        assert self.world.scheduler.num_parked == 0

    def step(self) -> bool:
        world, rng = self.world, self.rng
        if rng.random() < 0.3:
            world.runner.ask_at(rng.randrange(3), Yield.STOP if rng.random() < 0.1 else Yield.OFFLINE_LEAVES)
        self.pressure.on = rng.random() < 0.3 and bool(world.live())
        sent = len(world.host.steps)
        moved = super().step()
        world.runner.safepoint.clear()
        for steps in world.host.steps[sent:]:
            self.hear(steps.kv_events)
        return moved or bool(world.scheduler.num_compiling or world.scheduler.num_parked)

    def traced(self, out: SchedulerOutput) -> object:
        joins = [(parked.layer, dict(parked.num_tokens)) for parked in out.joins]
        self.forced += len(out.forced)
        return super().traced(out), dict(out.drafts), sorted(out.forced), list(out.block_copies), joins

    def hear(self, events: KVEvents) -> None:
        assert not events.cleared
        for key in events.removed:
            del self.told[key]
        for block in events.stored:
            assert (block.salt, block.block_hash) not in self.told
            self.told[block.salt, block.block_hash] = block.parent_hash
        snapshot = self.world.kv_cache.snapshot()
        assert self.told == {(block.salt, block.block_hash): block.parent_hash for block in snapshot.stored}

    def arrive(self) -> None:
        rng = self.rng
        params = SamplingParams(
            max_tokens=rng.randint(1, 20),
            ignore_eos=rng.random() < 0.5,
            stop_token_ids=tuple(rng.sample(range(256, 1000), rng.choice([0, 20]))),
            logprobs=rng.choice([None, 0, 2]),
            prompt_logprobs=rng.choice([None, None, None, 1]),
            grammar=rng.choice([None, Grammar(GrammarKind.REGEX, rng.choice(["0", "1 6", "0 18 15", "2 99 20"]))]),
        )
        prompt, salt, klass = self.text(), rng.choice([0, 0, 1]), rng.choice(list(RequestClass))
        group, count = f"g{len(self.world.requests)}", rng.choice([1, 1, 2, 4])
        for index in range(count):
            request = request_for_test(
                f"r{len(self.world.requests)}",
                prompt,
                params=replace(params, seed=index),
                salt=salt,
                klass=klass,
                group=(group, index) if count > 1 else None,
                credit=rng.choice([0, 1, 5, UNLIMITED]),
                expected=rng.choice([None, 1, 1, 1]),
                deadline=rng.choice([None, self.world.now + rng.randint(0, 50_000)]),
            )
            if rng.random() < 0.2:
                known = self.ended(request)
                request.output_ids = known[: rng.randrange(len(known))]
            self.submit(request)

    def replace(self) -> None:
        if (request := self.pick()) and self.rng.random() < 0.5:
            old = (request.request_id, request.attempt)
            again = request_for_test(request.request_id, request.prompt_ids, params=request.params)
            again.attempt, again.salt, again.klass = request.attempt + 1, request.salt, request.klass
            again.group, again.choice_index = request.group, request.choice_index
            again.output_ids = list(request.output_ids)
            again.credit_up_to = self.credits[old]
            self.replaced.add(old)
            self.submit(again)

    def ended(self, request: Request) -> list[int]:
        return self.alone(request).host.tokens("alone")

    def alone(self, request: Request) -> World:
        """A world of its own in which nothing else happens to this request, without drafts."""
        key = (tuple(request.prompt_ids), request.params)
        if key in self.known:
            return self.known[key]
        limits: ConfigOverrides = {**self.limits, "num_blocks": 100}
        world = world_for_test(Policies(grammar=StubGrammar()), **limits)
        world.add(request_for_test("alone", request.prompt_ids, params=request.params))
        world.run()
        self.known[key] = world
        return world

    def check_ends(self) -> None:
        world, host = self.world, self.world.host
        assert (world.scheduler.num_running, world.scheduler.num_waiting, world.kv_cache.usage().used) == (0, 0, 0)
        for (name, attempt), request in world.requests.items():
            key, finish, outputs = (name, attempt), host.finish(name, attempt), host.outputs(name, attempt)
            alone = self.alone(request)
            whole = alone.host.tokens("alone")
            assert request.output_ids == whole[: len(request.output_ids)]
            if key in self.replaced:
                assert finish is None or key not in self.cancelled
                continue
            assert finish is not None
            first = outputs[0].start
            assert host.tokens(name, attempt) == request.output_ids[first:]
            logprobs = [one for output in alone.host.outputs("alone") for one in output.logprobs]
            assert [one for output in outputs for one in output.logprobs] == logprobs[first : len(request.output_ids)]
            if finish is FinishReason.CANCELLED:
                assert key in self.cancelled
                continue
            assert finish is alone.host.finish("alone")
            assert request.output_ids == whole
            prompt = [one for output in alone.host.outputs("alone") for one in output.prompt_logprobs]
            assert [one for output in outputs for one in output.prompt_logprobs] == prompt
