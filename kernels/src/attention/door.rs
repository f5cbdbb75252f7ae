//! What is checked before anything is written: behind this door no index points nowhere.

use super::{AttnSpec, BatchView, QkNorm};
use crate::kv::{BLOCK_SIZE, check_head_dim, check_index};
use crate::shared::{check_length, in_range, product};
use crate::{KernelError, KvCache, RopeTable};

/// The layer's shape is that of the cache.
pub(super) fn check_spec(spec: &AttnSpec, kv: &KvCache, layer: usize) -> Result<(), KernelError> {
    check_index("the layer", signed(layer), kv.layers())?;
    check_head_dim(spec.head_dim)?;
    in_range("the number of query heads", spec.num_heads)?;
    equal("the head size", kv.head_dim(), spec.head_dim)?;
    equal("the number of kv heads", kv.kv_heads(), spec.num_kv_heads)?;
    let rest = spec.num_heads % spec.num_kv_heads;
    equal("the rest of query heads over kv heads", 0, rest)?;
    if spec.window == Some(0) {
        return in_range("the window", 0);
    }
    product(spec.width(), size_of::<f32>()).map(|_| ())
}

/// The rotation and the norms are those of the head.
pub(super) fn check_inputs(
    spec: &AttnSpec,
    rope: Option<&RopeTable>,
    qk_norm: Option<QkNorm<'_>>,
) -> Result<(), KernelError> {
    if let Some(rope) = rope {
        equal(
            "the number of rotated pairs",
            spec.head_dim / 2,
            rope.pairs(),
        )?;
    }
    if let Some(norm) = qk_norm {
        check_length("the query norm", spec.head_dim, norm.q.len())?;
        check_length("the key norm", spec.head_dim, norm.k.len())?;
    }
    Ok(())
}

/// Every token, slot, position and block exists.
pub(super) fn check_batch(
    batch: &BatchView<'_>,
    spec: &AttnSpec,
    kv: &KvCache,
    rope: Option<&RopeTable>,
) -> Result<(), KernelError> {
    let tokens = batch.positions.len();
    let seqs = batch.seq_lens.len();
    check_length("slot_mapping", tokens, batch.slot_mapping.len())?;
    check_length("seq_starts", seqs + 1, batch.seq_starts.len())?;
    let entries = product(seqs, batch.table_width)?;
    check_length("block_tables", entries, batch.block_tables.len())?;
    let slots = product(kv.num_blocks(), BLOCK_SIZE)?;
    for slot in batch.slot_mapping {
        if *slot != -1 {
            check_index("a slot", *slot, slots)?;
        }
    }
    let mut first = 0;
    for seq in 0..seqs {
        let end = batch.seq_starts[seq + 1];
        equal(
            "a sequence's first token",
            first,
            index(batch.seq_starts[seq]),
        )?;
        check_index("a sequence's end", i64::from(end), tokens + 1)?;
        if index(end) < first {
            return equal("the order of sequences", first, index(end));
        }
        check_sequence(batch, seq, first..index(end), spec, kv, rope)?;
        first = index(end);
    }
    equal("the end of the last sequence", tokens, first)
}

/// A sequence's positions lie in its context and in the rotation's table, and the blocks that are read exist.
fn check_sequence(
    batch: &BatchView<'_>,
    seq: usize,
    tokens: std::ops::Range<usize>,
    spec: &AttnSpec,
    kv: &KvCache,
    rope: Option<&RopeTable>,
) -> Result<(), KernelError> {
    let context = usize::try_from(batch.seq_lens[seq]).unwrap_or(0);
    let positions = rope.map_or(context, |rope| context.min(rope.max_positions()));
    let (mut least, mut end) = (usize::MAX, 0);
    for position in &batch.positions[tokens] {
        check_index("a position", i64::from(*position), positions)?;
        least = least.min(index(*position));
        end = end.max(index(*position) + 1);
    }
    if end == 0 {
        return Ok(());
    }
    let blocks = spec.first_key(least) / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE);
    check_index(
        "the last block of a context",
        signed(blocks.end - 1),
        batch.table_width,
    )?;
    let table = &batch.block_tables[seq * batch.table_width..][blocks];
    for block in table {
        check_index("a block", i64::from(*block), kv.num_blocks())?;
    }
    Ok(())
}

pub(super) fn check_buffers(
    batch: &BatchView<'_>,
    spec: &AttnSpec,
    qkv: &[f32],
    out: &[f32],
) -> Result<(), KernelError> {
    let tokens = batch.positions.len();
    check_length("qkv", product(tokens, spec.width())?, qkv.len())?;
    let out_width = product(spec.num_heads, spec.head_dim)?;
    check_length("out", product(tokens, out_width)?, out.len())
}

fn equal(what: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if expected == actual {
        Ok(())
    } else {
        Err(KernelError::Mismatch {
            what,
            expected,
            actual,
        })
    }
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// An index that has been looked at, or is about to be: a negative one is beyond every end.
fn index(value: i32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
