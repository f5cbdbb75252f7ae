//! `min_p`, `top_k` and `top_p`: which candidates are left, found by halving ranges of logits and not by sorting.
//!
//! A candidate's `depth` is how far it lies below the best one, as the bits of a float32 without the sign: the order of
//! depths is the reverse order of logits, and equal depths go by id. Masses are whole numbers, which add up exactly in any
//! order; so where `top_p` cuts is the same for every way of summing.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::HOPELESS;
use super::lanes::{Lanes, load_row, lowest};
use crate::math::exp;
use crate::vector::{LANES, per_isa};

/// Mass of the best candidate.
const UNIT: f32 = 1_073_741_824.0;
/// So few are sorted.
const FEW: usize = 64;
/// Ranges are halved by value so many times, then by bits, which comes to an end.
const BY_VALUE: usize = 16;

/// The cuts of one request; `least` is the lowest logit relative to the best that `min_p` lets pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cuts {
    pub(super) least: f32,
    pub(super) top_k: usize,
    pub(super) top_p: f64,
}

/// Candidates in the order of their ids. The vectors are a little longer than what they hold.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    ids: Vec<u32>,
    depths: Vec<u32>,
    masses: Vec<u32>,
    work_depths: Vec<u32>,
    work_masses: Vec<u32>,
    count: usize,
}

per_isa! {
    pub(super) fn keep = keep_body(row: &mut [f32], cuts: Cuts, candidates: &mut Candidates);
}

/// Sets what does not pass to minus infinity; `row` is relative to its maximum, which is 0.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn keep_body<S: Lanes>(row: &mut [f32], cuts: Cuts, candidates: &mut Candidates) {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        collect::<S>(row, cuts.least.max(HOPELESS), candidates);
        if cuts.top_k > 0 && cuts.top_k < candidates.count {
            candidates.masses[..candidates.count].fill(1);
            cut::<S>(candidates, cuts.top_k as u64);
        }
        if cuts.top_p < 1.0 {
            let total = weigh::<S>(candidates);
            cut::<S>(candidates, (cuts.top_p * total as f64).ceil() as u64);
        }
    }
    row.fill(f32::NEG_INFINITY);
    let left = candidates.ids[..candidates.count].iter();
    for (id, depth) in left.zip(&candidates.depths) {
        row[*id as usize] = -f32::from_bits(*depth);
    }
}

/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn collect<S: Lanes>(row: &[f32], least: f32, candidates: &mut Candidates) {
    candidates.reserve(row.len());
    let mut count = 0;
    // SAFETY: at most as many are written as the row has, and the vectors hold that and 16 more.
    unsafe {
        let mut ids = S::load_u(std::array::from_fn::<u32, LANES, _>(|i| i as u32).as_ptr());
        for at in (0..row.len()).step_by(LANES) {
            let v = load_row::<S>(row, at);
            let set = S::ge(v, S::splat(least));
            if set != 0 {
                let depth = S::to_bits(S::sub(S::splat(0.0), v));
                S::compress(candidates.ids.as_mut_ptr().add(count), set, ids);
                S::compress(candidates.depths.as_mut_ptr().add(count), set, depth);
                count += set.count_ones() as usize;
            }
            ids = S::add_u(ids, S::splat_u(LANES as u32));
        }
    }
    candidates.count = count;
}

/// Gives each candidate its mass, and their total.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn weigh<S: Lanes>(candidates: &mut Candidates) -> u64 {
    let count = candidates.count;
    // SAFETY: the vectors hold 16 elements more than the count.
    unsafe {
        for at in (0..count).step_by(LANES) {
            let depth = S::from_bits(S::load_u(candidates.depths.as_ptr().add(at)));
            let mass = S::mul(exp::<S>(S::sub(S::splat(0.0), depth)), S::splat(UNIT));
            S::store_u(candidates.masses.as_mut_ptr().add(at), S::to_whole(mass));
        }
    }
    let masses = candidates.masses[..count].iter();
    masses.map(|mass| u64::from(*mass)).sum()
}

/// Keeps the shortest beginning, by depth and then id, whose mass reaches `target`; that is not more than there is.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn cut<S: Lanes>(candidates: &mut Candidates, target: u64) {
    let count = candidates.count;
    candidates.work_depths[..count].copy_from_slice(&candidates.depths[..count]);
    candidates.work_masses[..count].copy_from_slice(&candidates.masses[..count]);
    // SAFETY: the vectors hold 16 elements more than the count; the caller vouches for the instructions.
    unsafe {
        let (depths, masses) = (&mut candidates.work_depths, &mut candidates.work_masses);
        let (last, left) = find_last::<S>(depths, masses, count, target);
        keep_up_to::<S>(candidates, last, left);
    }
}

/// Keeps what is less deep than `last`, and of that depth, by id, as much as makes up the mass `left`.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn keep_up_to<S: Lanes>(candidates: &mut Candidates, last: u32, mut left: u64) {
    let (count, mut kept) = (candidates.count, 0);
    // SAFETY: what is written lies at or before what was read, and the vectors hold 16 elements more than the count.
    unsafe {
        for at in (0..count).step_by(LANES) {
            let id = S::load_u(candidates.ids.as_ptr().add(at));
            let depth = S::load_u(candidates.depths.as_ptr().add(at));
            let not_below = S::ge_u(depth, S::splat_u(last));
            let mut tied = not_below & !S::ge_u(depth, S::splat_u(last + 1)) & lowest(count - at);
            let mut set = !not_below & lowest(count - at);
            while tied != 0 && left > 0 {
                set |= tied & tied.wrapping_neg();
                left = left.saturating_sub(u64::from(
                    candidates.masses[at + tied.trailing_zeros() as usize],
                ));
                tied &= tied - 1;
            }
            S::compress(candidates.ids.as_mut_ptr().add(kept), set, id);
            S::compress(candidates.depths.as_mut_ptr().add(kept), set, depth);
            kept += set.count_ones() as usize;
        }
    }
    candidates.count = kept;
}

/// The depth of the last candidate that is kept, and the mass that is still to come from those of that very depth.
///
/// # Safety
/// The machine has the instruction set; the slices hold 16 elements more than `count`.
#[inline(always)]
unsafe fn find_last<S: Lanes>(
    depths: &mut [u32],
    masses: &mut [u32],
    count: usize,
    target: u64,
) -> (u32, u64) {
    let (mut count, mut target) = (count, target);
    let deepest = depths[..count].iter().copied().max().unwrap_or(0);
    let (mut low, mut high) = (0, deepest + 1);
    let mut round = 0;
    while count > FEW && high - low > 1 {
        let middle = middle(low, high, round);
        let mass = mass_below(&depths[..count], &masses[..count], middle);
        let keep_below = mass >= target;
        if keep_below {
            high = middle;
        } else {
            low = middle;
            target -= mass;
        }
        // SAFETY: the caller vouches for it.
        count = unsafe { retain::<S>(depths, masses, count, middle, keep_below) };
        round += 1;
    }
    if high - low == 1 {
        return (low, target);
    }
    last_of_few(&depths[..count], &masses[..count], target)
}

/// A bound strictly between the two.
#[inline(always)]
fn middle(low: u32, high: u32, round: usize) -> u32 {
    if round < BY_VALUE {
        let value = f32::midpoint(f32::from_bits(low), f32::from_bits(high));
        value.to_bits().clamp(low + 1, high - 1)
    } else {
        low + (high - low) / 2
    }
}

#[inline(always)]
fn mass_below(depths: &[u32], masses: &[u32], bound: u32) -> u64 {
    let both = depths.iter().zip(masses);
    both.map(|(depth, mass)| u64::from(if *depth < bound { *mass } else { 0 }))
        .sum()
}

/// Keeps what is below the bound, or what is not; gives how many are left.
///
/// # Safety
/// The machine has the instruction set; the slices hold 16 elements more than `count`.
#[inline(always)]
unsafe fn retain<S: Lanes>(
    depths: &mut [u32],
    masses: &mut [u32],
    count: usize,
    bound: u32,
    below: bool,
) -> usize {
    let mut kept = 0;
    // SAFETY: what is written lies at or before what was read, and the slices are long enough for whole vectors.
    unsafe {
        for at in (0..count).step_by(LANES) {
            let depth = S::load_u(depths.as_ptr().add(at));
            let mass = S::load_u(masses.as_ptr().add(at));
            let not_below = S::ge_u(depth, S::splat_u(bound));
            let set = if below { !not_below } else { not_below } & lowest(count - at);
            S::compress(depths.as_mut_ptr().add(kept), set, depth);
            S::compress(masses.as_mut_ptr().add(kept), set, mass);
            kept += set.count_ones() as usize;
        }
    }
    kept
}

#[inline(always)]
fn last_of_few(depths: &[u32], masses: &[u32], target: u64) -> (u32, u64) {
    let mut few = [(u32::MAX, 0); FEW];
    for (to, from) in few.iter_mut().zip(depths.iter().zip(masses)) {
        *to = (*from.0, *from.1);
    }
    let few = &mut few[..depths.len()];
    few.sort_unstable();
    let (mut depth, mut left) = (0, target);
    let mut before = 0_u64;
    for (at, mass) in few.iter() {
        if *at != depth {
            (depth, left) = (*at, target - before);
        }
        before += u64::from(*mass);
        if before >= target {
            break;
        }
    }
    (depth, left)
}

impl Candidates {
    fn reserve(&mut self, width: usize) {
        let length = width + 2 * LANES;
        for buffer in [
            &mut self.ids,
            &mut self.depths,
            &mut self.masses,
            &mut self.work_depths,
            &mut self.work_masses,
        ] {
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
        }
    }
}
