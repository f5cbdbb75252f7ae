//! Philox4x32-10: random numbers as a pure function of a key and a counter (Salmon, Moraes, Dror and Shaw 2011).

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use super::lanes::Lanes;

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// Ten rounds over 16 counters with one key.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(crate) unsafe fn philox<S: Lanes>(key: u64, counter: [S::U; 4]) -> [S::U; 4] {
    let [mut k0, mut k1] = [key as u32, (key >> 32) as u32];
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let [m0, m1] = MULTIPLIERS.map(|multiplier| S::splat_u(multiplier));
        for _ in 0..ROUNDS {
            let (high0, low0) = S::mul_wide(c0, m0);
            let (high1, low1) = S::mul_wide(c2, m1);
            c0 = S::xor_u(S::xor_u(high1, c1), S::splat_u(k0));
            c1 = low1;
            c2 = S::xor_u(S::xor_u(high0, c3), S::splat_u(k1));
            c3 = low0;
            k0 = k0.wrapping_add(WEYL[0]);
            k1 = k1.wrapping_add(WEYL[1]);
        }
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::vector::{LANES, per_isa};

    per_isa! {
        fn words_of = words_of_body(key: u64, counters: &[[u32; LANES]; 4]) -> [[u32; LANES]; 4];
    }

    #[inline(always)]
    unsafe fn words_of_body<S: Lanes>(key: u64, counters: &[[u32; LANES]; 4]) -> [[u32; LANES]; 4] {
        let mut out = [[0; LANES]; 4];
        // SAFETY: all arrays hold 16 elements.
        unsafe {
            let words = philox::<S>(
                key,
                std::array::from_fn(|i| S::load_u(counters[i].as_ptr())),
            );
            for (to, words) in out.iter_mut().zip(words) {
                S::store_u(to.as_mut_ptr(), words);
            }
        }
        out
    }

    /// The numbers of one line: the key, the counter's and the result's words.
    fn golden() -> Vec<(u64, [u32; 4], [u32; 4])> {
        let text = include_str!("../../../tests/wire/golden_philox.json");
        let lines = text.lines().filter(|line| line.contains("key"));
        lines
            .map(|line| {
                let parts: Vec<&str> = line
                    .split(|c: char| !c.is_ascii_alphanumeric())
                    .filter(|part| !part.is_empty())
                    .collect();
                let names = [parts[0], parts[2], parts[7]];
                assert_eq!(names, ["key", "counter", "words"]);
                (
                    u64::from_str_radix(parts[1], 16).unwrap(),
                    std::array::from_fn(|i| parts[3 + i].parse().unwrap()),
                    std::array::from_fn(|i| u32::from_str_radix(parts[8 + i], 16).unwrap()),
                )
            })
            .collect()
    }

    #[test]
    fn golden_vectors_in_every_lane_and_set() {
        let golden = golden();
        assert_eq!(golden.len(), 11);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (key, counter, words) in &golden {
                for lane in 0..LANES {
                    let mut counters = [[77; LANES]; 4];
                    for (of_lanes, word) in counters.iter_mut().zip(counter) {
                        of_lanes[lane] = *word;
                    }
                    // SAFETY: the set is available.
                    let got = unsafe { words_of(isa, *key, &counters) };
                    assert_eq!(got.map(|of_lanes| of_lanes[lane]), *words, "{isa}");
                }
            }
        }
    }
}
