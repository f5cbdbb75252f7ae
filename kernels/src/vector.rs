//! Sixteen virtual lanes of float32, the same in every instruction set.
//!
//! A kernel's body is written once over [`Simd`] and compiled for each set by [`per_isa!`]: AVX-512 holds the lanes in one
//! register, AVX2 in two, the portable path in an array. All operations round once and lane by lane, and the few sums
//! across lanes go through one fixed tree, so that every path gives the same bits.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::Isa;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Operands below this are zero to the bf16 kernels: then no product or sum of theirs can be denormal, which the bf16
/// instruction would flush and the others would not.
pub(crate) const BF16_LEAST: f32 = f32::from_bits((127 - 50) << 23);

/// The operations. `F` holds 16 float32, `P` 16 pairs of bf16, each pair a u32 with the even element in its low half.
///
/// # Safety
/// Every method needs the instruction set of the type; those that take a pointer need it to be good for 16 elements
/// (unaligned), or for the `n` that they are given.
pub(crate) trait Simd: Copy + 'static {
    /// The instruction set that a body over this type must be compiled for.
    const ISA: Isa;
    /// 16 float32.
    type F: Copy;
    /// 16 pairs of bf16.
    type P: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    /// The first `n` (at most 16) lanes; the others are zero and not read.
    unsafe fn load_part(from: *const f32, n: usize) -> Self::F;
    unsafe fn store(to: *mut f32, v: Self::F);
    /// The first `n` (at most 16) lanes; the others are not written.
    unsafe fn store_part(to: *mut f32, n: usize, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a` where `a > b`, else `b`: a NaN in either gives `b`.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `a < b`, else `b`: a NaN in either gives `b`.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest whole number, halves to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^n` for whole `n` in -126..=127.
    unsafe fn exp2_whole(n: Self::F) -> Self::F;
    /// `2^(n - 127)`, n being the low eight bits of `t`.
    unsafe fn power(t: Self::F) -> Self::F;
    /// `x` in the first `n` lanes, `y` in the others.
    unsafe fn first(n: usize, x: Self::F, y: Self::F) -> Self::F;
    unsafe fn to_array(v: Self::F) -> [f32; LANES];

    unsafe fn splat_pair(pair: u32) -> Self::P;
    unsafe fn load_pairs(from: *const u32) -> Self::P;
    unsafe fn store_pairs(to: *mut u32, pairs: Self::P);
    /// Rounds as [`to_bf16`] does what is zero, or not below [`BF16_LEAST`], or NaN.
    unsafe fn round_pairs(even: Self::F, odd: Self::F) -> Self::P;
    /// The bits of the pairs that the mask has too.
    unsafe fn mask_pairs(pairs: Self::P, mask: u32) -> Self::P;
    /// The even elements, widened.
    unsafe fn even(pairs: Self::P) -> Self::F;
    /// The odd elements, widened.
    unsafe fn odd(pairs: Self::P) -> Self::F;
    /// `acc` plus the products of the pairs: the odd element first, then the even one, each a fused multiply-add.
    unsafe fn dot_pairs(acc: Self::F, a: Self::P, b: Self::P) -> Self::F;
}

/// The sum of all lanes: the upper half is added to the lower until one is left.
#[inline(always)]
pub(crate) unsafe fn sum_lanes<S: Simd>(v: S::F) -> f32 {
    // SAFETY: the caller vouches for the instructions.
    let mut lanes = unsafe { S::to_array(v) };
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The largest lane; a NaN may or may not show.
#[inline(always)]
pub(crate) unsafe fn max_lane<S: Simd>(v: S::F) -> f32 {
    // SAFETY: the caller vouches for the instructions.
    let mut lanes = unsafe { S::to_array(v) };
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            if lanes[i + half] > lanes[i] {
                lanes[i] = lanes[i + half];
            }
        }
        half /= 2;
    }
    lanes[0]
}

/// A float32 as bf16: nearest, halves to even; below [`BF16_LEAST`] it is zero (of the same sign), NaN stays NaN.
#[allow(
    clippy::cast_possible_truncation,
    reason = "the upper half of 32 bits has 16"
)]
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return ((bits >> 16) | 0x40) as u16;
    }
    if x.abs() < BF16_LEAST {
        return ((bits >> 16) & 0x8000) as u16;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// A bf16 as float32.
#[inline(always)]
pub(crate) fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Two float32 as a pair of bf16.
#[inline(always)]
pub(crate) fn to_pair(even: f32, odd: f32) -> u32 {
    u32::from(to_bf16(even)) | (u32::from(to_bf16(odd)) << 16)
}

/// Compiles a body over [`Simd`] once for each instruction set, as a function that takes the set to use first.
///
/// `per_isa! { fn name = body(a: A, b: B) -> R; }` gives `unsafe fn name(isa: Isa, a: A, b: B) -> R`, sound where the
/// machine has the set and `body` would be. `body` is an `#[inline(always)] unsafe fn body<S: Simd>(a: A, b: B) -> R`.
macro_rules! per_isa {
    ($($vis:vis fn $name:ident = $body:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)*) => {$(
        $vis unsafe fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promises are the body's.
                unsafe { $body::<$crate::vector::Avx2>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promises are the body's.
                unsafe { $body::<$crate::vector::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
            unsafe fn avx512bf16($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the caller's promises are the body's.
                unsafe { $body::<$crate::vector::Avx512Bf16>($($arg),*) }
            }
            // SAFETY: the caller vouches for the instruction set, and its promises are the body's.
            unsafe {
                match isa {
                    $crate::Isa::Portable => $body::<$crate::vector::Portable>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::Isa::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::Isa::Avx512Bf16 => avx512bf16($($arg),*),
                    #[cfg(not(target_arch = "x86_64"))]
                    _ => $body::<$crate::vector::Portable>($($arg),*),
                }
            }
        }
    )*};
}
pub(crate) use per_isa;

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Avx512Bf16};
