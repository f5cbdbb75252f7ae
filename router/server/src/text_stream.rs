//! One choice's tokens to text up to a stop, with what is said of each token beside it.

use std::sync::Arc;

use slackwater_core::TokenLogprobs;

use crate::detokenizer::Detokenizer;
use crate::stop::StopMatcher;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Why text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// The length limit.
    Length,
}

impl FinishReason {
    /// As the API names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A token and how likely it was; nothing is known of a prompt's first one.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// The token.
    pub token: u32,
    /// Its logprob and the likeliest ones.
    pub logprobs: Option<TokenLogprobs>,
}

/// What a session has for its client: what became certain with one engine step, or the end.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// New text, often none.
    pub text: String,
    /// What is said of tokens, where it was asked for. It comes with the text that is next, so some of it may belong to
    /// text that is still held back.
    pub positions: Vec<Position>,
    /// The output tokens themselves, where they were asked for.
    pub token_ids: Vec<u32>,
    /// Of the prompt, once.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Set once, with the last step.
    pub finish: Option<FinishReason>,
}

impl Step {
    /// Whether a client sees anything of it.
    pub fn is_shown(&self) -> bool {
        !self.text.is_empty() || !self.positions.is_empty() || !self.token_ids.is_empty()
    }
}

/// The prompt as the beginning of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Arc<[u32]>,
}

/// How text is made.
#[derive(Debug, Clone, Default)]
pub struct TextOptions {
    /// Stop strings.
    pub stops: StopMatcher,
    /// Tokens whose text is not searched for stop strings.
    pub min_tokens: u32,
    /// Whether special tokens are text too.
    pub shows_special: bool,
    /// Tokens that end the text and are not part of it.
    pub hidden: Vec<u32>,
    /// Whether positions are handed on.
    pub with_logprobs: bool,
    /// Whether token ids are handed on.
    pub with_token_ids: bool,
    /// The prompt, where it is part of the text.
    pub echo: Option<Echo>,
}

/// Tokens to text up to a stop.
pub struct TextStream {
    detokenizer: Detokenizer,
    options: TextOptions,
    tokens: u32,
    logprob_sum: f64,
    positions: Vec<Position>,
    token_ids: Vec<u32>,
}

impl TextStream {
    /// A stream's start.
    pub fn new(tokenizer: Arc<Tokenizer>, options: TextOptions) -> Self {
        Self {
            detokenizer: Detokenizer::new(tokenizer, !options.shows_special),
            options,
            tokens: 0,
            logprob_sum: 0.0,
            positions: Vec::new(),
            token_ids: Vec::new(),
        }
    }

    /// Tokens taken, the one that ended the text included.
    pub const fn tokens(&self) -> u32 {
        self.tokens
    }

    /// By which the best of several choices are found; needs logprobs.
    pub fn mean_logprob(&self) -> f64 {
        self.logprob_sum / f64::from(self.tokens.max(1))
    }

    /// The text begins with the prompt, where that was asked for.
    pub(crate) fn begin(&mut self, prompt: &[TokenLogprobs], step: &mut Step) {
        let Some(echo) = self.options.echo.take() else {
            return;
        };
        step.text.push_str(&echo.text);
        if self.options.with_logprobs {
            let known = prompt.iter().cloned().map(Some);
            let all = std::iter::once(None).chain(known);
            let positions = echo.tokens.iter().copied().zip(all);
            self.positions
                .extend(positions.map(|(token, logprobs)| Position { token, logprobs }));
        }
    }

    /// Takes tokens up to a stop string, if one comes, and says whether one came.
    pub(crate) fn push(
        &mut self,
        tokens: &[u32],
        logprobs: Vec<TokenLogprobs>,
        step: &mut Step,
    ) -> Result<bool, TokenizerError> {
        let mut logprobs = logprobs.into_iter();
        let mut stopped = false;
        for token in tokens {
            self.note(*token, logprobs.next());
            if self.options.hidden.contains(token) {
                continue; // The worker ends the request with it.
            }
            let piece = self.detokenizer.push(*token)?;
            let passed = if self.tokens <= self.options.min_tokens {
                self.options.stops.pass(&piece)
            } else {
                self.options.stops.push(&piece)
            };
            step.text.push_str(&passed.text);
            if passed.stopped {
                stopped = true;
                break;
            }
        }
        if stopped || !step.text.is_empty() {
            self.flush(step);
        }
        Ok(stopped)
    }

    /// What is left when no more tokens come, and whether a stop string is complete with it.
    pub(crate) fn finish(&mut self, step: &mut Step) -> Result<bool, TokenizerError> {
        let piece = self.detokenizer.finish()?;
        let passed = self.options.stops.push(&piece);
        step.text.push_str(&passed.text);
        if !passed.stopped {
            step.text.push_str(&self.options.stops.finish());
        }
        self.flush(step);
        Ok(passed.stopped)
    }

    fn note(&mut self, token: u32, logprobs: Option<TokenLogprobs>) {
        self.tokens = self.tokens.saturating_add(1);
        if let Some(known) = &logprobs {
            self.logprob_sum += f64::from(known.logprob);
        }
        if self.options.with_logprobs {
            self.positions.push(Position { token, logprobs });
        }
        if self.options.with_token_ids {
            self.token_ids.push(token);
        }
    }

    fn flush(&mut self, step: &mut Step) {
        step.positions.append(&mut self.positions);
        step.token_ids.append(&mut self.token_ids);
    }
}
