"""`tiny` and its sisters: models small enough for tests, built and not downloaded, the same to the byte everywhere.

`tiny` is a Llama; `tiny:qwen2`, `tiny:qwen3` and `tiny:mistral` have what is peculiar to their families, each with a
sliding window that a page of text runs past.
Its vocabulary is the 256 bytes, each its own id, then special tokens. Its weights come from the counter-based
generator, keyed by each parameter's name, so it has opinions but no knowledge: the head favours printable text and
leaves clear margins between the best candidates.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from pyworker.models.byte_level import BYTE_LEVEL, byte_characters, byte_level_tokenizer
from pyworker.models.llama import read_llama
from pyworker.models.mistral import read_mistral
from pyworker.models.qwen2 import read_qwen2
from pyworker.models.qwen3 import read_qwen3
from pyworker.runner.philox import DOMAIN_WEIGHTS, philox4x32, uniform

REVISION = 1
"""Changes whenever the files written here would."""

VOCAB = 512
END_OF_TEXT, IM_START, IM_END = 256, 257, 258

_CONTEXT = 2048
_WINDOW = 40
_BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": _CONTEXT,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
_WINDOWED = {"use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 1}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"attention_bias": False, "mlp_bias": False}),
    "qwen2": ("Qwen2ForCausalLM", {**_WINDOWED, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3ForCausalLM", {**_WINDOWED, "attention_bias": False, "head_dim": 24}),
    "mistral": ("MistralForCausalLM", {"sliding_window": _WINDOW, "head_dim": 24}),
}
_READERS = {"llama": read_llama, "qwen2": read_qwen2, "qwen3": read_qwen3, "mistral": read_mistral}
TINY_MODELS = {"tiny": "llama", **{f"tiny:{family}": family for family in ("qwen2", "qwen3", "mistral")}}
"""The family of each name."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_tiny(folder: Path, family: str = "llama", **changes: object) -> None:
    """Write the model folder into `folder`, which exists and is empty. `changes` are made to its `config.json`."""
    from safetensors.numpy import save_file

    config = {**_config(family), **changes}
    tensors = {name: _weights(name, shape) for name, shape in _READERS[family](config, "").tensor_shapes().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"bos_token_id": END_OF_TEXT, "eos_token_id": [IM_END, END_OF_TEXT]})
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _weights(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform weights of a given spread; a norm's are spread about 1, a bias's about 0."""
    key = xxhash.xxh3_64_intdigest(name.encode())
    count = math.prod(shape)
    counter = np.zeros((-(-count // 4), 4), dtype=np.uint32)
    counter[:, 0] = np.arange(len(counter))
    counter[:, 3] = DOMAIN_WEIGHTS
    signed = uniform(philox4x32(key, counter)).ravel()[:count].reshape(shape) * 2.0 - 1.0
    if name.endswith(".bias"):
        return signed.astype(np.float32)
    if len(shape) == 1:
        return (1.0 + 0.25 * signed).astype(np.float32)
    weights = signed * (math.sqrt(3.0) * _spread(name, shape))
    if name == "lm_head.weight":
        weights *= _favour()[:, None]
    return weights.astype(np.float32)


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a matrix: each layer's output is about as large as its input."""
    if name == "model.embed_tokens.weight":
        return 1.0
    return (4.0 if name == "lm_head.weight" else 1.6) / math.sqrt(shape[1])


def _favour() -> NDArray[np.float64]:
    """Factor on each row of the head: printable text speaks loudest, special tokens hardly ever."""
    factors = np.full(VOCAB, 0.25)
    factors[:256] = 0.5
    factors[32:127] = 1.0
    return factors


def _config(family: str) -> dict[str, Any]:
    architecture, own = _FAMILIES[family]
    return {
        "architectures": [architecture],
        "model_type": family,
        **_BASE,
        **own,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": IM_END,
        "torch_dtype": "float32",
    }


CONFIG = read_llama(_config("llama"), "tiny")
"""`tiny` itself."""


def _special_tokens() -> dict[int, str]:
    named = {END_OF_TEXT: "<|endoftext|>", IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
    return {index: named.get(index, f"<|reserved_{index}|>") for index in range(256, VOCAB)}


def _tokenizer() -> dict[str, Any]:
    added: list[dict[str, Any]] = [
        {
            "id": index,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, text in _special_tokens().items()
    ]
    return byte_level_tokenizer(byte_characters(), added_tokens=added, pre_tokenizer=BYTE_LEVEL, ignore_merges=False)


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": _CONTEXT,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
