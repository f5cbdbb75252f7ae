"""Reads `config.json` strictly: a key that may change the maths and is not known is refused, never passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyworker.errors import ModelLoadError, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_INT = 2**31 - 1
# Keys that say nothing about how logits are computed.
_HARMLESS = frozenset(
    {
        "architectures",
        "model_type",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "use_cache",
        "initializer_range",
        "attention_dropout",
        "is_llama_config",
        "transformers.js_config",
        "_name_or_path",
        "name_or_path",
        "_model_name_or_path",
        "_attn_implementation",
        "return_dict",
    }
)


class Fields:
    """A decoded `config.json`; `path` is for the errors."""

    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        self.data = data
        self.path = path

    def refuse_unknown(self, known: frozenset[str]) -> None:
        """Raise `UnsupportedModel` for a key that is neither harmless nor `known`.

        A switch that is off or empty cannot change anything.
        """
        for key, value in self.data.items():
            if key not in _HARMLESS and key not in known and value is not None and value is not False:
                raise UnsupportedModel(self.path, f"{key} = {value!r} may change the maths and is not built")

    def fixed(self, key: str, expected: object) -> None:
        """Raise `UnsupportedModel` where the key is there with another value."""
        if self.data.get(key, expected) != expected:
            raise UnsupportedModel(self.path, f"{key} = {self.data[key]!r}; only {expected!r} is built")

    def count(self, key: str, *, default: int | None = None, most: int = _MAX_INT) -> int:
        """An integer of 1 to `most`; null counts as missing."""
        value = self.data.get(key)
        if value is None:
            value = default
        if type(value) is not int or not 1 <= value <= most:
            raise ModelLoadError(self.path, f"{key} is {value!r}, expected 1 to {most}")
        return value

    def positive(self, key: str, value: object) -> float:
        """`value` as a float over zero; `key` names it in the error."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ModelLoadError(self.path, f"{key} is {value!r}, expected a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false; missing is false."""
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise ModelLoadError(self.path, f"{key} is {value!r}, expected true or false")
        return value
