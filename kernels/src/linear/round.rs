//! Activations on their way into a bf16 layer: rounded, eight or sixteen at a time.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::micro::Bf16Input;
use crate::vector::{BF16_LEAST, Simd, per_isa};

/// Words of a cache line.
const LINE_WORDS: usize = 16;
/// Rows of fewer words are too short for their distance to matter.
const LONG_ROW: usize = 128;

/// Words from one row of `depth` elements to the next, at most: an odd depth is filled up with a zero.
pub(crate) const fn row_words(depth: usize) -> usize {
    spread(depth.next_multiple_of(2))
}

/// Words from one row to the next in the form that a path wants.
pub(crate) const fn row_stride(depth: usize, input: Bf16Input) -> usize {
    match input {
        Bf16Input::Widened => row_words(depth),
        Bf16Input::Pairs => spread(depth.div_ceil(2)),
    }
}

/// Long rows are an odd number of lines apart: a tile reads its rows side by side, and a distance that is a power of two
/// would have them push each other out of the cache.
const fn spread(words: usize) -> usize {
    if words < LONG_ROW {
        return words;
    }
    (words.div_ceil(LINE_WORDS) | 1) * LINE_WORDS
}

/// Fetches the lines of a row of words for writing, all at once. Another thread has read what was there before, and one line after
/// the other would be taken from it: most of the time that rounding takes.
#[inline(always)]
pub(crate) fn claim<T>(out: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in out.chunks(LINE_WORDS) {
        // SAFETY: a prefetch is a hint; it changes nothing that the program can see, and processors without it skip it.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = out;
}

per_isa! {
    // Rounds one row of activations to the front of `out`, which holds `row_stride` words.
    pub(crate) fn round_row = round_row_body(x: &[f32], out: &mut [u32], input: Bf16Input);
}

/// `to_bf16` without branches, left in the upper half of the word.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let tiny = magnitude < BF16_LEAST.to_bits();
    let nan = magnitude > 0x7f80_0000;
    let word = if tiny { bits & 0x8000_0000 } else { nearest };
    let word = if nan { bits | 0x0040_0000 } else { word };
    word & 0xffff_0000
}

/// # Safety
/// None beyond the instruction set of its caller.
#[inline(always)]
unsafe fn round_row_body<S: Simd>(x: &[f32], out: &mut [u32], input: Bf16Input) {
    claim(out);
    match input {
        Bf16Input::Widened => {
            if !x.len().is_multiple_of(2) {
                out[x.len()] = 0;
            }
            for (out, x) in out.iter_mut().zip(x) {
                *out = rounded(*x);
            }
        }
        Bf16Input::Pairs => {
            let pairs = x.chunks_exact(2);
            if let [last] = pairs.remainder() {
                out[x.len() / 2] = rounded(*last) >> 16;
            }
            for (out, pair) in out.iter_mut().zip(pairs) {
                *out = (rounded(pair[0]) >> 16) | rounded(pair[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::to_bf16;

    #[test]
    fn long_rows_are_an_odd_number_of_lines_apart() {
        for (depth, widened, pairs) in [(3, 4, 2), (576, 592, 304), (2_048, 2_064, 1_040)] {
            let strides = [Bf16Input::Widened, Bf16Input::Pairs].map(|to| row_stride(depth, to));
            assert_eq!(strides, [widened, pairs]);
            assert_eq!(row_words(depth), widened);
        }
    }

    #[test]
    fn rounding_without_branches_is_rounding() {
        let step = 65_537 / 4 + 2;
        for bits in (0..=u32::MAX).step_by(step) {
            let x = f32::from_bits(bits);
            assert_eq!(rounded(x), u32::from(to_bf16(x)) << 16, "{bits:#x}");
        }
        let least = BF16_LEAST.to_bits();
        for bits in [
            least - 1,
            least,
            least + 1,
            0x7f80_0000,
            0x7f80_0001,
            0x7fff_ffff,
            0x7f7f_ffff,
        ] {
            for bits in [bits, bits | 1 << 31] {
                let x = f32::from_bits(bits);
                assert_eq!(rounded(x), u32::from(to_bf16(x)) << 16, "{bits:#x}");
            }
        }
    }
}
