"""What the runner makes of drafts, chunks, copies, log-probabilities and broken numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from support.model_rig import ARITHMETIC, GREEDY, StepRig, built_for_test, logits_of, model_dir, model_rig, step_rig

from pyworker.engine.outputs import SchedulerOutput, TokenLogprobs
from pyworker.engine.request import Request, SamplingParams
from pyworker.errors import BackendBroken
from slackwater._native import kernels

RNG = np.random.default_rng(8)
PROMPT = RNG.integers(0, 256, 150).tolist()
SHORT = RNG.integers(0, 256, 29).tolist()
KINDS = {
    "greedy": replace(GREEDY, max_tokens=12, logprobs=2),
    "sampled": SamplingParams(max_tokens=12, seed=9, top_p=0.95, ignore_eos=True, logprobs=2),
    # The history of a verify row has the drafts before it: with penalties a wrong history gives other tokens.
    "penalised": SamplingParams(max_tokens=12, seed=9, frequency_penalty=1.5, ignore_eos=True, logprobs=2),
}


@pytest.fixture(scope="module", params=ARITHMETIC)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def plain(backend: str) -> dict[str, tuple[list[int], list[TokenLogprobs]]]:
    """Tokens and log-probabilities without drafts, in whole prompts."""
    rig = step_rig(model_dir("tiny"), backend)
    for name, params in KINDS.items():
        rig.add(name, SHORT, params)
        rig.finish(name)
    return {name: (rig.requests[name].output_ids, rig.logprobs[name]) for name in KINDS}


def drafts_for(kind: str, right: list[int], rng: np.random.Generator) -> list[int]:
    """Up to three guesses at the coming tokens; `right` are those of the run without drafts."""
    count = int(rng.integers(0, 4)) if kind == "mixed" else 3
    guesses = right[:count]
    if kind == "random":
        return rng.integers(0, 512, len(guesses)).tolist()
    if kind == "wrong":
        return [(token + 1) % 512 for token in guesses]
    if kind == "mixed" and guesses:
        guesses[int(rng.integers(len(guesses)))] ^= int(rng.integers(2))
    return guesses


@pytest.mark.parametrize("guess", ["random", "right", "wrong", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_drafts_and_chunks_change_no_token(
    backend: str, plain: dict[str, tuple[list[int], list[TokenLogprobs]]], guess: str, seed: int
) -> None:
    """All three requests together, their prompts in random chunks, drafts cut to what may still come."""
    rng = np.random.default_rng(seed)
    rig = step_rig(model_dir("tiny"), backend)
    for name, params in KINDS.items():
        rig.add(name, SHORT, params)
    emitted, steps = [], 0
    while left := [name for name, (tokens, _) in plain.items() if len(rig.requests[name].output_ids) < len(tokens)]:
        counts, drafts = {}, {}
        for name in left:
            request = rig.requests[name]
            counts[name] = min(int(rng.integers(1, 17)), request.num_tokens - request.num_computed_tokens)
            if counts[name] == 1 and request.num_computed_tokens + 1 == request.num_tokens:
                done = len(request.output_ids)
                drafts[name] = drafts_for(guess, plain[name][0][done : len(plain[name][0]) - 1], rng)
                counts[name] += len(drafts[name])
        result = rig.step(counts, drafts=drafts)
        emitted += [(len(result.rows[name].token_ids), len(drafts[name])) for name in drafts]
        steps += 1
    assert {name: (rig.requests[name].output_ids, rig.logprobs[name]) for name in KINDS} == plain
    if guess == "right":
        assert all(tokens == guesses + 1 for tokens, guesses in emitted)
    if guess == "wrong":
        assert all(tokens == 1 for tokens, _ in emitted)


def test_prompt_logprobs_are_the_models_and_do_not_depend_on_chunks(backend: str) -> None:
    params = replace(GREEDY, prompt_logprobs=2, max_tokens=1)
    found = []
    for index, chunks in enumerate(([150], [1, 70, 65, 14], [149, 1])):
        rig, rows = step_rig(model_dir("tiny"), backend), []
        rig.add(f"r{index}", PROMPT, params)
        rig.add("other", SHORT, GREEDY)
        for chunk in chunks:
            counts = {"other": 1} if rig.requests["other"].num_computed_tokens == 0 else {}
            rows += rig.step(counts | {f"r{index}": chunk}).rows[f"r{index}"].prompt_logprobs
        found.append(rows)
    assert found[0] == found[1] == found[2]
    assert all(len(row.top_ids) == len(row.top_logprobs) == 2 for row in found[0])
    if "bfloat16" in backend:
        return
    wide = logits_of(model_dir("tiny"), PROMPT)[:-1].astype(np.float64)
    wide -= np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1, keepdims=True)) + wide.max(1, keepdims=True)
    np.testing.assert_allclose([row.logprob for row in found[0]], wide[np.arange(149), PROMPT[1:]], atol=1e-4)
    assert [row.top_ids[0] for row in found[0]] == wide.argmax(1).tolist()


def test_a_copied_block_reads_as_the_one_it_comes_from(backend: str) -> None:
    """A fork shares its parent's full block and has a copy of the tail: the last prompt token is computed again."""
    rig = step_rig(model_dir("tiny"), backend)
    parent, fork = rig.add("parent", PROMPT[:40], GREEDY), rig.add("fork", PROMPT[:40], GREEDY)
    first = rig.step({"parent": 40}).rows["parent"].token_ids
    copy = (parent.block_table[1].block_id, fork.block_table[1].block_id)
    fork.block_table[0], fork.num_computed_tokens = parent.block_table[0], 39
    out = SchedulerOutput({"fork": 1}, {"fork": fork}, new_requests=["fork"], block_copies=[copy])
    assert rig.runner.execute(out, rig.host).rows["fork"].token_ids == first


def poison(monkeypatch: pytest.MonkeyPatch, rig: StepRig, rows: dict[int, float]) -> None:
    """Put a number into some rows of the logits of every head call, by their place."""
    logits = rig.runner._model.logits

    def poisoned(*args: object) -> np.ndarray:
        found = logits(*args).copy()  # type: ignore[arg-type]
        for row, value in rows.items():
            if row < len(found):
                found[row, 3] = value
        return found

    monkeypatch.setattr(rig.runner._model, "logits", poisoned)


def test_a_row_of_broken_numbers_ends_its_request_alone(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    rig = step_rig(model_dir("tiny"), backend)
    for name in "abc":
        rig.add(name, SHORT, GREEDY)
    with monkeypatch.context() as patch:
        poison(patch, rig, {1: float("nan")})
        result = rig.step(dict.fromkeys("abc", 29))
    assert [row.error for row in result.rows.values()] == [None, "numerics_error", None]
    assert [len(row.token_ids) for row in result.rows.values()] == [1, 0, 1]


def test_broken_numbers_behind_a_draft_count_when_their_turn_comes(
    monkeypatch: pytest.MonkeyPatch, backend: str, plain: dict[str, tuple[list[int], list[TokenLogprobs]]]
) -> None:
    right = plain["greedy"][0]
    rig = step_rig(model_dir("tiny"), backend)
    for name, drafts in (("far", right[1:4]), ("unreached", [right[1], right[2] ^ 1, 0])):
        rig.add(name, SHORT, KINDS["greedy"])
        rig.step({name: 29})
        with monkeypatch.context() as patch:
            poison(patch, rig, {2: float("nan"), 3: float("nan")})
            row = rig.step({name: 4}, drafts={name: drafts}).rows[name]
        assert (row.token_ids, row.error) == (right[1:3], None), name
        rig.finish(name)
        assert rig.requests[name].output_ids == right


def test_broken_prompt_logprobs_end_the_request(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    rig = step_rig(model_dir("tiny"), backend)
    rig.add("a", SHORT, replace(GREEDY, prompt_logprobs=0))
    poison(monkeypatch, rig, {5: float("inf")})
    assert rig.step({"a": 29}).rows["a"].error == "numerics_error"


def test_a_step_that_raised_has_changed_nothing(
    monkeypatch: pytest.MonkeyPatch, backend: str, plain: dict[str, tuple[list[int], list[TokenLogprobs]]]
) -> None:
    """At each of its operations in turn, with drafts in play; then it is run again."""
    rig = step_rig(model_dir("tiny"), backend)
    name, right = "greedy", plain["greedy"][0]
    rig.add(name, SHORT, KINDS[name])
    rig.step({name: 29})
    operations = rig.runner._backend
    of_a_layer = ("layer",) if backend.startswith("native") else ("add_norm", "linear", "attend")
    for operation, call in itertools.product(("embed", *of_a_layer, "logits"), (0, 1)):
        left, original = [call], getattr(operations, operation)

        def fail(*args: object, left: list[int] = left, original: object = original) -> object:
            if left[0] == 0:
                raise RuntimeError("by test")
            left[0] -= 1
            return original(*args)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            patch.setattr(operations, operation, fail)
            if operation in ("embed", "logits") and call:
                continue
            with pytest.raises(RuntimeError, match="by test"):
                rig.step({name: 3}, drafts={name: [right[1], 0]})
    assert rig.step({name: 3}, drafts={name: [right[1], right[2] ^ 1]}).rows[name].token_ids == right[1:3]
    rig.finish(name)
    assert (rig.requests[name].output_ids, rig.logprobs[name]) == plain[name]


def test_a_kernel_that_broke_off_ends_the_engine_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def torn(*_: object) -> None:
        calls.append("layer")
        raise kernels.KernelPanic("index out of range")

    rig = model_rig(built_for_test(backend="native"))
    monkeypatch.setattr(kernels, "layer", torn)
    rig.engine.submit(Request("a", 0, [1, 2, 3], GREEDY, credit_up_to=9))
    with pytest.raises(BackendBroken) as caught:
        rig.engine.step()
    assert (str(caught.value), caught.value.exit_code) == ("backend native is broken: index out of range", 70)
    assert calls == ["layer"]
    with pytest.raises(BackendBroken):
        rig.engine.step()
