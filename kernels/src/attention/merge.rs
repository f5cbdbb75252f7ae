//! The last pass: rows whose splits were worked on apart are merged, in ascending order.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::plan::{padded, partial_floats};
use super::softmax::State;
use super::tile::Walk;
use crate::shared::Shared;
use crate::vector::{Simd, per_isa};

/// Tokens of a unit.
const TOKENS: usize = 4;

pub(super) fn units(tokens: usize) -> usize {
    tokens.div_ceil(TOKENS)
}

per_isa! {
    pub(super) fn unit = unit_body(walk: &Walk<'_>, index: usize, out: &Shared<'_, f32>, partials: &Shared<'_, f32>);
}

/// Some tokens, of which those are passed by that are finished already.
///
/// # Safety
/// The machine has the instruction set; the partial results have been written, and this unit alone looks at its tokens'
/// part of them and of `out`.
#[inline(always)]
unsafe fn unit_body<S: Simd>(
    walk: &Walk<'_>,
    index: usize,
    out: &Shared<'_, f32>,
    partials: &Shared<'_, f32>,
) {
    let spec = walk.spec;
    let (columns, floats) = (padded(spec.head_dim), partial_floats(spec.head_dim));
    let tokens = walk.batch.positions.len();
    for token in index * TOKENS..tokens.min((index + 1) * TOKENS) {
        let seq = walk.plan.seq_of(token);
        let Some(apart) = walk.plan.partials(seq) else {
            continue;
        };
        let splits = walk.splits(walk.position(token));
        for head in 0..spec.num_heads {
            let row = |split| apart.row(token - walk.plan.first_token(seq), head, split);
            // SAFETY: the plan has made room for these; the caller's promises.
            unsafe {
                let state =
                    |split| State::whole(partials.part(row(split) * floats, floats).as_mut_ptr());
                let first = state(splits.start);
                for split in splits.start + 1..splits.end {
                    first.merge::<S>(state(split), columns);
                }
                let out = out.part(walk.out_at(token, head), spec.head_dim);
                first.finish::<S>(out);
            }
        }
    }
}
