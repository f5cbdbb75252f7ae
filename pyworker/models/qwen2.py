"""Qwen2 and Qwen2.5: queries, keys and values have biases; late layers may have a sliding window."""

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

_KEYS = DECODER_KEYS | WINDOW_KEYS


def read_qwen2(data: Mapping[str, Any], path: str) -> DecoderConfig:
    """From a `config.json` of transformers 4 or 5; `path` is for the errors.

    Raises:
        UnsupportedModel: a key that changes the maths has a value that is not built.
        ModelLoadError: a value is missing, of the wrong type or out of range.
    """
    fields = Fields(data, path)
    fields.refuse_unknown(_KEYS)
    need_key_value_heads(fields)
    return read_decoder(fields, windows=read_windows(fields, read_num_layers(fields)), qkv_bias=True)
