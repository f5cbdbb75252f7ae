"""The model folder of the simulator: a tokeniser whose text can be turned back into ids, and no weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pyworker.errors import ConfigError
from pyworker.models.byte_level import BYTE_LEVEL, byte_characters, byte_level_tokenizer
from pyworker.runner.sim import FIRST

if TYPE_CHECKING:
    from pathlib import Path

BEYOND_TOKENIZER = 8
"""The logits are wider than the tokeniser by this many ids; those are no text."""

_MOST = 100_000  # five digits
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def write_sim_model(folder: Path, vocab: int, max_model_len: int = 4096) -> None:
    """Write the folder's files; equal arguments give equal bytes. `vocab` is the width of the logits.

    Token k is the byte k below 256, and the text ` t00042` (k in five digits) from there to `vocab` - 9.

    Raises:
        ConfigError: `vocab` leaves no token above the bytes, or needs a sixth digit.
    """
    least = FIRST + BEYOND_TOKENIZER + 1
    if not least <= vocab <= _MOST:
        raise ConfigError("vocab", vocab, f"{least} to {_MOST}")
    config = {
        "architectures": ["SlackwaterSim"],
        "max_position_embeddings": max_model_len,
        "model_type": "slackwater_sim",
        "vocab_size": vocab,
    }
    files: dict[str, object] = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": []},
        "tokenizer.json": _tokenizer(vocab - BEYOND_TOKENIZER),
        "tokenizer_config.json": {
            "chat_template": _CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_model_len,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _tokenizer(length: int) -> dict[str, object]:
    """A piece ` t00042` is looked up whole, anything else falls apart into bytes."""
    chars = {byte: char for char, byte in byte_characters().items()}
    vocab = {chars[byte]: byte for byte in range(FIRST)}
    vocab |= {f"{chars[ord(' ')]}t{token:05d}": token for token in range(FIRST, length)}
    token_text = {"type": "Split", "pattern": {"Regex": " t[0-9]{5}"}, "behavior": "Isolated", "invert": False}
    pieces = {"type": "Sequence", "pretokenizers": [token_text, BYTE_LEVEL]}
    return byte_level_tokenizer(vocab, added_tokens=[], pre_tokenizer=pieces, ignore_merges=True)
