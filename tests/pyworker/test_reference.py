"""The reference backend: right against float64, and every row has the same bits in any company."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.model_steps import embedded

from pyworker.errors import ConfigError
from pyworker.models.loader import Weights
from pyworker.models.registry import load_model, read_config
from pyworker.models.rope import default_inv_freq
from pyworker.runner.backends import exact
from pyworker.runner.backends.base import AttnSpec, KVCacheSpec, QkNorm, Rope
from pyworker.runner.backends.reference import ReferenceBackend
from pyworker.runner.batch import Batch

SPEC = AttnSpec(num_heads=6, num_kv_heads=2, head_dim=16, scale=0.25, rope=Rope(default_inv_freq(10_000.0, 16)))
WIDTH = (SPEC.num_heads + 2 * SPEC.num_kv_heads) * SPEC.head_dim
NUM_BLOCKS = 96


def rows_for_test(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def batch_of(*chunks: tuple[int, int, list[int]]) -> Batch:
    """Sequences as (first position, tokens, block ids)."""
    positions = np.concatenate([np.arange(first, first + count) for first, count, _ in chunks]).astype(np.int32)
    slots = [np.array(blocks)[p // 32] * 32 + p % 32 for f, n, blocks in chunks for p in [np.arange(f, f + n)]]
    tables = np.zeros((len(chunks), max(len(blocks) for *_, blocks in chunks)), dtype=np.int32)
    for index, (*_, blocks) in enumerate(chunks):
        tables[index, : len(blocks)] = blocks
    return Batch(
        ids=np.zeros(len(positions), dtype=np.int32),
        positions=positions,
        slot_mapping=np.concatenate(slots).astype(np.int64),
        seq_starts=np.cumsum([0, *(count for _, count, _ in chunks)]).astype(np.int32),
        seq_lens=np.array([first + count for first, count, _ in chunks], dtype=np.int32),
        block_tables=tables,
        logit_rows=np.zeros(0, dtype=np.int32),
        logit_ids=[],
    )


def test_exp_is_close_and_keeps_nan() -> None:
    x = torch.linspace(-87, 88, 200_001)
    want = np.exp(x.numpy().astype(np.float64))
    assert float(np.abs(exact.exp(x).numpy() / want - 1).max()) < 2.5e-7
    special = exact.exp(torch.tensor([0.0, -0.0, float("nan"), -1e30, -math.inf]))
    assert special[:2].tolist() == [1.0, 1.0]
    assert special[2].isnan()
    assert bool((special[3:] < 2e-38).all())


@pytest.mark.parametrize("length", [1, 2, 3, 9, 16, 100, 576])
def test_tree_sum_adds_everything_once(length: int) -> None:
    x = torch.from_numpy(np.random.default_rng(1).integers(-1000, 1000, (5, length)).astype(np.float32))
    assert torch.equal(exact.tree_sum(x), x.sum(-1, keepdim=True))


def test_norm_and_gate_match_float64() -> None:
    x, weight = rows_for_test(7, 96), rows_for_test(1, 96, 2)[0]
    wide = x.double()
    norm = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    torch.testing.assert_close(exact.rms_norm(x, weight, 1e-5).double(), norm, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(exact.silu(x).double(), wide * wide.sigmoid(), rtol=1e-6, atol=1e-6)


def row_operations(backend: ReferenceBackend) -> dict[str, object]:
    linear = backend.prepare_linear(rows_for_test(130, 96, 5))
    norm = rows_for_test(1, 96, 6)[0]
    return {
        "linear": lambda x: backend.linear(x, linear),
        "gate_up_act": lambda x: backend.gate_up_act(x, linear, "silu"),
        "add_norm": lambda x: backend.add_norm(x.clone(), x * 0.5, norm, 1e-5),
        "logits": lambda x: torch.from_numpy(backend.logits(x, linear, np.arange(len(x), dtype=np.int32))),
    }


@pytest.mark.parametrize("name", ["linear", "gate_up_act", "add_norm", "logits"])
def test_row_rule_of_the_row_operations(name: str) -> None:
    operation = row_operations(ReferenceBackend())[name]
    x = rows_for_test(33, 96)
    together = operation(x)  # type: ignore[operator]
    for count in (1, 2, 5, 16):
        for first in (0, 1, 7, 17):
            part = operation(x[first : first + count])  # type: ignore[operator]
            assert part.numpy().tobytes() == together[first : first + count].numpy().tobytes()
    shuffled = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    assert torch.equal(operation(x[shuffled]), together[shuffled])  # type: ignore[operator]


def naive_attention(qkv: torch.Tensor, spec: AttnSpec = SPEC, norms: QkNorm | None = None) -> np.ndarray:
    """One sequence from position 0, in float64."""
    count, heads, kv_heads, size = len(qkv), spec.num_heads, spec.num_kv_heads, spec.head_dim
    x = qkv.double().numpy().reshape(count, heads + 2 * kv_heads, size)
    turned = x[:, : heads + kv_heads]
    if norms is not None:
        turned = turned / np.sqrt((turned**2).mean(-1, keepdims=True) + norms.eps)
        weights = [norms.q_weight.double().numpy()] * heads + [norms.k_weight.double().numpy()] * kv_heads
        turned = turned * np.stack(weights)
    if spec.rope is not None:
        angles = np.arange(count)[:, None] * np.array(spec.rope.inv_freq)
        pairs = (turned[..., : size // 2] + 1j * turned[..., size // 2 :]) * np.exp(1j * angles)[:, None]
        turned = np.concatenate([pairs.real, pairs.imag], axis=-1) * spec.rope.scale
    distance = np.arange(count)[:, None] - np.arange(count)
    out = np.zeros((count, heads, size))
    for head in range(heads):
        group = head // spec.group
        scores = turned[:, head] @ turned[:, heads + group].T * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * np.tanh(scores / spec.softcap)
        scores[(distance < 0) | (distance >= (spec.window or count))] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ x[:, heads + kv_heads + group]
    return out.reshape(count, -1)


def attend_in_chunks(
    qkv: torch.Tensor,
    chunks: list[int],
    blocks: list[int],
    fill: float = 0.0,
    spec: AttnSpec = SPEC,
    norms: QkNorm | None = None,
    dtype: str = "float32",
) -> torch.Tensor:
    backend = ReferenceBackend(dtype)
    kv = backend.kv_cache(KVCacheSpec(2, spec.num_kv_heads, spec.head_dim), NUM_BLOCKS)
    kv.data.fill_(fill)
    outs, first = [], 0
    for count in chunks:
        batch = batch_of((first, count, blocks))
        outs.append(backend.attend(qkv[first : first + count], kv, 1, spec, batch, norms))
        first += count
    return torch.cat(outs)


def test_attention_matches_float64_over_several_splits() -> None:
    qkv = rows_for_test(600, WIDTH)
    got = attend_in_chunks(qkv, [600], list(range(1, 20)))
    assert float(np.abs(got.double().numpy() - naive_attention(qkv)).max()) < 3e-6


@pytest.mark.parametrize("chunks", [[300], [1] * 40 + [260], [255, 1, 1, 43], [256, 44], [31, 33, 100, 136]])
def test_attention_has_the_same_bits_in_any_chunks_and_blocks(chunks: list[int]) -> None:
    """The unused part of the cache is poisoned: what a failed request left behind must not leak."""
    qkv = rows_for_test(300, WIDTH)
    whole = attend_in_chunks(qkv, [300], list(range(1, 11)))
    other = attend_in_chunks(qkv, chunks, [90, 3, 77, 4, 50, 6, 7, 41, 9, 10], fill=math.nan)
    assert other.numpy().tobytes() == whole.numpy().tobytes()


NORMS = QkNorm(rows_for_test(1, 16, 8)[0], rows_for_test(1, 16, 9)[0], 1e-5)
SPECIAL: dict[str, tuple[dict[str, object], QkNorm | None]] = {
    "window": ({"window": 40}, None),
    "window over a split": ({"window": 300}, None),
    "window of one": ({"window": 1}, None),
    "softcap": ({"softcap": 1.5}, None),
    "norm": ({}, NORMS),
    "rotated before": ({"rope": None}, None),
    "scaled angles": ({"rope": replace(SPEC.rope, scale=1.3)}, None),
    "all": ({"window": 70, "softcap": 2.0, "rope": replace(SPEC.rope, scale=0.9)}, NORMS),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_attention_matches_float64_and_keeps_its_bits_in_chunks(name: str) -> None:
    """Poisoned as above: with a window, what lies before it must not leak either."""
    changes, norms = SPECIAL[name]
    spec = replace(SPEC, **changes)  # type: ignore[arg-type]
    qkv = rows_for_test(330, WIDTH)
    whole = attend_in_chunks(qkv, [330], list(range(1, 12)), spec=spec, norms=norms)
    # The angles are float32, and so is their product with a position.
    assert float(np.abs(whole.double().numpy() - naive_attention(qkv, spec, norms)).max()) < 2e-5
    other = attend_in_chunks(qkv, [250, 1, 30, 49], list(range(20, 31)), fill=math.nan, spec=spec, norms=norms)
    assert other.numpy().tobytes() == whole.numpy().tobytes()


def test_what_lies_before_a_window_may_be_anything() -> None:
    spec, backend = replace(SPEC, window=33), ReferenceBackend()
    qkv = rows_for_test(120, WIDTH)
    outs = []
    for poison in (0.0, math.nan):
        kv = backend.kv_cache(KVCacheSpec(1, spec.num_kv_heads, spec.head_dim), NUM_BLOCKS)
        backend.attend(qkv[:110], kv, 0, spec, batch_of((0, 110, [1, 2, 3, 4])))
        kv.data[[0, 1, 2]] = poison
        outs.append(backend.attend(qkv[110:], kv, 0, spec, batch_of((110, 10, [1, 2, 3, 4]))))
    assert outs[0].numpy().tobytes() == outs[1].numpy().tobytes()


def test_bf16_rounds_to_the_nearest_and_ties_to_even() -> None:
    one = 2.0**-7
    least = 2.0**-50
    x = torch.tensor(
        [1 + one / 2, 1 + 1.5 * one, 1 + one * 0.51, least, least * 0.999, -least / 2, math.nan, -math.inf]
    )
    got = exact.round_bf16(x)
    assert got[:6].tolist() == [1.0, 1 + 2 * one, 1 + one, least, 0.0, -0.0]
    assert math.copysign(1.0, float(got[5])) == -1.0
    assert (math.isnan(got[6]), float(got[7])) == (True, -math.inf)


def test_bf16_rounds_operands_and_nothing_else() -> None:
    """Against float64 on operands that were rounded before: the difference is that of float32 sums.

    Attention rounds its weights too, each by one part in 256 at most, and so each output by that part of what goes into
    it. A closer reference would have to give each score the same bits: one that differs in its last may round the
    other way.
    """
    backend = ReferenceBackend("bfloat16")
    weight, bias, x = rows_for_test(40, 96, 1), rows_for_test(1, 40, 2)[0], rows_for_test(9, 96, 3)
    got = backend.linear(x, backend.prepare_linear(weight, bias))
    want = exact.round_bf16(x).double() @ exact.round_bf16(weight).double().T + bias.double()
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    assert torch.equal(
        backend.embed(np.array([3], np.int32), backend.prepare_linear(weight))[0], exact.round_bf16(weight)[3]
    )
    spec = replace(SPEC, rope=None)
    qkv = rows_for_test(300, WIDTH)
    turned = qkv.clone()
    turned[:, : 6 * 16] = exact.round_bf16(qkv[:, : 6 * 16] * spec.scale)
    turned[:, 6 * 16 :] = exact.round_bf16(qkv[:, 6 * 16 :])
    whole = attend_in_chunks(qkv, [300], list(range(1, 11)), spec=spec, dtype="bfloat16")
    sizes = torch.cat([turned[:, : 8 * 16], turned[:, 8 * 16 :].abs()], dim=1)
    want, into = (naive_attention(rows, replace(spec, scale=1.0)) for rows in (turned, sizes))
    error = np.abs(whole.double().numpy() - want) / into
    assert error.max() < 2**-8
    assert error.max() > 2**-10  # the weights are rounded indeed
    parts = attend_in_chunks(qkv, [1, 258, 41], list(range(30, 40)), math.nan, spec=spec, dtype="bfloat16")
    assert parts.numpy().tobytes() == whole.numpy().tobytes()


def test_the_types_have_names_of_their_own() -> None:
    backends = [ReferenceBackend(), ReferenceBackend("bfloat16"), ReferenceBackend("bfloat16", kv_dtype="float32")]
    assert [backend.kv_layout for backend in backends] == ["f32-rows32", "bf16-rows32", "f32-rows32"]
    ids = [backend.numerics(SPEC, LINEARS).rpartition("-")[0] for backend in backends]
    assert ids == ["f32-reference2", "bf16-reference2", "bf16-reference2-kvf32"]
    assert [b.kv_cache(KVCacheSpec(1, 2, 16), 2).data.dtype for b in backends[:2]] == [torch.float32, torch.bfloat16]
    with pytest.raises(ConfigError, match="--dtype float16: known are float32, bfloat16"):
        ReferenceBackend("float16")


@pytest.mark.parametrize("first", [0, 2, 5])
@pytest.mark.parametrize("with_delta", [True, False])
def test_rows_that_leave_and_come_back_have_the_same_bits(first: int, with_delta: bool) -> None:
    backend = ReferenceBackend()
    x, delta, norm = rows_for_test(5, 24), rows_for_test(5, 24, 1) if with_delta else None, rows_for_test(1, 24, 2)[0]
    x[4, 3] = -0.0
    whole = x.clone()
    want = backend.add_norm(whole, delta, norm, 1e-5)
    kept, kept_delta, rows = backend.park(x.clone(), delta, first)
    assert (len(kept), rows.shape, rows.dtype) == (first, (5 - first, 24), np.float32)
    joined, joined_delta = backend.join(kept, kept_delta, rows) if first else backend.join(None, None, rows)
    got = backend.add_norm(joined, joined_delta, norm, 1e-5)
    assert got.numpy().tobytes() == want.numpy().tobytes()
    assert joined.numpy().tobytes() == whole.numpy().tobytes()


def test_blocks_are_copied_in_all_layers() -> None:
    backend = ReferenceBackend("bfloat16")
    kv = backend.kv_cache(KVCacheSpec(2, 1, 4), 5)
    kv.data.copy_(torch.arange(kv.data.numel()).view(kv.data.shape) % 251)
    before = kv.data.clone()
    backend.copy_blocks(kv, [(1, 3), (3, 4)])
    assert torch.equal(kv.data, before[[0, 1, 2, 1, 1]])


def test_attention_has_the_same_bits_in_any_company() -> None:
    backend = ReferenceBackend()
    spec = KVCacheSpec(1, SPEC.num_kv_heads, SPEC.head_dim)
    parts = [(0, 40, [1, 2]), (0, 1, [3]), (0, 290, list(range(10, 20))), (0, 70, [30, 31, 32])]
    qkv = [rows_for_test(count, WIDTH, seed) for seed, (_, count, _) in enumerate(parts)]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2]):
        together = backend.attend(
            torch.cat([qkv[i] for i in order]),
            backend.kv_cache(spec, 40),
            0,
            SPEC,
            batch_of(*(parts[i] for i in order)),
        )
        alone = [backend.attend(qkv[i], backend.kv_cache(spec, 40), 0, SPEC, batch_of(parts[i])) for i in order]
        assert together.numpy().tobytes() == torch.cat(alone).numpy().tobytes()


def test_a_weight_is_a_copy() -> None:
    source, bias = rows_for_test(3, 4), rows_for_test(1, 3)[0]
    kept = ReferenceBackend().prepare_linear(source, bias)
    want = (source.clone(), bias.clone())
    source.zero_()
    bias.zero_()
    assert torch.equal(kept.weight, want[0])
    assert torch.equal(kept.bias, want[1])


def test_a_loaded_model_does_not_hang_on_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded("tiny"), folder)
    model = load_model(read_config(folder), Weights(folder), ReferenceBackend())
    maps = Path("/proc/self/maps").read_text()
    assert str(folder) not in maps
    assert model.vocab_size == 512


LINEARS = [(96, 64), (64, 64), (512, 64)]


def test_the_numerics_id_knows_the_shapes_of_the_model() -> None:
    backend = ReferenceBackend()
    specs = [SPEC, replace(SPEC, head_dim=32), replace(SPEC, num_heads=4), replace(SPEC, num_kv_heads=3)]
    ids = [backend.numerics(spec, LINEARS) for spec in specs]
    ids += [
        backend.numerics(replace(SPEC, rope=Rope(default_inv_freq(500.0, 16))), LINEARS),
        backend.numerics(SPEC, LINEARS[1:]),
    ]
    assert len(set(ids)) == 6
    assert backend.numerics(SPEC, LINEARS) == ids[0]
    assert re.fullmatch(r"f32-reference2-[0-9a-f]{6}", ids[0])


@pytest.mark.parametrize("function", ["np.cos", "torch.bmm", "F.linear"])
def test_the_numerics_id_shows_a_last_bit(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's library, which rounds one element of many the other way."""
    before = ReferenceBackend().numerics(SPEC, LINEARS)
    library, name = {"np": np, "torch": torch, "F": F}[function.partition(".")[0]], function.partition(".")[2]
    real = getattr(library, name)

    def other(*args: object) -> object:
        out = real(*args)
        flat = (out if isinstance(out, np.ndarray) else out.numpy()).reshape(-1)
        flat[-1] = np.nextafter(flat[-1], flat.dtype.type(np.inf))
        return out

    monkeypatch.setattr(library, name, other)
    after = ReferenceBackend().numerics(SPEC, LINEARS)
    # A cosine is rounded to float32, which hides its last bit: there the texts are equal too.
    assert (after != before) is (function != "np.cos")


def test_padding_is_not_written() -> None:
    backend = ReferenceBackend()
    kv = backend.kv_cache(KVCacheSpec(1, SPEC.num_kv_heads, SPEC.head_dim), 4)
    keys = rows_for_test(2, SPEC.num_kv_heads * SPEC.head_dim).view(2, SPEC.num_kv_heads, SPEC.head_dim)
    kv.write(0, keys, keys, torch.tensor([-1, 37]))
    assert torch.equal(kv.data[1, 0, 0, :, 5], keys[1])
    assert int(kv.data.count_nonzero()) == 2 * SPEC.num_kv_heads * SPEC.head_dim
