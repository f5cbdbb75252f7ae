//! The two inner loops: dot products of query rows with a tile of keys, and sums of weighted values.
//!
//! Both keep their sums in registers: of the keys those of a block, of the values those of a whole split.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::SPLIT;
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
pub(super) const LINE: usize = 16;

/// Blocks of a split.
pub(super) const BLOCKS: usize = SPLIT / BLOCK_SIZE;

/// A tile of keys or values, and the one that is read after it: it is asked for line by line meanwhile, because the machine
/// cannot guess where the next block lies.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) at: *const u32,
    pub(super) ahead: *const u32,
}

/// The tiles of a split's blocks, and the one that is read after them.
pub(super) type Chain = [*const u32; BLOCKS + 1];

/// Asks for a line in the second-level cache: more of these can be under way than of those for the first level.
#[inline(always)]
pub(super) fn prefetch(line: *const u32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch is a hint; it reads nothing that the program can see and takes any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
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
/// R rows of 32 which are [`SPLIT`] apart.
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
            S::store(scores.add(r * SPLIT), sum[0]);
            S::store(scores.add(r * SPLIT + LANES), sum[1]);
        }
    }
}

/// Rows of a tile of values: tokens, or pairs of them.
pub(super) const fn value_rows(bf16: bool) -> usize {
    if bf16 { BLOCK_SIZE / 2 } else { BLOCK_SIZE }
}

/// The values of a split, and where to put their weighted sums.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    /// The tiles of its blocks, each followed by the one that is read after it.
    pub(super) tiles: &'a Chain,
    /// Words of a tile's row: D.
    pub(super) size: usize,
    /// The sums of a row, and words from one row's to the next: D padded.
    pub(super) sums: *mut f32,
    pub(super) columns: usize,
}

impl Values<'_> {
    /// With the sums of a row.
    pub(super) fn of_row(mut self, row: usize) -> Self {
        self.sums = self.sums.wrapping_add(row * self.columns);
        self
    }
}

/// `sums[r] += sum over tile rows t of the range, ascending, of p[r][t] * v[t]`; a row of bf16 values holds two tokens, and
/// the odd one goes first.
///
/// # Safety
/// The machine has the instruction set; the range lies in the split's rows; the tiles that it touches are good for reading
/// 32 words more; there are R rows of weights, [`SPLIT`] apart, and of sums.
#[inline(always)]
pub(super) unsafe fn weigh<S: Simd, const BF16: bool, const R: usize>(
    weights: *const f32,
    values: Values<'_>,
    range: (usize, usize),
) {
    // SAFETY: as the caller vouches.
    unsafe {
        let mut column = 0;
        // As many columns at once as there are registers for.
        while step_rows(S::ISA) > 3 && R <= 6 && column + 4 * LANES <= values.columns {
            weigh_columns::<S, BF16, R, 4>(weights, values, range, column);
            column += 4 * LANES;
        }
        while column < values.columns {
            weigh_columns::<S, BF16, R, 2>(weights, values, range, column);
            column += 2 * LANES;
        }
    }
}

/// [`weigh`] for the columns of C vectors.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn weigh_columns<S: Simd, const BF16: bool, const R: usize, const C: usize>(
    weights: *const f32,
    values: Values<'_>,
    range: (usize, usize),
    column: usize,
) {
    let rows = value_rows(BF16);
    // SAFETY: as the caller vouches.
    unsafe {
        let sums = values.sums.add(column);
        let mut acc = [[S::splat(0.0); C]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(sums.add(r * values.columns + c * LANES));
            }
        }
        for block in range.0 / rows..range.1.div_ceil(rows) {
            let first = range.0.max(block * rows);
            let end = range.1.min((block + 1) * rows);
            let skip = (first - block * rows) * values.size + column;
            let mut v = values.tiles[block].cast::<f32>().add(skip);
            let mut ahead = values.tiles[block + 1].wrapping_add(skip);
            let mut p = weights.add(first);
            for _ in first..end {
                for c in 0..C {
                    prefetch(ahead.wrapping_add(c * LINE));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let p = p.add(r * SPLIT);
                    for (c, acc) in acc.iter_mut().enumerate() {
                        let v = v.add(c * LANES);
                        *acc = if BF16 {
                            S::dot_pairs(
                                *acc,
                                S::splat_pair(p.cast::<u32>().read()),
                                S::load_pairs(v.cast()),
                            )
                        } else {
                            S::fma(S::splat(p.read()), S::load(v), *acc)
                        };
                    }
                }
                v = v.add(values.size);
                ahead = ahead.wrapping_add(values.size);
                p = p.add(1);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, acc) in acc.iter().enumerate() {
                S::store(sums.add(r * values.columns + c * LANES), *acc);
            }
        }
    }
}

/// [`weigh`] for one row, which sees only the tokens of the range: those beside them are taken for zeros, whatever they
/// hold.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn weigh_one<S: Simd, const BF16: bool>(
    weights: *const f32,
    values: Values<'_>,
    tokens: (usize, usize),
) {
    if tokens.0 >= tokens.1 {
        return;
    }
    // SAFETY: as the caller vouches.
    unsafe {
        if !BF16 {
            return weigh::<S, BF16, 1>(weights, values, tokens);
        }
        let rows = value_rows(BF16);
        for column in (0..values.columns).step_by(2 * LANES) {
            let sums = values.sums.add(column);
            let mut acc = [S::load(sums), S::load(sums.add(LANES))];
            for row in tokens.0 / 2..tokens.1.div_ceil(2) {
                let skip = row % rows * values.size + column;
                let v = values.tiles[row / rows].add(skip);
                let even = if 2 * row >= tokens.0 { 0xffff } else { 0 };
                let odd = if 2 * row + 1 < tokens.1 {
                    0xffff_0000
                } else {
                    0
                };
                let p = S::splat_pair(weights.add(row).cast::<u32>().read());
                for (c, acc) in acc.iter_mut().enumerate() {
                    let pairs = S::load_pairs(v.add(c * LANES));
                    *acc = S::dot_pairs(*acc, p, S::mask_pairs(pairs, even | odd));
                }
            }
            S::store(sums, acc[0]);
            S::store(sums.add(LANES), acc[1]);
        }
    }
}
