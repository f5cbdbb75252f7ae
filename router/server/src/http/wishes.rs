//! Reads what shapes the choices of an answer: how many, how tokens are chosen, and what is said of them.
//!
//! Types are checked here, and ranges that are not the core's; those of numbers that travel to workers are the core's.

use serde_json::Value;
use slackwater_core::Shaping;

use super::error::ServerError;
use super::fields::Endpoint;
use super::format;
use super::json::{Object, short};
use super::readers::{boolean, get, number, unsigned};
use crate::limits::ServerLimits;

/// Most likeliest tokens of a position.
const TOP_LOGPROBS: u32 = 20;

/// What a client wishes of its choices.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the API, and any of them goes with any other"
)]
pub struct Wishes {
    /// Choices of each prompt in the answer.
    pub n: u32,
    /// Choices that are made; the best are given.
    pub best_of: u32,
    /// Likeliest tokens beside each one of the answer; none: no logprobs.
    pub logprobs: Option<u32>,
    /// The same for the prompt, as a part of its own.
    pub prompt_logprobs: Option<u32>,
    /// Whether the prompt is the beginning of the text.
    pub echo: bool,
    /// Whether the answer has the token ids.
    pub return_token_ids: bool,
    /// Whether a stop is part of the text.
    pub include_stop: bool,
    /// Whether special tokens are left out of the text.
    pub skip_special: bool,
    /// Tokens at the end of the prompt that are kept.
    pub truncate_prompt: Option<usize>,
    /// Texts that may not come; they are not tokens yet.
    pub bad_words: Vec<String>,
    /// All else that shapes the distribution.
    pub shaping: Shaping,
}

/// Reads them.
///
/// # Errors
/// 400 naming the field.
pub fn read(
    body: &Object,
    endpoint: Endpoint,
    stream: bool,
    limits: &ServerLimits,
) -> Result<Wishes, ServerError> {
    let (n, best_of) = counts(body, stream, limits)?;
    let logprobs = match endpoint {
        Endpoint::Chat => chat_logprobs(body)?,
        Endpoint::Completions => match get(body, "logprobs") {
            Some(Value::Bool(false)) => None,
            _ => top(body, "logprobs")?,
        },
    };
    let prompt_logprobs = top(body, "prompt_logprobs")?;
    if prompt_logprobs.is_some() && stream {
        return Err(ServerError::invalid(
            "prompt_logprobs",
            "is not for stream: true",
        ));
    }
    let echo = boolean(body, "echo")?.unwrap_or(false);
    let mut shaping = shaping(body)?;
    shaping.grammar = format::read(body, limits)?;
    // The best are found by their logprobs; an echo shows those of the prompt.
    shaping.logprobs = logprobs.or_else(|| (best_of > n).then_some(0));
    shaping.prompt_logprobs = prompt_logprobs.max(logprobs.filter(|_| echo));
    Ok(Wishes {
        n,
        best_of,
        logprobs,
        prompt_logprobs,
        echo,
        return_token_ids: boolean(body, "return_token_ids")?.unwrap_or(false),
        include_stop: boolean(body, "include_stop_str_in_output")?.unwrap_or(false),
        skip_special: boolean(body, "skip_special_tokens")?.unwrap_or(true),
        truncate_prompt: truncate(body)?,
        bad_words: bad_words(body, limits)?,
        shaping,
    })
}

fn counts(body: &Object, stream: bool, limits: &ServerLimits) -> Result<(u32, u32), ServerError> {
    let most = limits.choices;
    let n = unsigned(body, "n")?.unwrap_or(1);
    if !(1..=most).contains(&n) {
        return Err(ServerError::invalid("n", format!("must be 1 to {most}")));
    }
    let best_of = unsigned(body, "best_of")?.unwrap_or(n);
    if !(n..=most).contains(&best_of) {
        let text = format!("must be n, which is {n}, to {most}");
        return Err(ServerError::invalid("best_of", text));
    }
    if best_of > n && stream {
        return Err(ServerError::invalid(
            "best_of",
            "over n is not for stream: true",
        ));
    }
    Ok((n, best_of))
}

fn chat_logprobs(body: &Object) -> Result<Option<u32>, ServerError> {
    let wanted = boolean(body, "logprobs")?.unwrap_or(false);
    match top(body, "top_logprobs")? {
        Some(count) if count > 0 && !wanted => {
            Err(ServerError::invalid("top_logprobs", "needs logprobs: true"))
        }
        count => Ok(wanted.then(|| count.unwrap_or(0))),
    }
}

fn top(body: &Object, name: &str) -> Result<Option<u32>, ServerError> {
    let count = unsigned(body, name)?;
    if count.is_some_and(|count| count > TOP_LOGPROBS) {
        let text = format!("must be 0 to {TOP_LOGPROBS}");
        return Err(ServerError::invalid(name, text));
    }
    Ok(count)
}

fn shaping(body: &Object) -> Result<Shaping, ServerError> {
    let off = Shaping::default();
    let number = |name, default| number(body, name).map(|given| given.unwrap_or(default));
    Ok(Shaping {
        top_k: top_k(body)?,
        min_p: number("min_p", off.min_p)?,
        frequency_penalty: number("frequency_penalty", off.frequency_penalty)?,
        presence_penalty: number("presence_penalty", off.presence_penalty)?,
        repetition_penalty: number("repetition_penalty", off.repetition_penalty)?,
        stop_token_ids: ids(body, "stop_token_ids")?.unwrap_or_default(),
        allowed_token_ids: ids(body, "allowed_token_ids")?,
        logit_bias: logit_bias(body)?,
        ..off
    })
}

/// -1 and 0 are off.
fn top_k(body: &Object) -> Result<u32, ServerError> {
    match get(body, "top_k").map(Value::as_i64) {
        None | Some(Some(-1)) => Ok(0),
        Some(Some(count)) if count >= 0 => u32::try_from(count).map_err(|_| wrong_top_k()),
        Some(_) => Err(wrong_top_k()),
    }
}

fn wrong_top_k() -> ServerError {
    ServerError::invalid("top_k", "must be -1, or an integer from 0 on")
}

fn ids(body: &Object, name: &str) -> Result<Option<Vec<u32>>, ServerError> {
    let wrong = || ServerError::invalid(name, "must be a list of token ids");
    let Some(value) = get(body, name) else {
        return Ok(None);
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let list = value.as_array().ok_or_else(wrong)?;
    let ids: Option<Vec<u32>> = list.iter().map(id).collect();
    ids.map(Some).ok_or_else(wrong)
}

fn logit_bias(body: &Object) -> Result<Vec<(u32, f32)>, ServerError> {
    const NAME: &str = "logit_bias";
    let Some(value) = get(body, NAME) else {
        return Ok(Vec::new());
    };
    let wrong = || ServerError::invalid(NAME, "must be an object of token ids and numbers");
    let entries = value.as_object().ok_or_else(wrong)?;
    let entry = |(id, bias): (&String, &Value)| {
        let at = || format!("{NAME}.{}", short(id));
        let digits = id.bytes().all(|byte| byte.is_ascii_digit());
        let id = id.parse().ok().filter(|_| digits);
        let id = id.ok_or_else(|| ServerError::invalid(at(), "is no token id"))?;
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        let bias = bias.ok_or_else(|| ServerError::invalid(at(), "must be -100 to 100"))?;
        Ok((id, narrow(bias)))
    };
    entries.iter().map(entry).collect()
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the range was checked, and an f32 holds it"
)]
const fn narrow(bias: f64) -> f32 {
    bias as f32
}

fn truncate(body: &Object) -> Result<Option<usize>, ServerError> {
    const NAME: &str = "truncate_prompt_tokens";
    match unsigned(body, NAME)? {
        Some(0) => Err(ServerError::invalid(NAME, "must be at least 1")),
        count => Ok(count.map(|count| count as usize)),
    }
}

fn bad_words(body: &Object, limits: &ServerLimits) -> Result<Vec<String>, ServerError> {
    const NAME: &str = "bad_words";
    let wrong = || {
        let (most, bytes) = (limits.bad_words, limits.bad_word_bytes);
        let text = format!("must be up to {most} strings, each of 1 to {bytes} bytes and no blank");
        ServerError::invalid(NAME, text)
    };
    let list = match get(body, NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= limits.bad_words => list,
        Some(_) => return Err(wrong()),
    };
    let word = |value: &Value| {
        let text = value.as_str()?;
        let fits = text.len() <= limits.bad_word_bytes && !text.trim_start().is_empty();
        fits.then(|| text.to_owned())
    };
    list.iter()
        .map(|value| word(value).ok_or_else(wrong))
        .collect()
}
