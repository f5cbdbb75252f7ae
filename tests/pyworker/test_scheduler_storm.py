"""The scheduler under random load: whatever comes between two steps, streams are the oracle's and limits hold."""

from __future__ import annotations

from random import Random

import pytest
from support.engine_rig import UNLIMITED, oracle_of, request_for_test
from support.scheduler_world import world_for_test

from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import Request, RequestClass, SamplingParams
from pyworker.errors import InvalidRequest


class Storm:
    """A load decided by one seed: requests, resumes, replacements, cancels and credits come at random between steps."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        seqs = rng.randint(1, 5)
        self.world = world_for_test(
            num_blocks=rng.choice([11, 14, 20, 60]),
            max_num_seqs=seqs,
            max_num_batched_tokens=rng.randint(seqs + 16, 70),
            decode_chunk=rng.choice([16, 20, 32]),
            max_model_len=rng.choice([40, 64]),
            block_size=rng.choice([2, 4]) if seqs > 2 else 4,
            enable_prefix_caching=rng.random() < 0.8,
            eos_ids=frozenset(rng.sample(range(256, 1000), 20)),
        )
        self.trace: list[object] = []
        self.credits: dict[tuple[str, int], int] = {}
        self.cancelled: set[tuple[str, int]] = set()
        self.replaced: set[tuple[str, int]] = set()

    def run(self) -> None:
        for _ in range(self.rng.randint(20, 60)):
            for _ in range(self.rng.choice([0, 1, 1, 3])):
                self.rng.choice([self.arrive, self.arrive, self.grant, self.grant, self.cancel, self.replace])()
            self.step()
        for request in self.world.live():
            self.world.scheduler.grant(request.request_id, UNLIMITED)
            self.credits[request.request_id, request.attempt] = UNLIMITED
        for _ in range(3000):
            if not self.step():
                break
        self.check_ends()

    def step(self) -> bool:
        out = self.world.step()
        self.trace.append((dict(out.num_scheduled_tokens), list(out.new_requests), list(out.finished_ids)))
        for output in self.world.host.steps[-1].outputs if self.world.host.steps else []:
            key = (output.request_id, output.attempt)
            assert output.start + len(output.token_ids) <= max(self.credits[key], output.start)
        return bool(out.num_scheduled_tokens)

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


@pytest.mark.parametrize("hundred", range(4))
def test_everything_holds_in_any_storm(hundred: int) -> None:
    preemptions = hits = 0.0
    for seed in range(hundred * 100, hundred * 100 + 100):
        storm = Storm(seed)
        try:
            storm.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}; last steps {storm.trace[-5:]}") from error
        counters = {name: value for name, label, value in storm.world.metrics.snapshot({}) if label is None}
        preemptions += counters["preemptions"]
        hits += counters["prefix_cache_hits"]
    assert preemptions > 100
    assert hits > 1000


def test_equal_inputs_give_equal_outputs() -> None:
    for seed in range(20):
        one, two = Storm(seed), Storm(seed)
        one.run()
        two.run()
        assert one.trace == two.trace
        assert one.world.host.steps == two.world.host.steps
