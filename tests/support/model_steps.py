"""A model without an engine: prompts in chunks through `forward`, and random models as transformers saves them."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyworker.models.loader import Weights
from pyworker.models.prepare import prepare
from pyworker.models.registry import Model, load_model, read_config
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.batch import Batch
from pyworker.runner.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from pyworker.runner.backends.base import Backend


@functools.cache
def embedded(name: str) -> Path:
    """Folder of an embedded model."""
    return prepare(name).model_dir


def save_random(folder: Path, architecture: str, config: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """A model with random weights, biases and norms, written into `folder` by transformers."""
    import transformers

    model_class = getattr(transformers, architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_class(model_class.config_class(**config)).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() > 1:
                    parameter.copy_(noise * 1.5 / parameter.shape[-1] ** 0.5)
                else:
                    parameter.copy_(noise * 0.3 + (0.0 if name.endswith("bias") else 1.0))
        model.save_pretrained(folder)
    return model


def logits_by(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Its logits after every position of each prompt, with attention in its plainest form."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return [model(torch.tensor([list(prompt)])).logits[0].float().numpy() for prompt in prompts]


def load(folder: Path, backend: Backend) -> Model:
    """The folder's model on a backend."""
    return load_model(read_config(folder), Weights(folder), backend)


def chunk_batch(chunks: Sequence[tuple[Sequence[int], int, int, int]]) -> Batch:
    """One batch of chunks `(prompt, first, stop, first block)`; every row needs logits."""
    widest = max(-(-stop // BLOCK_SIZE) for _, _, stop, _ in chunks)
    tables = np.zeros((len(chunks), widest), dtype=np.int32)
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    for row, (prompt, first, stop, block) in enumerate(chunks):
        tables[row, : -(-stop // BLOCK_SIZE)] = np.arange(block, block + -(-stop // BLOCK_SIZE))
        ids += list(prompt[first:stop])
        positions += range(first, stop)
        slots += [block * BLOCK_SIZE + position for position in range(first, stop)]
    return Batch(
        ids=np.array(ids, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        slot_mapping=np.array(slots, dtype=np.int64),
        seq_starts=np.cumsum([0, *(stop - first for _, first, stop, _ in chunks)]).astype(np.int32),
        seq_lens=np.array([stop for _, _, stop, _ in chunks], dtype=np.int32),
        block_tables=tables,
        logit_rows=np.arange(len(ids), dtype=np.int32),
        logit_ids=[str(row) for row in range(len(ids))],
        seq_ids=[str(row) for row in range(len(chunks))],
        num_online_seqs=len(chunks),
        num_online_tokens=len(ids),
    )


def logits_in_chunks(
    model: Model, backend: Backend, prompts: Sequence[Sequence[int]], chunks: Sequence[int] = (10_000,)
) -> list[NDArray[np.float32]]:
    """Logits f32 `[n, V]` after every position of each prompt, all computed together in the given chunks, in turn."""
    blocks = [-(-len(prompt) // BLOCK_SIZE) for prompt in prompts]
    first_block = (1 + np.cumsum([0, *blocks])).tolist()
    kv = backend.kv_cache(model.kv_spec, 1 + sum(blocks))
    done, step = [0] * len(prompts), 0
    outs: list[list[NDArray[np.float32]]] = [[] for _ in prompts]
    while active := [index for index, prompt in enumerate(prompts) if done[index] < len(prompt)]:
        count = chunks[step % len(chunks)]
        stops = [min(len(prompts[index]), done[index] + count) for index in active]
        batch = chunk_batch(
            [(prompts[i], done[i], stop, first_block[i]) for i, stop in zip(active, stops, strict=True)]
        )
        through = model.forward(backend, batch, kv, Flow(backend, batch, [], b"\0", lambda: None))
        assert through is not None
        logits = model.logits(backend, through[0], batch.logit_rows)
        for row, index in enumerate(active):
            outs[index].append(logits[batch.seq_starts[row] : batch.seq_starts[row + 1]].copy())
            done[index] = stops[row]
        step += 1
    return [np.concatenate(parts) for parts in outs]


def greedy(model: Model, backend: Backend, prompt: Sequence[int], length: int) -> list[int]:
    """The likeliest next tokens, one step each after the prompt's."""
    text, done = list(prompt), 0
    kv = backend.kv_cache(model.kv_spec, 1 + -(-(len(prompt) + length) // BLOCK_SIZE))
    while len(text) < len(prompt) + length:
        batch = chunk_batch([(text, done, len(text), 1)])
        through = model.forward(backend, batch, kv, Flow(backend, batch, [], b"\0", lambda: None))
        assert through is not None
        done = len(text)
        text.append(int(model.logits(backend, through[0], batch.logit_rows[-1:])[0].argmax()))
    return text[len(prompt) :]
