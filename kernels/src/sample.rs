//! The sampler: from a row of logits to the next token, each row alone.
//!
//! Order, in place on the row: raw logprobs and the check for NaN; masks (grammar, allowed tokens, bad words, tokens held
//! back until `min_tokens`); bias and penalties; temperature, or the likeliest token if it is 0; `min_p`, `top_k` and
//! `top_p`; then Gumbel-max. The noise of a candidate is a function of seed, choice, output position and its id, so that a
//! request that was resumed, moved or speculated for draws what it would have drawn undisturbed.
//!
//! - [`request`]: parameters and their bounds; `history`: what was said so far
//! - `process`: masks, bias, penalties; `survey`: passes over a whole row; `filter`: the cuts; `draw`: the noise
//! - `lanes`, `philox`: what they are made of

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "ids are below 2^31, which the door has checked; parameters are checked numbers; words are cut on purpose"
)]

use std::cell::RefCell;

use crate::shared::{Shared, check_length, product};
use crate::{Isa, KernelError, Kernels, Pool};

mod draw;
mod filter;
mod history;
pub(crate) mod lanes;
mod philox;
mod process;
pub mod request;
mod survey;

pub use request::{MAX_TOP_LOGPROBS, RequestSampler, SamplingParams};

use draw::Key;
use filter::{Candidates, Cuts};
use request::check_ids;

/// A candidate this far below the best one can never win: the noise lies in [-2.81, 16.64].
const HOPELESS: f32 = -20.0;

/// How the token of one row is chosen.
#[derive(Debug, Clone, Copy)]
pub struct RowRequest<'a> {
    /// The request.
    pub sampler: &'a RequestSampler,
    /// Output position of the token.
    pub position: u32,
    /// Guesses that stand between the request's history and this row.
    pub drafts: &'a [u32],
    /// Index of the row of bits that says what its grammar allows.
    pub mask: Option<usize>,
}

/// Why a row has no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowError {
    /// There is a NaN or plus infinity among the logits.
    Numerics,
    /// Nothing may come: grammar, masks and the model leave no token.
    DeadEnd,
}

impl RowError {
    /// The code that a client sees.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Numerics => "numerics_error",
            Self::DeadEnd => "grammar_dead_end",
        }
    }
}

/// What became of one row. Logprobs are natural logarithms of the raw distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The token; of a row of a prompt the one that was named.
    pub token: Result<u32, RowError>,
    /// The token's, if it was asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens', descending, equal ones by id. Tokens of probability 0 are left out.
    pub top: Vec<(u32, f32)>,
}

impl Sampled {
    const fn plain(token: Result<u32, RowError>) -> Self {
        Self {
            token,
            logprob: None,
            top: Vec::new(),
        }
    }
}

/// What a thread needs beside the row: kept from call to call, at most a few times as long as a row.
#[derive(Default)]
struct Scratch {
    raw: Vec<f32>,
    kept: Vec<f32>,
    maxima: Vec<f32>,
    candidates: Candidates,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A token for each row of `logits` `[R, V]`, which are overwritten. `masks` is `[M, ceil(V / 32)]`: bit `v % 32` of word
/// `v / 32` allows token v; bits past V mean nothing.
///
/// # Errors
/// [`KernelError`] if a buffer does not fit, a sampler is for another vocabulary, or a mask or draft does not exist.
pub fn sample(
    logits: &mut [f32],
    vocab_size: usize,
    rows: &[RowRequest<'_>],
    masks: &[i32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<Vec<Sampled>, KernelError> {
    check_length("logits", product(rows.len(), vocab_size)?, logits.len())?;
    let words = vocab_size.div_ceil(32);
    for row in rows {
        check_length("a row of logits", row.sampler.vocab_size(), vocab_size)?;
        check_ids("drafts", row.drafts, vocab_size)?;
        if let Some(mask) = row.mask {
            let least = product(mask.saturating_add(1), words)?;
            check_length("masks", masks.len().max(least), masks.len())?;
        }
    }
    let mut out = vec![Sampled::plain(Err(RowError::DeadEnd)); rows.len()];
    let (logits, results) = (Shared::new(logits), Shared::new(&mut out));
    pool.run(rows.len(), &|index| {
        let request = &rows[index];
        let grammar = request.mask.map(|mask| &masks[mask * words..][..words]);
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: each unit takes its own row and result, all ids were checked to lie within it, and a `Kernels` exists
            // only for what the machine has.
            unsafe {
                let row = logits.part(index * vocab_size, vocab_size);
                results.part(index, 1)[0] =
                    sample_row(kernels.isa(), row, request, grammar, scratch);
            }
        });
    });
    Ok(out)
}

/// Logprobs of the token that follows each row of `logits` `[R, V]`, and of the `top_n` likeliest ones.
///
/// # Errors
/// [`KernelError`] if a buffer does not fit, for an id that is no token, or for more than [`MAX_TOP_LOGPROBS`].
pub fn prompt_logprobs(
    logits: &[f32],
    vocab_size: usize,
    next_ids: &[u32],
    top_n: u32,
    kernels: Kernels,
    pool: &Pool,
) -> Result<Vec<Sampled>, KernelError> {
    let elements = product(next_ids.len(), vocab_size)?;
    check_length("logits", elements, logits.len())?;
    check_ids("next_ids", next_ids, vocab_size)?;
    if top_n > MAX_TOP_LOGPROBS {
        let problem = format!("is {top_n}, expected 0 to {MAX_TOP_LOGPROBS}");
        let name = "top_n";
        return Err(KernelError::Parameter { name, problem });
    }
    let mut out = vec![Sampled::plain(Err(RowError::Numerics)); next_ids.len()];
    let results = Shared::new(&mut out);
    pool.run(next_ids.len(), &|index| {
        let row = &logits[index * vocab_size..][..vocab_size];
        // SAFETY: each unit writes its own result, and a `Kernels` exists only for what the machine has.
        unsafe {
            if let Some(raw) = Raw::of(kernels.isa(), row) {
                let result = &mut results.part(index, 1)[0];
                result.token = Ok(next_ids[index]);
                raw.report(kernels.isa(), row, top_n, result);
            }
        }
    });
    Ok(out)
}

/// # Safety
/// The machine has the instruction set; the ids of the request and its mask cover the row.
unsafe fn sample_row(
    isa: Isa,
    row: &mut [f32],
    request: &RowRequest<'_>,
    grammar: Option<&[i32]>,
    scratch: &mut Scratch,
) -> Sampled {
    // SAFETY: the caller vouches for it.
    unsafe {
        let Some(largest) = survey::largest(isa, row) else {
            return Sampled::plain(Err(RowError::Numerics));
        };
        let logprobs = request.sampler.params.logprobs;
        if logprobs.is_some() {
            scratch.raw.clear();
            scratch.raw.extend_from_slice(row);
        }
        let mut result = Sampled::plain(choose(isa, row, largest, request, grammar, scratch));
        if let Some(count) = logprobs
            && let Some(raw) = Raw::of(isa, &scratch.raw)
        {
            raw.report(isa, &scratch.raw, count, &mut result);
        }
        result
    }
}

/// Processes the row and chooses; `raw_largest` is its maximum as it came.
///
/// # Safety
/// As for [`sample_row`].
unsafe fn choose(
    isa: Isa,
    row: &mut [f32],
    raw_largest: f32,
    request: &RowRequest<'_>,
    grammar: Option<&[i32]>,
    scratch: &mut Scratch,
) -> Result<u32, RowError> {
    let sampler = request.sampler;
    let params = &sampler.params;
    // SAFETY: the caller vouches for it.
    unsafe {
        let mut largest = raw_largest;
        if process::process(isa, row, request, grammar, &mut scratch.kept) {
            largest = survey::largest(isa, row).ok_or(RowError::Numerics)?;
        }
        if largest == f32::NEG_INFINITY {
            return Err(RowError::DeadEnd);
        }
        if sampler.is_greedy() {
            return Ok(survey::first_at_least(isa, row, largest));
        }
        process::relative(isa, row, largest, params.temperature as f32);
        if let Some(cuts) = cuts_of(isa, params) {
            filter::keep(isa, row, cuts, &mut scratch.candidates);
        }
        let key = Key {
            seed: params.seed,
            position: request.position,
            choice: params.choice_index,
        };
        Ok(draw::draw(isa, row, key, &mut scratch.maxima))
    }
}

/// # Safety
/// The machine has the instruction set.
unsafe fn cuts_of(isa: Isa, params: &SamplingParams) -> Option<Cuts> {
    let min_p = params.min_p as f32;
    let cuts = Cuts {
        least: if min_p > 0.0 {
            // SAFETY: the caller vouches for it.
            unsafe { survey::ln_of(isa, min_p.max(f32::MIN_POSITIVE)) }
        } else {
            f32::NEG_INFINITY
        },
        top_k: usize::try_from(params.top_k).unwrap_or(0),
        top_p: params.top_p,
    };
    (min_p > 0.0 || cuts.top_k > 0 || cuts.top_p < 1.0).then_some(cuts)
}

/// The two numbers that turn logits into logprobs.
struct Raw {
    largest: f32,
    log_sum: f32,
}

impl Raw {
    /// `None` if the row has no distribution: NaN, plus infinity, or minus infinity everywhere.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn of(isa: Isa, row: &[f32]) -> Option<Self> {
        // SAFETY: the caller vouches for it.
        unsafe {
            let largest = survey::largest(isa, row)?;
            (largest > f32::NEG_INFINITY).then(|| Self {
                largest,
                log_sum: survey::log_sum(isa, row, largest),
            })
        }
    }

    fn logprob(&self, logit: f32) -> f32 {
        (logit - self.largest) - self.log_sum
    }

    /// Fills in the logprobs of the token, if there is one.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn report(&self, isa: Isa, row: &[f32], count: u32, result: &mut Sampled) {
        if let Ok(token) = result.token {
            result.logprob = Some(self.logprob(row[token as usize]));
            // SAFETY: the caller vouches for it.
            unsafe { survey::top(isa, row, count as usize, &mut result.top) };
            for (_, logit) in &mut result.top {
                *logit = self.logprob(*logit);
            }
        }
    }
}
