"""Buffers of the native backend: who may read and write them, how long their memory lasts, what numpy and torch see."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from slackwater._native import kernels

EPS = 1e-5


def values(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


def norm(x: kernels.Buf, delta: kernels.Buf | None, workspace: kernels.Workspace) -> kernels.Buf:
    weight = kernels.Vector(np.ones(x.shape[1], np.float32))
    return kernels.add_norm(x, delta, weight, EPS, workspace, kernels.Pool(1))


def test_a_buffer_is_a_copy_that_knows_its_shape() -> None:
    workspace, array = kernels.Workspace(4096), values(3, 5)
    buf = workspace.from_numpy(array)
    expected = array.tobytes()
    array[:] = 0
    assert (buf.shape, buf.dtype, repr(buf)) == ((3, 5), "float32", "Buf(float32, [3, 5])")
    assert buf.numpy().tobytes() == expected
    with pytest.raises(kernels.KernelError, match="array is not C-contiguous"):
        workspace.from_numpy(values(3, 5).T)
    with pytest.raises(TypeError):
        workspace.from_numpy(np.zeros((2, 2)))  # type: ignore[arg-type]


def test_torch_and_numpy_see_the_memory_itself() -> None:
    workspace = kernels.Workspace(4096)
    buf = workspace.from_numpy(values(3, 5))
    array, tensor = buf.numpy(), from_dlpack(buf)
    assert tensor.data_ptr() == array.ctypes.data
    assert (tensor.dtype, tensor.shape, tensor.stride()) == (torch.float32, (3, 5), (5, 1))
    array[1, 2] = 42
    assert tensor[1, 2] == 42
    assert buf.__dlpack_device__() == (1, 0)
    for unable in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(kernels.KernelError, match="shared as it is"):
            buf.__dlpack__(**unable)


@pytest.mark.parametrize("share", ["numpy", "torch", "capsule"])
def test_memory_lives_as_long_as_what_looks_at_it(share: str) -> None:
    workspace = kernels.Workspace(64)
    buf = workspace.from_numpy(values(4, 16))
    expected = buf.numpy().copy()
    view = {"numpy": kernels.Buf.numpy, "torch": from_dlpack, "capsule": kernels.Buf.__dlpack__}[share](buf)
    del buf
    gc.collect()
    assert workspace.used == 64
    with pytest.raises(kernels.KernelError, match="no room for 16 floats; 0 are free"):
        workspace.from_numpy(values(1, 16))
    if share != "capsule":
        assert np.asarray(view).tobytes() == expected.tobytes()
    del view
    gc.collect()
    assert workspace.used == 0
    assert workspace.from_numpy(values(1, 16)).shape == (1, 16)


@pytest.mark.parametrize("share", ["numpy", "torch"])
def test_nothing_writes_under_a_view(share: str) -> None:
    workspace = kernels.Workspace(4096)
    x, delta = workspace.from_numpy(values(2, 16)), workspace.from_numpy(values(2, 16))
    before = x.numpy().copy()
    view = x.numpy() if share == "numpy" else from_dlpack(x)
    with pytest.raises(kernels.KernelError, match="x is in use"):
        norm(x, delta, workspace)
    assert np.asarray(view).tobytes() == before.tobytes()
    del view
    assert norm(x, delta, workspace).shape == (2, 16)
    assert x.numpy().tobytes() == (before + delta.numpy()).tobytes()


def test_a_buffer_is_not_read_and_written_by_one_call() -> None:
    workspace = kernels.Workspace(4096)
    x = workspace.from_numpy(values(2, 16))
    expected = x.numpy().tobytes()
    with pytest.raises(kernels.KernelError, match="delta is in use: it was given twice"):
        norm(x, x, workspace)
    head, _, _ = kernels.park(x, None, 2)
    with pytest.raises(kernels.KernelError, match="delta is in use"):
        norm(x, head, workspace)
    assert x.numpy().tobytes() == expected
    assert norm(x, None, workspace).shape == (2, 16)


def test_a_full_workspace_is_an_error_and_not_the_end() -> None:
    workspace, pool = kernels.Workspace(640), kernels.Pool(1)
    x, weight = workspace.from_numpy(values(4, 32)), kernels.PackedLinear(values(256, 32))
    for _ in range(3):
        with pytest.raises(kernels.KernelError, match="the workspace has no room for 1024 floats; 512 are free"):
            kernels.linear(x, weight, workspace, pool)
        with pytest.raises(kernels.KernelError, match="no room"):
            kernels.logits(x, weight, np.zeros(9, np.int32), workspace, pool)
    assert (workspace.used, workspace.peak, workspace.nbytes) == (128, 128, 2560)
    small = kernels.PackedLinear(values(32, 32))
    assert kernels.linear(x, small, workspace, pool).shape == (4, 32)


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 90), max_size=60), seed=st.integers(0, 99))
def test_chunks_never_overlap_and_all_come_back(sizes: list[int], seed: int) -> None:
    workspace, chance = kernels.Workspace(1024), random.Random(seed)
    alive: list[tuple[kernels.Buf, int]] = []
    for mark, size in enumerate(sizes):
        if alive and chance.random() < 0.4:
            alive.pop(chance.randrange(len(alive)))
        try:
            alive.append((workspace.from_numpy(np.full((1, size), mark, np.float32)), mark))
        except kernels.KernelError:
            assert workspace.used + size > 512, "half of it is free"
        assert all((buf.numpy() == mark).all() for buf, mark in alive)
        assert workspace.used == sum(max(16, -(-buf.shape[1] // 16) * 16) for buf, _ in alive)
    alive.clear()
    assert workspace.used == 0
    assert workspace.from_numpy(np.zeros((1, 1024), np.float32)).shape == (1, 1024)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(kernels.KernelError, match="no memory for a workspace"):
        kernels.Workspace(1 << 61)
    with pytest.raises(OverflowError):
        kernels.Workspace(-1)
    with pytest.raises(TypeError):
        kernels.Buf()


def test_logits_are_free_again_when_their_array_is_dropped() -> None:
    workspace, pool = kernels.Workspace(4096), kernels.Pool(1)
    x, head = workspace.from_numpy(values(3, 32)), kernels.PackedLinear(values(64, 32))
    base = workspace.used
    found = kernels.logits(x, head, np.array([2, 0], np.int32), workspace, pool)
    row = found[1]
    assert (found.shape, found.dtype.name, found.flags.writeable) == ((2, 64), "float32", True)
    assert workspace.used == base + 128
    del found
    assert workspace.used == base + 128
    del row
    assert workspace.used == base
