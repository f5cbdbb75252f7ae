//! How one request's tokens are chosen: its parameters, checked at the door, and its history.

use super::history::History;
use crate::KernelError;

/// Largest number of entries that are taken.
const MAX_BIASES: usize = 300;
const MAX_ALLOWED: usize = 1024;
const MAX_BAD_WORDS: usize = 128;
const MAX_BAD_WORD_TOKENS: usize = 64;
/// Stop tokens of the request (64 at most) and the model's own.
const MAX_HELD_BACK: usize = 256;
/// Most tokens of which logprobs are given at one position.
pub const MAX_TOP_LOGPROBS: u32 = 20;
/// Below this temperature the likeliest token is taken.
const GREEDY_BELOW: f64 = 1e-5;

/// What a request asks for; ids are below the size of the vocabulary.
///
/// `top_k` 0 or -1, `top_p` 1 and `min_p` 0 are off. `held_back_ids` may not come while fewer than `min_tokens` are out.
/// `logprobs` asks for the chosen token's and so many of the likeliest.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct SamplingParams {
    pub seed: u64,
    pub choice_index: u32,
    pub temperature: f64,
    pub top_k: i64,
    pub top_p: f64,
    pub min_p: f64,
    pub frequency_penalty: f64,
    pub presence_penalty: f64,
    pub repetition_penalty: f64,
    pub logit_bias: Vec<(u32, f64)>,
    pub allowed_token_ids: Option<Vec<u32>>,
    pub bad_words: Vec<Vec<u32>>,
    pub min_tokens: u32,
    pub held_back_ids: Vec<u32>,
    pub logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            seed: 0,
            choice_index: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
            min_tokens: 0,
            held_back_ids: Vec::new(),
            logprobs: None,
        }
    }
}

/// A request's parameters and what it has said so far.
#[derive(Debug)]
pub struct RequestSampler {
    pub(super) params: SamplingParams,
    pub(super) vocab_size: usize,
    pub(super) history: History,
}

impl RequestSampler {
    /// A request with this prompt, of which this output is there already. The prompt matters only to a repetition penalty.
    ///
    /// # Errors
    /// [`KernelError::Parameter`] for what is out of bounds.
    pub fn new(
        vocab_size: usize,
        params: SamplingParams,
        prompt_ids: &[u32],
        output_ids: &[u32],
    ) -> Result<Self, KernelError> {
        check_numbers(&params, vocab_size)?;
        check_lists(&params, vocab_size)?;
        check_ids("prompt_ids", prompt_ids, vocab_size)?;
        check_ids("output_ids", output_ids, vocab_size)?;
        let longest = params.bad_words.iter().map(Vec::len).max().unwrap_or(0);
        let mut history = History::new(has_penalties(&params), longest.saturating_sub(1));
        #[allow(clippy::float_cmp, reason = "exactly 1 is off")]
        if params.repetition_penalty != 1.0 {
            history.add_prompt(prompt_ids);
        }
        history.add_output(output_ids);
        Ok(Self {
            params,
            vocab_size,
            history,
        })
    }

    /// Takes tokens that were accepted.
    ///
    /// # Errors
    /// [`KernelError::Parameter`] for an id that is no token.
    pub fn extend(&mut self, output_ids: &[u32]) -> Result<(), KernelError> {
        check_ids("output_ids", output_ids, self.vocab_size)?;
        self.history.add_output(output_ids);
        Ok(())
    }

    /// Output tokens so far.
    pub fn num_output_tokens(&self) -> u32 {
        self.history.outputs()
    }

    /// The width of the rows that it can be used with.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(super) fn is_greedy(&self) -> bool {
        self.params.temperature < GREEDY_BELOW
    }

    pub(super) fn has_penalties(&self) -> bool {
        has_penalties(&self.params)
    }
}

#[allow(clippy::float_cmp, reason = "exactly these values are off")]
fn has_penalties(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.frequency_penalty != 0.0
        || params.presence_penalty != 0.0
}

fn check_numbers(params: &SamplingParams, vocab_size: usize) -> Result<(), KernelError> {
    if vocab_size == 0 || i32::try_from(vocab_size).is_err() {
        return Err(refused("vocab_size", &vocab_size, "1 to 2^31 - 1"));
    }
    check(
        "temperature",
        params.temperature,
        (0.0..=100.0).contains(&params.temperature),
        "0 to 100",
    )?;
    let top_k_is_fine = usize::try_from(params.top_k.max(0)).is_ok_and(|k| k <= vocab_size);
    if params.top_k < -1 || !top_k_is_fine {
        return Err(refused(
            "top_k",
            &params.top_k,
            "-1 to the size of the vocabulary",
        ));
    }
    check(
        "top_p",
        params.top_p,
        params.top_p > 0.0 && params.top_p <= 1.0,
        "more than 0 and at most 1",
    )?;
    check(
        "min_p",
        params.min_p,
        (0.0..=1.0).contains(&params.min_p),
        "0 to 1",
    )?;
    for (name, value) in [
        ("frequency_penalty", params.frequency_penalty),
        ("presence_penalty", params.presence_penalty),
    ] {
        check(name, value, (-2.0..=2.0).contains(&value), "-2 to 2")?;
    }
    let repetition = params.repetition_penalty;
    check(
        "repetition_penalty",
        repetition,
        repetition >= f64::from(f32::MIN_POSITIVE) && repetition <= 10.0,
        "more than 0 and at most 10",
    )?;
    if params
        .logprobs
        .is_some_and(|count| count > MAX_TOP_LOGPROBS)
    {
        return Err(refused("logprobs", &params.logprobs, "0 to 20"));
    }
    Ok(())
}

fn check_lists(params: &SamplingParams, vocab_size: usize) -> Result<(), KernelError> {
    check_count("logit_bias", params.logit_bias.len(), 0, MAX_BIASES)?;
    for (id, bias) in &params.logit_bias {
        check_ids("logit_bias", &[*id], vocab_size)?;
        check(
            "logit_bias",
            *bias,
            (-100.0..=100.0).contains(bias),
            "-100 to 100",
        )?;
    }
    if let Some(allowed) = &params.allowed_token_ids {
        check_count("allowed_token_ids", allowed.len(), 1, MAX_ALLOWED)?;
        check_ids("allowed_token_ids", allowed, vocab_size)?;
    }
    check_count("bad_words", params.bad_words.len(), 0, MAX_BAD_WORDS)?;
    for words in &params.bad_words {
        check_count(
            "a sequence of bad_words",
            words.len(),
            1,
            MAX_BAD_WORD_TOKENS,
        )?;
        check_ids("bad_words", words, vocab_size)?;
    }
    check_count(
        "held_back_ids",
        params.held_back_ids.len(),
        0,
        MAX_HELD_BACK,
    )?;
    check_ids("held_back_ids", &params.held_back_ids, vocab_size)
}

fn check(
    name: &'static str,
    value: f64,
    is_fine: bool,
    expected: &'static str,
) -> Result<(), KernelError> {
    if is_fine {
        Ok(())
    } else {
        Err(refused(name, &value, expected))
    }
}

fn check_count(
    name: &'static str,
    count: usize,
    least: usize,
    most: usize,
) -> Result<(), KernelError> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let problem = format!("has {count} entries, expected {least} to {most}");
    Err(KernelError::Parameter { name, problem })
}

/// # Errors
/// [`KernelError::Parameter`] for an id that is no token.
pub(super) fn check_ids(
    name: &'static str,
    ids: &[u32],
    vocab_size: usize,
) -> Result<(), KernelError> {
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        None => Ok(()),
        Some(id) => Err(KernelError::Parameter {
            name,
            problem: format!("has id {id}, expected ids below {vocab_size}"),
        }),
    }
}

fn refused(name: &'static str, value: &dyn std::fmt::Debug, expected: &str) -> KernelError {
    KernelError::Parameter {
        name,
        problem: format!("is {value:?}, expected {expected}"),
    }
}
