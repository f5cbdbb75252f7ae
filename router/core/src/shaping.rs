//! What shapes a request's distribution beyond temperature and nucleus, and what is said of it. The core checks bounds and
//! passes it on.

use crate::error::RequestError;

/// Most tokens that end the text like an end token.
const STOP_TOKEN_IDS: usize = 64;
/// Most tokens in a list of all that may come.
const ALLOWED_TOKEN_IDS: usize = 1_024;
/// Most sequences that may not come, and the longest of them.
const BAD_WORDS: (usize, usize) = (128, 64);
/// Most tokens with a bias, and the largest of these.
const LOGIT_BIAS: (usize, f32) = (300, 100.0);
/// Most likeliest tokens of a position.
const LOGPROBS: u32 = 20;
/// Longest text of a grammar in bytes.
const GRAMMAR_BYTES: usize = 512 * 1_024;

/// How a grammar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grammar {
    /// How it is written.
    pub kind: GrammarKind,
    /// The grammar itself.
    pub text: String,
}

/// Everything in it is off by default.
#[derive(Debug, Clone, PartialEq)]
pub struct Shaping {
    /// Likeliest tokens that may come; 0 is all.
    pub top_k: u32,
    /// Least probability as a part of the likeliest one's.
    pub min_p: f64,
    /// Taken off for each time that a token is in the output.
    pub frequency_penalty: f64,
    /// Taken off where a token is in the output.
    pub presence_penalty: f64,
    /// Divides or multiplies logits of tokens in prompt or output.
    pub repetition_penalty: f64,
    /// Tokens that end the text like an end token.
    pub stop_token_ids: Vec<u32>,
    /// All that may come.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Of each sequence the last token may not follow the others.
    pub bad_words: Vec<Vec<u32>>,
    /// Added to logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// Likeliest tokens whose logprobs are wanted beside each token's own.
    pub logprobs: Option<u32>,
    /// The same for the prompt.
    pub prompt_logprobs: Option<u32>,
    /// What the output must match.
    pub grammar: Option<Grammar>,
}

impl Default for Shaping {
    fn default() -> Self {
        Self {
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            stop_token_ids: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
            logit_bias: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            grammar: None,
        }
    }
}

impl Shaping {
    /// Checks all bounds; token ids lie below `vocab_size`.
    ///
    /// # Errors
    /// [`RequestError::OutOfRange`] with the parameter's name.
    pub(crate) fn check(&self, vocab_size: u32) -> Result<(), RequestError> {
        let known = |ids: &[u32]| ids.iter().all(|id| *id < vocab_size);
        let logprobs = |count: Option<u32>| count.is_none_or(|count| count <= LOGPROBS);
        let (most_words, longest) = BAD_WORDS;
        let (most_biases, largest) = LOGIT_BIAS;
        let word = |word: &Vec<u32>| (1..=longest).contains(&word.len()) && known(word);
        let bias =
            |(id, bias): &(u32, f32)| *id < vocab_size && (-largest..=largest).contains(bias);
        let penalty = |value: f64| (-2.0..=2.0).contains(&value);
        let rules = [
            ("top_k", self.top_k <= vocab_size),
            ("min_p", (0.0..=1.0).contains(&self.min_p)),
            ("frequency_penalty", penalty(self.frequency_penalty)),
            ("presence_penalty", penalty(self.presence_penalty)),
            (
                "repetition_penalty",
                self.repetition_penalty >= f64::from(f32::MIN_POSITIVE)
                    && self.repetition_penalty <= 10.0,
            ),
            (
                "stop_token_ids",
                self.stop_token_ids.len() <= STOP_TOKEN_IDS && known(&self.stop_token_ids),
            ),
            (
                "allowed_token_ids",
                self.allowed_token_ids
                    .as_ref()
                    .is_none_or(|ids| (1..=ALLOWED_TOKEN_IDS).contains(&ids.len()) && known(ids)),
            ),
            (
                "bad_words",
                self.bad_words.len() <= most_words && self.bad_words.iter().all(word),
            ),
            (
                "logit_bias",
                self.logit_bias.len() <= most_biases && self.logit_bias.iter().all(bias),
            ),
            ("logprobs", logprobs(self.logprobs)),
            ("prompt_logprobs", logprobs(self.prompt_logprobs)),
            (
                "grammar",
                self.grammar
                    .as_ref()
                    .is_none_or(|grammar| grammar.text.len() <= GRAMMAR_BYTES),
            ),
        ];
        match rules.into_iter().find(|(_, holds)| !holds) {
            Some((param, _)) => Err(RequestError::OutOfRange { param }),
            None => Ok(()),
        }
    }
}

/// Natural logarithms of the raw distribution at one position.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TokenLogprobs {
    /// Of the token that stands there.
    pub logprob: f32,
    /// The likeliest tokens and theirs, descending.
    pub top: Vec<(u32, f32)>,
}

/// Logprobs beside tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logprobs {
    /// One for each token, where they were asked for.
    pub tokens: Vec<TokenLogprobs>,
    /// Of prompt positions, from the second on.
    pub prompt: Vec<TokenLogprobs>,
}

impl Logprobs {
    /// Nothing was asked for.
    pub const NONE: Self = Self {
        tokens: Vec::new(),
        prompt: Vec::new(),
    };
}
