"""Every family that is built, on random small configurations saved by transformers, gives the logits that it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.model_steps import load, logits_by, logits_in_chunks, save_random

from pyworker.models.registry import read_config
from pyworker.runner.backends.native import NativeBackend
from pyworker.runner.backends.reference import ReferenceBackend

BASE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
WINDOW = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "llama biases": ("LlamaForCausalLM", {"attention_bias": True, "tie_word_embeddings": True}),
    "llama linear": ("LlamaForCausalLM", {"rope_parameters": LINEAR}),
    "llama llama3": ("LlamaForCausalLM", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "llama yarn": ("LlamaForCausalLM", {"rope_parameters": YARN, "head_dim": 32}),
    "llama yarn by hand": (
        "LlamaForCausalLM",
        {"rope_parameters": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "mscale": 1.0,
                             "mscale_all_dim": 0.5}},
    ),
    "llama yarn factor": ("LlamaForCausalLM", {"rope_parameters": {**YARN, "attention_factor": 0.8}}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2 windows": ("Qwen2ForCausalLM", {**WINDOW, "tie_word_embeddings": True}),
    "qwen2 window unused": ("Qwen2ForCausalLM", {**WINDOW, "use_sliding_window": False}),
    "qwen2 yarn": ("Qwen2ForCausalLM", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 20}),
    "qwen3 biases and windows": ("Qwen3ForCausalLM", {**WINDOW, "head_dim": 10, "attention_bias": True}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None, "head_dim": 12}),
    "mistral window": ("MistralForCausalLM", {"sliding_window": 7, "num_key_value_heads": 3}),
}  # fmt: skip


def prompts_for_test(vocab: int = 101) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocab, length).tolist() for length in (270, 1, 40)]


@pytest.mark.parametrize("name", CASES)
def test_logits_match_transformers(tmp_path: Path, name: str) -> None:
    """Three texts at once, in uneven chunks, the longest over a border of the splits of attention."""
    architecture, changes = CASES[name]
    theirs = save_random(tmp_path, architecture, {**BASE, **changes})
    prompts = prompts_for_test()
    backend = ReferenceBackend()
    got = logits_in_chunks(load(tmp_path, backend), backend, prompts, (97, 1, 32, 140))
    for ours, want in zip(got, logits_by(theirs, prompts), strict=True):
        assert float(np.abs(ours - want).max()) < 1e-4 * max(1.0, float(np.abs(want).max()))


@pytest.mark.parametrize("name", ["llama yarn factor", "qwen2 windows", "qwen3 biases and windows", "mistral window"])
def test_the_native_backend_gives_them_too(tmp_path: Path, name: str) -> None:
    architecture, changes = CASES[name]
    save_random(tmp_path, architecture, {**BASE, **changes})
    prompts, native, reference = prompts_for_test(), NativeBackend(2), ReferenceBackend()
    got = logits_in_chunks(load(tmp_path, native), native, prompts, (97, 1, 32, 140))
    want = logits_in_chunks(load(tmp_path, reference), reference, prompts)
    for ours, theirs in zip(got, want, strict=True):
        assert float(np.abs(ours - theirs).max()) < 1e-4 * max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize("name", ["llama llama3", "llama yarn", "llama linear", "qwen2 yarn"])
def test_a_version_4_config_means_the_same(tmp_path: Path, name: str) -> None:
    architecture, changes = CASES[name]
    save_random(tmp_path, architecture, {**BASE, **changes})
    new = read_config(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    scaling = data.pop("rope_parameters")
    theta = scaling.pop("rope_theta")
    scaling["type"] = scaling.pop("rope_type")
    path.write_text(json.dumps({**data, "rope_theta": theta, "rope_scaling": scaling}))
    assert read_config(tmp_path) == new
