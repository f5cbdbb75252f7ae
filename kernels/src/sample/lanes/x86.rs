//! The same in registers of AVX2 and AVX-512.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each is one instruction; the trait's callers vouch for the set and for the pointers"
)]

use std::arch::x86_64::{
    __m256, __m256i, __m512, __m512i, _CMP_GE_OQ, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_blend_epi32, _mm256_blendv_ps, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cmpeq_epi32, _mm256_cvtepi32_ps, _mm256_cvtps_epi32,
    _mm256_loadu_si256, _mm256_max_epu32, _mm256_movemask_ps, _mm256_mul_epu32, _mm256_mul_ps,
    _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_slli_epi64, _mm256_srai_epi32, _mm256_srli_epi32, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_sub_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256, _mm512_add_epi32,
    _mm512_add_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask,
    _mm512_cmpge_epu32_mask, _mm512_cvtepi32_ps, _mm512_cvtps_epi32, _mm512_loadu_si512,
    _mm512_mask_blend_epi32, _mm512_mask_blend_ps, _mm512_maskz_compress_epi32, _mm512_max_epu32,
    _mm512_mul_epu32, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi64,
    _mm512_srai_epi32, _mm512_srli_epi32, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi32,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

use super::{EXPONENT_AND_SIGN, Lanes, ROOT_HALF, UNIFORM_STEP};
use crate::vector::{Avx2, Avx512, Avx512Bf16};

type Two = (__m256, __m256);
type TwoU = (__m256i, __m256i);

/// Both registers through the same instructions.
macro_rules! both {
    (|$($arg:ident),+| $body:expr) => {{
        let half = |$($arg),+| unsafe { $body };
        (half($($arg.0),+), half($($arg.1),+))
    }};
}

/// For each set of 8 lanes, which lane goes where.
const PACK: [[u32; 8]; 256] = pack();

const fn pack() -> [[u32; 8]; 256] {
    let mut table = [[0; 8]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            if set & (1 << lane) != 0 {
                table[set][next] = lane;
                next += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    table
}

#[inline(always)]
unsafe fn lanes_of(set: u16) -> Two {
    unsafe {
        let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let spread = |set: u16| {
            let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(set)), bits);
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits))
        };
        (spread(set & 0xff), spread(set >> 8))
    }
}

#[inline(always)]
unsafe fn set_of(lanes: Two) -> u16 {
    unsafe { (_mm256_movemask_ps(lanes.0) | (_mm256_movemask_ps(lanes.1) << 8)) as u16 }
}

impl Lanes for Avx2 {
    type U = TwoU;

    #[inline(always)]
    unsafe fn splat_u(x: u32) -> TwoU {
        let x = unsafe { _mm256_set1_epi32(x.cast_signed()) };
        (x, x)
    }
    #[inline(always)]
    unsafe fn load_u(from: *const u32) -> TwoU {
        unsafe {
            (
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(8).cast()),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_u(to: *mut u32, v: TwoU) {
        unsafe {
            _mm256_storeu_si256(to.cast(), v.0);
            _mm256_storeu_si256(to.add(8).cast(), v.1);
        }
    }
    #[inline(always)]
    unsafe fn add_u(a: TwoU, b: TwoU) -> TwoU {
        both!(|a, b| _mm256_add_epi32(a, b))
    }
    #[inline(always)]
    unsafe fn xor_u(a: TwoU, b: TwoU) -> TwoU {
        both!(|a, b| _mm256_xor_si256(a, b))
    }
    #[inline(always)]
    unsafe fn mul_wide(a: TwoU, b: TwoU) -> (TwoU, TwoU) {
        let even = both!(|a, b| _mm256_mul_epu32(a, b));
        let odd =
            both!(|a, b| _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b)));
        (
            both!(|even, odd| _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<32>(even), odd)),
            both!(|even, odd| _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd))),
        )
    }
    #[inline(always)]
    unsafe fn max_u(a: TwoU, b: TwoU) -> TwoU {
        both!(|a, b| _mm256_max_epu32(a, b))
    }
    #[inline(always)]
    unsafe fn ge_u(a: TwoU, b: TwoU) -> u16 {
        let lanes =
            both!(|a, b| _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a)));
        unsafe { set_of(lanes) }
    }
    #[inline(always)]
    unsafe fn transpose([a, b, c, d]: [TwoU; 4]) -> [TwoU; 4] {
        let ab_low = both!(|a, b| _mm256_unpacklo_epi32(a, b));
        let ab_high = both!(|a, b| _mm256_unpackhi_epi32(a, b));
        let cd_low = both!(|c, d| _mm256_unpacklo_epi32(c, d));
        let cd_high = both!(|c, d| _mm256_unpackhi_epi32(c, d));
        [
            both!(|ab_low, cd_low| _mm256_unpacklo_epi64(ab_low, cd_low)),
            both!(|ab_low, cd_low| _mm256_unpackhi_epi64(ab_low, cd_low)),
            both!(|ab_high, cd_high| _mm256_unpacklo_epi64(ab_high, cd_high)),
            both!(|ab_high, cd_high| _mm256_unpackhi_epi64(ab_high, cd_high)),
        ]
    }
    #[inline(always)]
    unsafe fn compress(to: *mut u32, set: u16, v: TwoU) {
        let (low, high) = (usize::from(set & 0xff), usize::from(set >> 8));
        unsafe {
            let packed = |set: usize, v| {
                _mm256_permutevar8x32_epi32(v, _mm256_loadu_si256(PACK[set].as_ptr().cast()))
            };
            _mm256_storeu_si256(to.cast(), packed(low, v.0));
            let to = to.add(low.count_ones() as usize);
            _mm256_storeu_si256(to.cast(), packed(high, v.1));
        }
    }
    #[inline(always)]
    unsafe fn ge(a: Two, b: Two) -> u16 {
        let lanes = both!(|a, b| _mm256_cmp_ps::<_CMP_GE_OQ>(a, b));
        unsafe { set_of(lanes) }
    }
    #[inline(always)]
    unsafe fn select(set: u16, a: Two, b: Two) -> Two {
        let lanes = unsafe { lanes_of(set) };
        both!(|a, b, lanes| _mm256_blendv_ps(b, a, lanes))
    }
    #[inline(always)]
    unsafe fn to_bits(v: Two) -> TwoU {
        both!(|v| _mm256_castps_si256(v))
    }
    #[inline(always)]
    unsafe fn from_bits(v: TwoU) -> Two {
        both!(|v| _mm256_castsi256_ps(v))
    }
    #[inline(always)]
    unsafe fn to_whole(v: Two) -> TwoU {
        both!(|v| _mm256_cvtps_epi32(v))
    }
    #[inline(always)]
    unsafe fn uniform(words: TwoU) -> Two {
        both!(|words| {
            let n = _mm256_cvtepi32_ps(_mm256_srli_epi32::<9>(words));
            _mm256_mul_ps(
                _mm256_add_ps(n, _mm256_set1_ps(0.5)),
                _mm256_set1_ps(UNIFORM_STEP),
            )
        })
    }
    #[inline(always)]
    unsafe fn split(x: Two) -> (Two, Two) {
        let bits = both!(|x| _mm256_castps_si256(x));
        let above =
            both!(|bits| _mm256_sub_epi32(bits, _mm256_set1_epi32(ROOT_HALF.cast_signed())));
        (
            both!(|bits, above| {
                let power =
                    _mm256_and_si256(above, _mm256_set1_epi32(EXPONENT_AND_SIGN.cast_signed()));
                _mm256_castsi256_ps(_mm256_sub_epi32(bits, power))
            }),
            both!(|above| _mm256_cvtepi32_ps(_mm256_srai_epi32::<23>(above))),
        )
    }
}

/// Every second lane, the odd ones.
const ODD: u16 = 0xaaaa;

macro_rules! avx512 {
    ($name:ident) => {
        impl Lanes for $name {
            type U = __m512i;

            #[inline(always)]
            unsafe fn splat_u(x: u32) -> __m512i {
                unsafe { _mm512_set1_epi32(x.cast_signed()) }
            }
            #[inline(always)]
            unsafe fn load_u(from: *const u32) -> __m512i {
                unsafe { _mm512_loadu_si512(from.cast()) }
            }
            #[inline(always)]
            unsafe fn store_u(to: *mut u32, v: __m512i) {
                unsafe { _mm512_storeu_si512(to.cast(), v) }
            }
            #[inline(always)]
            unsafe fn add_u(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_add_epi32(a, b) }
            }
            #[inline(always)]
            unsafe fn xor_u(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_xor_si512(a, b) }
            }
            #[inline(always)]
            unsafe fn mul_wide(a: __m512i, b: __m512i) -> (__m512i, __m512i) {
                unsafe {
                    let even = _mm512_mul_epu32(a, b);
                    let odd =
                        _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
                    (
                        _mm512_mask_blend_epi32(ODD, _mm512_srli_epi64::<32>(even), odd),
                        _mm512_mask_blend_epi32(ODD, even, _mm512_slli_epi64::<32>(odd)),
                    )
                }
            }
            #[inline(always)]
            unsafe fn max_u(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_max_epu32(a, b) }
            }
            #[inline(always)]
            unsafe fn ge_u(a: __m512i, b: __m512i) -> u16 {
                unsafe { _mm512_cmpge_epu32_mask(a, b) }
            }
            #[inline(always)]
            unsafe fn transpose([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
                unsafe {
                    let (ab_low, ab_high) =
                        (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
                    let (cd_low, cd_high) =
                        (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
                    [
                        _mm512_unpacklo_epi64(ab_low, cd_low),
                        _mm512_unpackhi_epi64(ab_low, cd_low),
                        _mm512_unpacklo_epi64(ab_high, cd_high),
                        _mm512_unpackhi_epi64(ab_high, cd_high),
                    ]
                }
            }
            #[inline(always)]
            unsafe fn compress(to: *mut u32, set: u16, v: __m512i) {
                // Through a register: the form that writes to memory is slow on some machines.
                unsafe { _mm512_storeu_si512(to.cast(), _mm512_maskz_compress_epi32(set, v)) }
            }
            #[inline(always)]
            unsafe fn ge(a: __m512, b: __m512) -> u16 {
                unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) }
            }
            #[inline(always)]
            unsafe fn select(set: u16, a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_mask_blend_ps(set, b, a) }
            }
            #[inline(always)]
            unsafe fn to_bits(v: __m512) -> __m512i {
                unsafe { _mm512_castps_si512(v) }
            }
            #[inline(always)]
            unsafe fn from_bits(v: __m512i) -> __m512 {
                unsafe { _mm512_castsi512_ps(v) }
            }
            #[inline(always)]
            unsafe fn to_whole(v: __m512) -> __m512i {
                unsafe { _mm512_cvtps_epi32(v) }
            }
            #[inline(always)]
            unsafe fn uniform(words: __m512i) -> __m512 {
                unsafe {
                    let n = _mm512_cvtepi32_ps(_mm512_srli_epi32::<9>(words));
                    _mm512_mul_ps(
                        _mm512_add_ps(n, _mm512_set1_ps(0.5)),
                        _mm512_set1_ps(UNIFORM_STEP),
                    )
                }
            }
            #[inline(always)]
            unsafe fn split(x: __m512) -> (__m512, __m512) {
                unsafe {
                    let bits = _mm512_castps_si512(x);
                    let above = _mm512_sub_epi32(bits, _mm512_set1_epi32(ROOT_HALF.cast_signed()));
                    let power =
                        _mm512_and_si512(above, _mm512_set1_epi32(EXPONENT_AND_SIGN.cast_signed()));
                    (
                        _mm512_castsi512_ps(_mm512_sub_epi32(bits, power)),
                        _mm512_cvtepi32_ps(_mm512_srai_epi32::<23>(above)),
                    )
                }
            }
        }
    };
}

avx512!(Avx512);
avx512!(Avx512Bf16);
