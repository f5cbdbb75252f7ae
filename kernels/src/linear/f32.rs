//! fp32 weights: `[N/32][K][32]`.

use super::blocks::Blocks;
use crate::micro::{COLUMNS, Words};

/// Steps of a block: one for each k.
pub(crate) const fn steps(depth: usize) -> usize {
    depth
}

/// Writes up to 32 rows of `weight`, each `depth` long, into a block.
pub(crate) fn pack_block(weight: &[f32], depth: usize, block: &mut [Words]) {
    for (column, row) in weight.chunks_exact(depth).enumerate() {
        for (words, value) in block.iter_mut().zip(row) {
            words.0[column] = value.to_bits();
        }
    }
}

/// Reads one row of the weight back.
pub(crate) fn unpack(blocks: &Blocks, row: usize, out: &mut [f32]) {
    for (out, words) in out.iter_mut().zip(blocks.block(row / COLUMNS)) {
        *out = f32::from_bits(words.0[row % COLUMNS]);
    }
}
