"""The packed linear through Python: its values, its bits, its errors, and what the backend `native` makes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyworker.runner.backends.base import AttnSpec, Rope
from pyworker.runner.backends.native import NativeBackend
from pyworker.runner.backends.reference import ReferenceBackend
from slackwater._native import kernels

Floats: TypeAlias = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _restore_isa() -> Iterator[None]:
    yield
    kernels.set_isa("auto")


def _random(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _linear(x: Floats, packed: kernels.PackedLinear, pool: kernels.Pool) -> Floats:
    out = np.full((x.shape[0], packed.shape[0]), np.nan, np.float32)
    kernels.linear(x, packed, out, pool)
    return out


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 100),
    depth=st.integers(1, 60),
    threads=st.integers(1, 3),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_agrees_with_float64_and_every_row_is_the_same_alone(
    rows: int, columns: int, depth: int, threads: int, with_bias: bool, seed: int
) -> None:
    x, weight = _random(seed, rows, depth), _random(seed + 1, columns, depth)
    bias = _random(seed + 2, columns) if with_bias else None
    packed, pool = kernels.PackedLinear(weight, bias), kernels.Pool(threads)
    added = np.zeros(columns, np.float32) if bias is None else bias
    outs = []
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        outs.append(_linear(x, packed, pool).tobytes())
    assert outs == [outs[0]] * len(outs)
    out = np.frombuffer(outs[0], np.float32).reshape(rows, columns)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64) + added
    scale = np.abs(x).astype(np.float64) @ np.abs(weight.T) + np.abs(added)
    assert (np.abs(out - expected) <= 1e-6 * scale).all()
    alone = [_linear(x[row : row + 1], packed, pool).tobytes() for row in range(rows)]
    assert b"".join(alone) == outs[0]


def test_a_packed_weight_knows_its_shape_and_gives_its_rows_back() -> None:
    weight = _random(0, 70, 9)
    packed = kernels.PackedLinear(weight)
    assert (packed.shape, packed.nbytes) == ((70, 9), 96 * 9 * 4)
    ids = np.array([69, 0, 31, 32], np.int32)
    out = np.empty((4, 9), np.float32)
    kernels.embed(ids, packed, out)
    assert out.tobytes() == weight[ids].tobytes()
    with pytest.raises(kernels.KernelError, match="row 70 of a weight of 70 rows"):
        kernels.embed(np.array([0, 70], np.int32), packed, out[:2])


def test_calls_that_do_not_fit_are_refused_and_write_nothing() -> None:
    packed, pool = kernels.PackedLinear(_random(0, 5, 3)), kernels.Pool(1)
    x, out = _random(1, 2, 3), np.full((2, 5), 7, np.float32)
    for wrong_x, wrong_out, text in [
        (_random(1, 2, 4), out, r"x has shape \[2, 4\], expected \[2, 3\]"),
        (x, np.empty((3, 5), np.float32), r"out has shape \[3, 5\], expected \[2, 5\]"),
        (_random(1, 3, 2).T, out, "x is not C-contiguous"),
        (x, np.empty((5, 2), np.float32).T, "out is not C-contiguous"),
        (_random(1, 4, 3)[::2], out, "x is not C-contiguous"),
        (np.frombuffer(bytes(25), np.float32, 6, 1).reshape(2, 3), out, "x is not C-contiguous and aligned"),
    ]:
        with pytest.raises(kernels.KernelError, match=text):
            kernels.linear(wrong_x, packed, wrong_out, pool)
    with pytest.raises(TypeError):
        kernels.linear(x.astype(np.float64), packed, out, pool)
    with pytest.raises(TypeError):
        kernels.linear(x[0], packed, out, pool)
    assert out.tolist() == [[7.0] * 5] * 2
    frozen = out.copy()
    frozen.flags.writeable = False
    with pytest.raises((TypeError, ValueError)):
        kernels.linear(x, packed, frozen, pool)
    square, shared = kernels.PackedLinear(_random(0, 3, 3)), x.copy()
    with pytest.raises((TypeError, ValueError)):
        kernels.linear(shared, square, shared, pool)
    assert (frozen.tolist(), shared.tolist()) == (out.tolist(), x.tolist())


def test_what_cannot_be_packed_or_started_is_refused() -> None:
    with pytest.raises(kernels.KernelError, match="bias has 2 elements, expected 3"):
        kernels.PackedLinear(_random(0, 3, 2), _random(0, 2))
    with pytest.raises(kernels.KernelError, match="the number of output columns is 0"):
        kernels.PackedLinear(np.empty((0, 2), np.float32))
    with pytest.raises(kernels.KernelError, match="the number of threads is 0"):
        kernels.Pool(0)
    assert issubclass(kernels.KernelError, ValueError)
    assert issubclass(kernels.KernelPanic, RuntimeError)


def test_the_instruction_set_can_be_lowered_but_not_invented() -> None:
    assert kernels.available_isas()[0] == "portable"
    kernels.set_isa("portable")
    assert kernels.isa() == "portable"
    with pytest.raises(kernels.KernelError, match='unknown instruction set "sse9"'):
        kernels.set_isa("sse9")
    for isa in {"avx2", "avx512"} - set(kernels.available_isas()):
        with pytest.raises(kernels.KernelError, match=f"this machine has no {isa}"):
            kernels.set_isa(isa)
    assert kernels.isa() == "portable"
    kernels.set_isa("auto")
    assert kernels.isa() == kernels.available_isas()[-1]


def test_no_rows_are_no_work_and_a_step_changes_nothing() -> None:
    packed, pool = kernels.PackedLinear(_random(0, 64, 32)), kernels.Pool(2)
    assert _linear(np.empty((0, 32), np.float32), packed, pool).shape == (0, 64)
    x = _random(1, 7, 32)
    with pool.step() as step:
        assert isinstance(step, kernels.Step)
        inside = _linear(x, packed, pool)
    assert inside.tobytes() == _linear(x, packed, pool).tobytes()
    assert (pool.threads, kernels.available_threads() >= 1) == (2, True)


def test_other_threads_run_during_a_long_call() -> None:
    packed, pool = kernels.PackedLinear(_random(0, 2048, 1024)), kernels.Pool(1)
    x = _random(1, 2048, 1024)
    out = np.full((2048, 2048), np.nan, np.float32)
    thread = threading.Thread(target=kernels.linear, args=(x, packed, out, pool))
    thread.start()
    seen_half_done = False
    while np.isnan(out[-1, -1]):
        seen_half_done = seen_half_done or bool(not np.isnan(out[0, 0]) and np.isnan(out[-1, 0]))
    thread.join()
    assert seen_half_done


def test_the_backend_agrees_with_the_reference() -> None:
    native, reference = NativeBackend(threads=2), ReferenceBackend()
    weight, bias = torch.from_numpy(_random(0, 96, 48)), torch.from_numpy(_random(1, 96))
    x = torch.from_numpy(_random(2, 6, 48))
    packed, kept = native.prepare_linear(weight.t().contiguous().t(), bias), reference.prepare_linear(weight, bias)
    rows = np.array([5, 0], np.int32)
    torch.testing.assert_close(native.linear(x, packed), reference.linear(x, kept), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(
        native.gate_up_act(x, packed, "silu"), reference.gate_up_act(x, kept, "silu"), rtol=2e-6, atol=4e-6
    )
    np.testing.assert_allclose(native.logits(x, packed, rows), reference.logits(x, kept, rows), rtol=2e-6, atol=2e-6)
    assert torch.equal(native.embed(rows, packed), reference.embed(rows, kept))
    whole = native.linear(x, packed)
    assert torch.equal(whole[2:4], native.linear(x[2:4], packed))
    spec = AttnSpec(4, 2, 16, 0.25, Rope(10_000.0))
    assert native.numerics(spec, ()).startswith(f"f32-native{kernels.REVISION}-")
    assert (native.name, native.batch_invariant, native.kv_layout) == ("native", True, reference.kv_layout)
