"""The native operations through Python: their values beside the reference's, their bits, and what they refuse."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyworker.models.rope import default_inv_freq
from pyworker.runner.backends.base import AttnSpec, KVCacheSpec, QkNorm, Rope
from pyworker.runner.backends.native import NativeBackend
from pyworker.runner.backends.reference import ReferenceBackend
from pyworker.runner.batch import Batch
from slackwater._native import kernels

Floats: TypeAlias = NDArray[np.float32]
DTYPES = ("float32", "bfloat16")
ROPE = Rope(default_inv_freq(10_000.0, 16))
SPEC = AttnSpec(4, 2, 16, 0.25, ROPE)
KV = KVCacheSpec(2, 2, 16)
# A sum near a rounding border of bf16 may fall on its other side, which moves what follows by half a bf16 unit.
CLOSE = {"float32": (2e-5, 2e-5), "bfloat16": (2e-3, 4e-3)}


@pytest.fixture(autouse=True)
def _restore_isa() -> Iterator[None]:
    yield
    kernels.set_isa("auto")


def values(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))


def batch_of(*seqs: tuple[int, int], num_blocks: int = 64) -> Batch:
    """Sequences of so many tokens, of which the last few are computed, in blocks that count down."""
    positions = np.concatenate([np.arange(length - count, length) for length, count in seqs])
    width = max(-(-length // 32) for length, _ in seqs)
    tables = np.zeros((len(seqs), width), np.int32)
    block = num_blocks - 1
    slots = []
    for row, (length, count) in enumerate(seqs):
        for index in range(-(-length // 32)):
            tables[row, index] = block
            block -= 1
        slots += [tables[row, p // 32] * 32 + p % 32 for p in range(length - count, length)]
    return Batch(
        ids=np.zeros(len(positions), np.int32),
        positions=positions.astype(np.int32),
        slot_mapping=np.array(slots, np.int64),
        seq_starts=np.cumsum([0, *(count for _, count in seqs)]).astype(np.int32),
        seq_lens=np.array([length for length, _ in seqs], np.int32),
        block_tables=tables,
        logit_rows=np.zeros(0, np.int32),
        logit_ids=[],
    )


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 70),
    depth=st.integers(1, 60),
    threads=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    with_bias=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_row_has_the_same_bits_in_any_batch_and_instruction_set(
    rows: int, columns: int, depth: int, threads: int, dtype: str, with_bias: bool, seed: int
) -> None:
    native, x = NativeBackend(threads, dtype), values(seed, rows, depth)
    bias = values(seed + 2, columns) if with_bias else None
    linear = native.prepare_linear(values(seed + 1, columns, depth), bias)
    gated = native.prepare_gate_up(values(seed + 1, columns, depth), values(seed + 3, columns, depth))
    weight, delta = native.prepare_vector(values(seed + 4, depth)), values(seed + 5, rows, depth)

    def results(first: int, last: int) -> list[bytes]:
        buf, added = native.from_torch(x[first:last]), native.from_torch(delta[first:last])
        outs = [native.linear(buf, linear), native.gate_up_act(buf, gated, "silu")]
        outs += [native.add_norm(buf, added, weight, 1e-5), buf]
        found = [out.numpy().copy() for out in outs]
        picked = native.logits(native.from_torch(x[first:last]), linear, np.arange(last - first, dtype=np.int32))
        assert picked.tobytes() == found[0].tobytes()
        return [array.tobytes() for array in found]

    whole = []
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        whole.append(results(0, rows))
    assert whole == [whole[0]] * len(whole)
    alone = [results(row, row + 1) for row in range(rows)]
    assert [b"".join(parts) for parts in zip(*alone, strict=True)] == whole[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layers_agree_with_the_reference(dtype: str) -> None:
    native, reference = NativeBackend(2, dtype), ReferenceBackend(dtype)
    weight, bias, x, delta = values(0, 96, 48), values(1, 96), values(2, 6, 48), values(3, 6, 48)
    tight: Any = {"rtol": 2e-6, "atol": 4e-6}
    mine, theirs = native.prepare_linear(weight.t().contiguous().t(), bias), reference.prepare_linear(weight, bias)
    torch.testing.assert_close(
        native.to_torch(native.linear(native.from_torch(x), mine)), reference.linear(x, theirs), **tight
    )
    rows = np.array([5, 0, 5], np.int32)
    np.testing.assert_allclose(
        native.logits(native.from_torch(x), mine, rows), reference.logits(x, theirs, rows), **tight
    )
    assert torch.equal(native.to_torch(native.embed(rows, mine)), reference.embed(rows, theirs))
    gate, up = values(4, 40, 48), values(5, 40, 48)
    torch.testing.assert_close(
        native.to_torch(native.gate_up_act(native.from_torch(x), native.prepare_gate_up(gate, up), "silu")),
        reference.gate_up_act(x, reference.prepare_gate_up(gate, up), "silu"),
        **tight,
    )
    norm = values(6, 48)
    buf, summed = native.from_torch(x), x.clone()
    torch.testing.assert_close(
        native.to_torch(native.add_norm(buf, native.from_torch(delta), native.prepare_vector(norm), 1e-5)),
        reference.add_norm(summed, delta, reference.prepare_vector(norm), 1e-5),
        **tight,
    )
    assert torch.equal(native.to_torch(buf), summed)


@pytest.mark.parametrize("kv_dtype", DTYPES)
@pytest.mark.parametrize("variant", ["plain", "no rope", "window", "softcap", "qk norm"])
def test_attention_agrees_with_the_reference(kv_dtype: str, variant: str) -> None:
    native = NativeBackend(2, kv_dtype=kv_dtype)
    reference = ReferenceBackend(native.kv_dtype)
    spec = {
        "no rope": AttnSpec(4, 2, 16, 0.25, None),
        "window": AttnSpec(4, 2, 16, 0.25, ROPE, window=40),
        "softcap": AttnSpec(4, 2, 16, 0.25, ROPE, softcap=3.0),
    }.get(variant, SPEC)
    q, k = values(8, 16), values(9, 16)
    mine = theirs = None
    if variant == "qk norm":
        mine = QkNorm(native.prepare_vector(q), native.prepare_vector(k), 1e-5)
        theirs = QkNorm(reference.prepare_vector(q), reference.prepare_vector(k), 1e-5)
    ours, other = native.kv_cache(KV, 64), reference.kv_cache(KV, 64)
    rtol, atol = CLOSE[native.kv_dtype]
    for seed, seqs in enumerate([((270, 270), (5, 5)), ((271, 1), (9, 4), (33, 33))]):
        qkv = values(10 + seed, sum(count for _, count in seqs), 8 * 16)
        found = native.attend(native.from_torch(qkv), ours, 1, spec, batch_of(*seqs), mine)
        expected = reference.attend(qkv.clone(), other, 1, spec, batch_of(*seqs), theirs)
        torch.testing.assert_close(native.to_torch(found), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_has_the_same_bits_in_any_batch_and_instruction_set(dtype: str) -> None:
    qkv = values(1, 300 + 40, 8 * 16)
    results = []
    for isa in kernels.available_isas():
        for threads in (1, 3):
            native = NativeBackend(threads, dtype, isa=isa)
            kv = native.kv_cache(KV, 64)
            batch = batch_of((300, 300), (40, 40))
            results.append(native.attend(native.from_torch(qkv), kv, 0, SPEC, batch).numpy().tobytes())
    assert results == [results[0]] * len(results)
    native = NativeBackend(1, dtype)
    kv = native.kv_cache(KV, 64)
    parts = []
    for first, last in [(0, 70), (70, 299), (299, 300)]:
        chunk = batch_of((last, last - first))
        parts.append(native.attend(native.from_torch(qkv[first:last]), kv, 0, SPEC, chunk).numpy().tobytes())
    other = native.attend(native.from_torch(qkv[300:]), native.kv_cache(KV, 64), 0, SPEC, batch_of((40, 40)))
    assert b"".join([*parts, other.numpy().tobytes()]) == results[0]


def test_blocks_are_copied_whole() -> None:
    native = NativeBackend(1)
    kv, batch = native.kv_cache(KV, 64), batch_of((40, 40))
    qkv = values(1, 41, 8 * 16)
    for layer in range(2):
        native.attend(native.from_torch(qkv[:40]), kv, layer, SPEC, batch)
    step = batch_of((41, 1))
    expected = native.attend(native.from_torch(qkv[40:]), kv, 1, SPEC, step).numpy().tobytes()
    native.copy_blocks(kv, [(63, 5), (62, 6)])
    moved = batch_of((41, 1))
    moved.block_tables[:] = [[5, 6]]
    moved.slot_mapping[:] = 6 * 32 + 8
    assert native.attend(native.from_torch(qkv[40:]), kv, 1, SPEC, moved).numpy().tobytes() == expected
    with pytest.raises(kernels.KernelError, match="64"):
        native.copy_blocks(kv, [(1, 64)])
    with pytest.raises(OverflowError):
        native.copy_blocks(kv, [(-1, 2)])
    assert (kv.num_blocks, kv.nbytes, kv.layout) == (64, 64 * KV.block_bytes(), native.kv_layout)


@pytest.mark.parametrize("with_delta", [True, False])
def test_rows_leave_and_come_back_as_they_are_in_the_reference(with_delta: bool) -> None:
    native, reference = NativeBackend(1), ReferenceBackend()
    x, delta = values(0, 5, 48), values(1, 5, 48) if with_delta else None
    weight = values(2, 48)
    mine = native.park(native.from_torch(x), None if delta is None else native.from_torch(delta), 3)
    theirs = reference.park(x.clone(), None if delta is None else delta.clone(), 3)
    assert mine[2].tobytes() == theirs[2].tobytes()
    assert (mine[0].shape, mine[1] is None) == ((3, 48), delta is None)
    alone = native.join(None, None, mine[2])
    assert (alone[0].numpy().tobytes(), alone[1]) == (mine[2].tobytes(), None)
    joined = native.join(mine[0], mine[1], mine[2])
    found = native.add_norm(*joined, native.prepare_vector(weight), 1e-5).numpy()
    buf, added = native.from_torch(x), None if delta is None else native.from_torch(delta)
    whole = native.add_norm(buf, added, native.prepare_vector(weight), 1e-5)
    assert found.tobytes() == whole.numpy().tobytes()
    assert joined[0].numpy().tobytes() == buf.numpy().tobytes()
    nothing = native.park(native.from_torch(x), None, 0)
    assert (nothing[0].shape, nothing[2].tobytes()) == ((0, 48), x.numpy().tobytes())


def rope(pairs: int, positions: int) -> kernels.RopeTable:
    return kernels.RopeTable(np.ones(pairs, np.float32), 1.0, positions)


class Rig:
    """Arguments that fit, of which each case spoils one."""

    def __init__(self) -> None:
        self.workspace, self.pool = kernels.Workspace(1 << 16), kernels.Pool(1)
        self.kv = kernels.KvCache(2, 2, 16, 64, "float32")
        self.rope = kernels.RopeTable(np.array(ROPE.inv_freq, np.float32), 1.0, 64)
        self.spec = kernels.AttnSpec(4, 2, 16, 0.25, self.rope)
        self.weight = kernels.PackedLinear(values(0, 5, 3).numpy())
        self.vector = kernels.Vector(values(0, 3).numpy())

    def buf(self, *shape: int) -> kernels.Buf:
        return self.workspace.from_numpy(values(0, *shape).numpy())

    def view(self, **changes: object) -> kernels.BatchView:
        batch = batch_of((40, 40), (3, 1))
        names = ("positions", "slot_mapping", "seq_starts", "seq_lens", "block_tables")
        arrays = {name: getattr(batch, name) for name in names}
        for name, change in changes.items():
            arrays[name] = change(arrays[name]) if callable(change) else change
        return kernels.BatchView(self.kv, *arrays.values())

    def attend(self, **changes: object) -> kernels.Buf:
        known = {"qkv": self.buf(41, 128), "kv": self.kv, "layer": 0, "spec": self.spec, "batch": self.view()}
        given = known | {"qk_norm": None, "workspace": self.workspace, "pool": self.pool} | changes
        return kernels.attend(**given)  # type: ignore[arg-type]


def spoil(index: int, value: int) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    def change(array: NDArray[np.int64]) -> NDArray[np.int64]:
        array = array.copy()
        array.flat[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"slot_mapping": spoil(3, 64 * 32)}, "slot 2048 of a cache of 2048 slots"),
        ({"slot_mapping": spoil(3, -2)}, "slot -2 of a cache of 2048 slots"),
        ({"slot_mapping": lambda a: a[:-1]}, "slot_mapping has 40 elements, expected 41"),
        ({"block_tables": spoil(0, 64)}, "block 64 of a cache of 64 blocks"),
        ({"block_tables": spoil(1, -1)}, "block -1 of a cache of 64 blocks"),
        ({"block_tables": lambda a: a[:, :1].copy()}, "sequence 0 has 40 tokens and a table for 32"),
        ({"block_tables": lambda a: a[:1]}, "block_tables has 1 rows for 2 sequences"),
        ({"block_tables": lambda a: np.asfortranarray(a)}, "not C-contiguous"),
        ({"seq_lens": spoil(0, 65)}, "sequence 0 has 65 tokens and a table for 64"),
        ({"seq_lens": spoil(1, -1)}, "sequence 1 has -1 tokens"),
        ({"seq_lens": spoil(1, 2)}, "position 2 in sequence 1 of 2 tokens"),
        ({"positions": spoil(0, -1)}, "position -1 in sequence 0 of 40 tokens"),
        ({"positions": lambda a: np.repeat(a, 2)[::2]}, "positions is not C-contiguous"),
        ({"seq_starts": spoil(1, 0)}, "seq_starts must ascend from 0 to 41"),
        ({"seq_starts": spoil(0, 1)}, "seq_starts must ascend from 0 to 41"),
        ({"seq_starts": spoil(2, 42)}, "seq_starts must ascend from 0 to 41"),
        ({"seq_starts": lambda a: a[:2]}, "seq_starts has 2 elements, expected 3"),
    ],
)
def test_a_batch_that_points_elsewhere_is_refused(changes: dict[str, object], text: str) -> None:
    rig = Rig()
    with pytest.raises(kernels.KernelError, match=text):
        rig.view(**changes)
    assert rig.view(slot_mapping=spoil(3, -1)).max_context == 40
    with pytest.raises(TypeError):
        rig.view(positions=lambda a: a.astype(np.int64))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"qkv": lambda rig: rig.buf(41, 127)}, r"qkv has shape \[41, 127\], expected \[41, 128\]"),
        ({"qkv": lambda rig: rig.buf(40, 128)}, r"qkv has shape \[40, 128\], expected \[41, 128\]"),
        ({"layer": lambda _: 2}, "layer is 2"),
        ({"spec": lambda rig: kernels.AttnSpec(4, 4, 16, 1.0, rig.rope)}, r"qkv has shape|kv heads"),
        ({"kv": lambda _: kernels.KvCache(2, 1, 16, 64, "float32")}, "heads"),
        ({"kv": lambda _: kernels.KvCache(2, 2, 8, 64, "float32")}, "head"),
        ({"kv": lambda _: kernels.KvCache(2, 2, 16, 9, "float32")}, "a slot is 2016, expected one below 288"),
        ({"spec": lambda _: kernels.AttnSpec(4, 2, 16, 1.0, rope(8, 39))}, "39"),
        ({"spec": lambda _: kernels.AttnSpec(4, 2, 16, 1.0, rope(7, 64))}, "pairs|rope|head"),
        ({"spec": lambda rig: kernels.AttnSpec(4, 2, 16, 1.0, rig.rope, 0)}, "window"),
        ({"qk_norm": lambda rig: (rig.vector, rig.vector, 1e-5)}, "norm|weight"),
    ],
)  # fmt: skip
def test_attention_refuses_what_does_not_fit(changes: dict[str, Callable[[Rig], object]], text: str) -> None:
    rig = Rig()
    with pytest.raises(kernels.KernelError, match=text):
        rig.attend(**{name: make(rig) for name, make in changes.items()})
    assert rig.attend().shape == (41, 64)


def test_other_operations_refuse_what_does_not_fit() -> None:
    rig = Rig()
    workspace, pool = rig.workspace, rig.pool
    x, weight, first = rig.buf(2, 3), rig.weight, np.zeros(1, np.int32)
    two, minus, apart = first + np.int32(2), first - np.int32(1), np.zeros(4, np.int32)[::2]
    gated = kernels.GateUp(values(0, 5, 3).numpy(), values(1, 5, 3).numpy())
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: kernels.linear(rig.buf(2, 4), weight, workspace, pool), r"x has shape \[2, 4\], expected \[2, 3\]"),
        (lambda: kernels.gate_up_act(rig.buf(2, 4), gated, "silu", workspace, pool), "x has shape"),
        (lambda: kernels.gate_up_act(x, gated, "gelu", workspace, pool), 'unknown activation "gelu"'),
        (lambda: kernels.add_norm(rig.buf(2, 4), None, rig.vector, 1e-5, workspace, pool), "x has shape"),
        (lambda: kernels.add_norm(x, rig.buf(1, 3), rig.vector, 1e-5, workspace, pool), "delta has shape"),
        (lambda: kernels.logits(rig.buf(2, 4), weight, first, workspace, pool), "x has shape"),
        (lambda: kernels.logits(x, weight, two, workspace, pool), "row 2 of 2 rows"),
        (lambda: kernels.logits(x, weight, minus, workspace, pool), "row -1"),
        (lambda: kernels.logits(x, weight, apart, workspace, pool), "rows is not C-contiguous"),
        (lambda: kernels.embed(first + np.int32(5), weight, workspace), "row 5 of 5 rows"),
        (lambda: kernels.embed(apart, weight, workspace), "ids is not C-contiguous"),
        (lambda: kernels.park(x, None, 3), "row 3 of 2 rows"),
        (lambda: kernels.park(x, rig.buf(1, 3), 1), "delta has shape"),
        (lambda: kernels.join(x, None, np.zeros((1, 4), np.float32), workspace), "rows has shape"),
        (lambda: kernels.join(x, rig.buf(1, 3), np.zeros((1, 3), np.float32), workspace), "delta has shape"),
        (lambda: kernels.PackedLinear(np.empty((0, 2), np.float32)), "the number of output columns is 0"),
        (lambda: kernels.PackedLinear(values(0, 3, 2).numpy(), np.ones(2, np.float32)), "bias has 2 elements"),
        (lambda: kernels.PackedLinear(values(0, 3, 2).numpy(), None, "int8"), 'unknown number format "int8"'),
        (lambda: kernels.PackedLinear(values(0, 3, 2).numpy().T), "weight is not C-contiguous"),
        (lambda: kernels.GateUp(values(0, 3, 2).numpy(), values(0, 2, 2).numpy()), "up has shape"),
        (lambda: kernels.AttnSpec(4, 3, 16, 1.0), "4 heads do not divide into 3 groups"),
        (lambda: kernels.AttnSpec(2**63, 2**63, 16, 1.0), "9223372036854775808 heads, expected 1 to 65536"),
        (lambda: kernels.AttnSpec(4, 2, 0, 1.0), "the head size is 0, expected an even number up to 256"),
        (lambda: kernels.AttnSpec(4, 2, 2**64 - 1, 1.0), "the head size is 18446744073709551615"),
        (lambda: kernels.AttnSpec(4, 2, 16, 1.0, None, None, 0.0), "softcap is 0.0, expected a positive number"),
        (lambda: kernels.KvCache(2, 2, 15, 8, "float32"), "the head size is 15"),
        (lambda: kernels.KvCache(2, 2, 16, 8, "int8"), "unknown number format"),
        (lambda: kernels.RopeTable(np.array([np.inf], np.float32), 1.0, 8), "frequency of pair 0"),
        (lambda: kernels.Pool(0), "the number of threads is 0"),
    ]  # fmt: skip
    used = workspace.used
    for call, text in cases:
        with pytest.raises(kernels.KernelError, match=text):
            call()
        assert workspace.used == used, text
    with pytest.raises(TypeError):
        kernels.linear(x.numpy(), rig.weight, workspace, pool)  # type: ignore[arg-type]
    assert issubclass(kernels.KernelError, ValueError)
    assert issubclass(kernels.KernelPanic, RuntimeError)


def test_indices_that_another_thread_changes_meanwhile_are_those_that_were_looked_at() -> None:
    pool, workspace = kernels.Pool(2), kernels.Workspace(1 << 22)
    weight, x = kernels.PackedLinear(values(0, 32, 16).numpy()), workspace.from_numpy(values(1, 64, 16).numpy())
    backwards = np.arange(50_000, dtype=np.int32)[::-1] % 64
    rows, stop = backwards.copy(), threading.Event()

    def spoil_rows() -> None:
        while not stop.is_set():
            rows[:] = 2**31 - 1
            rows[:] = backwards

    thread = threading.Thread(target=spoil_rows)
    thread.start()
    try:
        for _ in range(2000):
            # Refused or computed; a copy that is half old and half new is still one that was looked at.
            with suppress(kernels.KernelError):
                kernels.logits(x, weight, rows, workspace, pool)
    finally:
        stop.set()
        thread.join()
    assert kernels.logits(x, weight, backwards, workspace, pool).shape == (50_000, 32)


def test_no_rows_are_no_work() -> None:
    rig = Rig()
    empty = rig.workspace.from_numpy(np.empty((0, 3), np.float32))
    assert kernels.linear(empty, rig.weight, rig.workspace, rig.pool).shape == (0, 5)
    assert kernels.add_norm(empty, None, rig.vector, 1e-5, rig.workspace, rig.pool).shape == (0, 3)
    assert kernels.embed(np.empty(0, np.int32), rig.weight, rig.workspace).shape == (0, 3)
    assert kernels.logits(empty, rig.weight, np.empty(0, np.int32), rig.workspace, rig.pool).shape == (0, 5)


def test_the_instruction_set_can_be_lowered_but_not_invented() -> None:
    assert kernels.available_isas()[0] == "portable"
    kernels.set_isa("portable")
    assert kernels.isa() == "portable"
    with pytest.raises(kernels.KernelError, match='unknown instruction set "sse9"'):
        kernels.set_isa("sse9")
    for isa in {"avx2", "avx512", "avx512bf16"} - set(kernels.available_isas()):
        with pytest.raises(kernels.KernelError, match=f"this machine has no {isa}"):
            kernels.set_isa(isa)
    assert kernels.isa() == "portable"
    kernels.set_isa("auto")
    assert kernels.isa() == kernels.available_isas()[-1] or kernels.bf16_fault()


def test_other_threads_run_during_a_long_call_and_cannot_reach_its_buffers() -> None:
    workspace, pool = kernels.Workspace(1 << 24), kernels.Pool(1)
    x, weight = workspace.from_numpy(values(1, 2048, 1024).numpy()), kernels.PackedLinear(values(0, 2048, 1024).numpy())
    vector = kernels.Vector(np.ones(1024, np.float32))
    ended = threading.Event()

    def long_call() -> None:
        while not ended.is_set():
            with suppress(kernels.KernelError):  # the other one has it
                kernels.linear(x, weight, workspace, pool)
                ended.set()

    thread = threading.Thread(target=long_call)
    thread.start()
    refusals = 0
    while not ended.is_set():
        with suppress(kernels.KernelError):
            kernels.add_norm(x, None, vector, 1e-5, workspace, pool)
            continue
        refusals += 1
    thread.join()
    assert refusals > 0
