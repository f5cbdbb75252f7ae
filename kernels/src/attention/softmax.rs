//! The softmax of a row: the weights of a split, its state, the merge of two states, and the end.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use std::ops::Range;

use super::SPLIT;
use crate::kv::BLOCK_SIZE;
use crate::math::{exp, tanh};
use crate::vector::{LANES, Simd, max_lane, sum_lanes};

/// A pair of ones.
const ONES: u32 = 0x3f80_3f80;

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

    /// Writes the weighted mean of the values.
    ///
    /// # Safety
    /// As [`Self::clear`]; `out` is a head's elements.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(self, out: &mut [f32]) {
        // SAFETY: as the caller vouches.
        unsafe {
            let share = S::splat(1.0 / sum_lanes::<S>(S::load(self.total)));
            for (chunk, out) in out.chunks_mut(LANES).enumerate() {
                let mean = S::mul(S::load(self.sums.add(chunk * LANES)), share);
                S::store_part(out.as_mut_ptr(), out.len(), mean);
            }
        }
    }
}

/// The keys of a split that a row sees: `first..end` of 0..256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Seen {
    /// The keys from `first` to `last` that lie in the split which begins at `start`.
    #[inline(always)]
    pub(super) fn of(first: usize, last: usize, start: usize) -> Self {
        Self {
            first: first.saturating_sub(start).min(SPLIT),
            end: (last + 1).saturating_sub(start).min(SPLIT),
        }
    }

    #[inline(always)]
    pub(super) const fn is_empty(self) -> bool {
        self.first >= self.end
    }

    /// The blocks of the split in which they lie.
    #[inline(always)]
    pub(super) fn blocks(self) -> Range<usize> {
        self.first / BLOCK_SIZE..self.end.div_ceil(BLOCK_SIZE)
    }

    /// `low` and `high` where the row sees the key, `other` elsewhere, of the block which begins at `start`. The lanes are
    /// 32 tokens, or 16 even ones before 16 odd ones.
    ///
    /// # Safety
    /// The machine has the instruction set.
    #[inline(always)]
    unsafe fn pick<S: Simd, const BF16: bool>(
        self,
        start: usize,
        (low, high): (S::F, S::F),
        other: S::F,
    ) -> (S::F, S::F) {
        let lanes = |token: usize| {
            let token = token.saturating_sub(start).min(BLOCK_SIZE);
            if BF16 {
                (token.div_ceil(2), token / 2)
            } else {
                (token.min(LANES), token.saturating_sub(LANES))
            }
        };
        let (first, end) = (lanes(self.first), lanes(self.end));
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            (
                S::first(first.0, other, S::first(end.0, low, other)),
                S::first(first.1, other, S::first(end.1, high, other)),
            )
        }
    }
}

/// A row's scores of a split become weights, in words as the values have rows; the largest score and the sum of the
/// weights go to the state.
///
/// # Safety
/// As [`State::clear`]; there are [`SPLIT`] scores, and those of the blocks that the row sees have been written.
#[inline(always)]
pub(super) unsafe fn settle<S: Simd, const BF16: bool>(
    state: State,
    scores: *mut f32,
    seen: Seen,
    softcap: Option<f32>,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let most = largest::<S, BF16>(scores, seen, softcap);
        let mut total = S::splat(0.0);
        for block in seen.blocks() {
            let start = block * BLOCK_SIZE;
            let at = scores.add(start);
            let mut low = weight::<S, BF16>(S::load(at), most);
            let mut high = weight::<S, BF16>(S::load(at.add(LANES)), most);
            if seen.first > start || seen.end < start + BLOCK_SIZE {
                (low, high) = seen.pick::<S, BF16>(start, (low, high), S::splat(0.0));
            }
            if BF16 {
                let pairs = S::round_pairs(low, high);
                S::store_pairs(scores.add(start / 2).cast(), pairs);
                total = S::dot_pairs(total, S::splat_pair(ONES), pairs);
            } else {
                S::store(at, low);
                S::store(at.add(LANES), high);
                total = S::add(total, S::add(low, high));
            }
        }
        state.most.write(most);
        S::store(state.total, total);
    }
}

/// The largest score that a row sees; its scores are capped, and -inf where it sees no key.
///
/// # Safety
/// As [`settle`].
#[inline(always)]
unsafe fn largest<S: Simd, const BF16: bool>(
    scores: *mut f32,
    seen: Seen,
    softcap: Option<f32>,
) -> f32 {
    // SAFETY: as the caller vouches.
    unsafe {
        let nothing = S::splat(f32::NEG_INFINITY);
        let mut most = (nothing, nothing);
        for block in seen.blocks() {
            let start = block * BLOCK_SIZE;
            let at = scores.add(start);
            let (mut low, mut high) = (S::load(at), S::load(at.add(LANES)));
            let masked = seen.first > start || seen.end < start + BLOCK_SIZE;
            if let Some(cap) = softcap {
                low = capped::<S>(low, cap);
                high = capped::<S>(high, cap);
            }
            if masked {
                (low, high) = seen.pick::<S, BF16>(start, (low, high), nothing);
            }
            if masked || softcap.is_some() {
                S::store(at, low);
                S::store(at.add(LANES), high);
            }
            most = (S::max(low, most.0), S::max(high, most.1));
        }
        max_lane::<S>(S::max(most.0, most.1))
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

/// Added to a number, leaves it rounded to a whole one in the low bits, with 127 on top.
const TO_EXPONENT: f32 = 12_582_912.0 + 127.0;
/// ln 2 in two parts; the first has few enough bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Coefficients of `(e^r - 1 - r) / r^2` on `[-ln 2 / 2, ln 2 / 2]`, highest power first; the result is off by 1.1e-7 at
/// most, relative.
const EXP: [f32; 4] = [8.312_501e-3, 4.189_033e-2, 1.666_711_6e-1, 4.999_923e-1];

/// `e^(s - most)` for scores up to `most`, and a NaN where either is one. A weight is never less than some least one, which
/// is nothing beside that of the largest score; for bf16 it is a number that the format keeps.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn weight<S: Simd, const BF16: bool>(score: S::F, most: f32) -> S::F {
    // SAFETY: as the caller vouches.
    unsafe {
        let least = S::splat(if BF16 { -34.0 } else { -87.0 });
        // In this order a NaN stays one.
        let x = S::max(least, S::sub(score, S::splat(most)));
        let magic = S::splat(TO_EXPONENT);
        let shifted = S::fma(x, S::splat(std::f32::consts::LOG2_E), magic);
        let n = S::sub(shifted, magic);
        let r = S::fma(n, S::splat(-LN2_HIGH), x);
        let r = S::fma(n, S::splat(-LN2_LOW), r);
        let mut poly = S::splat(EXP[0]);
        for coefficient in &EXP[1..] {
            poly = S::fma(poly, r, S::splat(*coefficient));
        }
        let value = S::add(S::fma(S::mul(poly, r), r, r), S::splat(1.0));
        S::mul(value, S::power(shifted))
    }
}
