//! The bodies of all messages. Every field is required; `Option` means that `null` is allowed, never that it may be absent.
//!
//! (`Option::deserialize` by name makes serde demand the field; left to itself it reads an absent one as `null`.)
//! Times are microseconds, sizes are bytes or tokens as the name says. Token ids are never JSON numbers: they travel
//! in the ids part, and the body says how many belong to whom.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::sampling::{Grammar, GrammarKind, SamplingParams};

/// A 128-bit identifier as 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HexId(pub u128);

impl Serialize for HexId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for HexId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex {
            return Err(serde::de::Error::custom(
                "an id must be 32 lower-case hex digits",
            ));
        }
        u128::from_str_radix(&text, 16)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for HexId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HexId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{32}$"})
    }
}

/// Worker to router, first message on a link, said once the model is loaded. Never changes shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// Hash of the schema that the worker speaks, 16 hex digits.
    pub schema_hash: String,
    /// Launch or join token, 32 hex digits.
    pub token: String,
    /// Process id of the worker, for the operator's log.
    pub pid: u32,
}

/// Router to worker: the worker's name and the link's terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Welcome {
    /// Name that the router issued; an identity that a peer claims is ignored.
    pub worker_id: u32,
    /// Epoch of this link; only ever compared for equality.
    pub epoch: u64,
    /// How often each side says that it is alive.
    pub heartbeat_micros: u64,
    /// After this much silence the other side is given up.
    pub silence_micros: u64,
}

/// Worker to router: what the worker is and can. First message with a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Position in this direction of the link, from 1.
    pub seq: u64,
    /// Name of the model, as `prepare` printed it.
    pub model_name: String,
    /// Hash of the weights, 16 hex digits.
    pub weights_hash: String,
    /// Hash of tokeniser and chat template, 16 hex digits; the router compares it with its own folder's.
    pub text_hash: String,
    /// Width of the logits, not the tokeniser's length.
    pub vocab_size: u32,
    /// Tokens a KV block.
    pub block_size: u32,
    /// KV blocks in all.
    pub num_blocks: u32,
    /// Longest prompt plus output, in tokens.
    pub max_model_len: u32,
    /// Requests that may be submitted and not ended at once.
    pub slots: u32,
    /// Data type of the weights, such as `float32`.
    pub dtype: String,
    /// Equal ids give equal bits.
    pub numerics: String,
    /// Name of the KV block layout.
    pub kv_layout: String,
    /// What the engine can, as an open set of words.
    pub features: Vec<String>,
}

/// The class of a request, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestClass {
    /// Somebody waits for each token.
    Interactive,
    /// Somebody waits for the answer.
    Standard,
    /// Nobody waits.
    Offline,
}

/// Router to worker: run this request. The ids part holds the prompt, the output history, and then what `params` counts:
/// stop tokens, allowed tokens, bad words one after the other, biased tokens. The floats part holds the biases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// Position in this direction of the link, from 1.
    pub seq: u64,
    /// The request.
    pub request_id: HexId,
    /// Grows with each `Submit` of the request.
    pub attempt: u32,
    /// Shared by the choices of one prompt, each of which is a request of its own; they may share their prefill.
    #[serde(deserialize_with = "Option::deserialize")]
    pub group: Option<HexId>,
    /// Which of the group's choices this is; part of the generator's counter.
    pub choice_index: u32,
    /// Class of the request.
    pub class: RequestClass,
    /// Root of the block-hash chain: 0 is the shared space.
    pub salt: u64,
    /// Trailing ids that are output history and not prompt; 0 on a first submit.
    pub num_output_tokens: u32,
    /// Output position up to which the worker may go.
    pub credit_up_to: u32,
    /// Time left until the answer is useless; remaining, since clocks differ.
    #[serde(deserialize_with = "Option::deserialize")]
    pub remaining_micros: Option<u64>,
    /// How tokens are chosen.
    pub params: SamplingParams,
}

/// Worker to router, on receipt of a `Submit`: taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Position in this direction of the link.
    pub seq: u64,
    /// The request.
    pub request_id: HexId,
    /// The attempt that was taken.
    pub attempt: u32,
}

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusedScope {
    /// No worker would take it: final.
    Request,
    /// This worker has no room now: another may.
    Worker,
}

/// Worker to router: not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Position in this direction of the link.
    pub seq: u64,
    /// The request.
    pub request_id: HexId,
    /// The attempt that was refused.
    pub attempt: u32,
    /// Stable short code, as on the HTTP surface.
    pub code: String,
    /// For people.
    pub message: String,
    /// The parameter at fault.
    #[serde(deserialize_with = "Option::deserialize")]
    pub param: Option<String>,
    /// Whose fault it is.
    pub scope: RefusedScope,
}

/// How a request ended in the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end token was sampled; it is the last of the tokens.
    Stop,
    /// The length limit was reached.
    Length,
    /// It was cancelled; always said, even for an unknown request.
    Cancelled,
    /// It failed; `error` says why.
    Error,
}

/// Why a request failed in the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestFailure {
    /// Stable short code, as on the HTTP surface.
    pub code: String,
    /// For people.
    pub message: String,
}

/// One request's part of a step. No tokens and no end: a row that is still in prefill.
///
/// A position's logprobs are those of the raw distribution: of the token that stands there, and of the likeliest ones,
/// descending. Prompt positions are said in order, from the second on (nothing comes before the first), each once an
/// attempt, and all of them before or with the first token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestOutput {
    /// The request.
    pub request_id: HexId,
    /// The attempt that produced this.
    pub attempt: u32,
    /// Output position of the first token here, counted since the request began.
    pub start: u32,
    /// Tokens of this request in the ids part, which begins with all requests' tokens in the order of `outputs`.
    pub num_tokens: u32,
    /// Likeliest tokens beside each token here; none where no logprobs are given.
    #[serde(deserialize_with = "Option::deserialize")]
    pub num_top_logprobs: Option<u32>,
    /// Prompt positions whose logprobs are here.
    pub num_prompt_logprobs: u32,
    /// Likeliest tokens beside each of these positions.
    pub num_top_prompt_logprobs: u32,
    /// Prompt and history tokens that were found in the prefix cache.
    pub num_cached_tokens: u32,
    /// Set with the request's last output.
    #[serde(deserialize_with = "Option::deserialize")]
    pub finish: Option<Finish>,
    /// Set where `finish` is `error`.
    #[serde(deserialize_with = "Option::deserialize")]
    pub error: Option<RequestFailure>,
}

/// Worker to router: one engine step.
///
/// The ids part holds the sampled tokens of all outputs; then, output by output, the likeliest tokens of its prompt
/// positions and of its tokens. The floats part holds, output by output: for its prompt positions the logprobs of what
/// stands there and then those of the likeliest, and the same for its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepOutputs {
    /// Position in this direction of the link.
    pub seq: u64,
    /// Duration of the step; 0 where this was said outside a step.
    pub step_micros: u64,
    /// What the step did, request by request.
    pub outputs: Vec<RequestOutput>,
}

/// Router to worker: a stream may go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credit {
    /// Position in this direction of the link.
    pub seq: u64,
    /// The request.
    pub request_id: HexId,
    /// The attempt that is meant.
    pub attempt: u32,
    /// Output position up to which the worker may go; absolute, so that it can be said twice.
    pub up_to: u32,
}

/// Router to worker: stop this request. Always confirmed by an output with `finish: cancelled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Position in this direction of the link.
    pub seq: u64,
    /// The request.
    pub request_id: HexId,
    /// The attempt that is meant.
    pub attempt: u32,
}

/// Worker to router: alive, and how far the engine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Position in this direction of the link.
    pub seq: u64,
    /// Counts safepoints of the engine; unchanged while busy means hung.
    pub progress: u64,
    /// Whether the engine has work.
    pub busy: bool,
}

/// Router to worker: alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterHeartbeat {
    /// Position in this direction of the link.
    pub seq: u64,
}

/// The closed set of a worker's metrics. Cumulative; the router renders them under its own label `worker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// Steps by rows: label `le`, as a histogram's bucket.
    StepRowsBucket,
    /// Sum of rows over all steps.
    StepRowsSum,
    /// Steps.
    StepRowsCount,
    /// Prompt tokens computed.
    PromptTokens,
    /// Tokens generated.
    GenerationTokens,
    /// Tokens looked up in the prefix cache.
    PrefixCacheQueries,
    /// Tokens found in the prefix cache.
    PrefixCacheHits,
    /// Requests preempted.
    Preemptions,
    /// Bytes of the memory plan: label `part`.
    MemoryBytes,
    /// Slices of offline rows that left a step in the middle.
    ParkedSlices,
    /// Tokens that were computed in part and dropped.
    ParkedTokensWasted,
    /// Tokens that were guessed.
    DraftTokens,
    /// Guesses that turned out right.
    AcceptedDraftTokens,
}

/// One metric's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Which one.
    pub name: MetricName,
    /// The value of its label, if it has one.
    #[serde(deserialize_with = "Option::deserialize")]
    pub label: Option<String>,
    /// Cumulative value.
    pub value: f64,
}

/// Worker to router, once a second: the state of the queue, and metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerStats {
    /// Position in this direction of the link.
    pub seq: u64,
    /// Requests in the running batch.
    pub num_running: u32,
    /// Requests that wait in the worker.
    pub num_waiting: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks in all.
    pub kv_blocks_total: u32,
    /// Cumulative metrics.
    pub metrics: Vec<Metric>,
}

/// Router to worker: say what the prefix cache holds, as `BlocksCleared` and then `BlocksStored`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskBlocks {
    /// Position in this direction of the link.
    pub seq: u64,
}

/// Worker to router: blocks that the prefix cache can find from now on. Said after the `StepOutputs` that made it true.
///
/// The ids part holds six words a block: hash, hash of the block before it (the salt for a first one) and salt, each a
/// u64 as its low and then its high half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlocksStored {
    /// Position in this direction of the link.
    pub seq: u64,
    /// How many.
    pub num_blocks: u32,
}

/// Worker to router: blocks that the prefix cache cannot find any more.
///
/// The ids part holds four words a block: salt and hash, each a u64 as its low and then its high half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlocksRemoved {
    /// Position in this direction of the link.
    pub seq: u64,
    /// How many.
    pub num_blocks: u32,
}

/// Worker to router: the prefix cache is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlocksCleared {
    /// Position in this direction of the link.
    pub seq: u64,
}

/// Why a link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ByeCode {
    /// The two sides speak different schemas.
    SchemaMismatch,
    /// The token is wrong, used up or has a live link already.
    BadToken,
    /// No further worker is admitted.
    TooManyWorkers,
    /// The side that says it is shutting down in order.
    Drain,
    /// The other side broke the link's rules.
    Violation,
    /// The worker serves another model than the router's folder holds.
    ModelMismatch,
}

/// Either way: the last message on a link. Never changes shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bye {
    /// Position in this direction of the link; 0 where no `Welcome` came before.
    pub seq: u64,
    /// Why.
    pub code: ByeCode,
    /// For people: what to do about it.
    pub message: String,
}
