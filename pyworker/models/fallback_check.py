"""Compares a model of transformers with itself: its own attention on whole texts, ours on the same texts in pieces.

The pieces and the company show what one whole text would not: angles or masks that depend on the rest of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from pyworker.models.fallback_attention import AttentionRefused, Run
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pyworker.models.fallback_config import FallbackConfig
    from pyworker.runner.backends.base import AttnSpec

_PROMPT = 48
_OTHER = 20
_SMALL_WINDOW = 256
_BEYOND_WINDOW = 16
_TOLERANCE = 1e-3

Piece = tuple["NDArray[np.int32]", int, int, int]
"""A prompt, first and last token of the piece, and its first block."""


class _Checked(Protocol):
    def hidden(self, run: Run) -> torch.Tensor: ...

    def logits(self, backend: Any, hidden: torch.Tensor, rows: NDArray[np.int32]) -> NDArray[np.float32]: ...  # noqa: ANN401


class PlainAttention:
    """The attention that every backend promises, in the plainest torch: float32, whole rows of scores.

    The cache is `[layers, slots, 2, Hkv, D]`.
    """

    def from_torch(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def to_torch(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def attend(self, qkv: torch.Tensor, kv: torch.Tensor, layer: int, spec: AttnSpec, batch: Batch) -> torch.Tensor:
        """Write keys and values, then attend sequence by sequence: `[N, (Hq + 2 Hkv) D]` to `[N, Hq D]`."""
        heads, kv_heads = spec.num_heads, spec.num_kv_heads
        rows = qkv.view(len(qkv), heads + 2 * kv_heads, spec.head_dim)
        kv[layer, torch.from_numpy(batch.slot_mapping)] = rows[:, heads:].view(len(qkv), 2, kv_heads, spec.head_dim)
        out = []
        for seq in range(batch.num_seqs):
            span = slice(int(batch.seq_starts[seq]), int(batch.seq_starts[seq + 1]))
            known = np.arange(batch.seq_lens[seq])
            slots = batch.block_tables[seq, known // BLOCK_SIZE] * BLOCK_SIZE + known % BLOCK_SIZE
            keys, values = kv[layer, torch.from_numpy(slots).long()].repeat_interleave(spec.group, 2).unbind(1)
            scores = torch.einsum("qhd,khd->hqk", rows[span, :heads] * spec.scale, keys)
            if spec.softcap is not None:
                scores = spec.softcap * torch.tanh(scores / spec.softcap)
            distance = torch.from_numpy(batch.positions[span, None] - known)
            hidden = (distance < 0) | (distance >= (spec.window or len(known)))
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            out.append(torch.einsum("hqk,khd->qhd", weights, values).flatten(1))
        return torch.cat(out)


def check_prompts(config: FallbackConfig) -> list[NDArray[np.int32]]:
    """Two random prompts, one of them longer than the window where that is small."""
    small = [window for window in config.windows if window is not None and window <= _SMALL_WINDOW]
    longest = min(max([_PROMPT, *(window + _BEYOND_WINDOW for window in small)]), config.max_position_embeddings)
    rng = np.random.default_rng(0)
    lengths = (longest, min(_OTHER, longest))
    return [rng.integers(0, config.vocab_size, length).astype(np.int32) for length in lengths]


def own_logits(model: Any, prompts: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:  # noqa: ANN401
    """What transformers makes of each prompt alone, f32 `[n, V]`."""
    with torch.no_grad():
        ids = [torch.from_numpy(prompt).long()[None] for prompt in prompts]
        return [model(input_ids=row, use_cache=False).logits[0].float().numpy() for row in ids]


def check_fallback(
    model: _Checked,
    config: FallbackConfig,
    prompts: Sequence[NDArray[np.int32]],
    own: Sequence[NDArray[np.float32]],
) -> None:
    """Compute the prompts together in two steps and compare with `own`.

    Raises:
        AttentionRefused: the logits differ by more than 1e-3, or the attention is not that of the configuration.
    """
    backend = PlainAttention()
    blocks = [-(-len(prompt) // BLOCK_SIZE) for prompt in prompts]
    first = (1 + np.cumsum([0, *blocks])).tolist()
    spec, slots = config.kv_spec, BLOCK_SIZE * (1 + sum(blocks))
    kv = torch.zeros(spec.num_layers, slots, 2, spec.num_kv_heads, spec.head_dim)
    parts: list[list[NDArray[np.float32]]] = [[] for _ in prompts]
    middles = [len(prompt) * 3 // 5 for prompt in prompts]
    for half in range(2):
        bounds = [(0, m) if half == 0 else (m, len(p)) for p, m in zip(prompts, middles, strict=True)]
        batch = _batch([(p, *bound, block) for p, bound, block in zip(prompts, bounds, first, strict=False)])
        run = Run(backend, batch, kv, spec)
        hidden = model.hidden(run)
        _check_layers(config, run.seen)
        logits = model.logits(backend, hidden, batch.logit_rows)
        for row, part in enumerate(parts):
            part.append(logits[batch.seq_starts[row] : batch.seq_starts[row + 1]])
    for part, want in zip(parts, own, strict=True):
        difference = float(np.abs(np.concatenate(part) - want).max())
        if not difference <= _TOLERANCE:
            raise AttentionRefused(f"differs by {difference:.2g} from itself with its own attention")


def _check_layers(config: FallbackConfig, seen: dict[int, AttnSpec]) -> None:
    if sorted(seen) != list(range(config.num_hidden_layers)):
        raise AttentionRefused(f"calls the attention of layers {sorted(seen)} of {config.num_hidden_layers}")
    shape = config.attn_spec
    for layer, spec in sorted(seen.items()):
        if (spec.num_heads, spec.num_kv_heads, spec.head_dim) != (shape.num_heads, shape.num_kv_heads, shape.head_dim):
            raise AttentionRefused(f"has another shape of attention in layer {layer} than its config")
        if spec.window != config.windows[layer]:
            raise AttentionRefused(f"has window {spec.window} in layer {layer}, its config {config.windows[layer]}")


def _batch(pieces: Sequence[Piece]) -> Batch:
    tables = np.zeros((len(pieces), max(-(-stop // BLOCK_SIZE) for _, _, stop, _ in pieces)), dtype=np.int32)
    for row, (_, _, stop, block) in enumerate(pieces):
        tables[row, : -(-stop // BLOCK_SIZE)] = np.arange(block, block + -(-stop // BLOCK_SIZE))
    spans = [np.arange(start, stop, dtype=np.int64) for _, start, stop, _ in pieces]
    ids = np.concatenate([prompt[start:stop] for prompt, start, stop, _ in pieces])
    slots = [block * BLOCK_SIZE + span for span, (*_, block) in zip(spans, pieces, strict=True)]
    return Batch(
        ids=ids,
        positions=np.concatenate(spans).astype(np.int32),
        slot_mapping=np.concatenate(slots),
        seq_starts=np.cumsum([0, *(len(span) for span in spans)]).astype(np.int32),
        seq_lens=np.array([stop for _, _, stop, _ in pieces], dtype=np.int32),
        block_tables=tables,
        logit_rows=np.arange(len(ids), dtype=np.int32),
        logit_ids=[""] * len(ids),
    )
