"""`LLM`: a model in this process, without a router.

It drives an `EngineCore` on the thread that calls, and turns tokens into text by the router's own code, so that the
same request gives the same text here and there.
"""

from __future__ import annotations

import secrets
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pyworker.asked import bad_words_of, messages_of, params_of, prompt_of, prompts_of
from pyworker.config import build_engine, options_of
from pyworker.engine.interface import Engine, EngineStats
from pyworker.engine.request import Grammar, GrammarKind, SamplingParams
from pyworker.errors import InvalidRequest
from pyworker.inprocess import Answer, Driver, GenerationFailed
from pyworker.models.prepare import prepare
from pyworker.texts import TextSide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from pyworker.engine.outputs import TokenLogprobs

__all__ = [
    "LLM",
    "Completion",
    "CompletionOutput",
    "Engine",
    "GenerationFailed",
    "Grammar",
    "GrammarKind",
    "Logprob",
    "SamplingParams",
    "TextStream",
]


@dataclass(frozen=True, slots=True)
class Logprob:
    """How likely a token was, as the natural logarithm of the raw distribution, and its text by itself."""

    logprob: float
    decoded_token: str


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One choice for a prompt.

    `token_ids` holds the token that ended it too, which has no text. `finish_reason` is `stop` or `length`. `logprobs`,
    where they were asked for, has one mapping a token, from token ids: its own first, then the likeliest, descending.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[dict[int, Logprob]] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one prompt: `outputs` has its `n` choices, and the names of the first one's parts are here too.

    `prompt_logprobs`, where they were asked for, are as `logprobs`, but nothing for the first position.
    """

    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.outputs[0].text

    @property
    def token_ids(self) -> list[int]:
        """Of the first choice."""
        return self.outputs[0].token_ids

    @property
    def finish_reason(self) -> str:
        """Of the first choice."""
        return self.outputs[0].finish_reason

    @property
    def logprobs(self) -> list[dict[int, Logprob]] | None:
        """Of the first choice."""
        return self.outputs[0].logprobs


class LLM:
    """A model, loaded. Options are those of `slackwater-worker`, by name: `max_num_seqs=8`.

    One thread at a time gets on; others wait for the step's end. After `close`, everything else raises `RuntimeError`.

    Raises:
        ConfigError: options that cannot work.
        ModelLoadError: a model that cannot be had or read.
    """

    def __init__(self, model: str = "smollm2", **options: object) -> None:
        chosen = options_of(options)
        prepared = prepare(model)
        engine = build_engine(prepared, chosen)
        self._texts = TextSide(prepared.model_dir)
        self._driver = Driver(engine)

    def generate(
        self, prompts: str | Sequence[str] | Sequence[Sequence[int]], params: SamplingParams | None = None
    ) -> list[Completion]:
        """One completion for each prompt, with `n` choices, all in one batch. A prompt is a text or token ids.

        `bad_words` of the parameters may be texts. With `best_of` more choices are made than are given.

        Raises:
            InvalidRequest: a prompt or a parameter that the model cannot take; nothing has run.
            GenerationFailed: the engine could not go on with one of them.
        """
        checked = self._params(params)
        return self._complete([self._tokens(prompt) for prompt in prompts_of(prompts)], checked)

    def chat(self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None) -> Completion:
        """The assistant's answer to a conversation, as `{"role": ..., "content": ...}` each.

        Raises:
            InvalidRequest: the model has no chat template, it refuses the messages, or as of `generate`.
            GenerationFailed: the engine could not go on with it.
        """
        checked = self._params(params)
        return self._complete([self._texts.encode_chat(messages_of(messages))], checked)[0]

    def stream(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> TextStream:
        """The text of one completion, piece by piece, as it comes. It has one choice.

        Raises:
            InvalidRequest: as of `generate`, before the first piece is asked for.
        """
        checked = self._params(params)
        if (checked.best_of or checked.n) > 1:
            raise InvalidRequest("invalid_request", "n: a stream has one choice", param="n")
        answer = Answer(self._tokens(prompt_of(prompt)), checked, self._texts)
        self._driver.check([answer])
        return TextStream(self._driver, answer)

    def stats(self) -> EngineStats:
        """The engine's state and cumulative metrics."""
        return self._driver.stats()

    def close(self) -> None:
        """Let go of the model, and of whatever still runs. Idempotent."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _params(self, params: SamplingParams | None) -> SamplingParams:
        checked = params_of(params)
        return replace(checked, bad_words=bad_words_of(checked.bad_words, self._texts.encode_part))

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        return self._texts.encode(prompt) if isinstance(prompt, str) else prompt

    def _complete(self, prompts: list[list[int]], params: SamplingParams) -> list[Completion]:
        choices = [self._choices(prompt, params) for prompt in prompts]
        self._driver.complete([answer for answers in choices for answer in answers])
        return [self._completion(answers, params) for answers in choices]

    def _choices(self, prompt: list[int], params: SamplingParams) -> list[Answer]:
        """The requests of one prompt: they share the seed, which the index of the choice tells apart."""
        count = params.best_of or params.n
        if count == 1:
            return [Answer(prompt, params, self._texts)]
        seed = secrets.randbits(64) if params.seed is None else params.seed
        logprobs = 0 if count > params.n and params.logprobs is None else params.logprobs
        shared = replace(params, seed=seed, logprobs=logprobs)
        first = replace(shared, prompt_logprobs=params.prompt_logprobs)
        rest = replace(shared, prompt_logprobs=None)
        group = secrets.token_hex(16)
        return [Answer(prompt, rest if index else first, self._texts, index, group) for index in range(count)]

    def _completion(self, answers: list[Answer], params: SamplingParams) -> Completion:
        for answer in answers:
            if answer.failure is not None:
                raise answer.failure
        first = answers[0]
        if len(answers) > params.n:
            answers = sorted(answers, key=lambda answer: -answer.mean_logprob)[: params.n]
        outputs = [
            CompletionOutput(
                index,
                answer.text,
                answer.token_ids,
                answer.finish_reason or "",
                None if params.logprobs is None else self._logprobs(answer.token_ids, answer.logprobs),
            )
            for index, answer in enumerate(answers)
        ]
        prompt_logprobs = None
        if params.prompt_logprobs is not None:
            prompt_logprobs = [None, *self._logprobs(first.prompt[1:], first.prompt_logprobs)]
        return Completion(first.prompt, outputs, prompt_logprobs)

    def _logprobs(self, token_ids: Sequence[int], positions: Sequence[TokenLogprobs]) -> list[dict[int, Logprob]]:
        found = []
        for token, position in zip(token_ids, positions, strict=True):
            pairs = {token: position.logprob} | dict(zip(position.top_ids, position.top_logprobs, strict=True))
            found.append({each: Logprob(value, self._texts.token_text(each)) for each, value in pairs.items()})
        return found


class TextStream:
    """An iterator over the pieces of one text. The request begins with the first `next`.

    It ends with the text, with `close`, with a `with` block, or when the stream is no longer used by anybody; then
    what it held is free for others.
    """

    def __init__(self, driver: Driver, answer: Answer) -> None:
        self._driver = driver
        self._answer = answer
        self._dropped = weakref.finalize(self, driver.abandon, answer)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        try:
            piece = self._driver.next_piece(self._answer)
        except BaseException:
            self.close()
            raise
        if piece is None:
            self.close()
            raise StopIteration
        return piece

    def close(self) -> None:
        """End the request, whatever is left of it; no more pieces come. Idempotent."""
        if self._dropped.detach() is not None:
            self._driver.leave([self._answer])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
