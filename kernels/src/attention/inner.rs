//! The two inner loops: dot products of query rows with a tile of keys, and sums of weighted values.
//!
//! Both keep a step of rows times 32 columns in registers; a tile of keys in token lanes is a packed weight of 32 columns.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::plan::COLUMNS;
use crate::Isa;
use crate::kv::BLOCK_SIZE;
use crate::vector::{LANES, Simd};

/// Rows of a step, at most: as many as the registers hold.
pub(super) const fn step_rows(isa: Isa) -> usize {
    match isa {
        Isa::Portable | Isa::Avx2 => 3,
        Isa::Avx512 | Isa::Avx512Bf16 => 12,
    }
}

/// Words of a cache line.
const LINE: usize = 16;

/// A tile of keys or values, and the one that is read after it: it is asked for line by line meanwhile, because the machine
/// cannot guess where the next block lies.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) at: *const u32,
    pub(super) ahead: *const u32,
}

#[inline(always)]
fn prefetch(line: *const u32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint; it reads nothing that the program can see and takes any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Calls a function of a constant number of rows with the least of the listed numbers that holds `rows`.
macro_rules! for_rows {
    ($S:ty, $rows:expr, $call:ident ::<$($generic:tt),*> ($($arg:expr),* $(,)?)) => {
        match $rows {
            1 => $call::<$($generic),*, 1>($($arg),*),
            2 => $call::<$($generic),*, 2>($($arg),*),
            3 => $call::<$($generic),*, 3>($($arg),*),
            _ if super::inner::step_rows(<$S>::ISA) == 3 => $call::<$($generic),*, 3>($($arg),*),
            4 => $call::<$($generic),*, 4>($($arg),*),
            5 | 6 => $call::<$($generic),*, 6>($($arg),*),
            7 | 8 => $call::<$($generic),*, 8>($($arg),*),
            _ => $call::<$($generic),*, 12>($($arg),*),
        }
    };
}
pub(super) use for_rows;

/// The number of rows that `for_rows` takes for `rows`.
pub(super) const fn step_for(rows: usize) -> usize {
    match rows {
        0..=4 => rows,
        5 | 6 => 6,
        7 | 8 => 8,
        _ => 12,
    }
}

/// `scores[r][t] = sum over d, ascending, of q[d][r] * k[d][t]` for 32 tokens t. `depth` is D, or D / 2 pairs.
///
/// # Safety
/// The machine has the instruction set; the tile holds `depth` words of 32 lanes, the queries `depth * R`, the scores
/// `R * 32`.
#[inline(always)]
pub(super) unsafe fn dots<S: Simd, const BF16: bool, const R: usize>(
    queries: *const f32,
    keys: Tile,
    depth: usize,
    scores: *mut f32,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut sums = [[S::splat(0.0); 2]; R];
        let mut q = queries;
        let mut k = keys.at.cast::<f32>();
        let mut ahead = keys.ahead;
        for _ in 0..depth {
            if BF16 {
                let low = S::load_pairs(k.cast());
                let high = S::load_pairs(k.cast::<u32>().add(LANES));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let x = S::splat_pair(q.cast::<u32>().add(r).read());
                    sum[0] = S::dot_pairs(sum[0], x, low);
                    sum[1] = S::dot_pairs(sum[1], x, high);
                }
            } else {
                let (low, high) = (S::load(k), S::load(k.add(LANES)));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let x = S::splat(q.add(r).read());
                    sum[0] = S::fma(x, low, sum[0]);
                    sum[1] = S::fma(x, high, sum[1]);
                }
            }
            prefetch(ahead);
            prefetch(ahead.wrapping_add(LINE));
            q = q.add(R);
            k = k.add(BLOCK_SIZE);
            ahead = ahead.wrapping_add(BLOCK_SIZE);
        }
        for (r, sum) in sums.iter().enumerate() {
            S::store(scores.add(r * BLOCK_SIZE), sum[0]);
            S::store(scores.add(r * BLOCK_SIZE + LANES), sum[1]);
        }
    }
}

/// `sums[r] += sum over tokens t of the range, ascending, of p[r][t] * v[t]`. The sums of a row are `columns` (padded)
/// apart; of each 32 columns of bf16 values, the even ones come first.
///
/// # Safety
/// The machine has the instruction set; the range lies in 0..32; the values are a tile of 32 rows of `size` elements, and
/// good for reading 32 elements more; there are R rows of weights and sums.
#[inline(always)]
pub(super) unsafe fn weigh<S: Simd, const BF16: bool, const R: usize>(
    weights: *const f32,
    values: Tile,
    size: usize,
    tokens: (usize, usize),
    sums: *mut f32,
    columns: usize,
) {
    for column in (0..columns).step_by(COLUMNS) {
        // SAFETY: as the caller vouches; rows are read up to `columns`, which is less than 32 beyond `size`.
        unsafe {
            let at = sums.add(column);
            let mut acc = [[S::splat(0.0); 2]; R];
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = [
                    S::load(at.add(r * columns)),
                    S::load(at.add(r * columns + LANES)),
                ];
            }
            for token in tokens.0..tokens.1 {
                let first = token * size + column;
                let (low, high) = if BF16 {
                    prefetch(values.ahead.cast::<u16>().wrapping_add(first).cast());
                    let pairs = S::load_pairs(values.at.cast::<u16>().add(first).cast());
                    (S::even(pairs), S::odd(pairs))
                } else {
                    prefetch(values.ahead.wrapping_add(first));
                    prefetch(values.ahead.wrapping_add(first + LINE));
                    let v = values.at.cast::<f32>().add(first);
                    (S::load(v), S::load(v.add(LANES)))
                };
                for (r, acc) in acc.iter_mut().enumerate() {
                    let p = S::splat(weights.add(r * BLOCK_SIZE + token).read());
                    acc[0] = S::fma(p, low, acc[0]);
                    acc[1] = S::fma(p, high, acc[1]);
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                S::store(at.add(r * columns), acc[0]);
                S::store(at.add(r * columns + LANES), acc[1]);
            }
        }
    }
}
