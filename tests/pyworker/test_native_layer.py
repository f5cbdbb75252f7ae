"""A layer in one call has the bits of its operations one by one, and takes only weights that fit each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model_rig import Block

from pyworker.engine.outputs import SchedulerOutput
from pyworker.engine.request import Request, SamplingParams
from pyworker.models.rope import default_inv_freq
from pyworker.runner.backends.base import AttnSpec, KVCacheSpec, LayerWeights, QkNorm, Rope, StepSizes
from pyworker.runner.backends.composed import ComposedLayers
from pyworker.runner.backends.native import NativeBackend
from pyworker.runner.batch import Batch, BatchBuilder
from slackwater._native import kernels

DTYPES = ("float32", "bfloat16")
SPEC = AttnSpec(4, 2, 16, 0.25, Rope(default_inv_freq(10_000.0, 16)))
KV = KVCacheSpec(2, 2, 16)
HIDDEN, INNER = 48, 80


def values(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


def weights_for(backend: NativeBackend, with_qk_norm: bool = False) -> LayerWeights:
    vector, linear = backend.prepare_vector, backend.prepare_linear
    return LayerWeights(
        spec=SPEC,
        input_norm=vector(values(1, HIDDEN)),
        qkv=linear(values(2, 128, HIDDEN), values(3, 128)),
        qk_norm=QkNorm(vector(values(4, 16)), vector(values(5, 16)), 1e-6) if with_qk_norm else None,
        o=linear(values(6, HIDDEN, 64), values(7, HIDDEN)),
        post_norm=vector(values(8, HIDDEN)),
        gate_up=backend.prepare_gate_up(values(9, INNER, HIDDEN), values(10, INNER, HIDDEN)),
        down=linear(values(11, HIDDEN, INNER)),
        act="silu",
        eps=1e-5,
    )


def batch_of(*seqs: tuple[int, int]) -> Batch:
    """Sequences of so many tokens, of which the last few are computed."""
    requests, counts = {}, {}
    for index, (known, count) in enumerate(seqs):
        request = Request(str(index), 0, list(range(known)), SamplingParams(), num_computed_tokens=known - count)
        request.block_table = [Block(1 + 10 * index + n) for n in range(10)]  # type: ignore[misc]
        requests[str(index)], counts[str(index)] = request, count
    return BatchBuilder(8, 512, 64).build(SchedulerOutput(counts, requests))


class Composed(ComposedLayers, NativeBackend):  # type: ignore[misc]
    """The same operations, each in a call of its own."""


@settings(deadline=None, max_examples=20)
@given(
    seqs=st.lists(st.tuples(st.integers(1, 70), st.integers(1, 40)), min_size=1, max_size=5),
    threads=st.integers(1, 2),
    dtype=st.sampled_from(DTYPES),
    with_delta=st.booleans(),
    with_qk_norm=st.booleans(),
)
def test_a_layer_in_one_call_has_the_bits_of_its_operations(
    seqs: list[tuple[int, int]], threads: int, dtype: str, with_delta: bool, with_qk_norm: bool
) -> None:
    seqs = [(max(known, count), count) for known, count in seqs]
    rows = sum(count for _, count in seqs)
    fused, single = NativeBackend(threads, dtype), Composed(threads, dtype)

    def run(backend: Any, halves: bool) -> list[bytes]:
        kv, batch = backend.kv_cache(KV, 64), batch_of(*seqs)
        layer = backend.prepare_layer(weights_for(backend, with_qk_norm))
        x = backend.from_torch(values(20, rows, HIDDEN))
        delta = backend.from_torch(values(21, rows, HIDDEN)) if with_delta else None
        if halves:
            attended = backend.attention(x, delta, layer, kv, 1, batch)
            added = backend.feed_forward(x, attended, layer)
        else:
            added = backend.layer(x, delta, layer, kv, 1, batch)
        # What the layer has written to the cache shows in the token that comes after.
        after = batch_of(*((known + 1, 1) for known, _ in seqs))
        seen = backend.attend(backend.from_torch(values(22, len(seqs), 128)), kv, 1, SPEC, after)
        return [buf.numpy().tobytes() for buf in (x, added, seen)]

    expected = run(single, halves=False)
    assert run(fused, halves=False) == expected
    assert run(fused, halves=True) == expected
    assert fused.workspace.used == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"input_norm": (40,)}, r"qkv has shape \[128, 48\], expected \[128, 40\]"),
        ({"qkv": (120, 48)}, r"qkv has shape \[120, 48\], expected \[128, 48\]"),
        ({"o": (48, 48)}, r"o has shape \[48, 48\], expected \[48, 64\]"),
        ({"post_norm": (47,)}, r"post_norm has shape \[1, 47\], expected \[1, 48\]"),
        ({"gate_up": (80, 40)}, r"gate_up has shape \[80, 40\], expected \[80, 48\]"),
        ({"down": (48, 79)}, r"down has shape \[48, 79\], expected \[48, 80\]"),
        ({"act": "gelu"}, 'unknown activation "gelu"'),
    ],
)
def test_weights_that_do_not_fit_each_other_are_no_layer(changes: dict[str, Any], text: str) -> None:
    backend = NativeBackend(1)
    made: dict[str, Any] = {}
    for name, shape in changes.items():
        if name == "act":
            made[name] = shape
        elif name == "gate_up":
            made[name] = backend.prepare_gate_up(values(0, *shape), values(0, *shape))
        else:
            prepare = backend.prepare_vector if len(shape) == 1 else backend.prepare_linear
            made[name] = prepare(values(0, *shape))
    with pytest.raises(kernels.KernelError, match=text):
        backend.prepare_layer(replace(weights_for(backend), **made))


@dataclass
class Call:
    """Arguments of a layer that fit, of which each case spoils one."""

    backend: NativeBackend
    x: kernels.Buf
    delta: kernels.Buf | None
    index: int = 0

    def __call__(self) -> kernels.Buf:
        layer = self.backend.prepare_layer(weights_for(self.backend))
        return self.backend.layer(
            self.x, self.delta, layer, self.backend.kv_cache(KV, 64), self.index, batch_of((40, 3))
        )


def test_what_a_single_operation_refuses_a_layer_refuses_too() -> None:
    backend = NativeBackend(1)
    x = backend.from_torch(values(0, 3, HIDDEN))
    used = backend.workspace.used
    for spoilt, text in (
        (Call(backend, x, x), "delta is in use"),
        (Call(backend, x, backend.from_torch(values(0, 2, HIDDEN))), "delta has shape"),
        (Call(backend, backend.from_torch(values(0, 2, HIDDEN)), None), "qkv has shape"),
        (Call(backend, x, None, index=2), "the layer is 2"),
    ):
        with pytest.raises(kernels.KernelError, match=text):
            spoilt()
        del spoilt
    assert backend.workspace.used == used, "only x is left"
    assert Call(backend, x, None)().shape == (3, HIDDEN)


def test_a_layer_sees_positions_that_nobody_had_planned_for() -> None:
    small = NativeBackend(1, sizes=StepSizes(1 << 20, 1, 64))
    large = NativeBackend(1)
    found = []
    for backend in (small, large):
        kv, layer = backend.kv_cache(KV, 64), backend.prepare_layer(weights_for(backend))
        x = backend.from_torch(values(0, 300, HIDDEN))
        found.append(backend.layer(x, None, layer, kv, 0, batch_of((300, 300))).numpy().tobytes())
    assert found[0] == found[1]
