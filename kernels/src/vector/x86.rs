//! The lanes in registers of AVX2 and AVX-512.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each is one instruction; the trait's callers vouch for the set and for the pointers"
)]

use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512bh, __m512i, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256,
    _mm256_blend_epi16, _mm256_blendv_ps, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_cmpgt_epi32, _mm256_cvtps_epi32, _mm256_div_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_max_ps, _mm256_min_epu32,
    _mm256_min_ps, _mm256_mul_ps, _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setr_epi32, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_cvtps_epi32, _mm512_div_ps, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_epi16,
    _mm512_mask_blend_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_max_ps,
    _mm512_min_epu32, _mm512_min_ps, _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_roundscale_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_srli_epi32, _mm512_storeu_ps,
    _mm512_storeu_si512, _mm512_sub_ps,
};

use super::{LANES, Simd};
use crate::Isa;

/// A NaN, larger than any number when both are taken as bits without a sign.
const QUIET: i32 = 0x7fc0_0000;

/// AVX2 and FMA: the lanes lie in two registers, 0..8 and 8..16.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

type Two = (__m256, __m256);

/// All bits set in the lanes below `n`.
#[inline(always)]
unsafe fn mask2(n: usize) -> (__m256i, __m256i) {
    unsafe {
        let n = _mm256_set1_epi32(i32::try_from(n).unwrap_or(16));
        (
            _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            _mm256_cmpgt_epi32(n, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)),
        )
    }
}

impl Simd for Avx2 {
    const ISA: Isa = Isa::Avx2;
    type F = Two;
    type P = (__m256i, __m256i);

    #[inline(always)]
    unsafe fn splat(x: f32) -> Two {
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Two {
        unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Two {
        unsafe {
            let (low, high) = mask2(n);
            (
                _mm256_maskload_ps(from, low),
                _mm256_maskload_ps(from.wrapping_add(8), high),
            )
        }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Two) {
        unsafe {
            _mm256_storeu_ps(to, v.0);
            _mm256_storeu_ps(to.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, n: usize, v: Two) {
        unsafe {
            let (low, high) = mask2(n);
            _mm256_maskstore_ps(to, low, v.0);
            _mm256_maskstore_ps(to.wrapping_add(8), high, v.1);
        }
    }
    #[inline(always)]
    unsafe fn add(a: Two, b: Two) -> Two {
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn sub(a: Two, b: Two) -> Two {
        unsafe { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn mul(a: Two, b: Two) -> Two {
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn div(a: Two, b: Two) -> Two {
        unsafe { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn fma(a: Two, b: Two, c: Two) -> Two {
        unsafe {
            (
                _mm256_fmadd_ps(a.0, b.0, c.0),
                _mm256_fmadd_ps(a.1, b.1, c.1),
            )
        }
    }
    #[inline(always)]
    unsafe fn max(a: Two, b: Two) -> Two {
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn min(a: Two, b: Two) -> Two {
        unsafe { (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn round(a: Two) -> Two {
        unsafe { (_mm256_round_ps::<8>(a.0), _mm256_round_ps::<8>(a.1)) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(n: Two) -> Two {
        unsafe {
            let power = |n| {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            };
            (power(n.0), power(n.1))
        }
    }
    #[inline(always)]
    unsafe fn power(t: Two) -> Two {
        unsafe {
            let power = |t| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(t)));
            (power(t.0), power(t.1))
        }
    }
    #[inline(always)]
    unsafe fn first(n: usize, x: Two, y: Two) -> Two {
        unsafe {
            let (low, high) = mask2(n);
            (
                _mm256_blendv_ps(y.0, x.0, _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(y.1, x.1, _mm256_castsi256_ps(high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn to_array(v: Two) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes
    }
    #[inline(always)]
    unsafe fn splat_pair(pair: u32) -> Self::P {
        unsafe {
            let pair = _mm256_set1_epi32(pair.cast_signed());
            (pair, pair)
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u32) -> Self::P {
        unsafe {
            (
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(8).cast()),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_pairs(to: *mut u32, pairs: Self::P) {
        unsafe {
            _mm256_storeu_si256(to.cast(), pairs.0);
            _mm256_storeu_si256(to.add(8).cast(), pairs.1);
        }
    }
    #[inline(always)]
    unsafe fn round_pairs(even: Two, odd: Two) -> Self::P {
        unsafe {
            let round = |x| {
                let bits = _mm256_min_epu32(_mm256_castps_si256(x), _mm256_set1_epi32(QUIET));
                let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let half = _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff));
                _mm256_add_epi32(bits, half)
            };
            let pair = |even, odd| {
                let even = _mm256_srli_epi32::<16>(round(even));
                _mm256_blend_epi16::<0b1010_1010>(even, round(odd))
            };
            (pair(even.0, odd.0), pair(even.1, odd.1))
        }
    }
    #[inline(always)]
    unsafe fn mask_pairs(pairs: Self::P, mask: u32) -> Self::P {
        unsafe {
            let mask = _mm256_set1_epi32(mask.cast_signed());
            (
                _mm256_and_si256(pairs.0, mask),
                _mm256_and_si256(pairs.1, mask),
            )
        }
    }
    #[inline(always)]
    unsafe fn even(pairs: Self::P) -> Two {
        unsafe {
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs.0)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs.1)),
            )
        }
    }
    #[inline(always)]
    unsafe fn odd(pairs: Self::P) -> Two {
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            (
                _mm256_castsi256_ps(_mm256_and_si256(pairs.0, high)),
                _mm256_castsi256_ps(_mm256_and_si256(pairs.1, high)),
            )
        }
    }
    #[inline(always)]
    unsafe fn dot_pairs(acc: Two, a: Self::P, b: Self::P) -> Two {
        unsafe {
            let acc = Self::fma(Self::odd(a), Self::odd(b), acc);
            Self::fma(Self::even(a), Self::even(b), acc)
        }
    }
}

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// AVX-512 with the bf16 dot product.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16;

#[inline(always)]
fn mask16(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1 << n) - 1 }
}

#[inline(always)]
unsafe fn dot_by_fma(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    unsafe {
        let acc = _mm512_fmadd_ps(Avx512::odd(a), Avx512::odd(b), acc);
        _mm512_fmadd_ps(Avx512::even(a), Avx512::even(b), acc)
    }
}

#[inline(always)]
unsafe fn dot_by_bf16(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: all three are 512 bits of anything.
    unsafe {
        let (a, b) = (
            std::mem::transmute::<__m512i, __m512bh>(a),
            std::mem::transmute::<__m512i, __m512bh>(b),
        );
        _mm512_dpbf16_ps(acc, a, b)
    }
}

#[inline(always)]
unsafe fn round_by_bits(even: __m512, odd: __m512) -> __m512i {
    unsafe {
        let round = |x| {
            let bits = _mm512_min_epu32(_mm512_castps_si512(x), _mm512_set1_epi32(QUIET));
            let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let half = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
            _mm512_add_epi32(bits, half)
        };
        let even = _mm512_srli_epi32::<16>(round(even));
        _mm512_mask_blend_epi16(0xaaaa_aaaa, even, round(odd))
    }
}

/// Where the halves of 16 pairs come from: the even ones lie before the odd ones.
const IN_TURN: [u16; 32] = {
    let mut order = [0; 32];
    let mut pair = 0;
    while pair < 16 {
        order[2 * pair as usize] = pair;
        order[2 * pair as usize + 1] = pair + 16;
        pair += 1;
    }
    order
};

#[inline(always)]
unsafe fn round_by_bf16(even: __m512, odd: __m512) -> __m512i {
    // SAFETY: 512 bits of anything.
    unsafe {
        let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(odd, even));
        _mm512_permutexvar_epi16(_mm512_loadu_si512(IN_TURN.as_ptr().cast()), halves)
    }
}

macro_rules! avx512 {
    ($name:ident, $isa:expr, $dot:ident, $round:ident) => {
        impl Simd for $name {
            const ISA: Isa = $isa;
            type F = __m512;
            type P = __m512i;

            #[inline(always)]
            unsafe fn splat(x: f32) -> __m512 {
                unsafe { _mm512_set1_ps(x) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m512 {
                unsafe { _mm512_loadu_ps(from) }
            }
            #[inline(always)]
            unsafe fn load_part(from: *const f32, n: usize) -> __m512 {
                unsafe { _mm512_maskz_loadu_ps(mask16(n), from) }
            }
            #[inline(always)]
            unsafe fn store(to: *mut f32, v: __m512) {
                unsafe { _mm512_storeu_ps(to, v) }
            }
            #[inline(always)]
            unsafe fn store_part(to: *mut f32, n: usize, v: __m512) {
                unsafe { _mm512_mask_storeu_ps(to, mask16(n), v) }
            }
            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_sub_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_mul_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn div(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_div_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn max(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_max_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn min(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_min_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn round(a: __m512) -> __m512 {
                unsafe { _mm512_roundscale_ps::<8>(a) }
            }
            #[inline(always)]
            unsafe fn exp2_whole(n: __m512) -> __m512 {
                unsafe {
                    let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
                }
            }
            #[inline(always)]
            unsafe fn power(t: __m512) -> __m512 {
                unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(t))) }
            }
            #[inline(always)]
            unsafe fn first(n: usize, x: __m512, y: __m512) -> __m512 {
                unsafe { _mm512_mask_blend_ps(mask16(n), y, x) }
            }
            #[inline(always)]
            unsafe fn to_array(v: __m512) -> [f32; LANES] {
                let mut lanes = [0.0; LANES];
                unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), v) };
                lanes
            }
            #[inline(always)]
            unsafe fn splat_pair(pair: u32) -> __m512i {
                unsafe { _mm512_set1_epi32(pair.cast_signed()) }
            }
            #[inline(always)]
            unsafe fn load_pairs(from: *const u32) -> __m512i {
                unsafe { _mm512_loadu_si512(from.cast()) }
            }
            #[inline(always)]
            unsafe fn store_pairs(to: *mut u32, pairs: __m512i) {
                unsafe { _mm512_storeu_si512(to.cast(), pairs) }
            }
            #[inline(always)]
            unsafe fn round_pairs(even: __m512, odd: __m512) -> __m512i {
                unsafe { $round(even, odd) }
            }
            #[inline(always)]
            unsafe fn mask_pairs(pairs: __m512i, mask: u32) -> __m512i {
                unsafe { _mm512_and_si512(pairs, _mm512_set1_epi32(mask.cast_signed())) }
            }
            #[inline(always)]
            unsafe fn even(pairs: __m512i) -> __m512 {
                unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)) }
            }
            #[inline(always)]
            unsafe fn odd(pairs: __m512i) -> __m512 {
                unsafe {
                    let high = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
                    _mm512_castsi512_ps(_mm512_and_si512(pairs, high))
                }
            }
            #[inline(always)]
            unsafe fn dot_pairs(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
                unsafe { $dot(acc, a, b) }
            }
        }
    };
}

avx512!(Avx512, Isa::Avx512, dot_by_fma, round_by_bits);
avx512!(Avx512Bf16, Isa::Avx512Bf16, dot_by_bf16, round_by_bf16);
