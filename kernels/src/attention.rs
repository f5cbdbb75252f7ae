//! Attention over the paged cache: norm and rotation of queries and keys, the write of keys and values, and the sums.
//!
//! The order of operations of a query depends on its position alone. Its keys come in splits of 256 at absolute positions;
//! a split has a softmax of its own, whose weights are rounded if the values are bf16; splits are merged in ascending order
//! by their largest scores (Milakov and Gimelshein 2018). A tile of
//! query rows walks the keys together, and where that leaves threads idle, the splits of a tile are worked on apart and
//! merged afterwards: the same operations in the same order, so the same bits.

mod door;
mod inner;
mod merge;
mod plan;
mod prepare;
mod softmax;
mod tile;
mod walk;

use crate::shared::Shared;
use crate::{KernelError, Kernels, KvCache, Pool, RopeTable};
use plan::Plan;
pub use plan::attend_scratch_len;
use tile::Walk;

/// Keys of a split.
pub(crate) const SPLIT: usize = 256;

/// Shape and scale of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttnSpec {
    /// Query heads.
    pub num_heads: usize,
    /// Key-value heads, a divisor of the query heads.
    pub num_kv_heads: usize,
    /// Elements of a head: even, at most 256.
    pub head_dim: usize,
    /// Multiplies the query before the dot product.
    pub scale: f32,
    /// A token sees itself and the `window - 1` before it; none: all before it.
    pub window: Option<usize>,
    /// A score s becomes `softcap * tanh(s / softcap)`.
    pub softcap: Option<f32>,
}

impl AttnSpec {
    /// Query heads that share a key-value head.
    pub(crate) const fn group(&self) -> usize {
        self.num_heads / self.num_kv_heads
    }

    /// The first key that a query sees.
    pub(crate) fn first_key(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Elements of a token's row of queries, keys and values.
    pub(crate) const fn width(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }
}

/// Root-mean-square norm of each query and key head before the rotation.
#[derive(Debug, Clone, Copy)]
pub struct QkNorm<'a> {
    /// Weight of the query heads, `[D]`.
    pub q: &'a [f32],
    /// Weight of the key heads, `[D]`.
    pub k: &'a [f32],
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Which tokens a call is about. N tokens, S sequences.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    /// Absolute position of each token, `[N]`.
    pub positions: &'a [i32],
    /// `block * 32 + offset` to which each token's key and value go, `[N]`; -1: they are not written.
    pub slot_mapping: &'a [i64],
    /// The tokens of sequence s are `seq_starts[s]..seq_starts[s + 1]`, `[S + 1]`, from 0 to N.
    pub seq_starts: &'a [i32],
    /// Tokens of each sequence's context, this call's included, `[S]`.
    pub seq_lens: &'a [i32],
    /// Block of each 32 tokens of a sequence's context, `[S, table_width]`.
    pub block_tables: &'a [i32],
    /// Entries of a sequence in the block tables.
    pub table_width: usize,
}

/// Causal attention of a layer: `qkv` `[N, (Hq + 2 Hkv) D]` to `out` `[N, Hq D]`.
///
/// Queries and keys are normalised (if asked) and rotated (if asked), keys and values of all tokens are written, and only
/// then is anything read. `qkv` holds nothing of use afterwards. `scratch` is at least as long as [`attend_scratch_len`]
/// says; what it holds does not matter.
///
/// # Errors
/// [`KernelError`] where a shape does not fit or an index points nowhere; nothing is written then.
#[allow(clippy::too_many_arguments, reason = "an operation of the model")]
pub fn attend(
    qkv: &mut [f32],
    kv: &KvCache,
    layer: usize,
    spec: &AttnSpec,
    rope: Option<&RopeTable>,
    qk_norm: Option<QkNorm<'_>>,
    batch: &BatchView<'_>,
    out: &mut [f32],
    scratch: &mut [f32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<(), KernelError> {
    door::check_spec(spec, kv, layer)?;
    door::check_inputs(spec, rope, qk_norm)?;
    door::check_batch(batch, spec, kv, rope)?;
    door::check_buffers(batch, spec, qkv, out)?;
    let tokens = batch.positions.len();
    if tokens == 0 {
        return Ok(());
    }
    let (plan, partials) = Plan::new(batch, spec, scratch, pool.threads())?;
    let access = kv.access();
    let tiles = access.layer(layer);
    let isa = kernels.isa();
    let bf16 = kv.dtype() == crate::Dtype::Bf16;
    let prepare = prepare::Prepare {
        spec,
        rope,
        qk_norm,
        batch,
        tiles,
        bf16,
    };
    let rows = Shared::new(&mut *qkv);
    let per_unit = prepare::tokens_per_unit(tokens, pool.threads());
    pool.run(tokens.div_ceil(per_unit), &|unit| {
        for token in unit * per_unit..tokens.min((unit + 1) * per_unit) {
            // SAFETY: a token's row belongs to one unit, and the door has looked at all that the row points to.
            unsafe {
                let row = rows.part(token * spec.width(), spec.width());
                prepare::row(isa, &prepare, token, row);
            }
        }
    });
    let walk = Walk {
        spec,
        batch,
        tiles,
        bf16,
        qkv,
        plan: &plan,
        threads: pool.threads(),
    };
    let rows = Shared::new(out);
    let parts = Shared::new(partials);
    pool.run(plan.units(), &|unit| {
        // SAFETY: keys and values were written by another run of the pool, which is over; units write disjoint rows of
        // `out` and of the partial results; the door has looked at all that the rows point to.
        unsafe { walk::unit(isa, &walk, unit, &rows, &parts) };
    });
    if plan.has_splits() {
        pool.run(merge::units(tokens), &|unit| {
            // SAFETY: the partial results were written by the run before; units write disjoint rows of `out`.
            unsafe { merge::unit(isa, &walk, unit, &rows, &parts) };
        });
    }
    drop(access);
    Ok(())
}
