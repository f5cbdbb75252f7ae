//! Whether the machine's bf16 dot product adds in the order that the other paths keep, and whether no operand that
//! rounding lets through makes it flush a denormal.

use super::bf16;
use super::round::row_words;
use crate::Bf16Fault;
use crate::micro::{Ahead, Bf16Input, COLUMNS, NO_SUMS, Table, Words};
use crate::vector::{BF16_LEAST, from_bf16, to_bf16, to_pair};

/// Rounds of the check: each sums 32 columns.
const ROUNDS: usize = 64;
const DEPTH: usize = 128;

/// Compares a table's bf16 sums with fused multiply-adds on random numbers; the first difference, if any.
///
/// # Safety
/// The machine has the table's instructions.
pub(crate) unsafe fn bf16_fault(table: &Table) -> Option<Bf16Fault> {
    let mut state = 0x1234_5678_9abc_def0;
    (0..ROUNDS).find_map(|round| {
        let x: Vec<f32> = (0..DEPTH).map(|_| operand(round, &mut state)).collect();
        let weights: Vec<f32> = (0..DEPTH * COLUMNS)
            .map(|_| operand(round, &mut state))
            .collect();
        let expected: Vec<f32> = weights.chunks(DEPTH).map(|w| sum_by_fma(&x, w)).collect();
        // SAFETY: the caller vouches for the instructions.
        let actual = unsafe { sum_by_table(table, &x, &weights) };
        let differs = |(actual, expected): (&f32, &f32)| {
            (actual.to_bits() != expected.to_bits()).then_some(Bf16Fault {
                round,
                actual: actual.to_bits(),
                expected: expected.to_bits(),
            })
        };
        actual.iter().zip(&expected).find_map(differs)
    })
}

/// Random numbers: in even rounds of ordinary size, in odd ones around the least that is not zero.
fn operand(round: usize, state: &mut u64) -> f32 {
    // Steele, Lea, Flood: SplitMix.
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    #[allow(clippy::cast_possible_truncation, reason = "it is cut to 32 bits")]
    let (sign_and_fraction, spread) = ((z >> 32) as u32 & 0x807f_ffff, (z as u32 >> 8) % 12);
    let exponent = if round.is_multiple_of(2) {
        121 + spread
    } else {
        (BF16_LEAST.to_bits() >> 23) - 2 + spread
    };
    f32::from_bits(sign_and_fraction | (exponent << 23))
}

/// The order of all paths: pair by pair, the odd element first.
fn sum_by_fma(x: &[f32], weights: &[f32]) -> f32 {
    let round = |value: f32| from_bf16(to_bf16(value));
    let pairs = x.chunks_exact(2).zip(weights.chunks_exact(2));
    pairs.fold(0.0, |sum, (x, w)| {
        let sum = round(x[1]).mul_add(round(w[1]), sum);
        round(x[0]).mul_add(round(w[0]), sum)
    })
}

/// # Safety
/// The machine has the table's instructions.
unsafe fn sum_by_table(table: &Table, x: &[f32], weights: &[f32]) -> [f32; COLUMNS] {
    let mut block = [Words([0; COLUMNS]); DEPTH / 2];
    bf16::pack_block(weights, DEPTH, &mut block);
    let words: Vec<u32> = match table.bf16_input {
        Bf16Input::Pairs => x.chunks_exact(2).map(|x| to_pair(x[0], x[1])).collect(),
        Bf16Input::Widened => x.iter().map(|x| u32::from(to_bf16(*x)) << 16).collect(),
    };
    let mut sums = NO_SUMS;
    let ahead = Ahead::nothing(&block);
    // SAFETY: the caller vouches for the instructions.
    unsafe { table.bf16[0](&words, row_words(DEPTH), &block, ahead, &mut sums) };
    sums[0].0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::micro::table;

    #[test]
    fn the_paths_of_this_machine_pass() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            // SAFETY: the machine has it.
            assert_eq!(unsafe { bf16_fault(table(isa)) }, None, "{isa}");
        }
    }

    #[test]
    fn another_order_is_found() {
        unsafe fn even_first(
            x: &[u32],
            _: usize,
            block: &[Words],
            _: Ahead,
            sums: &mut crate::micro::TileSums,
        ) {
            for (step, words) in block.iter().enumerate() {
                for (sum, word) in sums[0].0.iter_mut().zip(words.0) {
                    let product = |sum: f32, shift: u32| {
                        let half = |word: u32| f32::from_bits((word << shift) & 0xffff_0000);
                        half(x[step]).mul_add(half(word), sum)
                    };
                    *sum = product(product(*sum, 16), 0);
                }
            }
        }
        let wrong = Table {
            f32: &[],
            bf16: &[even_first],
            bf16_input: Bf16Input::Pairs,
        };
        // SAFETY: it needs no instructions.
        let fault = unsafe { bf16_fault(&wrong) }.unwrap();
        assert!(fault.actual != fault.expected);
    }
}
