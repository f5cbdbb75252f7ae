"""Weights for llama.cpp, written from the model's own safetensors at the same precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyworker.folders import cache_dir
from pyworker.models.loader import Weights, read_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_of(model_dir: Path, dtype: str) -> Path:
    """The file for a dtype, in the cache folder; written if it is not there and the `gguf` package is."""
    target = cache_dir() / "bench" / f"{model_dir.name}-{dtype}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        _write(model_dir, dtype, partial)
        partial.rename(target)
    return target


def _write(model_dir: Path, dtype: str, path: Path) -> None:
    import gguf

    config = read_json(model_dir / "config.json")
    heads, kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    weights = Weights(model_dir)
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_config(writer, config)
    _write_tokenizer(writer, model_dir, int(config["vocab_size"]))
    for name in weights.entries:
        tensor = weights.tensor(name)
        if name.endswith("q_proj.weight"):
            tensor = _permute(tensor, heads)
        elif name.endswith("k_proj.weight"):
            tensor = _permute(tensor, kv_heads)
        data, kind = _encode(tensor, dtype)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    weights.close()


def _gguf_name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in fixed:
        return fixed[name]
    if name == "lm_head.weight":
        return "output.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _permute(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in the order of llama.cpp's rotary embedding, which pairs neighbours."""
    rows, columns = tensor.shape
    return tensor.view(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _encode(tensor: torch.Tensor, dtype: str) -> tuple[NDArray[np.generic], object]:
    import gguf

    if dtype == "bfloat16" and tensor.ndim == 2:
        data = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        return data, gguf.GGMLQuantizationType.BF16
    return tensor.float().contiguous().numpy(), gguf.GGMLQuantizationType.F32


def _write_config(writer: Any, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or {}
    theta = config.get("rope_theta") or rope.get("rope_theta", 10_000.0)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(float(theta))
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(writer: Any, model_dir: Path, vocab_size: int) -> None:
    """Enough for requests of token ids: the pieces, the merges, and the end token."""
    data = read_json(model_dir / "tokenizer.json")
    pieces = {index: piece for piece, index in data["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in data.get("added_tokens", ())}
    tokens = [added.get(index, pieces.get(index, f"[unused{index}]")) for index in range(vocab_size)]
    kinds = [3 if index in added else 1 for index in range(vocab_size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    eos = read_json(model_dir / "generation_config.json").get("eos_token_id", 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
