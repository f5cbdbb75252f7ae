//! How tokens are chosen, as it travels: numbers in the body, lists of ids in the ids part, biases in the floats part.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::WireError;

/// Most tokens that end the text like an end token.
pub const MAX_STOP_TOKEN_IDS: u32 = 64;
/// Most tokens in a list of all that may come.
pub const MAX_ALLOWED_TOKEN_IDS: u32 = 1_024;
/// Most sequences that may not come.
pub const MAX_BAD_WORDS: usize = 128;
/// Longest of these sequences in tokens.
pub const MAX_BAD_WORD_TOKENS: u32 = 64;
/// Most tokens with a bias.
pub const MAX_LOGIT_BIAS: u32 = 300;
/// Most likeliest tokens of a position.
pub const MAX_LOGPROBS: u32 = 20;
/// Longest text of a grammar in bytes.
pub const MAX_GRAMMAR_BYTES: usize = 512 * 1_024;

/// How a grammar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrammarKind {
    /// A JSON schema.
    JsonSchema,
    /// Any JSON object; the text is empty.
    JsonObject,
    /// A regular expression.
    Regex,
    /// A JSON list of texts.
    Choice,
    /// A grammar in Lark's notation.
    Lark,
    /// JSON: free text with tagged parts that follow schemas.
    StructuralTag,
}

/// What the output must match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grammar {
    /// How it is written.
    pub kind: GrammarKind,
    /// The grammar itself.
    pub text: String,
}

/// How the next token is chosen. Ranges: checked by the router at its door, by the codec, and again by the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplingParams {
    /// Most output tokens, at least 1, those before a resume included.
    pub max_tokens: u32,
    /// Output tokens before which no end token may come.
    pub min_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus, in (0, 1].
    pub top_p: f32,
    /// Likeliest tokens that may come; 0 is all.
    pub top_k: u32,
    /// Least probability as a part of the likeliest one's, in 0..=1.
    pub min_p: f32,
    /// Taken off a logit for each time that its token is in the output, in -2..=2.
    pub frequency_penalty: f32,
    /// Taken off a logit whose token is in the output, in -2..=2.
    pub presence_penalty: f32,
    /// Divides, or multiplies where negative, logits of tokens in prompt or output; in (0, 10].
    pub repetition_penalty: f32,
    /// Key of the counter-based generator; always given, drawn by the router where the client gave none.
    pub seed: u64,
    /// Whether the model's end tokens are ordinary tokens.
    pub ignore_eos: bool,
    /// Likeliest tokens whose logprobs are wanted beside each token's own, at most 20; none: no logprobs.
    #[serde(deserialize_with = "Option::deserialize")]
    pub logprobs: Option<u32>,
    /// The same for the prompt's positions.
    #[serde(deserialize_with = "Option::deserialize")]
    pub prompt_logprobs: Option<u32>,
    /// What the output must match.
    #[serde(deserialize_with = "Option::deserialize")]
    pub grammar: Option<Grammar>,
    /// Tokens that end the text like an end token.
    pub num_stop_token_ids: u32,
    /// Tokens that are all that may come; none: any may.
    #[serde(deserialize_with = "Option::deserialize")]
    pub num_allowed_token_ids: Option<u32>,
    /// Lengths of the sequences whose last token may not follow the others.
    pub bad_word_lengths: Vec<u32>,
    /// Tokens with a bias in -100..=100.
    pub num_logit_bias: u32,
}

impl SamplingParams {
    /// Elements in the ids part after prompt and history.
    pub fn num_list_ids(&self) -> u64 {
        let words: u64 = self.bad_word_lengths.iter().copied().map(u64::from).sum();
        let allowed = self.num_allowed_token_ids.unwrap_or(0);
        u64::from(self.num_stop_token_ids)
            + u64::from(allowed)
            + words
            + u64::from(self.num_logit_bias)
    }

    /// Checks what the type cannot say.
    ///
    /// # Errors
    /// [`WireError::OutOfRange`] with the field's name.
    pub fn check(&self) -> Result<(), WireError> {
        let within = |value: f32, low: f32, high: f32| (low..=high).contains(&value);
        let at_most = |count: Option<u32>, most: u32| count.is_none_or(|count| count <= most);
        let words = &self.bad_word_lengths;
        let rules = [
            ("temperature", within(self.temperature, 0.0, f32::MAX)),
            ("top_p", self.top_p > 0.0 && self.top_p <= 1.0),
            ("min_p", within(self.min_p, 0.0, 1.0)),
            (
                "frequency_penalty",
                within(self.frequency_penalty, -2.0, 2.0),
            ),
            ("presence_penalty", within(self.presence_penalty, -2.0, 2.0)),
            (
                "repetition_penalty",
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 10.0,
            ),
            ("max_tokens", self.max_tokens > 0),
            ("min_tokens", self.min_tokens <= self.max_tokens),
            ("logprobs", at_most(self.logprobs, MAX_LOGPROBS)),
            (
                "prompt_logprobs",
                at_most(self.prompt_logprobs, MAX_LOGPROBS),
            ),
            (
                "grammar",
                self.grammar
                    .as_ref()
                    .is_none_or(|grammar| grammar.text.len() <= MAX_GRAMMAR_BYTES),
            ),
            (
                "num_stop_token_ids",
                self.num_stop_token_ids <= MAX_STOP_TOKEN_IDS,
            ),
            (
                "num_allowed_token_ids",
                at_most(self.num_allowed_token_ids, MAX_ALLOWED_TOKEN_IDS)
                    && self.num_allowed_token_ids != Some(0),
            ),
            (
                "bad_word_lengths",
                words.len() <= MAX_BAD_WORDS
                    && words.iter().all(|n| (1..=MAX_BAD_WORD_TOKENS).contains(n)),
            ),
            ("num_logit_bias", self.num_logit_bias <= MAX_LOGIT_BIAS),
        ];
        match rules.into_iter().find(|(_, holds)| !holds) {
            Some((field, _)) => Err(WireError::OutOfRange {
                kind: "Submit",
                field,
            }),
            None => Ok(()),
        }
    }
}
