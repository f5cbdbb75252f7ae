"""Rows that leave a step at a layer and come back, or are dropped, give what they would have given undisturbed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.engine_rig import UNLIMITED, VirtualClock
from support.model_rig import ARITHMETIC, StepHost, StepRig, deep_model_dir, limits_for_test, step_rig

from pyworker.engine.core import EngineCore
from pyworker.engine.outputs import ParkedSlice, RowResult, SchedulerOutput
from pyworker.engine.request import RequestClass, SamplingParams
from pyworker.runner.build import build_runner
from pyworker.runner.flow import Flow
from pyworker.runner.safepoint import Safepoint, Yield

LAYERS = 4
RNG = np.random.default_rng(3)
PROMPTS = {"on": RNG.integers(0, 256, 37).tolist(), "off": RNG.integers(0, 256, 70).tolist()}
PROMPTS["more"] = RNG.integers(0, 256, 40).tolist()
SAMPLED = SamplingParams(max_tokens=6, temperature=0.9, seed=5, ignore_eos=True, logprobs=3)
KINDS = ("chunk", "decode", "verify")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deep_model_dir(tmp_path_factory.mktemp("deep"), LAYERS)


@pytest.fixture(scope="module", params=ARITHMETIC)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(deep: Path, backend: str) -> StepRig:
    """Each request alone."""
    rig = rig_with_requests(deep, backend)
    for name in PROMPTS:
        rig.finish(name)
    return rig


def rig_with_requests(folder: Path, backend: str) -> StepRig:
    rig = step_rig(folder, backend)
    for name, prompt in PROMPTS.items():
        rig.add(name, prompt, SAMPLED, RequestClass.STANDARD if name == "on" else RequestClass.OFFLINE)
    return rig


def outcome(rig: StepRig, name: str) -> tuple[list[int], list[object]]:
    return rig.requests[name].output_ids, list(rig.logprobs[name])


def prepare(rig: StepRig, kind: str, right: list[int], name: str = "off") -> tuple[int, list[int]]:
    """Bring the request to where its next step is of this kind: tokens of that step, drafts among them."""
    if kind == "chunk":
        rig.step({name: 20})
        return 33, []
    rig.step({name: len(PROMPTS[name])})
    if kind == "decode":
        return 1, []
    # Two right guesses, then a wrong one.
    drafts = [*right[1:3], (right[3] + 1) % 256]
    return 4, drafts


@pytest.mark.parametrize("fate", ["alone", "joined", "dropped"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_parked_rows_lose_nothing_and_online_rows_notice_nothing(
    deep: Path, backend: str, undisturbed: StepRig, layer: int, kind: str, fate: str
) -> None:
    rig = rig_with_requests(deep, backend)
    right = undisturbed.requests["off"].output_ids
    count, drafts = prepare(rig, kind, right)
    guesses = {"off": drafts} if drafts else {}
    rig.step({"on": len(PROMPTS["on"])})
    result = rig.step({"on": 1, "off": count}, drafts=guesses, ask_at=layer)
    (parked,) = result.parked
    assert (parked.layer, parked.num_tokens, parked.num_bytes) == (layer, {"off": count}, count * 64 * 4)
    assert result.rows["off"] == RowResult(parked=True)
    assert len(result.rows["on"].token_ids) == 1
    before = rig.host.progressed
    if fate == "alone":
        result = rig.step({"off": count}, drafts=guesses, joins=[parked])
        assert rig.host.progressed - before == LAYERS - layer, "the layers below have no rows"
    elif fate == "joined":
        result = rig.step({"on": 1, "off": count}, drafts=guesses, joins=[parked])
        assert rig.host.progressed - before == LAYERS
    assert result.parked == ([parked] if fate == "dropped" else [])
    if fate != "dropped" and kind == "verify":
        assert rig.requests["off"].output_ids == right[:4], "two drafts were right, and one token more"
    rig.finish("on", "off")
    assert outcome(rig, "off") == outcome(undisturbed, "off")
    assert outcome(rig, "on") == outcome(undisturbed, "on")


def test_every_row_goes_through_every_layer_once(
    deep: Path, backend: str, undisturbed: StepRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slices of different layers come into one step of an online row, are parked once more, and end."""
    rig = rig_with_requests(deep, backend)
    operations, seen = rig.runner._backend, []

    def counted(original: Callable[..., object], *args: Any) -> object:
        layer, batch = args[-2:]
        ends = batch.seq_starts.tolist()
        for name, begin, end in zip(batch.seq_ids, ends, ends[1:], strict=False):
            seen.extend((name, position, layer) for position in batch.positions[begin:end].tolist())
        return original(*args)

    # The reference makes a layer of its halves.
    for operation in ("layer", "attention") if backend.startswith("native") else ("attention",):
        monkeypatch.setattr(operations, operation, partial(counted, getattr(operations, operation)))
    rig.step({"on": 37})
    (high,) = rig.step({"on": 1, "off": 70}, ask_at=3).parked
    (low,) = rig.step({"on": 1, "more": 25}, ask_at=1).parked
    # Given in the order of neither the layers nor the batch.
    result = rig.step({"off": 70, "on": 1, "more": 25}, joins=[high, low], ask_at=2)
    assert [(part.layer, part.num_tokens) for part in result.parked] == [(2, {"more": 25}), (3, {"off": 70})]
    assert result.parked[1] is high, "it never came in"
    assert [name for name, row in result.rows.items() if row.parked] == ["off", "more"]
    result = rig.step({"on": 1, "off": 70, "more": 25}, joins=result.parked)
    assert not result.parked
    names = ("on", "off", "more")
    rig.finish(*names)
    assert [outcome(rig, name) for name in names] == [outcome(undisturbed, name) for name in names]
    ends = {name: rig.requests[name].num_computed_tokens for name in names}
    expected = {(name, position, layer) for name in names for position in range(ends[name]) for layer in range(LAYERS)}
    assert len(seen) == len(set(seen))
    assert set(seen) == expected


def test_slices_alone_begin_at_the_lowest_layer(deep: Path, backend: str, undisturbed: StepRig) -> None:
    rig = rig_with_requests(deep, backend)
    (high,) = rig.step({"off": 70}, ask_at=3).parked
    (low,) = rig.step({"more": 40}, ask_at=2).parked
    before = rig.host.progressed
    result = rig.step({"off": 70, "more": 40}, joins=[high, low])
    assert rig.host.progressed - before == 2
    assert [len(row.token_ids) for row in result.rows.values()] == [1, 1]
    rig.finish("off", "more")
    assert [outcome(rig, name) for name in ("off", "more")] == [outcome(undisturbed, n) for n in ("off", "more")]


def test_slices_of_one_layer_come_in_together(deep: Path, backend: str, undisturbed: StepRig) -> None:
    rig = rig_with_requests(deep, backend)
    first = rig.step({"off": 70}, ask_at=2).parked
    second = rig.step({"more": 40}, ask_at=2).parked
    rig.step({"more": 40, "off": 70}, joins=first + second)
    rig.finish("off", "more")
    assert [outcome(rig, name) for name in ("off", "more")] == [outcome(undisturbed, n) for n in ("off", "more")]


def test_a_byte_that_is_up_before_the_step_sends_all_offline_rows_back(deep: Path, backend: str) -> None:
    rig = rig_with_requests(deep, backend)
    (parked,) = rig.step({"off": 70}, ask_at=2).parked
    rig.step({"on": 37})
    result = rig.step({"on": 1, "off": 70}, joins=[parked], ask_at=0)
    assert result.parked == [parked]
    assert (result.rows["off"], len(result.rows["on"].token_ids)) == (RowResult(parked=True), 1)
    before = rig.host.progressed
    result = rig.step({"off": 70}, joins=[parked], ask_at=0)
    assert (result.parked, result.rows) == ([parked], {"off": RowResult(parked=True)})
    assert rig.host.progressed - before == 1


def test_nothing_comes_in_where_rows_have_left(
    deep: Path, backend: str, undisturbed: StepRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if somebody clears the byte in the middle of the step, which is not theirs to do."""
    rig = rig_with_requests(deep, backend)
    (parked,) = rig.step({"more": 40}, ask_at=3).parked
    enter = Flow.enter

    def cleared(flow: Flow, layer: int, *rest: Any) -> Any:
        if layer == 2:
            rig.runner.safepoint.clear()
        return enter(flow, layer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "enter", cleared)
        result = rig.step({"on": 37, "off": 70, "more": 40}, joins=[parked], ask_at=1)
    assert [part.num_tokens for part in result.parked] == [{"off": 70}, {"more": 40}]
    rig.step({"on": 1, "off": 70, "more": 40}, joins=result.parked)
    rig.finish("on", "off", "more")
    assert [outcome(rig, name) for name in PROMPTS] == [outcome(undisturbed, name) for name in PROMPTS]


def test_online_rows_alone_do_not_notice_the_byte(deep: Path, backend: str, undisturbed: StepRig) -> None:
    rig = rig_with_requests(deep, backend)
    assert not rig.step({"on": 37}, ask_at=1).parked
    rig.finish("on")
    assert outcome(rig, "on") == outcome(undisturbed, "on")


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_stop_ends_the_step_and_keeps_nothing(deep: Path, backend: str, undisturbed: StepRig, layer: int) -> None:
    rig = rig_with_requests(deep, backend)
    (parked,) = rig.step({"more": 40}, ask_at=3).parked
    counts = {"on": 37, "off": 70, "more": 40}
    result = rig.step(counts, joins=[parked], ask_at=layer, level=Yield.STOP)
    assert result.rows == {name: RowResult(parked=True) for name in counts}
    assert result.parked == [parked]
    rig.finish(*counts)
    assert [outcome(rig, name) for name in counts] == [outcome(undisturbed, name) for name in counts]


def test_a_slice_must_be_scheduled_as_it_was_parked(deep: Path, backend: str) -> None:
    rig = rig_with_requests(deep, backend)
    (parked,) = rig.step({"off": 20}, ask_at=1).parked
    for counts, joins in (({"off": 21}, [parked]), ({"on": 1}, [parked]), ({"off": 20}, [parked, parked])):
        requests = {name: rig.requests[name] for name in counts}
        with pytest.raises(ValueError, match="request off joins with 20 tokens"):
            rig.runner.execute(SchedulerOutput(counts, requests, joins=joins), rig.host)
    foreign = replace(parked, state=object())
    with pytest.raises(ValueError, match="another runner"):
        rig.step({"off": 20}, joins=[foreign])
    assert isinstance(foreign, ParkedSlice)


@pytest.mark.parametrize("seed", range(3))
def test_a_byte_that_rises_at_random_changes_no_token_of_an_engine(
    deep: Path, backend: str, undisturbed: StepRig, seed: int
) -> None:
    """Scheduler and runner together: slices are parked, kept and joined as the engine likes."""
    rng = np.random.default_rng(seed)
    name, dtype = backend.split()
    limits = limits_for_test(max_num_batched_tokens=48, max_num_seqs=8, kv_cache_bytes=2 << 20)
    built = build_runner(deep, "deep", backend=name, dtype=dtype, limits=limits)
    host = StepHost(safepoint=built.runner.safepoint)
    engine = EngineCore(built.config, built.runner, VirtualClock(), built.capabilities)
    engine.attach(host)
    for request in undisturbed.requests.values():
        engine.submit(replace(request, output_ids=[], block_table=[], num_computed_tokens=0, credit_up_to=UNLIMITED))
    active = True
    for _ in range(300):
        built.runner.safepoint.clear()
        host.ask_at = int(rng.integers(-LAYERS, LAYERS))
        active = engine.step()
        if not active:
            break
    assert not active
    assert [host.tokens(name) for name in PROMPTS] == [undisturbed.requests[name].output_ids for name in PROMPTS]
    (num_parked,) = (value for name, _, value in engine.stats().metrics if "parked_slices" in name)
    assert num_parked > 0
    engine.close()


def test_the_byte_only_rises_until_it_is_cleared() -> None:
    safepoint = Safepoint()
    assert safepoint.level is Yield.GO_ON
    safepoint.ask(Yield.STOP)
    safepoint.ask(Yield.OFFLINE_LEAVES)
    assert safepoint.level is Yield.STOP
    safepoint.clear()
    assert (safepoint.level, safepoint.view[0]) == (Yield.GO_ON, 0)


def test_another_process_can_raise_the_byte() -> None:
    safepoint = Safepoint()
    child = os.fork()
    if child == 0:
        safepoint.ask(Yield.OFFLINE_LEAVES)
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    assert safepoint.level is Yield.OFFLINE_LEAVES
