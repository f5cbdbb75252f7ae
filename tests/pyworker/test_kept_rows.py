"""The last layer is computed for the rows of which something is asked, and for no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.model_rig import ARITHMETIC, GREEDY, Block, StepRig, built_for_test

from pyworker.engine.outputs import SchedulerOutput
from pyworker.engine.request import Request, SamplingParams
from pyworker.runner.backends.native import NativeBackend
from pyworker.runner.backends.reference import ReferenceBackend
from pyworker.runner.batch import Batch, BatchBuilder
from slackwater._native import kernels

if TYPE_CHECKING:
    from pyworker.runner.backends.base import Backend

PROMPT = np.random.default_rng(5).integers(0, 256, 40).tolist()
SCORED = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True, prompt_logprobs=2)


def batch_of(*parts: tuple[int, int, SamplingParams]) -> Batch:
    """A step of requests with so many known tokens, of which so many are computed."""
    requests, counts = {}, {}
    for index, (known, count, params) in enumerate(parts):
        request = Request(str(index), 0, list(range(known)), params)
        request.block_table = [Block(index + 1)]  # type: ignore[list-item]
        requests[str(index)], counts[str(index)] = request, count
    return BatchBuilder(8, 64, 1).build(SchedulerOutput(counts, requests))


def kept(batch: Batch) -> list[int] | None:
    return None if batch.kept_rows is None else batch.kept_rows.tolist()


def test_rows_are_kept_for_logits_and_for_logprobs_of_the_prompt() -> None:
    assert kept(batch_of((1, 1, GREEDY), (1, 1, GREEDY))) is None
    assert kept(batch_of((3, 3, GREEDY), (5, 2, GREEDY), (1, 1, GREEDY))) == [2, 5]
    assert kept(batch_of((3, 2, GREEDY), (5, 4, GREEDY))) == []
    scored = batch_of((3, 3, GREEDY), (5, 2, SCORED), (9, 4, GREEDY), (2, 2, SCORED))
    assert kept(scored) == [2, 3, 4, 9, 10]
    assert scored.among_kept(scored.logit_rows).tolist() == [0, 4]
    assert scored.among_kept(scored.seq_starts).tolist() == [0, 1, 3, 3, 5]
    assert kept(scored.prefix(2)) == [2, 3, 4]
    assert (scored.scored_seqs, scored.prefix(2).scored_seqs) == ([1, 3], [1])


class _Counts:
    """Stands before a backend and notes how many rows each call of some operations has."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.rows: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name not in ("layer", "attention", "feed_forward"):
            return found

        def call(x: Any, *more: Any) -> Any:
            self.rows.append((name, x.shape[0]))
            return found(x, *more)

        return call


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_the_end_of_the_last_layer_has_no_row_that_nobody_needs(arithmetic: str) -> None:
    backend, dtype = arithmetic.split()
    built = built_for_test("tiny", backend, dtype, max_num_batched_tokens=64, max_num_seqs=4)
    counts = _Counts(built.runner._backend)
    built.runner._backend = counts  # type: ignore[assignment]
    rig = StepRig(built.runner)
    rig.add("a", PROMPT, SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True))
    layers = rig.runner._model.kv_spec.num_layers

    def ran(**tokens: int) -> list[tuple[str, int]]:
        counts.rows.clear()
        rig.step(tokens)
        return counts.rows.copy()

    whole = [("layer", 25)] * (layers - 1)
    assert ran(a=25) == [*whole, ("attention", 25)], "a chunk without a next token"
    rig.add("b", PROMPT[:10], SCORED)
    steps = ran(a=15, b=10)
    assert steps[-2:] == [("attention", 25), ("feed_forward", 11)]
    assert steps[:-2] == whole
    assert ran(a=1, b=1) == [("layer", 2)] * layers


def test_rows_are_taken_in_the_order_that_is_asked_for() -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    native, reference = NativeBackend(1), ReferenceBackend()
    for rows in ([3, 0, 3], [], [1]):
        picked = np.array(rows, dtype=np.int32)
        made = native.take_rows(native.from_torch(torch.from_numpy(array)), picked).numpy()
        assert made.tolist() == array[rows].tolist() if rows else made.shape == (0, 3)
        assert np.array_equal(reference.take_rows(torch.from_numpy(array), picked).numpy(), made)


@pytest.mark.parametrize(
    ("rows", "text"), [([0, 4], "row 4 of 4 rows"), ([-1], "row -1 of 4 rows"), ([0, 1, 2, 3, 0, 0][::2], "no room")]
)
def test_rows_that_are_not_there_are_refused(rows: list[int], text: str) -> None:
    workspace = kernels.Workspace(64 + 16)
    x = workspace.from_numpy(np.zeros((4, 16), np.float32))
    used = workspace.used
    with pytest.raises(kernels.KernelError, match=text):
        kernels.take_rows(x, np.array(rows, dtype=np.int32), workspace)
    assert workspace.used == used
    with pytest.raises(kernels.KernelError, match="rows is not C-contiguous"):
        kernels.take_rows(x, np.zeros(4, np.int32)[::2], workspace)
