//! Passes over a whole row: its maximum, where it is, the sum of its exponentials, its largest few.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::lanes::{Lanes, load_row};
use crate::math::{exp, ln};
use crate::vector::{LANES, max_lane, per_isa, sum_lanes};

/// Elements whose exponentials are summed in lanes before the sum is added to the total.
const SUM_CHUNK: usize = 4096;
/// Vectors that are looked at together, so that no maximum waits for the one before.
const UNROLL: usize = 4;

per_isa! {
    pub(super) fn largest = largest_body(row: &[f32]) -> Option<f32>;
    pub(super) fn first_at_least = first_at_least_body(row: &[f32], least: f32) -> u32;
    pub(super) fn log_sum = log_sum_body(row: &[f32], largest: f32) -> f32;
    pub(super) fn top = top_body(row: &[f32], count: usize, out: &mut Vec<(u32, f32)>);
    pub(super) fn ln_of = ln_of_body(x: f32) -> f32;
}

/// The largest element; `None` if one is NaN or plus infinity.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn largest_body<S: Lanes>(row: &[f32]) -> Option<f32> {
    // SAFETY: the loads stay within the row; the caller vouches for the instructions.
    unsafe {
        let most = S::splat(f32::MAX);
        let mut largest = [S::splat(f32::NEG_INFINITY); UNROLL];
        let mut fine = u16::MAX;
        let whole = row.len() - row.len() % (UNROLL * LANES);
        for at in (0..whole).step_by(UNROLL * LANES) {
            for (k, largest) in largest.iter_mut().enumerate() {
                let v = S::load(row.as_ptr().add(at + k * LANES));
                *largest = S::max(v, *largest);
                fine &= S::ge(most, v);
            }
        }
        for at in (whole..row.len()).step_by(LANES) {
            let v = load_row::<S>(row, at);
            largest[0] = S::max(v, largest[0]);
            fine &= S::ge(most, v);
        }
        let [a, b, c, d] = largest;
        let largest = max_lane::<S>(S::max(S::max(a, b), S::max(c, d)));
        (fine == u16::MAX).then_some(largest)
    }
}

/// Index of the first element that is `least` or more; the row's length if there is none.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn first_at_least_body<S: Lanes>(row: &[f32], least: f32) -> u32 {
    // SAFETY: the loads stay within the row; the caller vouches for the instructions.
    unsafe {
        let bound = S::splat(least);
        for at in (0..row.len()).step_by(LANES) {
            let set = S::ge(load_row::<S>(row, at), bound);
            if set != 0 {
                return at as u32 + set.trailing_zeros();
            }
        }
    }
    row.len() as u32
}

/// `ln sum e^(x - largest)`: chunks at fixed places, 16 lanes each, added in order.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn log_sum_body<S: Lanes>(row: &[f32], largest: f32) -> f32 {
    // SAFETY: the loads stay within the row; the caller vouches for the instructions.
    unsafe {
        let shift = S::splat(largest);
        let mut total = 0.0;
        for chunk in row.chunks(SUM_CHUNK) {
            let mut sum = S::splat(0.0);
            for at in (0..chunk.len()).step_by(LANES) {
                sum = S::add(sum, exp::<S>(S::sub(load_row::<S>(chunk, at), shift)));
            }
            total += sum_lanes::<S>(sum);
        }
        ln_of_body::<S>(total)
    }
}

/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn ln_of_body<S: Lanes>(x: f32) -> f32 {
    // SAFETY: the caller vouches for the instructions.
    unsafe { S::to_array(ln::<S>(S::splat(x)))[0] }
}

/// The `count` largest elements with their ids, descending, equal ones by id. Minus infinity is none of them.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn top_body<S: Lanes>(row: &[f32], count: usize, out: &mut Vec<(u32, f32)>) {
    out.clear();
    if count == 0 {
        return;
    }
    let mut least = -f32::MAX;
    // SAFETY: the loads stay within the row; the caller vouches for the instructions.
    unsafe {
        for at in (0..row.len()).step_by(LANES) {
            let mut set = S::ge(load_row::<S>(row, at), S::splat(least));
            while set != 0 {
                let id = at + set.trailing_zeros() as usize;
                set &= set - 1;
                insert(out, count, id as u32, row[id]);
                if out.len() == count {
                    least = out[count - 1].1;
                }
            }
        }
    }
}

/// Ids come ascending, so an equal one that is there already stays before.
#[inline(always)]
fn insert(out: &mut Vec<(u32, f32)>, count: usize, id: u32, logit: f32) {
    let place = out.partition_point(|(_, other)| *other >= logit);
    if place < count {
        out.truncate(count - 1);
        out.insert(place, (id, logit));
    }
}
