"""How many tokens of a long prompt go into one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.engine.config import CHUNK_GRAIN

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig


class ChunkBudget:
    """The tokens of one step that its decodes have left over.

    While somebody decodes, chunks share `decode_chunk` tokens, which keeps the time between two tokens of a stream
    short. Chunks are multiples of 16 tokens; a rest under 16 joins the last chunk, past `decode_chunk` if need be but
    never past `max_num_batched_tokens`. A chunk that does not reach the end of its prompt ends on a block's border if
    it can, so that all it has computed can be found by others.
    """

    def __init__(self, config: EngineConfig, num_decodes: int) -> None:
        self._most = max(0, config.max_num_batched_tokens - num_decodes)
        self._wished = min(self._most, config.decode_chunk) if num_decodes else self._most
        self._block_size = config.block_size

    @property
    def left(self) -> int:
        """Tokens that the step can still take, chunk or not."""
        return self._most

    def fit(self, wanted: int, start: int = 0) -> int:
        """Size of the next chunk of a request that has `wanted` tokens to compute from position `start` on; 0: not in
        this step.
        """
        if wanted <= self._wished:
            return wanted
        chunk = self._wished - self._wished % CHUNK_GRAIN
        if chunk and wanted - chunk < CHUNK_GRAIN and wanted <= self._most:
            return wanted
        past_border = (start + chunk) % self._block_size
        return chunk - past_border if chunk - past_border >= CHUNK_GRAIN else chunk

    def spend(self, num_tokens: int) -> None:
        """Take tokens that `fit` has given."""
        self._most -= num_tokens
        self._wished = max(0, self._wished - num_tokens)

    def spend_decode(self) -> bool:
        """Take one token for a decode, which is no chunk. False: the step is full."""
        if self._most <= 0:
            return False
        self._most -= 1
        self._wished = min(self._wished, self._most)
        return True
