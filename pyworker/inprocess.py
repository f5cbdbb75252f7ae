"""One engine in this process, driven by whichever thread wants something of it, and the answers that it fills.

What an answer holds changes only under the driver's lock: a look at it and the step that follows from the look are one.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pyworker.engine.config import EngineConfig
from pyworker.engine.interface import EngineHost
from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import Request
from pyworker.engine.validation import check_request
from pyworker.errors import SlackwaterError
from pyworker.transport.limits import check_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.interface import Engine, EngineStats
    from pyworker.engine.outputs import RequestOutput, StepOutputs, TokenLogprobs
    from pyworker.engine.request import SamplingParams
    from pyworker.texts import TextSide
    from slackwater._native.text import Detokenizer, StopMatcher

_UNLIMITED: Final = 2**32 - 1


class GenerationFailed(SlackwaterError):
    """The engine could not go on with a request. `code` is stable, as on the HTTP surface."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(f"{code}: {message}")


class Driver:
    """Steps the engine for all who wait. Every method may be called from any thread; one gets on, others wait."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._host = _Host()
        known = engine.attach(self._host)
        self._capabilities = known
        self._limits = EngineConfig(
            num_blocks=known.num_blocks,
            max_model_len=known.max_model_len,
            vocab_size=known.vocab_size,
            block_size=known.block_size,
        )
        self._turn = threading.RLock()
        self._stepping = False
        self._closed = False

    def check(self, answers: Sequence[Answer]) -> None:
        """Refuse what the engine would refuse, without giving it anything.

        Raises:
            InvalidRequest: one of these requests can never run.
            RuntimeError: the driver is closed.
        """
        self._require_open()
        for answer in answers:
            check_request(answer.request(), self._limits)
            check_features(answer.params, self._capabilities)

    def complete(self, answers: Sequence[Answer]) -> None:
        """Run these requests to their ends, in one batch with whatever else runs.

        Raises:
            InvalidRequest: one of them can never run; none has.
            RuntimeError: the driver is closed.
        """
        self.check(answers)
        try:
            with self._turn:
                self._submit(answers)
            while not self._advance(answers):
                pass
        finally:
            self.leave(answers)

    def next_piece(self, answer: Answer) -> str | None:
        """Text that has not been taken yet, as soon as there is some. The first call submits.

        `None`: that was all, or the request was left.

        Raises:
            GenerationFailed: the request has failed, and all text has been taken.
            RuntimeError: the driver is closed.
        """
        while True:
            with self._turn:
                if answer.left:
                    return None
                if piece := answer.take_text():
                    return piece
                if answer.finish_reason is not None:
                    return None
                self._require_open()
                if answer.submitted:
                    self._step()
                else:
                    self._submit([answer])

    def leave(self, answers: Sequence[Answer]) -> None:
        """Forget these requests, and end those that still run; their blocks are free when this returns."""
        with self._turn:
            for answer in answers:
                self.abandon(answer)
            self._settle()

    def abandon(self, answer: Answer) -> None:
        """Forget a request with whatever is done next. Takes no lock: it is called while objects are collected, and so
        in the middle of a step too.
        """
        answer.left = True
        if answer.submitted:
            self._host.gone.append(answer.request_id)

    def stats(self) -> EngineStats:
        """The engine's state and metrics.

        Raises:
            RuntimeError: the driver is closed.
        """
        with self._turn:
            self._require_open()
            self._settle()
            return self._engine.stats()

    def close(self) -> None:
        """Let go of the engine and of all requests. Idempotent."""
        with self._turn:
            self._closed = True
            self._host.answers.clear()
            self._host.gone.clear()
            self._engine.close()

    def _submit(self, answers: Sequence[Answer]) -> None:
        """Hand the requests over; whoever called ends those that were, if a later one fails."""
        self._require_open()
        for answer in answers:
            answer.submitted = True
            self._host.answers[answer.request_id] = answer
            self._engine.submit(answer.request())

    def _advance(self, answers: Sequence[Answer]) -> bool:
        """Do one step for these requests. True: all have ended."""
        with self._turn:
            if all(answer.finish_reason is not None for answer in answers):
                return True
            self._require_open()
            self._step()
            return False

    def _step(self) -> None:
        self._drop_gone()
        if not self._step_engine() and self._host.answers:
            raise GenerationFailed("internal", "the engine has nothing to do, though requests wait")

    def _settle(self) -> None:
        """Bring about what was cancelled, unless a step that is going on will be followed by it anyway."""
        if not self._closed and not self._stepping and self._drop_gone():
            self._step_engine()

    def _drop_gone(self) -> bool:
        """Cancel the requests that nobody waits for. False: there were none. It takes effect with the next step."""
        dropped = False
        while self._host.gone:
            request_id = self._host.gone.popleft()
            if self._host.answers.pop(request_id, None) is not None:
                self._engine.cancel(request_id)
                dropped = True
        return dropped

    def _step_engine(self) -> bool:
        self._stepping = True
        try:
            return self._engine.step()
        finally:
            self._stepping = False

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("this LLM is closed")


class _Host(EngineHost):
    """Brings each output to its answer. `gone` are the ids of requests that the engine need not go on with."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.gone: deque[str] = deque()

    def send(self, steps: StepOutputs) -> None:
        for output in steps.outputs:
            answer = self.answers.get(output.request_id)
            if answer is None:
                continue
            answer.take(output)
            if output.finish is not None:
                del self.answers[output.request_id]
            elif answer.finish_reason is not None:
                self.gone.append(output.request_id)

    def progress(self) -> None:
        """Nobody watches."""


@dataclass(eq=False, slots=True)
class Answer:
    """One request on its way to text. A seed is drawn where none was given.

    The choices of one prompt share `group` and the seed, and differ in `choice_index`.
    """

    prompt: list[int]
    params: SamplingParams
    texts: TextSide
    choice_index: int = 0
    group: str | None = None
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    failure: GenerationFailed | None = None
    submitted: bool = False
    left: bool = False
    _taken: int = 0
    _detokenizer: Detokenizer = field(init=False)
    _stops: StopMatcher = field(init=False)

    def __post_init__(self) -> None:
        self._detokenizer, self._stops = self.texts.stream(self.params)
        if self.params.seed is None:
            self.params = replace(self.params, seed=secrets.randbits(64))

    def request(self) -> Request:
        """The request for the engine."""
        return Request(
            self.request_id,
            0,
            list(self.prompt),
            replace(self.params, stop=()),
            choice_index=self.choice_index,
            group=self.group,
            credit_up_to=_UNLIMITED,
        )

    def take(self, output: RequestOutput) -> None:
        """Add a step's tokens, up to a stop string."""
        self.prompt_logprobs += output.prompt_logprobs
        for at, token in enumerate(output.token_ids):
            self.token_ids.append(token)
            self.logprobs += output.logprobs[at : at + 1]
            if self._is_hidden(token, output.finish, at + 1 == len(output.token_ids)):
                break
            piece, stopped = self._detokenizer.push([token]), False
            if len(self.token_ids) > self.params.min_tokens:
                piece, stopped = self._stops.push(piece)
            self.text += piece
            if stopped:
                self.finish_reason = "stop"
                return
        if output.finish is FinishReason.ERROR:
            self.failure = GenerationFailed(output.error_code or "internal", output.error_message)
        if output.finish is not None:
            self._end(output.finish)

    @property
    def mean_logprob(self) -> float:
        """By which the best of several choices are found; needs logprobs."""
        return sum(each.logprob for each in self.logprobs) / max(1, len(self.logprobs))

    def _is_hidden(self, token: int, finish: FinishReason | None, is_last: bool) -> bool:
        """Whether the token has no text because it is the one that ended it."""
        if not is_last or finish is not FinishReason.STOP or self.params.include_stop_str_in_output:
            return False
        return token in self.params.stop_token_ids or (token in self.texts.eos_ids and not self.params.ignore_eos)

    def take_text(self) -> str:
        """Text that has not been taken yet.

        Raises:
            GenerationFailed: the request has failed, and all text has been taken.
        """
        text, self._taken = self.text[self._taken :], len(self.text)
        if not text and self.failure is not None:
            raise self.failure
        return text

    def _end(self, finish: FinishReason) -> None:
        piece, stopped = self._stops.push(self._detokenizer.finish())
        self.text += piece if stopped else piece + self._stops.finish()
        self.finish_reason = "stop" if stopped else finish.value
