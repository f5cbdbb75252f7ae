"""Compiles grammars on a thread of its own, within limits, and keeps the compiled ones.

A compilation may take a good part of a second. It gives up the interpreter meanwhile, and its size is bounded by fuel
and not by patience: nothing could stop it from outside.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llguidance import LLMatcher, LLParserLimits

from pyworker.structured.grammars import GrammarError, translate

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from pyworker.engine.request import Grammar

INVALID: Final = "grammar_invalid"
TOO_COMPLEX: Final = "grammar_too_complex"

_LIMIT_SECONDS: Final = 2.0
_MOST_QUEUED: Final = 256
_CACHE_BYTES: Final = 64 << 20
_BYTES_A_GRAMMAR: Final = 64 << 10
_BYTES_A_CHARACTER: Final = 32
"""What a compiled grammar takes is not told; this is on the safe side of what was seen."""
_COMPLEXITY: Final = ("too complex", "too large", "fuel", "limit", "too many", "toocomplex", "max is")
_NOTHING: Final = "NoExtensionBias"
"""What llguidance says of a grammar that no text at all matches."""
_TRIAL_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled grammar at its beginning; or an error code, and what to tell the one who wrote it."""

    matcher: LLMatcher | None
    code: str = ""
    message: str = ""


class Compilation:
    """One grammar on its way. `result` is there when it is done, or has taken too long."""

    def __init__(self, future: Future[Compiled], began: list[float]) -> None:
        self._future = future
        self._began = began

    def result(self) -> Compiled | None:
        """The outcome, or `None` while it may still come."""
        if self._future.done():
            return self._future.result()
        if self._began and time.monotonic() - self._began[0] > _LIMIT_SECONDS:
            return Compiled(None, TOO_COMPLEX, f"the grammar was not compiled within {_LIMIT_SECONDS:g} s")
        return None

    def wait(self, seconds: float) -> None:
        """Return when it is done, or after so long."""
        wait([self._future], timeout=seconds)


class GrammarCompiler:
    """Compilations for one tokeniser. `start` may be called from any thread."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._limits = LLParserLimits(verbose_errors=False)
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._lock = threading.Lock()
        self._cache: OrderedDict[Grammar, tuple[Compiled, int]] = OrderedDict()
        self._cached_bytes = 0
        self._queued = 0

    def start(self, grammar: Grammar) -> Compilation:
        """Compile it, or find it compiled."""
        future: Future[Compiled] = Future()
        with self._lock:
            known = self._cache.get(grammar)
            if known is not None:
                self._cache.move_to_end(grammar)
                future.set_result(known[0])
                return Compilation(future, [])
            if self._queued >= _MOST_QUEUED:
                future.set_result(Compiled(None, TOO_COMPLEX, "too many grammars wait to be compiled"))
                return Compilation(future, [])
            self._queued += 1
        began: list[float] = []
        return Compilation(self._thread.submit(self._compile, grammar, began), began)

    def close(self) -> None:
        """End the thread; what is being compiled is finished first."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def cached_bytes(self) -> int:
        """Bytes that the kept grammars take, by estimate."""
        return self._cached_bytes

    def _compile(self, grammar: Grammar, began: list[float]) -> Compiled:
        began.append(time.monotonic())
        compiled = self._try(grammar)
        size = _BYTES_A_GRAMMAR + _BYTES_A_CHARACTER * len(grammar.text)
        with self._lock:
            self._queued -= 1
            if grammar not in self._cache and size <= _CACHE_BYTES:
                self._cache[grammar] = compiled, size
                self._cached_bytes += size
            while self._cached_bytes > _CACHE_BYTES:
                _, (_, freed) = self._cache.popitem(last=False)
                self._cached_bytes -= freed
        return compiled

    def _try(self, grammar: Grammar) -> Compiled:
        try:
            text = translate(grammar)
        except GrammarError as error:
            return Compiled(None, TOO_COMPLEX if error.too_large else INVALID, str(error))
        matcher = LLMatcher(self._tokenizer, text, log_level=0, limits=self._limits)
        if not matcher.is_error():
            trial = _tried(matcher)
            if not trial.is_error():
                return Compiled(matcher)
            matcher = trial
        return Compiled(None, *fault_of(matcher))


def fault_of(matcher: LLMatcher) -> tuple[str, str]:
    """The code and the text for what is wrong with a matcher that is in error."""
    message = matcher.get_error()
    if not message or message == _NOTHING:
        return INVALID, "nothing can match it"
    is_complex = any(word in message.lower() for word in _COMPLEXITY)
    return TOO_COMPLEX if is_complex else INVALID, _first_lines(message)


def _tried(matcher: LLMatcher) -> LLMatcher:
    """A copy that has gone a few steps: the first mask shows whether anything can match, and warms what later ones
    need; what must come first leads to where large grammars break their bounds.
    """
    trial = matcher.deep_copy()
    trial.compute_bitmask()
    if not trial.is_error():
        trial.consume_tokens(trial.compute_ff_tokens()[:_TRIAL_TOKENS])
    return trial


def _first_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and line.strip() != "<non-verbose/>"]
    return " ".join(lines[:4])[:500]
