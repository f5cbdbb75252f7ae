"""The `tokenizer.json` of the models that are built here: byte-level BPE without merges, each byte its own id."""

from __future__ import annotations

from typing import Any

BYTE_LEVEL: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
"""Turns text into the characters that stand for its bytes, and back."""


def byte_characters() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table), with the byte as its id."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + place): byte for place, byte in enumerate(others)}
    return table


def byte_level_tokenizer(
    vocab: dict[str, int],
    *,
    added_tokens: list[dict[str, Any]],
    pre_tokenizer: dict[str, Any],
    ignore_merges: bool,
) -> dict[str, Any]:
    """The whole file. `ignore_merges` looks a piece up as it is before it falls apart into bytes."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": [],
        },
    }
