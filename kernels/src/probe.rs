//! How fast this machine reads memory now: the bound that figures are compared with.
//!
//! Memory speed of shared machines moves by a third between runs, so a figure and its bound are measured in the same
//! round, with the same threads, over a buffer of the same size in the same kind of memory as the weights.

use crate::linear::blocks::Blocks;
use crate::micro::COLUMNS;
use crate::{KernelError, Pool};

/// Bytes of a unit of work.
const UNIT_BYTES: usize = 256 * 1024;
/// Words that are added side by side, so that no addition waits for another.
const WIDTH: usize = 32;
/// How far ahead words are asked for.
const AHEAD: usize = 256;

/// A buffer to be read again and again.
pub struct ReadProbe {
    blocks: Blocks,
}

impl std::fmt::Debug for ReadProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadProbe")
            .field("bytes", &self.bytes())
            .finish()
    }
}

impl ReadProbe {
    /// A buffer of about `bytes` bytes.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`], or [`KernelError::OutOfRange`] if that is no size.
    pub fn new(bytes: usize) -> Result<Self, KernelError> {
        let step = Blocks::zeroed(COLUMNS, 1)?.bytes();
        let blocks = Blocks::zeroed(COLUMNS, bytes.div_ceil(step).max(1))?;
        Ok(Self { blocks })
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    /// Reads all of it once, on the pool's threads.
    pub fn read(&self, pool: &Pool) {
        let bytes = self.blocks.as_bytes();
        pool.run(bytes.len().div_ceil(UNIT_BYTES), &|unit| {
            let end = bytes.len().min((unit + 1) * UNIT_BYTES);
            std::hint::black_box(read(&bytes[unit * UNIT_BYTES..end]));
        });
    }
}

fn read(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: just looked.
        return unsafe { sum_words_avx2(bytes) };
    }
    sum_words(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_words_avx2(bytes: &[u8]) -> u64 {
    sum_words(bytes)
}

/// Adds up all words, so that each is read once.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "compiled for an instruction set only where it is inlined"
)]
fn sum_words(bytes: &[u8]) -> u64 {
    // SAFETY: any bytes are numbers.
    let (_, words, _) = unsafe { bytes.align_to::<[u64; WIDTH]>() };
    let mut sums = [0_u64; WIDTH];
    for words in words {
        prefetch(words.as_ptr());
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

fn prefetch(words: *const u64) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..WIDTH / 8 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint and takes any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(words.wrapping_add(AHEAD + 8 * line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_as_large_as_asked_and_reads() {
        #[repr(align(8))]
        struct Aligned([u8; 512]);
        let probe = ReadProbe::new(3_000_000).unwrap();
        assert!((3_000_000..3_001_000).contains(&probe.bytes()));
        probe.read(&Pool::new(2).unwrap());
        assert_eq!(
            sum_words(&Aligned([1; 512]).0),
            0x0101_0101_0101_0101_u64.wrapping_mul(64)
        );
    }
}
