"""`LLM`: a model in this process, without a router.

It drives an `EngineCore` on the thread that calls, and turns tokens into text by the router's own code, so that the
same request gives the same text here and there.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pyworker.asked import messages_of, params_of, prompt_of, prompts_of
from pyworker.config import build_engine, options_of
from pyworker.engine.interface import Engine, EngineStats
from pyworker.engine.request import SamplingParams
from pyworker.inprocess import Answer, Driver, GenerationFailed
from pyworker.models.prepare import prepare
from pyworker.texts import TextSide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ["LLM", "Completion", "Engine", "GenerationFailed", "SamplingParams", "TextStream"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one prompt.

    `token_ids` holds the token that ended it too, which has no text. `finish_reason` is `stop` or `length`.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_token_ids: list[int]


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
        """One completion for each prompt, all in one batch. A prompt is a text or a list of token ids.

        Raises:
            InvalidRequest: a prompt or a parameter that the model cannot take; nothing has run.
            GenerationFailed: the engine could not go on with one of them.
        """
        checked = params_of(params)
        return self._complete([self._answer(prompt, checked) for prompt in prompts_of(prompts)])

    def chat(self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None) -> Completion:
        """The assistant's answer to a conversation, as `{"role": ..., "content": ...}` each.

        Raises:
            InvalidRequest: the model has no chat template, it refuses the messages, or as of `generate`.
            GenerationFailed: the engine could not go on with it.
        """
        checked = params_of(params)
        return self._complete([self._answer(self._texts.encode_chat(messages_of(messages)), checked)])[0]

    def stream(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> TextStream:
        """The text of one completion, piece by piece, as it comes.

        Raises:
            InvalidRequest: as of `generate`, before the first piece is asked for.
        """
        answer = self._answer(prompt_of(prompt), params_of(params))
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

    def _answer(self, prompt: str | list[int], params: SamplingParams) -> Answer:
        return Answer(self._texts.encode(prompt) if isinstance(prompt, str) else prompt, params, self._texts)

    def _complete(self, answers: list[Answer]) -> list[Completion]:
        self._driver.complete(answers)
        return [_completion(answer) for answer in answers]


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


def _completion(answer: Answer) -> Completion:
    if answer.failure is not None:
        raise answer.failure
    return Completion(answer.text, answer.token_ids, answer.finish_reason or "", answer.prompt)
