"""Compiles grammars on a thread of its own, within limits, and keeps the compiled ones.

A compilation may take a good part of a second. It gives up the interpreter meanwhile, and its size is bounded by fuel
and not by patience: nothing could stop it from outside.
"""

from __future__ import annotations

import logging
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

_logger = logging.getLogger(__name__)

INVALID: Final = "grammar_invalid"
TOO_COMPLEX: Final = "grammar_too_complex"
_INTERNAL: Final = "internal"

_LIMIT_SECONDS: Final = 2.0
_MASK_SECONDS: Final = 0.25
_TOO_SLOW: Final = "it takes too long to say which tokens may come"
_MOST_QUEUED: Final = 256
_STACK_BYTES: Final = 256 << 20
"""The compiler goes down one call for each rule behind a rule: some kilobytes each, up to 30. What `translate` lets
through needs less than half of this, of which only what is touched is ever taken.
"""
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
        self._thread = _deep_thread()
        self._lock = threading.Lock()
        self._cache: OrderedDict[Grammar, tuple[Compiled, int]] = OrderedDict()
        self._cached_bytes = 0
        self._pending: dict[Grammar, Compilation] = {}

    def start(self, grammar: Grammar) -> Compilation:
        """Compile it, find it compiled, or wait with others who want the same."""
        with self._lock:
            known = self._cache.get(grammar)
            if known is not None:
                self._cache.move_to_end(grammar)
                return _settled(known[0])
            pending = self._pending.get(grammar)
            if pending is not None:
                return pending
            if len(self._pending) >= _MOST_QUEUED:
                return _settled(Compiled(None, TOO_COMPLEX, "too many grammars wait to be compiled"))
            began: list[float] = []
            compilation = Compilation(self._thread.submit(self._compile, grammar, began), began)
            self._pending[grammar] = compilation
            return compilation

    def close(self) -> None:
        """End the thread; what is being compiled is finished first."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def cached_bytes(self) -> int:
        """Bytes that the kept grammars take, by estimate."""
        return self._cached_bytes

    def _compile(self, grammar: Grammar, began: list[float]) -> Compiled:
        began.append(time.monotonic())
        try:
            compiled = self._try(grammar)
        except BaseException:  # a panic of the compiler is no Exception; neither may reach the engine
            _logger.exception("a grammar of %d characters could not be compiled", len(grammar.text))
            compiled = Compiled(None, _INTERNAL, "the grammar's compiler failed")
        size = _BYTES_A_GRAMMAR + _BYTES_A_CHARACTER * len(grammar.text)
        with self._lock:
            del self._pending[grammar]
            if compiled.code != _INTERNAL and size <= _CACHE_BYTES:
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
                return Compiled(matcher) if _is_quick(matcher) else Compiled(None, TOO_COMPLEX, _TOO_SLOW)
            matcher = trial
        return Compiled(None, *fault_of(matcher))


def fault_of(matcher: LLMatcher) -> tuple[str, str]:
    """The code and the text for what is wrong with a matcher that is in error."""
    message = _first_lines(matcher.get_error())
    if message.startswith("panic"):
        _logger.warning("the compiler of grammars gave up: %s", message)
        return TOO_COMPLEX, "the grammar is too large"
    if message in ("", _NOTHING):
        return INVALID, "nothing can match it"
    is_complex = any(word in message.lower() for word in _COMPLEXITY)
    return TOO_COMPLEX if is_complex else INVALID, message


def _tried(matcher: LLMatcher) -> LLMatcher:
    """A copy that has gone a few steps: the first mask shows whether anything can match, and warms what later ones
    need; what must come first leads to where large grammars break their bounds.
    """
    trial = matcher.deep_copy()
    trial.compute_bitmask()
    if not trial.is_error():
        trial.consume_tokens(trial.compute_ff_tokens()[:_TRIAL_TOKENS])
    return trial


def _is_quick(matcher: LLMatcher) -> bool:
    """Whether a mask is made fast enough, now that all is warm: all requests of a step wait for it."""
    began = time.monotonic()
    matcher.deep_copy().compute_bitmask()
    return time.monotonic() - began < _MASK_SECONDS


def _settled(compiled: Compiled) -> Compilation:
    future: Future[Compiled] = Future()
    future.set_result(compiled)
    return Compilation(future, [])


def _deep_thread() -> ThreadPoolExecutor:
    """One thread with a stack that the deepest grammars fit; begun here, for the size is said to all that begin."""
    pool = ThreadPoolExecutor(1, "grammars")
    usual = threading.stack_size(_STACK_BYTES)
    try:
        pool.submit(int).result()
    finally:
        threading.stack_size(usual)
    return pool


def _first_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and line.strip() != "<non-verbose/>"]
    return " ".join(lines[:4])[:500]
