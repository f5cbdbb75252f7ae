"""The router's own text handling, for use in process: the same tokens give the same text in both."""

from collections.abc import Sequence
from typing import Self, final

__all__ = ["Detokenizer", "StopMatcher"]

@final
class Detokenizer:
    """Turns one stream of tokens into text that never holds half a character."""

    def __new__(cls, tokenizer_json: str) -> Self:
        """A stream's start, for the tokeniser whose `tokenizer.json` has this text. Special tokens are left out.

        Raises:
            ValueError: the text is no tokeniser.
        """

    def fresh(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """Another stream's start, with the same tokeniser and without reading it again."""

    def push(self, ids: Sequence[int]) -> str:
        """Take the next tokens, and give the text that is now certain, often none.

        Raises:
            ValueError: the tokeniser's decoder fails.
        """

    def finish(self) -> str:
        """The text that was held back, at the stream's end; a character that was never finished becomes U+FFFD.

        Raises:
            ValueError: the tokeniser's decoder fails.
        """

@final
class StopMatcher:
    """Looks for stop strings in text that comes in pieces. The match that is complete first wins."""

    def __new__(cls, stops: Sequence[str], *, include_stop: bool = False) -> Self:
        """A matcher for these strings; with none, all text passes. `include_stop`: the stop string is text too.

        Raises:
            ValueError: one of them is empty.
        """

    def push(self, text: str) -> tuple[str, bool]:
        """Take the next piece; gives what can be shown, and whether a stop is complete. Nothing comes after it."""

    def finish(self) -> str:
        """What was held back is text after all: there is no more."""
