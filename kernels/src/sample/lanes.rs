//! What the sampler needs of the sixteen lanes beyond [`Simd`]: whole numbers, comparisons, and packing what passes.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::vector::{LANES, Portable, Simd};

#[cfg(target_arch = "x86_64")]
mod x86;

/// The operations. `U` holds 16 u32; a set of lanes is a u16, lane 0 the lowest bit.
///
/// # Safety
/// As for [`Simd`].
pub(crate) trait Lanes: Simd {
    /// 16 u32.
    type U: Copy;

    unsafe fn splat_u(x: u32) -> Self::U;
    unsafe fn load_u(from: *const u32) -> Self::U;
    unsafe fn store_u(to: *mut u32, v: Self::U);
    unsafe fn add_u(a: Self::U, b: Self::U) -> Self::U;
    unsafe fn xor_u(a: Self::U, b: Self::U) -> Self::U;
    /// Upper and lower half of the products.
    unsafe fn mul_wide(a: Self::U, b: Self::U) -> (Self::U, Self::U);
    unsafe fn max_u(a: Self::U, b: Self::U) -> Self::U;
    /// Lanes where `a >= b`.
    unsafe fn ge_u(a: Self::U, b: Self::U) -> u16;
    /// `out[k]` holds in lanes `4L..4L + 4` what `words[0..4]` hold in lane `4L + k`.
    unsafe fn transpose(words: [Self::U; 4]) -> [Self::U; 4];
    /// Writes the lanes of the set one after another. All 16 elements from `to` on may be written.
    unsafe fn compress(to: *mut u32, set: u16, v: Self::U);

    /// Lanes where `a >= b`; none where there is a NaN.
    unsafe fn ge(a: Self::F, b: Self::F) -> u16;
    /// `a` in the lanes of the set, `b` in the others.
    unsafe fn select(set: u16, a: Self::F, b: Self::F) -> Self::F;
    unsafe fn to_bits(v: Self::F) -> Self::U;
    unsafe fn from_bits(v: Self::U) -> Self::F;
    /// To the nearest whole number, halves to even; for numbers in 0..2^31.
    unsafe fn to_whole(v: Self::F) -> Self::U;
    /// The upper 23 bits `n` of each word as `(n + 0.5) * 2^-23`, exact.
    unsafe fn uniform(words: Self::U) -> Self::F;
    /// `m` in `[sqrt 1/2, sqrt 2)` and whole `e` with `x = m * 2^e`; for normal positive numbers.
    unsafe fn split(x: Self::F) -> (Self::F, Self::F);
}

/// The bits of the smallest float32 not below the root of one half.
pub(super) const ROOT_HALF: u32 = 0x3f35_04f3;
pub(super) const EXPONENT_AND_SIGN: u32 = 0xff80_0000;
pub(super) const UNIFORM_STEP: f32 = 1.0 / 8_388_608.0;

/// 16 elements from `at` on, or as many as there are; the rest is minus infinity.
///
/// # Safety
/// The machine has the instruction set, and `at` is within the slice.
#[inline(always)]
pub(crate) unsafe fn load_row<S: Lanes>(row: &[f32], at: usize) -> S::F {
    let n = row.len() - at;
    // SAFETY: no more is read than there is; the caller vouches for the rest.
    unsafe {
        if n >= LANES {
            S::load(row.as_ptr().add(at))
        } else {
            let part = S::load_part(row.as_ptr().add(at), n);
            S::first(n, part, S::splat(f32::NEG_INFINITY))
        }
    }
}

/// The lowest `n` lanes (at most 16).
#[inline(always)]
pub(crate) fn lowest(n: usize) -> u16 {
    if n >= LANES { u16::MAX } else { (1 << n) - 1 }
}

type U = [u32; LANES];
type F = [f32; LANES];

#[inline(always)]
fn set_of(lane: impl Fn(usize) -> bool) -> u16 {
    (0..LANES).fold(0, |set, i| set | (u16::from(lane(i)) << i))
}

/// A call of its own: inlined behind what makes the words, the optimiser (LLVM 22, baseline x86-64) swaps lanes wrongly.
#[inline(never)]
fn transposed(words: &[U; 4]) -> [U; 4] {
    std::array::from_fn(|k| std::array::from_fn(|i| words[i % 4][i / 4 * 4 + k]))
}

impl Lanes for Portable {
    type U = U;

    #[inline(always)]
    unsafe fn splat_u(x: u32) -> U {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_u(from: *const u32) -> U {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { from.cast::<U>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_u(to: *mut u32, v: U) {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { to.cast::<U>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add_u(a: U, b: U) -> U {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn xor_u(a: U, b: U) -> U {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    unsafe fn mul_wide(a: U, b: U) -> (U, U) {
        let wide: [u64; LANES] = std::array::from_fn(|i| u64::from(a[i]) * u64::from(b[i]));
        (
            wide.map(|product| (product >> 32) as u32),
            wide.map(|product| product as u32),
        )
    }
    #[inline(always)]
    unsafe fn max_u(a: U, b: U) -> U {
        std::array::from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    unsafe fn ge_u(a: U, b: U) -> u16 {
        set_of(|i| a[i] >= b[i])
    }
    #[inline(always)]
    unsafe fn transpose(words: [U; 4]) -> [U; 4] {
        transposed(&words)
    }
    #[inline(always)]
    unsafe fn compress(to: *mut u32, set: u16, v: U) {
        let mut next = 0;
        for (i, lane) in v.into_iter().enumerate() {
            if set & (1 << i) != 0 {
                // SAFETY: at most 16 are written, for which the caller vouches.
                unsafe { to.add(next).write(lane) };
                next += 1;
            }
        }
    }
    #[inline(always)]
    unsafe fn ge(a: F, b: F) -> u16 {
        set_of(|i| a[i] >= b[i])
    }
    #[inline(always)]
    unsafe fn select(set: u16, a: F, b: F) -> F {
        std::array::from_fn(|i| if set & (1 << i) != 0 { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn to_bits(v: F) -> U {
        v.map(f32::to_bits)
    }
    #[inline(always)]
    unsafe fn from_bits(v: U) -> F {
        v.map(f32::from_bits)
    }
    #[inline(always)]
    unsafe fn to_whole(v: F) -> U {
        v.map(|x| x.round_ties_even() as u32)
    }
    #[inline(always)]
    unsafe fn uniform(words: U) -> F {
        words.map(|word| ((word >> 9) as f32 + 0.5) * UNIFORM_STEP)
    }
    #[inline(always)]
    unsafe fn split(x: F) -> (F, F) {
        let above = x.map(|x| x.to_bits().wrapping_sub(ROOT_HALF));
        (
            std::array::from_fn(|i| {
                f32::from_bits(x[i].to_bits().wrapping_sub(above[i] & EXPONENT_AND_SIGN))
            }),
            above.map(|above| (above.cast_signed() >> 23) as f32),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::vector::per_isa;

    /// What the operations give for one set of inputs.
    #[derive(Debug, Clone, PartialEq)]
    struct Results {
        products: [U; 2],
        largest: U,
        sets: [u16; 2],
        transposed: [U; 4],
        packed: Vec<u32>,
        selected: U,
        uniform: U,
    }

    per_isa! {
        fn results = results_body(words: &[U; 4], a: &F, b: &F) -> Results;
    }

    #[inline(always)]
    unsafe fn results_body<S: Lanes>(words: &[U; 4], a: &F, b: &F) -> Results {
        // SAFETY: all arrays hold 16 elements.
        unsafe {
            let stored = |v: S::U| {
                let mut out = [0; LANES];
                S::store_u(out.as_mut_ptr(), v);
                out
            };
            let words: [S::U; 4] = std::array::from_fn(|i| S::load_u(words[i].as_ptr()));
            let [a, b] = [a, b].map(|x| S::load(x.as_ptr()));
            let (high, low) = S::mul_wide(words[0], words[1]);
            let sets = [S::ge_u(words[0], words[1]), S::ge(a, b)];
            let mut packed = vec![0; LANES];
            S::compress(packed.as_mut_ptr(), sets[0], words[2]);
            packed.truncate(sets[0].count_ones() as usize);
            Results {
                products: [stored(high), stored(low)],
                largest: stored(S::max_u(words[0], words[1])),
                sets,
                transposed: S::transpose(words).map(stored),
                packed,
                selected: stored(S::to_bits(S::select(sets[1], a, b))),
                uniform: stored(S::to_bits(S::uniform(words[0]))),
            }
        }
    }

    /// The same by plain loops.
    fn expected(words: &[U; 4], a: &F, b: &F) -> Results {
        let lanes = 0..LANES;
        let product = |i: usize| u64::from(words[0][i]) * u64::from(words[1][i]);
        let set = |passes: &dyn Fn(usize) -> bool| {
            let mut set = 0;
            for i in 0..LANES {
                if std::hint::black_box(passes(i)) {
                    set |= 1 << i;
                }
            }
            set
        };
        let passing = lanes.filter(|i| words[0][*i] >= words[1][*i]);
        Results {
            products: [
                std::array::from_fn(|i| (product(i) >> 32) as u32),
                std::array::from_fn(|i| product(i) as u32),
            ],
            largest: std::array::from_fn(|i| words[0][i].max(words[1][i])),
            sets: [set(&|i| words[0][i] >= words[1][i]), set(&|i| a[i] >= b[i])],
            transposed: std::array::from_fn(|k| {
                std::array::from_fn(|i| words[i % 4][i / 4 * 4 + k])
            }),
            packed: passing.map(|i| words[2][i]).collect(),
            selected: std::array::from_fn(|i| {
                let larger = if a[i] >= b[i] { a[i] } else { b[i] };
                larger.to_bits()
            }),
            uniform: std::array::from_fn(|i| {
                (((words[0][i] >> 9) as f32 + 0.5) / 8_388_608.0).to_bits()
            }),
        }
    }

    proptest::proptest! {
        #[test]
        fn every_set_does_what_the_words_say(
            words in proptest::array::uniform4(proptest::array::uniform16(proptest::num::u32::ANY)),
            a in proptest::array::uniform16(-2.0_f32..2.0),
            b in proptest::array::uniform16(-2.0_f32..2.0),
        ) {
            let wanted = expected(&words, &a, &b);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                // SAFETY: the set is available.
                let got = unsafe { results(isa, &words, &a, &b) };
                proptest::prop_assert_eq!(&got, &wanted, "{}", isa);
            }
        }
    }
}
