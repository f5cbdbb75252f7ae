//! bf16 weights: `[N/32][K/2][32][2]`, pairs of (even k, odd k); an odd K is filled up with a zero.

use super::blocks::Blocks;
use crate::micro::{COLUMNS, Words};
use crate::vector::{from_bf16, to_pair};

/// Steps of a block: one for each pair of k.
pub(crate) const fn steps(depth: usize) -> usize {
    depth.div_ceil(2)
}

/// Rounds up to 32 rows of `weight`, each `depth` long, into a block.
pub(crate) fn pack_block(weight: &[f32], depth: usize, block: &mut [Words]) {
    for (column, row) in weight.chunks_exact(depth).enumerate() {
        for (words, pair) in block.iter_mut().zip(row.chunks(2)) {
            let odd = pair.get(1).copied().unwrap_or(0.0);
            words.0[column] = to_pair(pair[0], odd);
        }
    }
}

/// Reads one row of the weight back, widened.
pub(crate) fn unpack(blocks: &Blocks, row: usize, out: &mut [f32]) {
    for (out, words) in out.chunks_mut(2).zip(blocks.block(row / COLUMNS)) {
        let pair = words.0[row % COLUMNS];
        out[0] = from_bf16((pair & 0xffff) as u16);
        if let Some(odd) = out.get_mut(1) {
            *odd = from_bf16((pair >> 16) as u16);
        }
    }
}
