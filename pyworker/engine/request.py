"""A request as the engine holds it, and how its tokens are chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyworker.kvcache.block_pool import KVCacheBlock


class RequestStatus(Enum):
    """Where a request stands. Everything from `FINISHED_STOPPED` on is final."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED_STOPPED = "stop"
    FINISHED_LENGTH = "length"
    FINISHED_CANCELLED = "cancelled"
    FINISHED_ERROR = "error"

    @property
    def is_finished(self) -> bool:
        """Whether the request can never be scheduled again."""
        return self not in _UNFINISHED


_UNFINISHED = frozenset({RequestStatus.WAITING, RequestStatus.RUNNING, RequestStatus.PREEMPTED})


class RequestClass(Enum):
    """Class of a request, first served first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    OFFLINE = "offline"

    @property
    def rank(self) -> int:
        """Place in that order, from 0."""
        return _RANKS[self]


_RANKS = {klass: rank for rank, klass in enumerate(RequestClass)}


class GrammarKind(Enum):
    """How a grammar is written; the words of the wire."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"
    STRUCTURAL_TAG = "structural_tag"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must match. `text` is the schema as JSON, the regular expression, the choices as a JSON list, or
    the grammar itself; empty for `JSON_OBJECT`.
    """

    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `max_tokens` and `min_tokens` count output tokens since the request began, those before a resume included.
    `temperature` 0 is greedy (below 1e-5 it is treated as 0). `top_k` 0 or -1, `top_p` 1 and `min_p` 0 are off.
    `frequency_penalty` and `presence_penalty` look at the output, `repetition_penalty` at prompt and output.
    `logit_bias` is added to the logits of its ids; `allowed_token_ids` are all that may come; of each sequence in
    `bad_words` the last token may not follow the others. `seed` is an unsigned 64-bit key; `None` draws one where the
    request is made (the engine itself always has a number). `stop_token_ids` end the text like the model's own end
    tokens. `logprobs` asks for the chosen token's and as many of the likeliest (0 to 20), `prompt_logprobs` for the
    same of the prompt.

    The engine does not look at the rest, which is for whoever makes text of its tokens. `stop` strings are matched
    there; one alone may be given as it is, and with `include_stop_str_in_output` what ends the text is part of it.
    `bad_words` may be texts, which are tokenised there. `n` texts are wanted of `best_of` (`n` where it is absent),
    those with the highest mean logprob. `skip_special_tokens` leaves out tokens that are no text.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    stop: tuple[str, ...] | str = ()
    n: int = 1
    best_of: int | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True


@dataclass(eq=False, slots=True)
class Request:
    """One sequence in the engine. `output_ids` holds the history too where the request was resumed from elsewhere.

    `num_computed_tokens` counts positions whose KV is in the cache; `credit_up_to` is the output position up to which
    tokens may be produced; `arrival` numbers requests in the order in which the engine took them. Requests of one
    `group` are choices of one prompt, told apart by `choice_index`. `num_prompt_logprobs` counts prompt positions whose
    logprobs were handed out. `expected_output` is the length of output that nine of ten such requests stay under, where
    somebody knows it; `queued_micros` is when the request began to wait. The scheduler owns every mutable field.
    """

    request_id: str
    attempt: int
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = field(default_factory=list)
    choice_index: int = 0
    group: str | None = None
    klass: RequestClass = RequestClass.STANDARD
    salt: int = 0
    deadline_micros: int | None = None
    credit_up_to: int = 0
    status: RequestStatus = RequestStatus.WAITING
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    num_prompt_logprobs: int = 0
    expected_output: int | None = None
    queued_micros: int | None = None
    arrival: int = 0
    block_table: list[KVCacheBlock] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Key of the counter-based generator; 0 where none was given."""
        return self.params.seed or 0

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens known so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def is_offline(self) -> bool:
        """Whether nobody waits for it: it yields to all who have somebody waiting."""
        return self.klass is RequestClass.OFFLINE

    @property
    def has_credit(self) -> bool:
        """Whether the next output token may be produced."""
        return len(self.output_ids) < self.credit_up_to

    @property
    def owes_prompt_logprobs(self) -> bool:
        """Whether logprobs of the prompt are asked for and not all handed out; the first position has none."""
        return self.params.prompt_logprobs is not None and self.num_prompt_logprobs < len(self.prompt_ids) - 1

    def token_ids(self, start: int, stop: int) -> list[int]:
        """Known tokens at positions `start..stop`, prompt first."""
        prompt = self.prompt_ids
        if stop <= len(prompt):
            return prompt[start:stop]
        begin = max(0, start - len(prompt))
        return prompt[start:] + self.output_ids[begin : stop - len(prompt)]
