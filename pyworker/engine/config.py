"""The limits that one engine runs under, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from pyworker.errors import ConfigError

CHUNK_GRAIN = 16
"""Chunks of a long prompt are multiples of this many tokens; less is not worth a step."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits in tokens, blocks and rows.

    `num_blocks` counts the null block, which no request can hold. `max_num_seqs` bounds the requests that hold blocks;
    others wait. `max_num_batched_tokens` is the most tokens of one step, `decode_chunk` the most that are not decodes
    while somebody decodes (a rest under 16 may come on top). `max_model_len` bounds prompt plus output. `vocab_size` is
    the width of the logits. `eos_ids` are the model's end tokens. A second failed step within `failure_window_micros`
    of the first ends the engine. Rows that left a step in the middle are kept for as long as there are at most
    `park_max_slices` lots of them, of `park_max_bytes` altogether, each at most `park_max_micros` old. With
    `async_scheduling` the next step is planned while one runs; the tokens are the same without.

    Raises:
        ConfigError: the limits cannot work together.
    """

    num_blocks: int
    max_model_len: int
    vocab_size: int
    eos_ids: frozenset[int] = frozenset()
    block_size: int = 32
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_step_drafts: int = 64
    decode_chunk: int = 128
    enable_prefix_caching: bool = True
    failure_window_micros: int = 10_000_000
    park_max_slices: int = 4
    park_max_bytes: int = 64 << 20
    park_max_micros: int = 2_000_000
    async_scheduling: bool = True

    def __post_init__(self) -> None:
        least_tokens = self.max_num_seqs + CHUNK_GRAIN
        bounds = (
            ("num_blocks", self.num_blocks, 2, "at least 2, of which one is never used"),
            ("max_model_len", self.max_model_len, 2, "at least 2: one token of prompt and one of output"),
            ("vocab_size", self.vocab_size, 1, "at least 1"),
            ("block_size", self.block_size, 1, "at least 1"),
            ("max_num_seqs", self.max_num_seqs, 1, "at least 1"),
            ("max_step_drafts", self.max_step_drafts, 0, "at least 0"),
            ("decode_chunk", self.decode_chunk, CHUNK_GRAIN, f"at least {CHUNK_GRAIN}"),
            (
                "max_num_batched_tokens",
                self.max_num_batched_tokens,
                least_tokens,
                f"at least max_num_seqs + {CHUNK_GRAIN} = {least_tokens}, so that a prompt moves on while all decode",
            ),
            ("failure_window_micros", self.failure_window_micros, 0, "at least 0"),
            ("park_max_slices", self.park_max_slices, 0, "at least 0"),
            ("park_max_bytes", self.park_max_bytes, 0, "at least 0"),
            ("park_max_micros", self.park_max_micros, 0, "at least 0"),
        )
        for name, value, least, allowed in bounds:
            if value < least:
                raise ConfigError(name, value, allowed)
        wrong = sorted(token for token in self.eos_ids if not 0 <= token < self.vocab_size)
        if wrong:
            raise ConfigError("eos_ids", wrong, f"ids below vocab_size {self.vocab_size}")

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self.num_blocks - 1
