//! The online softmax of a row: its state, a block's step, the merge of two states, and the end.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::plan::COLUMNS;
use crate::kv::BLOCK_SIZE;
use crate::math::{exp, tanh};
use crate::vector::{LANES, Simd, max_lane, sum_lanes};

/// Where the state of one row lies: the largest score so far, the sum of weights by lanes, and the weighted values.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) most: *mut f32,
    pub(super) total: *mut f32,
    pub(super) sums: *mut f32,
}

impl State {
    /// A state that lies in one piece of `partial_floats`.
    pub(super) fn whole(at: *mut f32) -> Self {
        Self {
            most: at,
            total: at.wrapping_add(LANES),
            sums: at.wrapping_add(2 * LANES),
        }
    }

    /// Nothing seen yet.
    ///
    /// # Safety
    /// The machine has the instruction set; the state is good for writing, its sums for `columns`.
    #[inline(always)]
    pub(super) unsafe fn clear<S: Simd>(self, columns: usize) {
        // SAFETY: as the caller vouches.
        unsafe {
            self.most.write(f32::NEG_INFINITY);
            S::store(self.total, S::splat(0.0));
            for column in (0..columns).step_by(LANES) {
                S::store(self.sums.add(column), S::splat(0.0));
            }
        }
    }

    /// Becomes what `other` is.
    ///
    /// # Safety
    /// As [`Self::clear`].
    #[inline(always)]
    pub(super) unsafe fn copy<S: Simd>(self, other: Self, columns: usize) {
        // SAFETY: as the caller vouches.
        unsafe {
            self.most.write(other.most.read());
            S::store(self.total, S::load(other.total));
            for column in (0..columns).step_by(LANES) {
                S::store(self.sums.add(column), S::load(other.sums.add(column)));
            }
        }
    }

    /// Takes in the state of the next split.
    ///
    /// # Safety
    /// As [`Self::clear`].
    #[inline(always)]
    pub(super) unsafe fn merge<S: Simd>(self, next: Self, columns: usize) {
        // SAFETY: as the caller vouches.
        unsafe {
            let (mine, theirs) = (self.most.read(), next.most.read());
            let most = if theirs > mine { theirs } else { mine };
            self.most.write(most);
            let most = S::splat(most);
            let mine = exp::<S>(S::sub(S::splat(mine), most));
            let theirs = exp::<S>(S::sub(S::splat(theirs), most));
            let total = S::mul(S::load(self.total), mine);
            S::store(self.total, S::fma(S::load(next.total), theirs, total));
            for column in (0..columns).step_by(LANES) {
                let at = self.sums.add(column);
                let sum = S::mul(S::load(at), mine);
                S::store(at, S::fma(S::load(next.sums.add(column)), theirs, sum));
            }
        }
    }

    /// Writes the weighted mean of the values, in their order.
    ///
    /// # Safety
    /// As [`Self::clear`]; `out` is a head's elements.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd, const BF16: bool>(self, out: &mut [f32]) {
        // SAFETY: as the caller vouches.
        unsafe {
            let total = S::splat(sum_lanes::<S>(S::load(self.total)));
            for (chunk, out) in out.chunks_mut(COLUMNS).enumerate() {
                let at = self.sums.add(chunk * COLUMNS);
                let low = S::to_array(S::div(S::load(at), total));
                let high = S::to_array(S::div(S::load(at.add(LANES)), total));
                if BF16 {
                    let pairs = low.iter().zip(&high);
                    for (out, (even, odd)) in out.chunks_exact_mut(2).zip(pairs) {
                        out[0] = *even;
                        out[1] = *odd;
                    }
                } else {
                    for (out, x) in out.iter_mut().zip(low.iter().chain(&high)) {
                        *out = *x;
                    }
                }
            }
        }
    }
}

/// The keys of a block that a row sees: `first..end` of 0..32.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Seen {
    pub(super) const ALL: Self = Self {
        first: 0,
        end: BLOCK_SIZE,
    };

    /// The keys from `first` to `last` that lie in the block which begins at `start`.
    #[inline(always)]
    pub(super) fn of(first: usize, last: usize, start: usize) -> Self {
        Self {
            first: first.saturating_sub(start).min(BLOCK_SIZE),
            end: (last + 1).saturating_sub(start).min(BLOCK_SIZE),
        }
    }

    /// `x` where the row sees the key, `y` elsewhere; `half` says which 16 of the 32.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn pick<S: Simd>(self, half: usize, x: S::F, y: S::F) -> S::F {
        let first = self.first.saturating_sub(half * LANES).min(LANES);
        let end = self.end.saturating_sub(half * LANES).min(LANES);
        // SAFETY: the caller vouches for the instructions.
        unsafe { S::first(first, y, S::first(end, x, y)) }
    }
}

/// Lets a row see a block: its scores become weights, and its sums so far are scaled to the new maximum.
///
/// # Safety
/// As [`State::clear`]; there are 32 scores.
#[inline(always)]
pub(super) unsafe fn see<S: Simd>(
    state: State,
    scores: *mut f32,
    seen: Seen,
    softcap: Option<f32>,
    columns: usize,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut low = S::load(scores);
        let mut high = S::load(scores.add(LANES));
        if let Some(cap) = softcap {
            low = capped::<S>(low, cap);
            high = capped::<S>(high, cap);
        }
        let nothing = S::splat(f32::NEG_INFINITY);
        let masked = seen != Seen::ALL;
        if masked {
            low = seen.pick::<S>(0, low, nothing);
            high = seen.pick::<S>(1, high, nothing);
        }
        let before = state.most.read();
        let block = max_lane::<S>(S::max(low, high));
        let most = if block > before { block } else { before };
        low = weight::<S>(low, most);
        high = weight::<S>(high, most);
        if masked {
            let zero = S::splat(0.0);
            low = seen.pick::<S>(0, low, zero);
            high = seen.pick::<S>(1, high, zero);
        }
        S::store(scores, low);
        S::store(scores.add(LANES), high);
        let mut total = S::load(state.total);
        // Elsewhere the factor is one.
        if most > before {
            let shrink = exp::<S>(S::sub(S::splat(before), S::splat(most)));
            total = S::mul(total, shrink);
            state.most.write(most);
            for column in (0..columns).step_by(LANES) {
                let at = state.sums.add(column);
                S::store(at, S::mul(S::load(at), shrink));
            }
        }
        S::store(state.total, S::add(total, S::add(low, high)));
    }
}

/// `cap * tanh(s / cap)`.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn capped<S: Simd>(s: S::F, cap: f32) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        let cap = S::splat(cap);
        S::mul(cap, tanh::<S>(S::div(s, cap)))
    }
}

/// `e^(s - most)`, and a NaN where that is no number: the added product is zero for any other.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn weight<S: Simd>(s: S::F, most: f32) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        let below = S::sub(s, S::splat(most));
        S::fma(below, S::splat(0.0), exp::<S>(below))
    }
}
