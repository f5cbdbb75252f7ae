"""Llama and SmolLM2: attention may have biases, all layers see everything before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyworker.models.decoder_config import DECODER_KEYS, DecoderConfig, read_decoder
from pyworker.models.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = DECODER_KEYS | {"pretraining_tp", "attention_bias"}


def read_llama(data: Mapping[str, Any], path: str) -> DecoderConfig:
    """From a `config.json` of transformers 4 or 5; `path` is for the errors.

    Raises:
        UnsupportedModel: a key that changes the maths has a value that is not built.
        ModelLoadError: a value is missing, of the wrong type or out of range.
    """
    fields = Fields(data, path)
    fields.refuse_unknown(_KEYS)
    fields.fixed("pretraining_tp", 1)
    bias = fields.flag("attention_bias")
    return read_decoder(fields, max_position_embeddings=2048, qkv_bias=bias, o_bias=bias)
