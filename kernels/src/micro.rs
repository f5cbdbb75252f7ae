//! The one loop in which the sums of a linear layer are made, compiled once per instruction set.
//!
//! Each output element is one fp32 accumulator, summed over k in ascending order by fused multiply-adds. Vectors lie
//! across output columns and never across k, so their width cannot change a bit; neither can the number of rows that a
//! tile holds, since rows share nothing but the weights that they read.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::Isa;

/// Columns of a weight block.
pub(crate) const COLUMNS: usize = 32;
/// The most rows that any path sums at once.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// 32 columns at one k: the unit of the packed layout, two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; COLUMNS]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; COLUMNS]);
}

/// Sums of one tile, a row each.
pub(crate) type TileSums = [Lanes; MAX_TILE_ROWS];

/// Sums rows of `x` (each `block.len()` long, one after the other) with one weight block, into the first rows of `sums`.
///
/// # Safety
/// The machine must have the instruction set that the function was compiled for.
pub(crate) type TileFn = unsafe fn(x: &[f32], block: &[Lanes], sums: &mut TileSums);

/// The functions of one instruction set: `tiles[r - 1]` sums `r` rows.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) tiles: &'static [TileFn],
}

/// The functions of an instruction set. Calling them is sound only where the machine has it.
pub(crate) const fn table(isa: Isa) -> &'static Table {
    match isa {
        Isa::Portable => &PORTABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &AVX512,
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => &PORTABLE,
    }
}

/// How far ahead weights are asked for, in [`Lanes`]: 1.5 KiB. The next block lies behind this one, so the end is no end.
const PREFETCH_LANES: usize = 12;

#[inline(always)]
fn prefetch(lanes: *const Lanes) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = lanes.cast::<i8>();
        // SAFETY: a prefetch is a hint; it reads nothing that the program can see and takes any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line);
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = lanes;
}

/// `acc[c] = x * weights[c] + acc[c]`, each rounded once.
#[inline(always)]
fn multiply_add<const WIDTH: usize>(acc: &mut [f32; WIDTH], x: f32, weights: &[f32; WIDTH]) {
    for (acc, weight) in acc.iter_mut().zip(weights) {
        *acc = x.mul_add(*weight, *acc);
    }
}

/// The loop: `ROWS` rows, `WIDTH` columns of the block from `FIRST` on.
///
/// Its shape (accumulators in one array, rows folded over) is what the compiler turns into registers only.
#[inline(always)]
fn sum_columns<const ROWS: usize, const WIDTH: usize, const FIRST: usize>(
    x: &[f32],
    block: &[Lanes],
    sums: &mut TileSums,
) {
    let depth = block.len();
    let x = &x[..ROWS * depth];
    let mut acc = [[0.0_f32; WIDTH]; ROWS];
    for (k, lanes) in block.iter().enumerate() {
        prefetch((&raw const *lanes).wrapping_add(PREFETCH_LANES));
        let (_, columns) = lanes.0.split_at(FIRST);
        let Some(weights) = columns.first_chunk::<WIDTH>() else {
            return;
        };
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: `row < ROWS` and `k < depth`, and `x` was cut to `ROWS * depth` above.
            let x = unsafe { *x.get_unchecked(row * depth + k) };
            multiply_add(acc, x, weights);
        }
    }
    for (sum, acc) in sums.iter_mut().zip(&acc) {
        sum.0[FIRST..FIRST + WIDTH].copy_from_slice(acc);
    }
}

/// All 32 columns in one pass over the block.
#[inline(always)]
fn whole<const ROWS: usize>(x: &[f32], block: &[Lanes], sums: &mut TileSums) {
    sum_columns::<ROWS, 32, 0>(x, block, sums);
}

/// Half the columns at a time, for machines with 16 registers. The second pass finds the block in the cache.
#[inline(always)]
fn halves<const ROWS: usize>(x: &[f32], block: &[Lanes], sums: &mut TileSums) {
    sum_columns::<ROWS, 16, 0>(x, block, sums);
    sum_columns::<ROWS, 16, 16>(x, block, sums);
}

fn portable<const ROWS: usize>(x: &[f32], block: &[Lanes], sums: &mut TileSums) {
    halves::<ROWS>(x, block, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_whole<const ROWS: usize>(x: &[f32], block: &[Lanes], sums: &mut TileSums) {
    whole::<ROWS>(x, block, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_halves<const ROWS: usize>(x: &[f32], block: &[Lanes], sums: &mut TileSums) {
    halves::<ROWS>(x, block, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<const ROWS: usize>(x: &[f32], block: &[Lanes], sums: &mut TileSums) {
    whole::<ROWS>(x, block, sums);
}

static PORTABLE: Table = Table {
    tiles: &[portable::<1>, portable::<2>, portable::<3>, portable::<4>],
};

#[cfg(target_arch = "x86_64")]
static AVX2: Table = Table {
    tiles: &[
        avx2_whole::<1>,
        avx2_whole::<2>,
        avx2_halves::<3>,
        avx2_halves::<4>,
        avx2_halves::<5>,
        avx2_halves::<6>,
    ],
};

#[cfg(target_arch = "x86_64")]
static AVX512: Table = Table {
    tiles: &[
        avx512::<1>,
        avx512::<2>,
        avx512::<3>,
        avx512::<4>,
        avx512::<5>,
        avx512::<6>,
        avx512::<7>,
        avx512::<8>,
        avx512::<9>,
        avx512::<10>,
        avx512::<11>,
        avx512::<12>,
    ],
};
