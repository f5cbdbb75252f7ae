"""`LLM`: a model in this process, without a router.

It drives an `EngineCore` on the thread that calls, and turns tokens into text by the router's own code, so that the
same request gives the same text here and there.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from pyworker.config import build_engine, options_of
from pyworker.engine.interface import Engine, EngineHost, EngineStats
from pyworker.engine.outputs import FinishReason, RequestOutput, StepOutputs
from pyworker.engine.request import Request, SamplingParams
from pyworker.errors import InvalidRequest, SlackwaterError
from pyworker.models.prepare import prepare
from pyworker.texts import TextSide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from slackwater._native.text import Detokenizer, StopMatcher

__all__ = ["LLM", "Completion", "Engine", "GenerationFailed", "SamplingParams"]

_UNLIMITED: Final = 2**32 - 1
_MOST_STOPS: Final = 16
_MOST_STOP_BYTES: Final = 256


class GenerationFailed(SlackwaterError):
    """The engine could not go on with a request. `code` is stable, as on the HTTP surface."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")


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

    One thread at a time gets on; others wait for the step's end.

    Raises:
        ConfigError: options that cannot work.
        ModelLoadError: a model that cannot be had or read.
    """

    def __init__(self, model: str = "smollm2", **options: object) -> None:
        chosen = options_of(options)
        prepared = prepare(model)
        self._engine = build_engine(prepared, chosen)
        self._texts = TextSide(prepared.model_dir)
        self._host = _Host()
        self._engine.attach(self._host)
        self._turn = threading.RLock()
        self._cancelled = False  # a cancel takes effect with the next step

    def generate(
        self, prompts: str | Sequence[str] | Sequence[Sequence[int]], params: SamplingParams | None = None
    ) -> list[Completion]:
        """One completion for each prompt, all in one batch. A prompt is a text or a list of token ids.

        Raises:
            InvalidRequest: a prompt or a parameter that the model cannot take; nothing has run.
        """
        asked = [prompts] if isinstance(prompts, str) else prompts
        prompt_ids = [self._texts.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in asked]
        return self._complete(prompt_ids, params or SamplingParams())

    def chat(self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None) -> Completion:
        """The assistant's answer to a conversation, as `{"role": ..., "content": ...}` each.

        Raises:
            InvalidRequest: the model has no chat template, it refuses the messages, or as of `generate`.
        """
        return self._complete([self._texts.encode_chat(messages)], params or SamplingParams())[0]

    def stream(self, prompt: str | Sequence[int], params: SamplingParams | None = None) -> Iterator[str]:
        """The text of one completion, piece by piece. To leave the loop ends the request.

        Raises:
            InvalidRequest: as of `generate`, before the first piece is asked for.
        """
        prompt_ids = self._texts.encode(prompt) if isinstance(prompt, str) else list(prompt)
        [answer] = self._submit([prompt_ids], params or SamplingParams())
        return self._pieces(answer)

    def stats(self) -> EngineStats:
        """The engine's state and cumulative metrics."""
        with self._turn:
            return self._engine.stats()

    def close(self) -> None:
        """Let go of the model. Idempotent."""
        with self._turn:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _complete(self, prompts: list[list[int]], params: SamplingParams) -> list[Completion]:
        answers = self._submit(prompts, params)
        try:
            while not all(answer.finish_reason for answer in answers):
                self._step()
        finally:
            self._leave(answers)
        return [answer.completion() for answer in answers]

    def _pieces(self, answer: _Answer) -> Iterator[str]:
        try:
            while True:
                if piece := answer.take_text():
                    yield piece
                elif answer.finish_reason:
                    return
                else:
                    self._step()
        finally:
            self._leave([answer])

    def _submit(self, prompts: list[list[int]], params: SamplingParams) -> list[_Answer]:
        _check_stops(params.stop)
        answers: list[_Answer] = []
        with self._turn:
            try:
                for prompt in prompts:
                    answer = _Answer(prompt, params, self._texts)
                    self._engine.submit(answer.request())
                    self._host.answers[answer.request_id] = answer
                    answers.append(answer)
            except InvalidRequest:
                self._leave(answers)
                raise
        return answers

    def _step(self) -> None:
        with self._turn:
            worked = self._engine.step()
            for request_id in self._host.take_stopped():
                self._engine.cancel(request_id)
                self._cancelled = worked = True
            if not worked and self._host.answers:
                raise GenerationFailed("internal", "the engine has nothing to do, though requests wait")

    def _leave(self, answers: list[_Answer]) -> None:
        """Forget these requests, and end those that still run; their blocks are free when this returns."""
        with self._turn:
            for answer in answers:
                if self._host.answers.pop(answer.request_id, None) is not None:
                    self._engine.cancel(answer.request_id)
                    self._cancelled = True
            if self._cancelled:
                self._cancelled = False
                self._engine.step()


class _Host(EngineHost):
    """Brings each output to its answer."""

    def __init__(self) -> None:
        self.answers: dict[str, _Answer] = {}
        self._stopped: list[str] = []

    def send(self, steps: StepOutputs) -> None:
        for output in steps.outputs:
            answer = self.answers.get(output.request_id)
            if answer is None:
                continue
            answer.take(output)
            if output.finish is not None:
                del self.answers[output.request_id]
            elif answer.finish_reason is not None:
                del self.answers[output.request_id]
                self._stopped.append(output.request_id)

    def progress(self) -> None:
        """Nobody watches."""

    def take_stopped(self) -> list[str]:
        """Requests that have met a stop string, once."""
        stopped, self._stopped = self._stopped, []
        return stopped


@dataclass(slots=True)
class _Answer:
    """One request on its way to text."""

    prompt: list[int]
    params: SamplingParams
    texts: TextSide
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    finish_reason: str | None = None
    failure: GenerationFailed | None = None
    _token_ids: list[int] = field(default_factory=list)
    _text: str = ""
    _taken: int = 0
    _detokenizer: Detokenizer = field(init=False)
    _stops: StopMatcher = field(init=False)

    def __post_init__(self) -> None:
        self._detokenizer, self._stops = self.texts.stream(self.params.stop)

    def request(self) -> Request:
        """The request for the engine, with a seed of its own where none was given."""
        seed = secrets.randbits(64) if self.params.seed is None else self.params.seed
        params = replace(self.params, seed=seed, stop=())
        return Request(self.request_id, 0, list(self.prompt), params, credit_up_to=_UNLIMITED)

    def take(self, output: RequestOutput) -> None:
        """Add a step's tokens, up to a stop string."""
        for token in output.token_ids:
            self._token_ids.append(token)
            piece, stopped = self._detokenizer.push([token]), False
            if len(self._token_ids) > self.params.min_tokens:
                piece, stopped = self._stops.push(piece)
            self._text += piece
            if stopped:
                self.finish_reason = "stop"
                return
        if output.finish is FinishReason.ERROR:
            self.failure = GenerationFailed(output.error_code or "internal", output.error_message)
        if output.finish is not None:
            self._end(output.finish)

    def take_text(self) -> str:
        """Text that has not been taken yet.

        Raises:
            GenerationFailed: the request has failed, and all text has been taken.
        """
        text, self._taken = self._text[self._taken :], len(self._text)
        if not text and self.failure is not None:
            raise self.failure
        return text

    def completion(self) -> Completion:
        """The whole answer.

        Raises:
            GenerationFailed: the request has failed.
        """
        if self.failure is not None:
            raise self.failure
        return Completion(self._text, self._token_ids, self.finish_reason or "", self.prompt)

    def _end(self, finish: FinishReason) -> None:
        piece, stopped = self._stops.push(self._detokenizer.finish())
        self._text += piece if stopped else piece + self._stops.finish()
        self.finish_reason = "stop" if stopped else finish.value


def _check_stops(stops: Sequence[str]) -> None:
    if len(stops) > _MOST_STOPS or not all(0 < len(stop.encode()) <= _MOST_STOP_BYTES for stop in stops):
        text = f"stop: {_MOST_STOPS} strings at most, of 1 to {_MOST_STOP_BYTES} bytes"
        raise InvalidRequest("invalid_request", text, param="stop")
