//! Activations on their way into a bf16 layer: rounded, eight or sixteen at a time.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::micro::Bf16Input;
use crate::vector::{BF16_LEAST, Simd, per_isa};

/// Words that a row of `depth` elements takes, at most: an odd depth is filled up with a zero.
pub(crate) const fn row_words(depth: usize) -> usize {
    depth.next_multiple_of(2)
}

per_isa! {
    // Rounds one row of activations. `out` holds `depth` rounded up to even words, of which pairs take the first half.
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
    match input {
        Bf16Input::Widened => {
            let (whole, rest) = out.split_at_mut(x.len());
            for (out, x) in whole.iter_mut().zip(x) {
                *out = rounded(*x);
            }
            rest.fill(0);
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
