//! The loops in which the sums of a linear layer are made, compiled once per instruction set.
//!
//! Each output element is one fp32 accumulator, summed over k in ascending order by fused multiply-adds (bf16: pair by
//! pair, the odd element before the even one). Vectors lie across output columns and never across k, so their width
//! cannot change a bit; neither can the number of rows that a tile holds, since rows share nothing but the weights that
//! they read.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Avx2, Avx512, Avx512Bf16};
use crate::vector::{LANES, Portable, Simd};

/// Columns of a weight block.
pub(crate) const COLUMNS: usize = 32;
/// The most rows that any path sums at once.
pub(crate) const MAX_TILE_ROWS: usize = 12;
/// Bytes of a cache line.
const LINE: usize = 64;

/// 32 columns of a weight at one step: fp32 at one k, or bf16 pairs at two. Two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Words(pub(crate) [u32; COLUMNS]);

/// 32 columns of an output row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; COLUMNS]);

/// Sums of one tile, a row each.
pub(crate) type TileSums = [Lanes; MAX_TILE_ROWS];

pub(crate) const NO_SUMS: TileSums = [Lanes([0.0; COLUMNS]); MAX_TILE_ROWS];

/// Sums rows of `x` with one weight block, into the first rows of `sums`, and asks for weights ahead. Row r begins at
/// `x[r * stride]`.
///
/// # Safety
/// The machine must have the instruction set that the function was compiled for.
pub(crate) type TileFn =
    unsafe fn(x: &[u32], stride: usize, block: &[Words], ahead: Ahead, sums: &mut TileSums);

/// How a path wants the activations of bf16 layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bf16Input {
    /// Pairs, one word each: an instruction multiplies pairs.
    Pairs,
    /// Rounded to bf16, but as float32.
    Widened,
}

/// The functions of one instruction set: `f32[r - 1]` and `bf16[r - 1]` sum `r` rows.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) f32: &'static [TileFn],
    pub(crate) bf16: &'static [TileFn],
    pub(crate) bf16_input: Bf16Input,
}

/// The functions of an instruction set. Calling them is sound only where the machine has it.
pub(crate) const fn table(isa: Isa) -> &'static Table {
    match isa {
        Isa::Portable => &PORTABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => &AVX512_BF16,
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => &PORTABLE,
    }
}

/// How far ahead the first-level cache is asked for weights, in [`Words`]: 3 KiB. What lies behind a block is the next.
const NEAR: usize = 24;

/// Which weights a tile asks the second-level cache for while it sums others. Profiles say that a tile whose weights come
/// from memory on demand, or 3 KiB ahead, stalls a sixth of its time, and one that finds them in the second level never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    /// The line to ask for at the first step.
    line: *const u8,
    /// Bytes from there to another one.
    other: usize,
    /// Bytes on at each step.
    stride: usize,
}

impl Ahead {
    /// Nothing: weights that are in the cache already.
    pub(crate) const fn nothing(block: &[Words]) -> Self {
        Self {
            line: block.as_ptr().cast(),
            other: 0,
            stride: 0,
        }
    }

    /// As many weights as the tile sums, from there on.
    pub(crate) const fn all(words: *const Words) -> Self {
        Self {
            line: words.cast(),
            other: LINE,
            stride: size_of::<Words>(),
        }
    }

    /// Every other line of them, the first or the second of each step: two tiles in a row ask for all, and memory has an
    /// even load.
    pub(crate) const fn half(words: *const Words, second: bool) -> Self {
        Self {
            line: words
                .cast::<u8>()
                .wrapping_add(if second { LINE } else { 0 }),
            other: 0,
            stride: size_of::<Words>(),
        }
    }

    /// One step's share.
    #[inline(always)]
    fn ask(&mut self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: as in `prefetch`.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(self.line.cast());
                _mm_prefetch::<_MM_HINT_T1>(self.line.wrapping_add(self.other).cast());
            }
        }
        self.line = self.line.wrapping_add(self.stride);
    }
}

#[inline(always)]
fn prefetch(words: *const Words) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = words.wrapping_add(NEAR).cast::<i8>();
        // SAFETY: a prefetch is a hint; it reads nothing that the program can see and takes any address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line);
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(LINE));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}

/// What one step of a layout does with the registers of a tile.
trait Step<S: Simd> {
    /// Words of an activation row that a step takes.
    const WORDS: usize;

    /// Adds one step of `ROWS` rows to `acc`. `x` points at the first row's words, `weights` at the first column's.
    ///
    /// # Safety
    /// The machine has the instruction set, `x` is good for `WORDS` words at each multiple of `stride` below
    /// `ROWS * stride`, and `weights` for `VECTORS * LANES` words.
    unsafe fn add<const ROWS: usize, const VECTORS: usize>(
        acc: &mut [[S::F; VECTORS]; ROWS],
        x: *const u32,
        stride: usize,
        weights: *const u32,
    );
}

/// fp32 weights: one k.
struct F32Step;

impl<S: Simd> Step<S> for F32Step {
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn add<const ROWS: usize, const VECTORS: usize>(
        acc: &mut [[S::F; VECTORS]; ROWS],
        x: *const u32,
        stride: usize,
        weights: *const u32,
    ) {
        // SAFETY: the caller vouches for the pointers and for the instructions.
        unsafe {
            let mut w = [S::splat(0.0); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                *w = S::load(weights.add(v * LANES).cast());
            }
            for (row, acc) in acc.iter_mut().enumerate() {
                let x = S::splat(*x.add(row * stride).cast());
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = S::fma(x, w, *acc);
                }
            }
        }
    }
}

/// bf16 weights and widened activations: two k, the odd one first.
struct WidenedStep;

impl<S: Simd> Step<S> for WidenedStep {
    const WORDS: usize = 2;

    #[inline(always)]
    unsafe fn add<const ROWS: usize, const VECTORS: usize>(
        acc: &mut [[S::F; VECTORS]; ROWS],
        x: *const u32,
        stride: usize,
        weights: *const u32,
    ) {
        // SAFETY: the caller vouches for the pointers and for the instructions.
        unsafe {
            let mut even = [S::splat(0.0); VECTORS];
            let mut odd = even;
            for v in 0..VECTORS {
                let pairs = S::load_pairs(weights.add(v * LANES));
                even[v] = S::even(pairs);
                odd[v] = S::odd(pairs);
            }
            for (row, acc) in acc.iter_mut().enumerate() {
                let x = x.add(row * stride).cast::<f32>();
                let x_odd = S::splat(*x.add(1));
                for (acc, w) in acc.iter_mut().zip(odd) {
                    *acc = S::fma(x_odd, w, *acc);
                }
                let x_even = S::splat(*x);
                for (acc, w) in acc.iter_mut().zip(even) {
                    *acc = S::fma(x_even, w, *acc);
                }
            }
        }
    }
}

/// bf16 weights and pairs of activations, for an instruction that multiplies pairs.
struct PairStep;

impl<S: Simd> Step<S> for PairStep {
    const WORDS: usize = 1;

    #[inline(always)]
    unsafe fn add<const ROWS: usize, const VECTORS: usize>(
        acc: &mut [[S::F; VECTORS]; ROWS],
        x: *const u32,
        stride: usize,
        weights: *const u32,
    ) {
        // SAFETY: the caller vouches for the pointers and for the instructions.
        unsafe {
            let mut w = [S::splat_pair(0); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                *w = S::load_pairs(weights.add(v * LANES));
            }
            for (row, acc) in acc.iter_mut().enumerate() {
                let x = S::splat_pair(*x.add(row * stride));
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = S::dot_pairs(*acc, x, w);
                }
            }
        }
    }
}

/// The loop: `ROWS` rows and `VECTORS` vectors of columns from column `first` on.
///
/// # Safety
/// The machine has the instruction set.
///
/// # Panics
/// If `x` is shorter than the rows.
#[inline(always)]
unsafe fn sum_columns<S: Simd, T: Step<S>, const ROWS: usize, const VECTORS: usize>(
    x: &[u32],
    stride: usize,
    block: &[Words],
    mut ahead: Option<Ahead>,
    first: usize,
    sums: &mut TileSums,
) {
    assert!(x.len() >= (ROWS - 1) * stride + block.len() * T::WORDS);
    assert!(first + VECTORS * LANES <= COLUMNS);
    // SAFETY: the two checks above bound every access; the caller vouches for the instructions.
    unsafe {
        let mut acc = [[S::splat(0.0); VECTORS]; ROWS];
        let mut x = x.as_ptr();
        for words in block {
            prefetch(words);
            if let Some(ahead) = &mut ahead {
                ahead.ask();
            }
            T::add::<ROWS, VECTORS>(&mut acc, x, stride, words.0.as_ptr().add(first));
            x = x.wrapping_add(T::WORDS);
        }
        for (sum, acc) in sums.iter_mut().zip(acc) {
            for (v, acc) in acc.into_iter().enumerate() {
                S::store(sum.0.as_mut_ptr().add(first + v * LANES), acc);
            }
        }
    }
}

/// All 32 columns in one pass over the block.
#[inline(always)]
unsafe fn whole<S: Simd, T: Step<S>, const ROWS: usize>(
    x: &[u32],
    stride: usize,
    block: &[Words],
    ahead: Ahead,
    sums: &mut TileSums,
) {
    // SAFETY: the caller vouches for the instructions.
    unsafe { sum_columns::<S, T, ROWS, 2>(x, stride, block, Some(ahead), 0, sums) };
}

/// Half the columns at a time, for machines with 16 registers. The second pass finds the block in the cache.
/// They take twice as long for the same weights, and asking far ahead costs them more than it saves.
#[inline(always)]
unsafe fn halves<S: Simd, T: Step<S>, const ROWS: usize>(
    x: &[u32],
    stride: usize,
    block: &[Words],
    _: Ahead,
    sums: &mut TileSums,
) {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        sum_columns::<S, T, ROWS, 1>(x, stride, block, None, 0, sums);
        sum_columns::<S, T, ROWS, 1>(x, stride, block, None, LANES, sums);
    }
}

/// Defines a function of one tile height for an instruction set.
macro_rules! tile {
    ($name:ident, $shape:ident, $simd:ty, $step:ty $(, $features:literal)?) => {
        $(#[cfg(target_arch = "x86_64")] #[target_feature(enable = $features)])?
        unsafe fn $name<const ROWS: usize>(
            x: &[u32],
            stride: usize,
            block: &[Words],
            ahead: Ahead,
            sums: &mut TileSums,
        ) {
            // SAFETY: the caller vouches for the instructions.
            unsafe { $shape::<$simd, $step, ROWS>(x, stride, block, ahead, sums) };
        }
    };
}

/// The functions for 1 to that many rows.
macro_rules! heights {
    ($name:ident: $($rows:literal)*) => { &[$($name::<$rows>),*] };
}

tile!(portable_f32, halves, Portable, F32Step);
tile!(portable_bf16, halves, Portable, WidenedStep);

static PORTABLE: Table = Table {
    f32: heights!(portable_f32: 1 2 3 4),
    bf16: heights!(portable_bf16: 1 2 3 4),
    bf16_input: Bf16Input::Widened,
};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{
        Ahead, Avx2, Avx512, Avx512Bf16, Bf16Input, F32Step, PairStep, Table, TileSums,
        WidenedStep, Words, halves, whole,
    };

    tile!(avx2_f32_whole, whole, Avx2, F32Step, "avx2,fma,f16c");
    tile!(avx2_f32, halves, Avx2, F32Step, "avx2,fma,f16c");
    tile!(avx2_bf16_whole, whole, Avx2, WidenedStep, "avx2,fma,f16c");
    tile!(avx2_bf16, halves, Avx2, WidenedStep, "avx2,fma,f16c");
    tile!(
        avx512_f32,
        whole,
        Avx512,
        F32Step,
        "avx512f,avx512bw,avx512dq,avx512vl"
    );
    tile!(
        avx512_bf16,
        whole,
        Avx512,
        WidenedStep,
        "avx512f,avx512bw,avx512dq,avx512vl"
    );
    tile!(
        pairs_bf16,
        whole,
        Avx512Bf16,
        PairStep,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
    );

    pub(super) static AVX2: Table = Table {
        f32: &[
            avx2_f32_whole::<1>,
            avx2_f32_whole::<2>,
            avx2_f32::<3>,
            avx2_f32::<4>,
            avx2_f32::<5>,
            avx2_f32::<6>,
        ],
        bf16: &[
            avx2_bf16_whole::<1>,
            avx2_bf16_whole::<2>,
            avx2_bf16::<3>,
            avx2_bf16::<4>,
            avx2_bf16::<5>,
            avx2_bf16::<6>,
        ],
        bf16_input: Bf16Input::Widened,
    };

    pub(super) static AVX512: Table = Table {
        f32: heights!(avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
        bf16: heights!(avx512_bf16: 1 2 3 4 5 6 7 8 9 10 11 12),
        bf16_input: Bf16Input::Widened,
    };

    pub(super) static AVX512_BF16: Table = Table {
        f32: heights!(avx512_f32: 1 2 3 4 5 6 7 8 9 10 11 12),
        bf16: heights!(pairs_bf16: 1 2 3 4 5 6 7 8 9 10 11 12),
        bf16_input: Bf16Input::Pairs,
    };
}
#[cfg(target_arch = "x86_64")]
use x86::{AVX2, AVX512, AVX512_BF16};
