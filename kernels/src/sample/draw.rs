//! Gumbel-max: the candidate with the largest sum of logit and noise, as if every candidate had been tried.
//!
//! Most cannot win, and their noise is never computed. `-ln u >= 1 - u`, so a score is at most `z - ln(1 - u)`: from the
//! best score so far follows, by one exponential for 64 ids, how large a random word must be to matter at all.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::lanes::{Lanes, load_row};
use super::philox::philox;
use crate::math::{exp, ln};
use crate::vector::{LANES, max_lane, per_isa};

/// Ids whose random words come from one vector of counters.
const GROUP: usize = 4 * LANES;
/// Wider than all rounding errors of a score together, so that what is passed over would have lost by any rounding.
const MARGIN: f32 = 1e-3;
/// The smallest `1 - u`.
const LEAST_GAP: f32 = 1.0 / 16_777_216.0;
/// Last counter word of numbers that choose tokens.
const DOMAIN_SAMPLING: u32 = 0;

/// What the random numbers of one row depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) seed: u64,
    pub(super) position: u32,
    pub(super) choice: u32,
}

#[derive(Debug, Clone, Copy)]
struct Best {
    score: f32,
    id: u32,
}

per_isa! {
    pub(super) fn draw = draw_body(row: &[f32], key: Key, maxima: &mut Vec<f32>) -> u32;
}

/// The id of the winner; `row` is relative to its maximum, which is 0, and minus infinity never wins.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn draw_body<S: Lanes>(row: &[f32], key: Key, maxima: &mut Vec<f32>) -> u32 {
    let groups = row.len().div_ceil(GROUP);
    maxima.clear();
    maxima.resize(groups.next_multiple_of(LANES), f32::NEG_INFINITY);
    let mut best = Best {
        score: f32::NEG_INFINITY,
        id: u32::MAX,
    };
    // SAFETY: groups and vectors stay within the row and the padded maxima; the caller vouches for the instructions.
    unsafe {
        let first = group_maxima::<S>(row, maxima);
        score::<S>(row, first, words::<S>(key, first), &mut best);
        for block in (0..groups).step_by(LANES) {
            let z = S::load(maxima.as_ptr().add(block));
            let reach = S::sub(z, S::splat(best.score - MARGIN));
            let reach = S::to_array(exp::<S>(S::min(reach, S::splat(0.0))));
            for (k, reach) in reach.into_iter().enumerate() {
                if reach < LEAST_GAP || block + k == first {
                    continue;
                }
                // Two steps lower than by arithmetic, for what was rounded; a negative number becomes 0.
                let least = (((1.0 - reach) * 8_388_608.0 - 2.0) as u32) << 9;
                let words = words::<S>(key, block + k);
                let most = S::max_u(S::max_u(words[0], words[1]), S::max_u(words[2], words[3]));
                if S::ge_u(most, S::splat_u(least)) != 0 {
                    score::<S>(row, block + k, words, &mut best);
                }
            }
        }
    }
    best.id
}

/// The largest element of each group; gives the group of the largest of all.
///
/// # Safety
/// The machine has the instruction set; `maxima` has room for all groups.
#[inline(always)]
unsafe fn group_maxima<S: Lanes>(row: &[f32], maxima: &mut [f32]) -> usize {
    let (mut first, mut largest) = (0, f32::NEG_INFINITY);
    for (group, maximum) in maxima
        .iter_mut()
        .enumerate()
        .take(row.len().div_ceil(GROUP))
    {
        // SAFETY: the loads stay within the row; the caller vouches for the instructions.
        unsafe {
            let mut most = S::splat(f32::NEG_INFINITY);
            for at in (group * GROUP..row.len().min((group + 1) * GROUP)).step_by(LANES) {
                most = S::max(load_row::<S>(row, at), most);
            }
            *maximum = max_lane::<S>(most);
        }
        if *maximum > largest {
            (first, largest) = (group, *maximum);
        }
    }
    first
}

/// The random words of a group: `out[w]` in lane `4L + k` is word w of counter `4k + L`, so that transposing them puts
/// the words in the order of their ids.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn words<S: Lanes>(key: Key, group: usize) -> [S::U; 4] {
    const COUNTERS: [u32; LANES] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
    // SAFETY: the array holds 16 elements; the caller vouches for the instructions.
    unsafe {
        let counters = S::add_u(
            S::load_u(COUNTERS.as_ptr()),
            S::splat_u((group * LANES) as u32),
        );
        philox::<S>(
            key.seed,
            [
                counters,
                S::splat_u(key.position),
                S::splat_u(key.choice),
                S::splat_u(DOMAIN_SAMPLING),
            ],
        )
    }
}

/// Tries all candidates of a group against the best so far.
///
/// # Safety
/// The machine has the instruction set, and the group begins within the row.
#[inline(always)]
unsafe fn score<S: Lanes>(row: &[f32], group: usize, words: [S::U; 4], best: &mut Best) {
    // SAFETY: the loads stay within the row; the caller vouches for the instructions.
    unsafe {
        for (k, words) in S::transpose(words).into_iter().enumerate() {
            let at = group * GROUP + k * LANES;
            if at >= row.len() {
                break;
            }
            let zero = S::splat(0.0);
            let noise = ln::<S>(S::sub(zero, ln::<S>(S::uniform(words))));
            let scores = S::sub(load_row::<S>(row, at), noise);
            let mut set = S::ge(scores, S::splat(best.score));
            if set == 0 {
                continue;
            }
            let scores = S::to_array(scores);
            while set != 0 {
                let lane = set.trailing_zeros();
                set &= set - 1;
                let (score, id) = (scores[lane as usize], at as u32 + lane);
                if score > best.score || (score >= best.score && id < best.id) {
                    *best = Best { score, id };
                }
            }
        }
    }
}
