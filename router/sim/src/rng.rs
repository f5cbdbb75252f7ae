//! The one source of chance: `SplitMix64` (Steele, Lea, Flood 2014), so that a seed decides everything.

use std::time::Duration;

/// A generator.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator with this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..high`, or `low` if that is empty. The bias of the remainder does not matter here.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low {
            return low;
        }
        low + self.bits() % (high - low)
    }

    /// The same as u32.
    pub fn small(&mut self, low: u32, high: u32) -> u32 {
        u32::try_from(self.between(u64::from(low), u64::from(high))).unwrap_or(low)
    }

    /// True in so many of a hundred cases.
    pub const fn percent(&mut self, cases: u64) -> bool {
        self.between(0, 100) < cases
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, first: T, rest: &[T]) -> T {
        let index = usize::try_from(self.between(0, rest.len() as u64 + 1)).unwrap_or(0);
        index
            .checked_sub(1)
            .and_then(|index| rest.get(index).copied())
            .unwrap_or(first)
    }

    /// A span in milliseconds.
    pub const fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_published_numbers_for_seed_1234567() {
        let mut rng = Rng::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| rng.bits()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
