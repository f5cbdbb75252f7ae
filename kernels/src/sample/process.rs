//! What is done to a row of logits before a token is drawn: masks, then bias and penalties.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::RowRequest;
use super::lanes::{Lanes, load_row};
use super::request::SamplingParams;
use crate::Isa;
use crate::vector::{LANES, per_isa};

/// Masks, bias and penalties of one row, in place; `grammar` is a row of bits. Gives whether anything was changed.
///
/// # Safety
/// The machine has the instruction set; the grammar's row covers the logits; all ids of the request are within the row.
pub(super) unsafe fn process(
    isa: Isa,
    row: &mut [f32],
    request: &RowRequest<'_>,
    grammar: Option<&[i32]>,
    kept: &mut Vec<f32>,
) -> bool {
    let params = &request.sampler.params;
    if let Some(grammar) = grammar {
        // SAFETY: the caller vouches for it.
        unsafe { apply_mask(isa, row, grammar) };
    }
    if let Some(allowed) = &params.allowed_token_ids {
        allow_only(row, allowed, kept);
    }
    let mut changed = grammar.is_some() || params.allowed_token_ids.is_some();
    changed |= forbid_words(row, request);
    // With a grammar it alone says where the text may end: held back, a finished text would have no token left.
    if grammar.is_none() && request.position < params.min_tokens {
        for id in &params.held_back_ids {
            row[*id as usize] = f32::NEG_INFINITY;
        }
        changed |= !params.held_back_ids.is_empty();
    }
    for (id, bias) in &params.logit_bias {
        row[*id as usize] += *bias as f32;
    }
    changed |= !params.logit_bias.is_empty();
    if request.sampler.has_penalties() {
        penalise(row, request, kept);
        changed = true;
    }
    changed
}

per_isa! {
    fn apply_mask = apply_mask_body(row: &mut [f32], mask: &[i32]);
    pub(super) fn relative = relative_body(row: &mut [f32], largest: f32, temperature: f32);
}

/// `(logit - largest) / temperature`, in place.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn relative_body<S: Lanes>(row: &mut [f32], largest: f32, temperature: f32) {
    let width = row.len();
    // SAFETY: `at` stays below the width, and no more is stored than is left; the caller vouches for the instructions.
    unsafe {
        for at in (0..width).step_by(LANES) {
            let v = S::sub(load_row::<S>(row, at), S::splat(largest));
            let v = S::div(v, S::splat(temperature));
            S::store_part(row.as_mut_ptr().add(at), LANES.min(width - at), v);
        }
    }
}

/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn apply_mask_body<S: Lanes>(row: &mut [f32], mask: &[i32]) {
    let width = row.len();
    // SAFETY: `at` stays below the width, and no more is stored than is left; the caller vouches for the instructions.
    unsafe {
        let never = S::splat(f32::NEG_INFINITY);
        for at in (0..width).step_by(LANES) {
            let set = (mask[at / 32].cast_unsigned() >> (at % 32)) as u16;
            if set == u16::MAX {
                continue;
            }
            let v = S::select(set, load_row::<S>(row, at), never);
            S::store_part(row.as_mut_ptr().add(at), LANES.min(width - at), v);
        }
    }
}

fn allow_only(row: &mut [f32], allowed: &[u32], kept: &mut Vec<f32>) {
    kept.clear();
    kept.extend(allowed.iter().map(|id| row[*id as usize]));
    row.fill(f32::NEG_INFINITY);
    for (id, logit) in allowed.iter().zip(kept) {
        row[*id as usize] = *logit;
    }
}

/// The last token of each sequence that the output has begun may not come.
fn forbid_words(row: &mut [f32], request: &RowRequest<'_>) -> bool {
    let history = &request.sampler.history;
    let mut changed = false;
    for words in &request.sampler.params.bad_words {
        if let Some((last, before)) = words.split_last()
            && history.ends_in(request.drafts, before)
        {
            row[*last as usize] = f32::NEG_INFINITY;
            changed = true;
        }
    }
    changed
}

/// The penalties of every token that was seen. Drafts are put right one by one afterwards, from their logits as they were.
fn penalise(row: &mut [f32], request: &RowRequest<'_>, kept: &mut Vec<f32>) {
    let (params, history) = (&request.sampler.params, &request.sampler.history);
    kept.clear();
    kept.extend(request.drafts.iter().map(|id| row[*id as usize]));
    for seen in history.seen() {
        let logit = &mut row[seen.id as usize];
        *logit = penalised(*logit, seen.outputs, params);
    }
    for (id, logit) in request.drafts.iter().zip(kept) {
        let drafted = request.drafts.iter().filter(|draft| *draft == id).count();
        let outputs = history.of(*id).0 + drafted as u32;
        row[*id as usize] = penalised(*logit, outputs, params);
    }
}

/// A token that was seen, `outputs` times of them in the output. Never plus infinity.
#[allow(clippy::float_cmp, reason = "exactly 1 is off")]
fn penalised(logit: f32, outputs: u32, params: &SamplingParams) -> f32 {
    let repetition = params.repetition_penalty as f32;
    let mut logit = logit;
    if repetition != 1.0 {
        logit = if logit > 0.0 {
            logit / repetition
        } else {
            logit * repetition
        };
    }
    if outputs > 0 {
        logit -= params.frequency_penalty as f32 * outputs as f32;
        logit -= params.presence_penalty as f32;
    }
    logit.min(f32::MAX)
}
