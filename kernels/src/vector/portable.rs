//! The lanes as an array, for any machine.

use super::{LANES, Simd, from_bf16, to_pair};
use crate::Isa;

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type F = [f32; LANES];
type P = [u32; LANES];

#[inline(always)]
fn each(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    const ISA: Isa = Isa::Portable;
    type F = F;
    type P = P;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> F {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { from.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> F {
        let mut v = [0.0; LANES];
        // SAFETY: the caller vouches for n elements, and n is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(from, v.as_mut_ptr(), n) };
        v
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: F) {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { to.cast::<F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, n: usize, v: F) {
        // SAFETY: the caller vouches for n elements, and n is at most 16.
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, n) };
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: F) -> F {
        // SAFETY: the caller's `n` are whole and within i32.
        n.map(|n| unsafe {
            f32::from_bits(((n.to_int_unchecked::<i32>() + 127) << 23).cast_unsigned())
        })
    }
    #[inline(always)]
    unsafe fn power(t: F) -> F {
        t.map(|t| f32::from_bits(t.to_bits() << 23))
    }
    #[inline(always)]
    unsafe fn first(n: usize, x: F, y: F) -> F {
        std::array::from_fn(|i| if i < n { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn to_array(v: F) -> [f32; LANES] {
        v
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: u32) -> P {
        [pair; LANES]
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> P {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { from.cast::<P>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_pairs(to: *mut u32, pairs: P) {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { to.cast::<P>().write_unaligned(pairs) }
    }
    #[inline(always)]
    unsafe fn round_pairs(even: F, odd: F) -> P {
        std::array::from_fn(|i| to_pair(even[i], odd[i]))
    }
    #[inline(always)]
    unsafe fn mask_pairs(pairs: P, mask: u32) -> P {
        pairs.map(|pair| pair & mask)
    }
    #[inline(always)]
    unsafe fn even(pairs: P) -> F {
        pairs.map(|pair| from_bf16((pair & 0xffff) as u16))
    }
    #[inline(always)]
    unsafe fn odd(pairs: P) -> F {
        pairs.map(|pair| from_bf16((pair >> 16) as u16))
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: F, a: P, b: P) -> F {
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let acc = Self::fma(Self::odd(a), Self::odd(b), acc);
            Self::fma(Self::even(a), Self::even(b), acc)
        }
    }
}
