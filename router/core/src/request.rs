//! A request that can only hold valid values: [`Request::parse`] is the one way to get one, and nobody behind it checks again.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::error::RequestError;
use crate::ids::RequestId;
use crate::shaping::Shaping;
use crate::time::Time;

/// Class of a request, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for each token.
    Interactive,
    /// Somebody waits for the answer.
    Standard,
    /// Nobody waits.
    Offline,
}

impl Class {
    /// All classes, first served first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Offline];

    /// Name in metrics and headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Offline => "offline",
        }
    }
}

/// How tokens are chosen, within bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Most output tokens, those before a resume included.
    pub max_tokens: NonZeroU32,
    /// Output tokens before which no end token may come.
    pub min_tokens: u32,
    /// 0 is greedy; finite, 0..=2.
    pub temperature: f32,
    /// Nucleus, in (0, 1].
    pub top_p: f32,
    /// Key of the counter-based generator.
    pub seed: u64,
    /// Whether the model's end tokens are ordinary tokens.
    pub ignore_eos: bool,
}

/// What the models can take, from the live workers' READY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest prompt plus output in tokens.
    pub max_model_len: u32,
    /// Width of the logits: token ids lie below it.
    pub vocab_size: u32,
}

/// What the server has read from a client, counted and tokenised but not yet checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestDraft {
    /// Drawn by the server.
    pub request_id: RequestId,
    /// Prompt token ids.
    pub prompt: Vec<u32>,
    /// Absent: the rest of the context.
    pub max_tokens: Option<u32>,
    /// Output tokens before which no end token may come.
    pub min_tokens: u32,
    /// Sampling temperature.
    pub temperature: f64,
    /// Nucleus.
    pub top_p: f64,
    /// Key of the generator, the client's or drawn by the server.
    pub seed: u64,
    /// Whether end tokens are ordinary tokens.
    pub ignore_eos: bool,
    /// What else shapes the distribution; shared by the choices of a prompt.
    pub shaping: Arc<Shaping>,
    /// The choices of one prompt share this.
    pub group: Option<RequestId>,
    /// Which of them this is.
    pub choice_index: u32,
    /// Class of the request.
    pub class: Class,
    /// Root of the block-hash chain.
    pub salt: u64,
    /// When the request came.
    pub arrival: Time,
    /// After this moment it is no use to begin. Who has had a worker goes on however late it is.
    pub expiry: Option<Time>,
}

/// A valid request.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::struct_field_names,
    reason = "an id is named after its thing everywhere"
)]
pub struct Request {
    request_id: RequestId,
    prompt: Arc<[u32]>,
    sampling: Sampling,
    shaping: Arc<Shaping>,
    group: Option<RequestId>,
    choice_index: u32,
    class: Class,
    salt: u64,
    arrival: Time,
    expiry: Option<Time>,
}

impl Request {
    /// Checks a draft against what the models can take.
    ///
    /// # Errors
    /// A [`RequestError`] that names the parameter and the bound.
    pub fn parse(draft: RequestDraft, limits: &Limits) -> Result<Self, RequestError> {
        if draft.prompt.is_empty() {
            return Err(RequestError::EmptyPrompt);
        }
        if let Some(token) = draft
            .prompt
            .iter()
            .copied()
            .find(|token| *token >= limits.vocab_size)
        {
            return Err(RequestError::TokenOutOfVocabulary {
                token,
                vocab_size: limits.vocab_size,
            });
        }
        let prompt_tokens = draft.prompt.len() as u64;
        let max_model_len = limits.max_model_len;
        let too_long = RequestError::PromptTooLong {
            prompt_tokens,
            max_model_len,
        };
        let used = u32::try_from(prompt_tokens).map_err(|_| too_long.clone())?;
        let room = max_model_len
            .checked_sub(used)
            .and_then(NonZeroU32::new)
            .ok_or(too_long)?;
        let asked = draft.max_tokens.unwrap_or(room.get());
        let max_tokens = NonZeroU32::new(asked).ok_or(RequestError::OutOfRange {
            param: "max_tokens",
        })?;
        if max_tokens > room {
            return Err(RequestError::OutputTooLong {
                prompt_tokens,
                max_tokens: asked,
                max_model_len,
            });
        }
        if draft.min_tokens > asked {
            return Err(RequestError::OutOfRange {
                param: "min_tokens",
            });
        }
        draft.shaping.check(limits.vocab_size)?;
        Ok(Self {
            request_id: draft.request_id,
            prompt: draft.prompt.into(),
            sampling: Sampling {
                max_tokens,
                min_tokens: draft.min_tokens,
                temperature: bounded(draft.temperature, 0.0, 2.0, "temperature")?,
                top_p: positive(bounded(draft.top_p, 0.0, 1.0, "top_p")?, "top_p")?,
                seed: draft.seed,
                ignore_eos: draft.ignore_eos,
            },
            shaping: draft.shaping,
            group: draft.group,
            choice_index: draft.choice_index,
            class: draft.class,
            salt: draft.salt,
            arrival: draft.arrival,
            expiry: draft.expiry,
        })
    }

    /// Our name for it.
    pub const fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// Prompt token ids, at least one.
    pub const fn prompt(&self) -> &Arc<[u32]> {
        &self.prompt
    }

    /// How tokens are chosen.
    pub const fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// What else shapes the distribution.
    pub const fn shaping(&self) -> &Arc<Shaping> {
        &self.shaping
    }

    /// Shared by the choices of one prompt.
    pub const fn group(&self) -> Option<RequestId> {
        self.group
    }

    /// Which of them this is; part of the generator's counter.
    pub const fn choice_index(&self) -> u32 {
        self.choice_index
    }

    /// Class of the request.
    pub const fn class(&self) -> Class {
        self.class
    }

    /// Root of the block-hash chain.
    pub const fn salt(&self) -> u64 {
        self.salt
    }

    /// When it came.
    pub const fn arrival(&self) -> Time {
        self.arrival
    }

    /// After this moment it is no use to begin. Who has had a worker goes on however late it is.
    pub const fn expiry(&self) -> Option<Time> {
        self.expiry
    }
}

/// Finite first, then the range, then again finite as an f32: 1e39 is in no range, but a cast would make it infinite.
#[allow(clippy::cast_possible_truncation, reason = "the result is checked")]
fn bounded(value: f64, low: f64, high: f64, param: &'static str) -> Result<f32, RequestError> {
    if !value.is_finite() || value < low || value > high {
        return Err(RequestError::OutOfRange { param });
    }
    Ok(value as f32)
}

fn positive(value: f32, param: &'static str) -> Result<f32, RequestError> {
    if value > 0.0 {
        Ok(value)
    } else {
        Err(RequestError::OutOfRange { param })
    }
}
