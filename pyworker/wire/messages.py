"""The bodies of all messages, one class a message. Generated from the Rust types by `scripts/generate`; do not edit."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, field
from pyworker.wire.base import WireStruct


class Accepted(WireStruct):
    """
    Worker to router, on receipt of a `Submit`: taken.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    request_id: Annotated[str, Meta(description="The request.", pattern="^[0-9a-f]{32}$")]
    attempt: Annotated[int, Meta(description="The attempt that was taken.", ge=0, le=4294967295)]


class AskBlocks(WireStruct):
    """
    Router to worker: say what the prefix cache holds, as `BlocksCleared` and then `BlocksStored`.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]


BadWordLength: TypeAlias = Annotated[int, Meta(ge=0, le=4294967295)]


class BlocksCleared(WireStruct):
    """
    Worker to router: the prefix cache is empty.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]


class BlocksRemoved(WireStruct):
    """
    Worker to router: blocks that the prefix cache cannot find any more.

    The ids part holds four words a block: salt and hash, each a u64 as its low and then its high half.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    num_blocks: Annotated[int, Meta(description="How many.", ge=0, le=4294967295)]


class BlocksStored(WireStruct):
    """
    Worker to router: blocks that the prefix cache can find from now on. Said after the `StepOutputs` that made it true.

    The ids part holds six words a block: hash, hash of the block before it (the salt for a first one) and salt, each a
    u64 as its low and then its high half.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    num_blocks: Annotated[int, Meta(description="How many.", ge=0, le=4294967295)]


class Bye(WireStruct):
    """
    Either way: the last message on a link. Never changes shape.
    """

    seq: Annotated[
        int,
        Meta(
            description="Position in this direction of the link; 0 where no `Welcome` came before.",
            ge=0,
        ),
    ]
    code: Annotated[ByeCode, Meta(description="Why.")]
    message: Annotated[str, Meta(description="For people: what to do about it.")]


class ByeCode(StrEnum):
    """
    Why a link ends.
    """

    schema_mismatch = "schema_mismatch"
    bad_token = "bad_token"
    too_many_workers = "too_many_workers"
    drain = "drain"
    violation = "violation"
    model_mismatch = "model_mismatch"


class Cancel(WireStruct):
    """
    Router to worker: stop this request. Always confirmed by an output with `finish: cancelled`.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    request_id: Annotated[str, Meta(description="The request.", pattern="^[0-9a-f]{32}$")]
    attempt: Annotated[int, Meta(description="The attempt that is meant.", ge=0, le=4294967295)]


class Credit(WireStruct):
    """
    Router to worker: a stream may go on.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    request_id: Annotated[str, Meta(description="The request.", pattern="^[0-9a-f]{32}$")]
    attempt: Annotated[int, Meta(description="The attempt that is meant.", ge=0, le=4294967295)]
    up_to: Annotated[
        int,
        Meta(
            description="Output position up to which the worker may go; absolute, so that it can be said twice.",
            ge=0,
            le=4294967295,
        ),
    ]


class Finish(StrEnum):
    """
    How a request ended in the worker.
    """

    stop = "stop"
    length = "length"
    cancelled = "cancelled"
    error = "error"


class Grammar(WireStruct):
    """
    What the output must match.
    """

    kind: Annotated[GrammarKind, Meta(description="How it is written.")]
    text: Annotated[str, Meta(description="The grammar itself.")]


class GrammarKind(StrEnum):
    """
    How a grammar is written.
    """

    json_schema = "json_schema"
    json_object = "json_object"
    regex = "regex"
    choice = "choice"
    lark = "lark"
    structural_tag = "structural_tag"


class Heartbeat(WireStruct):
    """
    Worker to router: alive, and how far the engine is.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    progress: Annotated[
        int,
        Meta(
            description="Counts safepoints of the engine; unchanged while busy means hung.",
            ge=0,
        ),
    ]
    busy: Annotated[bool, Meta(description="Whether the engine has work.")]


class Hello(WireStruct):
    """
    Worker to router, first message on a link, said once the model is loaded. Never changes shape.
    """

    schema_hash: Annotated[
        str,
        Meta(description="Hash of the schema that the worker speaks, 16 hex digits."),
    ]
    token: Annotated[str, Meta(description="Launch or join token, 32 hex digits.")]
    pid: Annotated[
        int,
        Meta(
            description="Process id of the worker, for the operator's log.",
            ge=0,
            le=4294967295,
        ),
    ]


class Metric(WireStruct):
    """
    One metric's value.
    """

    name: Annotated[MetricName, Meta(description="Which one.")]
    label: Annotated[str, Meta(description="The value of its label, if it has one.")] | None
    value: Annotated[float, Meta(description="Cumulative value.")]


class MetricName(StrEnum):
    """
    The closed set of a worker's metrics. Cumulative; the router renders them under its own label `worker`.
    """

    step_rows_bucket = "step_rows_bucket"
    step_rows_sum = "step_rows_sum"
    step_rows_count = "step_rows_count"
    prompt_tokens = "prompt_tokens"
    generation_tokens = "generation_tokens"
    prefix_cache_queries = "prefix_cache_queries"
    prefix_cache_hits = "prefix_cache_hits"
    preemptions = "preemptions"
    memory_bytes = "memory_bytes"
    parked_slices = "parked_slices"
    parked_tokens_wasted = "parked_tokens_wasted"
    draft_tokens = "draft_tokens"
    accepted_draft_tokens = "accepted_draft_tokens"


class Ready(WireStruct):
    """
    Worker to router: what the worker is and can. First message with a sequence number.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link, from 1.", ge=0)]
    model_name: Annotated[str, Meta(description="Name of the model, as `prepare` printed it.")]
    weights_hash: Annotated[str, Meta(description="Hash of the weights, 16 hex digits.")]
    text_hash: Annotated[
        str,
        Meta(
            description="Hash of tokeniser and chat template, 16 hex digits; the router compares it with its own folder's."
        ),
    ]
    vocab_size: Annotated[
        int,
        Meta(
            description="Width of the logits, not the tokeniser's length.",
            ge=0,
            le=4294967295,
        ),
    ]
    block_size: Annotated[int, Meta(description="Tokens a KV block.", ge=0, le=4294967295)]
    num_blocks: Annotated[int, Meta(description="KV blocks in all.", ge=0, le=4294967295)]
    max_model_len: Annotated[
        int,
        Meta(description="Longest prompt plus output, in tokens.", ge=0, le=4294967295),
    ]
    slots: Annotated[
        int,
        Meta(
            description="Requests that may be submitted and not ended at once.",
            ge=0,
            le=4294967295,
        ),
    ]
    dtype: Annotated[str, Meta(description="Data type of the weights, such as `float32`.")]
    numerics: Annotated[str, Meta(description="Equal ids give equal bits.")]
    kv_layout: Annotated[str, Meta(description="Name of the KV block layout.")]
    features: Annotated[list[str], Meta(description="What the engine can, as an open set of words.")]


class Refused(WireStruct):
    """
    Worker to router: not taken.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    request_id: Annotated[str, Meta(description="The request.", pattern="^[0-9a-f]{32}$")]
    attempt: Annotated[int, Meta(description="The attempt that was refused.", ge=0, le=4294967295)]
    code: Annotated[str, Meta(description="Stable short code, as on the HTTP surface.")]
    message: Annotated[str, Meta(description="For people.")]
    param: Annotated[str, Meta(description="The parameter at fault.")] | None
    scope: Annotated[RefusedScope, Meta(description="Whose fault it is.")]


class RefusedScope(StrEnum):
    """
    Whose fault a refusal is.
    """

    request = "request"
    worker = "worker"


class RequestClass(StrEnum):
    """
    The class of a request, in order of precedence.
    """

    interactive = "interactive"
    standard = "standard"
    offline = "offline"


class RequestFailure(WireStruct):
    """
    Why a request failed in the worker.
    """

    code: Annotated[str, Meta(description="Stable short code, as on the HTTP surface.")]
    message: Annotated[str, Meta(description="For people.")]


class RequestOutput(WireStruct):
    """
    One request's part of a step. No tokens and no end: a row that is still in prefill.

    A position's logprobs are those of the raw distribution: of the token that stands there, and of the likeliest ones,
    descending. Prompt positions are said in order, from the second on (nothing comes before the first), each once an
    attempt, and all of them before or with the first token.
    """

    request_id: Annotated[str, Meta(description="The request.", pattern="^[0-9a-f]{32}$")]
    attempt: Annotated[int, Meta(description="The attempt that produced this.", ge=0, le=4294967295)]
    start: Annotated[
        int,
        Meta(
            description="Output position of the first token here, counted since the request began.",
            ge=0,
            le=4294967295,
        ),
    ]
    num_tokens: Annotated[
        int,
        Meta(
            description="Tokens of this request in the ids part, which begins with all requests' tokens in the order of `outputs`.",
            ge=0,
            le=4294967295,
        ),
    ]
    num_top_logprobs: (
        Annotated[
            int,
            Meta(
                description="Likeliest tokens beside each token here; none where no logprobs are given.",
                ge=0,
                le=4294967295,
            ),
        ]
        | None
    )
    num_prompt_logprobs: Annotated[
        int,
        Meta(description="Prompt positions whose logprobs are here.", ge=0, le=4294967295),
    ]
    num_top_prompt_logprobs: Annotated[
        int,
        Meta(
            description="Likeliest tokens beside each of these positions.",
            ge=0,
            le=4294967295,
        ),
    ]
    num_cached_tokens: Annotated[
        int,
        Meta(
            description="Prompt and history tokens that were found in the prefix cache.",
            ge=0,
            le=4294967295,
        ),
    ]
    finish: Annotated[Finish, Meta(description="Set with the request's last output.")] | None
    error: Annotated[RequestFailure, Meta(description="Set where `finish` is `error`.")] | None


class RouterHeartbeat(WireStruct):
    """
    Router to worker: alive.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]


class SamplingParams(WireStruct):
    """
    How the next token is chosen. Ranges: checked by the router at its door, by the codec, and again by the worker.
    """

    max_tokens: Annotated[
        int,
        Meta(
            description="Most output tokens, at least 1, those before a resume included.",
            ge=0,
            le=4294967295,
        ),
    ]
    min_tokens: Annotated[
        int,
        Meta(
            description="Output tokens before which no end token may come.",
            ge=0,
            le=4294967295,
        ),
    ]
    temperature: Annotated[float, Meta(description="0 is greedy.")]
    top_p: Annotated[float, Meta(description="Nucleus, in (0, 1].")]
    top_k: Annotated[
        int,
        Meta(description="Likeliest tokens that may come; 0 is all.", ge=0, le=4294967295),
    ]
    min_p: Annotated[
        float,
        Meta(description="Least probability as a part of the likeliest one's, in 0..=1."),
    ]
    frequency_penalty: Annotated[
        float,
        Meta(description="Taken off a logit for each time that its token is in the output, in -2..=2."),
    ]
    presence_penalty: Annotated[
        float,
        Meta(description="Taken off a logit whose token is in the output, in -2..=2."),
    ]
    repetition_penalty: Annotated[
        float,
        Meta(description="Divides, or multiplies where negative, logits of tokens in prompt or output; in (0, 10]."),
    ]
    seed: Annotated[
        int,
        Meta(
            description="Key of the counter-based generator; always given, drawn by the router where the client gave none.",
            ge=0,
        ),
    ]
    ignore_eos: Annotated[bool, Meta(description="Whether the model's end tokens are ordinary tokens.")]
    logprobs: (
        Annotated[
            int,
            Meta(
                description="Likeliest tokens whose logprobs are wanted beside each token's own, at most 20; none: no logprobs.",
                ge=0,
                le=4294967295,
            ),
        ]
        | None
    )
    prompt_logprobs: (
        Annotated[int, Meta(description="The same for the prompt's positions.", ge=0, le=4294967295)] | None
    )
    grammar: Annotated[Grammar, Meta(description="What the output must match.")] | None
    num_stop_token_ids: Annotated[
        int,
        Meta(
            description="Tokens that end the text like an end token.",
            ge=0,
            le=4294967295,
        ),
    ]
    num_allowed_token_ids: (
        Annotated[int, Meta(description="Tokens that are all that may come; none: any may.", ge=0, le=4294967295)]
        | None
    )
    bad_word_lengths: Annotated[
        list[BadWordLength],
        Meta(description="Lengths of the sequences whose last token may not follow the others."),
    ]
    num_logit_bias: Annotated[int, Meta(description="Tokens with a bias in -100..=100.", ge=0, le=4294967295)]




class StepOutputs(WireStruct):
    """
    Worker to router: one engine step.

    The ids part holds the sampled tokens of all outputs; then, output by output, the likeliest tokens of its prompt
    positions and of its tokens. The floats part holds, output by output: for its prompt positions the logprobs of what
    stands there and then those of the likeliest, and the same for its tokens.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    step_micros: Annotated[
        int,
        Meta(
            description="Duration of the step; 0 where this was said outside a step.",
            ge=0,
        ),
    ]
    outputs: Annotated[list[RequestOutput], Meta(description="What the step did, request by request.")]


class Submit(WireStruct):
    """
    Router to worker: run this request. The ids part holds the prompt, the output history, and then what `params` counts:
    stop tokens, allowed tokens, bad words one after the other, biased tokens. The floats part holds the biases.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link, from 1.", ge=0)]
    request_id: Annotated[str, Meta(description="The request.", pattern="^[0-9a-f]{32}$")]
    attempt: Annotated[
        int,
        Meta(description="Grows with each `Submit` of the request.", ge=0, le=4294967295),
    ]
    group: (
        Annotated[
            str,
            Meta(
                description="Shared by the choices of one prompt, each of which is a request of its own; they may share their prefill.",
                pattern="^[0-9a-f]{32}$",
            ),
        ]
        | None
    )
    choice_index: Annotated[
        int,
        Meta(
            description="Which of the group's choices this is; part of the generator's counter.",
            ge=0,
            le=4294967295,
        ),
    ]
    class_: Annotated[RequestClass, Meta(description="Class of the request.")] = field(name="class")
    salt: Annotated[
        int,
        Meta(description="Root of the block-hash chain: 0 is the shared space.", ge=0),
    ]
    num_output_tokens: Annotated[
        int,
        Meta(
            description="Trailing ids that are output history and not prompt; 0 on a first submit.",
            ge=0,
            le=4294967295,
        ),
    ]
    credit_up_to: Annotated[
        int,
        Meta(
            description="Output position up to which the worker may go.",
            ge=0,
            le=4294967295,
        ),
    ]
    remaining_micros: (
        Annotated[int, Meta(description="Time left until the answer is useless; remaining, since clocks differ.", ge=0)]
        | None
    )
    params: Annotated[SamplingParams, Meta(description="How tokens are chosen.")]


class Welcome(WireStruct):
    """
    Router to worker: the worker's name and the link's terms.
    """

    worker_id: Annotated[
        int,
        Meta(
            description="Name that the router issued; an identity that a peer claims is ignored.",
            ge=0,
            le=4294967295,
        ),
    ]
    epoch: Annotated[
        int,
        Meta(description="Epoch of this link; only ever compared for equality.", ge=0),
    ]
    heartbeat_micros: Annotated[int, Meta(description="How often each side says that it is alive.", ge=0)]
    silence_micros: Annotated[
        int,
        Meta(description="After this much silence the other side is given up.", ge=0),
    ]


class WorkerStats(WireStruct):
    """
    Worker to router, once a second: the state of the queue, and metrics.
    """

    seq: Annotated[int, Meta(description="Position in this direction of the link.", ge=0)]
    num_running: Annotated[int, Meta(description="Requests in the running batch.", ge=0, le=4294967295)]
    num_waiting: Annotated[int, Meta(description="Requests that wait in the worker.", ge=0, le=4294967295)]
    kv_blocks_used: Annotated[int, Meta(description="KV blocks in use.", ge=0, le=4294967295)]
    kv_blocks_total: Annotated[int, Meta(description="KV blocks in all.", ge=0, le=4294967295)]
    metrics: Annotated[list[Metric], Meta(description="Cumulative metrics.")]


KINDS: dict[str, int] = {
    "Hello": 1,
    "Welcome": 2,
    "Ready": 3,
    "Submit": 4,
    "Accepted": 5,
    "Refused": 6,
    "StepOutputs": 7,
    "Credit": 8,
    "Cancel": 9,
    "Heartbeat": 10,
    "RouterHeartbeat": 11,
    "WorkerStats": 12,
    "Bye": 13,
    "AskBlocks": 14,
    "BlocksStored": 15,
    "BlocksRemoved": 16,
    "BlocksCleared": 17,
}

SCHEMA_HASH = "0a74d87ca523ae11"
