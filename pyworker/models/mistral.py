"""Mistral: all layers have a sliding window, or none has."""

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

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = DECODER_KEYS | {"sliding_window"}
_DEFAULT_WINDOW = 4096


def read_mistral(data: Mapping[str, Any], path: str) -> DecoderConfig:
    """From a `config.json` of transformers 4 or 5; `path` is for the errors.

    Raises:
        UnsupportedModel: a key that changes the maths has a value that is not built.
        ModelLoadError: a value is missing, of the wrong type or out of range.
    """
    fields = Fields(data, path)
    fields.refuse_unknown(_KEYS)
    need_key_value_heads(fields)
    window = None
    if data.get("sliding_window", _DEFAULT_WINDOW) is not None:
        window = fields.count("sliding_window", default=_DEFAULT_WINDOW)
    return read_decoder(fields, windows=(window,) * read_num_layers(fields))
