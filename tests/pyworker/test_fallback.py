"""Models that only transformers knows: right by its own word, or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.model_steps import chunk_batch, embedded, greedy, load, logits_by, logits_in_chunks, save_random

from pyworker.errors import ConfigError, ModelLoadError, UnsupportedModel
from pyworker.models.fallback import load_fallback
from pyworker.models.fallback_check import PlainAttention
from pyworker.models.fallback_config import read_fallback
from pyworker.models.loader import Weights, read_json
from pyworker.models.registry import read_config
from pyworker.runner.backends.native import NativeBackend
from pyworker.runner.backends.reference import ReferenceBackend
from pyworker.runner.flow import Flow
from pyworker.runner.footprint import native_footprint
from pyworker.runner.memory import Limits, plan_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyworker.runner.backends.base import Backend

BASE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA2 = {"head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 16, "attn_logit_softcapping": 5.0,
          "final_logit_softcapping": 7.0}  # fmt: skip
OWN_HEADS = {"num_key_value_heads": None}
RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("Gemma2ForCausalLM", GEMMA2),
    "phi3": ("Phi3ForCausalLM", {"sliding_window": 9}),
    "gpt_neox": ("GPTNeoXForCausalLM", {**OWN_HEADS, "rotary_pct": 0.25}),
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_logits_match_transformers(tmp_path: Path, name: str) -> None:
    architecture, changes = RIGHT[name]
    theirs = save_random(tmp_path, architecture, {**BASE, **changes})
    prompts = [np.random.default_rng(0).integers(3, 101, length).tolist() for length in (60, 1, 30)]
    backend = ReferenceBackend()
    got = logits_in_chunks(load(tmp_path, backend), backend, prompts, (33, 1, 16))
    for ours, want in zip(got, logits_by(theirs, prompts), strict=True):
        assert float(np.abs(ours - want).max()) < 1e-4 * max(1.0, float(np.abs(want).max()))


ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 64, "factor": 4.0}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "code of its own": ({"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}, "auto_map: its code comes with it"),
    "unknown": ({"model_type": "mine"}, "transformers cannot read it: "),
    "encoder-decoder": ({"model_type": "t5"}, "model_type 't5' is an encoder-decoder"),
    "no decoder": ({"model_type": "vit"}, "model_type 'vit' is no causal language model"),
    "alibi": ({"model_type": "bloom"}, "ALiBi is not built"),
    "alibi by a switch": ({"model_type": "falcon", "alibi": True}, "ALiBi is not built"),
    "state space": ({"model_type": "mamba", "num_hidden_layers": 1}, "model_type 'mamba' has state-space layers"),
    "own attention": ({"model_type": "gptj", "n_layer": 1, "n_head": 2, "n_embd": 8}, "GPTJForCausalLM: its attention"),
    "moving angles": ({**BASE, "model_type": "phi3", "rope_parameters": ROPE}, "rope type 'longrope': its angles"),
    "quantised": ({"model_type": "phi3", "quantization_config": {"bits": 4}}, "quantization_config: quantised"),
    "layers without end": ({"model_type": "gpt2", "n_layer": 10**9}, "n_layer is 1000000000, expected 1 to 1024"),
    "other layers": ({**BASE, "model_type": "gemma2", "layer_types": ["linear_attention"] * 2}, "layer_types has"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_wrong_is_refused_before_any_weight_is_read(tmp_path: Path, name: str) -> None:
    config, text = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError) as caught:
        read_config(tmp_path)
    assert caught.value.path == str(tmp_path / "config.json")
    assert caught.value.what.startswith(text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gemma2", "gpt_neox"])
def test_a_step_of_any_size_fits_the_planned_workspace(tmp_path: Path, name: str, dtype: str) -> None:
    architecture, changes = RIGHT[name]
    save_random(tmp_path, architecture, {**BASE, **changes, "vocab_size": 3001})
    config, limits = read_config(tmp_path), Limits(max_num_seqs=130, max_num_batched_tokens=160)
    footprint = native_footprint(config, limits, dtype, dtype, 2)
    backend = NativeBackend(2, dtype, sizes=footprint.sizes)
    model = load(tmp_path, backend)
    batch = chunk_batch([(range(3, 163), 0, 160, 1)])
    kv = backend.kv_cache(model.kv_spec, 6)
    through = model.forward(backend, batch, kv, Flow(backend, batch, [], b"\0", lambda: None))
    assert through is not None
    assert model.logits(backend, through[0], batch.logit_rows[:130]).shape == (130, 3001)
    # The head has room for its rows, and not for every token of a step.
    assert 0.2 * backend.workspace.nbytes < 4 * backend.workspace.peak <= backend.workspace.nbytes


def test_the_plan_counts_what_is_not_packed_and_the_weights_before_they_are(tmp_path: Path) -> None:
    architecture, changes = RIGHT["gemma2"]
    theirs = save_random(tmp_path, architecture, {**BASE, **changes})
    config, limits = read_config(tmp_path), Limits()
    footprint = native_footprint(config, limits, "bfloat16", "bfloat16", 1)
    linears = [module.weight.numel() for module in theirs.modules() if isinstance(module, torch.nn.Linear)]
    kept = sum(parameter.numel() for parameter in theirs.parameters()) - sum(linears) + 101 * 48
    padded = sum(module.weight.shape[1] * -(-module.weight.shape[0] // 32) * 32
                 for module in theirs.modules() if isinstance(module, torch.nn.Linear))  # fmt: skip
    assert footprint.weights == 4 * kept + 2 * padded
    assert footprint.loading == 4 * (kept + sum(linears))
    with pytest.raises(ConfigError, match=r"memory \d+: at least \d+ bytes: it is loaded in float32"):
        plan_memory(config, limits, 4 << 30, replace(footprint, loading=4 << 30))


def test_attention_sinks_are_refused_at_load(tmp_path: Path) -> None:
    changes = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "sliding_window": 16}
    save_random(tmp_path, "GptOssForCausalLM", {**BASE, **changes})
    with pytest.raises(UnsupportedModel, match="GptOssForCausalLM has attention with s_aux"):
        load(tmp_path, ReferenceBackend())


def test_a_model_that_differs_from_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a mask that nothing else gives away: here our attention is made to see one token less."""
    save_random(tmp_path, "Phi3ForCausalLM", {**BASE, "sliding_window": 9})
    real = PlainAttention.attend

    def attend(self: PlainAttention, *args: Any) -> torch.Tensor:
        spec = args[3]
        return real(self, *args[:3], replace(spec, window=spec.window - 1), *args[4:])

    monkeypatch.setattr(PlainAttention, "attend", attend)
    with pytest.raises(UnsupportedModel, match=r"Phi3ForCausalLM differs by [0-9.]+ from itself"):
        load(tmp_path, ReferenceBackend())


def test_missing_and_extra_tensors_are_named(tmp_path: Path) -> None:
    save_random(tmp_path, "Olmo2ForCausalLM", BASE)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    norm = "model.norm.weight"
    for changed, name in (
        ({key: tensor for key, tensor in tensors.items() if key != norm}, norm),
        ({**tensors, "model.extra": torch.zeros(1)}, "model.extra"),
    ):
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(ModelLoadError) as caught:
            load(tmp_path, ReferenceBackend())
        assert caught.value.tensor == name


@pytest.mark.parametrize("make", [ReferenceBackend, lambda: NativeBackend(2)], ids=["reference", "native"])
def test_a_llama_gives_the_tokens_of_its_own_file(make: Callable[[], Backend]) -> None:
    folder, backend = embedded("tiny"), make()
    config = read_fallback(folder, read_json(folder / "config.json"))
    model = load_fallback(config, Weights(folder), backend)
    prompt = [*b"The tide"]
    assert greedy(model, backend, prompt, 8) == greedy(load(folder, backend), backend, prompt, 8)
    assert (model.can_drop_rows, load(folder, backend).can_drop_rows) == (False, True)


@pytest.mark.parametrize(("level", "online", "through"), [(1, 1, 1), (1, 0, None), (2, 1, None), (1, 2, 2)])
def test_a_safepoint_gives_up_the_step_for_offline_rows(level: int, online: int, through: int | None) -> None:
    folder, backend = embedded("tiny"), ReferenceBackend()
    model = load_fallback(read_fallback(folder, read_json(folder / "config.json")), Weights(folder), backend)
    batch = chunk_batch([([*b"The tide"], 0, 8, 1), ([*b"comes in"], 0, 8, 2)])
    batch.num_online_seqs, batch.num_online_tokens = online, 8 * online
    signal, layers = bytearray(1), []

    def progress() -> None:
        layers.append(signal[0])
        signal[0] = level if len(layers) == 1 else signal[0]

    got = model.forward(backend, batch, backend.kv_cache(model.kv_spec, 3), Flow(backend, batch, [], signal, progress))
    assert (None if got is None else (got[1].num_seqs, len(got[0]))) == (
        None if through is None else (through, 8 * through)
    )
    alone = chunk_batch([([*b"The tide"], 0, 8, 1)])
    calm = model.forward(
        backend, alone, backend.kv_cache(model.kv_spec, 3), Flow(backend, alone, [], b"\0", lambda: None)
    )
    assert calm is not None
    if got is not None:
        assert torch.allclose(got[0][:8], calm[0], atol=1e-5)
