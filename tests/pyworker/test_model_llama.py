"""Llama configurations of many shapes, saved by transformers itself, give the logits that it gives."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.model_steps import load, logits_in_chunks

from pyworker.models.registry import read_config
from pyworker.models.rope import default_inv_freq
from pyworker.runner.backends.base import Rope
from pyworker.runner.backends.reference import ReferenceBackend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "one key head": {"num_key_value_heads": 1, "head_dim": 10},
    "ungrouped": {"num_key_value_heads": 6, "head_dim": 16, "rms_norm_eps": 1e-3},
    "rotary base": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "odd sizes": {"hidden_size": 42, "head_dim": 6, "intermediate_size": 51, "num_hidden_layers": 3},
}


def save(folder: Path, changes: dict[str, Any]) -> PreTrainedModel:
    """Random weights in transformers' own format; the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LlamaForCausalLM(LlamaConfig(**{**BASE, **changes})).eval()
        model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_logits_match_transformers(tmp_path: Path, name: str) -> None:
    model = save(tmp_path, SHAPES[name])
    prompt = np.random.default_rng(0).integers(0, 101, 300).tolist()
    with torch.no_grad():
        want = model(torch.tensor([prompt])).logits[0].numpy()
    backend = ReferenceBackend()
    got = logits_in_chunks(load(tmp_path, backend), backend, [prompt])[0]
    assert float(np.abs(got - want).max()) < 1e-4 * max(1.0, float(np.abs(want).max()))


def test_a_version_4_config_means_the_same(tmp_path: Path) -> None:
    save(tmp_path, SHAPES["rotary base"])
    new = read_config(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    del data["rope_parameters"]
    path.write_text(json.dumps({**data, "rope_theta": 5e5, "rope_scaling": None}))
    assert read_config(tmp_path) == new
    assert new.rope == Rope(default_inv_freq(5e5, 8))
