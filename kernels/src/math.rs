//! Elementary functions of our own: libm's differ from machine to machine, these give the same bits everywhere.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]
#![allow(
    clippy::excessive_precision,
    reason = "the coefficients stand here as they were published"
)]

use crate::sample::lanes::Lanes;
use crate::vector::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has few enough bits that its product with an exponent is exact.
const LN2_HIGH: f32 = 0.693_359_375;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Minimax coefficients of `(e^r - 1 - r) / r^2` on `[-ln 2 / 2, ln 2 / 2]`, highest power first (Cephes library, expf).
const EXP: [f32; 6] = [
    1.987_569_15e-4,
    1.398_199_95e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    5.000_000_1e-1,
];
const EXP_MIN: f32 = -87.0;
const EXP_MAX: f32 = 88.0;

/// `e^x`, to about 1e-7 relative; arguments are cut to [-87, 88] (so `e^-inf` is tiny, not zero), `e^0` is exactly 1. A NaN
/// gives some finite number: look for it before.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let x = S::max(S::min(x, S::splat(EXP_MAX)), S::splat(EXP_MIN));
        let n = S::round(S::mul(x, S::splat(LOG2_E)));
        let r = S::fma(n, S::splat(-LN2_HIGH), x);
        let r = S::fma(n, S::splat(-LN2_LOW), r);
        let mut poly = S::splat(EXP[0]);
        for coefficient in &EXP[1..] {
            poly = S::fma(poly, r, S::splat(*coefficient));
        }
        let value = S::add(S::fma(S::mul(poly, r), r, r), S::splat(1.0));
        S::mul(value, S::exp2_whole(n))
    }
}

/// `x / (1 + e^-x)`.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let minus = S::sub(S::splat(0.0), x);
        S::div(x, S::add(S::splat(1.0), exp::<S>(minus)))
    }
}

/// Coefficients of `(ln(1 + f) - f + f^2 / 2) / f^3` on `[sqrt 1/2 - 1, sqrt 2 - 1]`, highest power first (Cephes
/// library, logf).
const LN: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461_03e-1,
    1.167_699_87e-1,
    -1.242_014_08e-1,
    1.424_932_28e-1,
    -1.666_805_77e-1,
    2.000_071_48e-1,
    -2.499_999_4e-1,
    3.333_333_1e-1,
];

/// The natural logarithm of normal positive numbers, to about 1e-7 relative; `ln 1` is exactly 0.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(crate) unsafe fn ln<S: Lanes>(x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let (mantissa, exponent) = S::split(x);
        let f = S::sub(mantissa, S::splat(1.0));
        let mut poly = S::splat(LN[0]);
        for coefficient in &LN[1..] {
            poly = S::fma(poly, f, S::splat(*coefficient));
        }
        let square = S::mul(f, f);
        let mut rest = S::mul(S::mul(poly, f), square);
        rest = S::fma(exponent, S::splat(LN2_LOW), rest);
        rest = S::fma(S::splat(-0.5), square, rest);
        S::fma(exponent, S::splat(LN2_HIGH), S::add(f, rest))
    }
}

/// `(e^2x - 1) / (e^2x + 1)`, to about 3e-7 relative, odd; what is not finite gives a NaN.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let twice = S::add(x, x);
        let cut = S::max(S::min(twice, S::splat(20.0)), S::splat(-20.0));
        // e^y - 1 without the loss of a difference: y = n ln 2 + r.
        let n = S::round(S::mul(cut, S::splat(LOG2_E)));
        let r = S::fma(n, S::splat(-LN2_HIGH), cut);
        let r = S::fma(n, S::splat(-LN2_LOW), r);
        let mut poly = S::splat(EXP[0]);
        for coefficient in &EXP[1..] {
            poly = S::fma(poly, r, S::splat(*coefficient));
        }
        let less_one = S::fma(S::mul(poly, r), r, r);
        let power = S::exp2_whole(n);
        let less_one = S::fma(less_one, power, S::sub(power, S::splat(1.0)));
        let value = S::div(less_one, S::add(less_one, S::splat(2.0)));
        S::fma(x, S::splat(0.0), value)
    }
}
