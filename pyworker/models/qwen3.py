"""Qwen3: each query and key head is normalised before it is rotated; late layers may have a sliding window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyworker.models.decoder_config import (
    DECODER_KEYS,
    DecoderConfig,
    need_key_value_heads,
    read_decoder,
    read_num_layers,
)
from pyworker.models.fields import Fields
from pyworker.models.windows import WINDOW_KEYS, read_windows

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = DECODER_KEYS | WINDOW_KEYS | {"attention_bias"}


def read_qwen3(data: Mapping[str, Any], path: str) -> DecoderConfig:
    """From a `config.json` of transformers 4 or 5; `path` is for the errors.

    Raises:
        UnsupportedModel: a key that changes the maths has a value that is not built.
        ModelLoadError: a value is missing, of the wrong type or out of range.
    """
    fields = Fields(data, path)
    fields.refuse_unknown(_KEYS)
    need_key_value_heads(fields)
    windows = read_windows(fields, read_num_layers(fields))
    bias = fields.flag("attention_bias")
    return read_decoder(fields, windows=windows, head_dim=128, qkv_bias=bias, o_bias=bias, qk_norm=True)
