//! How the work of a call is cut: tiles of query rows, and where these are too few for the threads, splits of the keys.

use super::{AttnSpec, BatchView, SPLIT};
use crate::KernelError;
use crate::shared::{product, too_large};
use crate::vector::LANES;

/// Query rows of a tile, at most; a row is one query head of one token.
pub(super) const TILE_ROWS: usize = 48;
/// Accumulators of a tile, at most.
pub(super) const TILE_FLOATS: usize = 12 * 256;
/// Rows of a tile are taken in steps that this is a multiple of.
const ROWS_STEP: usize = 12;
/// Columns of a head are taken in steps of this.
pub(super) const COLUMNS: usize = 2 * LANES;
/// A tile is split where it is more than the work of a thread divided by this.
const TILES_PER_THREAD: usize = 8;

/// Columns of a head, padded.
pub(super) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(COLUMNS)
}

/// Query rows of a tile.
const fn tile_rows(head_dim: usize) -> usize {
    let rows = TILE_FLOATS / padded(head_dim) / ROWS_STEP * ROWS_STEP;
    if rows < TILE_ROWS { rows } else { TILE_ROWS }
}

/// Floats of a row's partial result: maximum (padded), denominator by lanes, accumulators.
pub(super) const fn partial_floats(head_dim: usize) -> usize {
    2 * LANES + padded(head_dim)
}

/// The length of the scratch of [`attend`](super::attend()) for up to `max_tokens` tokens (and as many sequences) of
/// contexts up to `max_context`, in elements.
pub fn attend_scratch_len(
    spec: &AttnSpec,
    max_tokens: usize,
    max_context: usize,
    threads: usize,
) -> usize {
    let tiles = TILES_PER_THREAD.saturating_mul(threads);
    let rows = max_tokens
        .saturating_mul(spec.num_heads)
        .min(tiles.saturating_mul(tile_rows(spec.head_dim)));
    let partials = rows
        .saturating_mul(max_context.div_ceil(SPLIT))
        .saturating_mul(partial_floats(spec.head_dim));
    partials.saturating_add(max_tokens.saturating_add(1).saturating_mul(SEQ_FLOATS))
}

/// A sequence's part of the work.
#[derive(Clone, Copy)]
#[repr(C)]
struct SeqPlan {
    /// Its first unit.
    first_unit: u32,
    /// Its first row among the partial results.
    first_partial: u32,
    /// Splits that its tiles are cut into; 0: they are not.
    splits: u32,
    /// The first of them.
    first_split: u32,
}

const SEQ_FLOATS: usize = size_of::<SeqPlan>() / size_of::<f32>();

/// The units of a call, kept in its scratch.
pub(super) struct Plan<'a> {
    seqs: &'a [SeqPlan],
    starts: &'a [i32],
    kv_heads: usize,
    group: usize,
    heads: usize,
    tile_rows: usize,
    units: usize,
    partial_rows: usize,
}

/// What a unit does.
pub(super) struct Unit {
    pub(super) seq: usize,
    pub(super) kv_head: usize,
    /// The sequence's first token.
    pub(super) first_token: usize,
    /// Rows of the sequence, of the head's group: row r is head `r % group` of token `r / group`.
    pub(super) rows: std::ops::Range<usize>,
    /// The one split that it does; none: all, and it merges them.
    pub(super) split: Option<usize>,
}

/// Where a split sequence's partial results lie.
#[derive(Clone, Copy)]
pub(super) struct Partials {
    first: usize,
    splits: usize,
    first_split: usize,
    heads: usize,
}

impl Partials {
    /// Row of the partial result of a head of the sequence's `token`th token.
    pub(super) fn row(&self, token: usize, head: usize, split: usize) -> usize {
        self.first + (token * self.heads + head) * self.splits + (split - self.first_split)
    }
}

impl<'a> Plan<'a> {
    /// Makes the plan at the front of the scratch; what is left of it is for the partial results.
    pub(super) fn new(
        batch: &BatchView<'a>,
        spec: &AttnSpec,
        scratch: &'a mut [f32],
        threads: usize,
    ) -> Result<(Self, &'a mut [f32]), KernelError> {
        let count = batch.seq_lens.len();
        let header = (count + 1) * SEQ_FLOATS;
        if scratch.len() < header {
            return Err(too_short(header, scratch.len()));
        }
        let (front, partials) = scratch.split_at_mut(header);
        // SAFETY: `SeqPlan` is four u32, for which any bits of floats will do; the front is long enough for count + 1.
        let seqs = unsafe {
            std::slice::from_raw_parts_mut(front.as_mut_ptr().cast::<SeqPlan>(), count + 1)
        };
        let mut plan = Plan {
            seqs: &[],
            starts: batch.seq_starts,
            kv_heads: spec.num_kv_heads,
            group: spec.group(),
            heads: spec.num_heads,
            tile_rows: tile_rows(spec.head_dim),
            units: 0,
            partial_rows: 0,
        };
        plan.cut(batch, spec, seqs, threads)?;
        plan.seqs = seqs;
        let needed = product(plan.partial_rows, partial_floats(spec.head_dim))?;
        if partials.len() < needed {
            return Err(too_short(header + needed, header + partials.len()));
        }
        Ok((plan, partials))
    }

    fn cut(
        &mut self,
        batch: &BatchView<'_>,
        spec: &AttnSpec,
        seqs: &mut [SeqPlan],
        threads: usize,
    ) -> Result<(), KernelError> {
        let count = batch.seq_lens.len();
        let total: usize = (0..count)
            .map(|seq| self.tiles(seq) * self.kv_heads * self.tile_work(batch, spec, seq))
            .sum();
        for (seq, place) in seqs[..count].iter_mut().enumerate() {
            let tokens = self.tokens(seq);
            let splits = key_splits(batch, spec, tokens.clone());
            let work = self.tile_work(batch, spec, seq);
            let is_split =
                threads > 1 && splits.len() > 1 && work * TILES_PER_THREAD * threads > total;
            *place = SeqPlan {
                first_unit: narrow(self.units)?,
                first_partial: narrow(self.partial_rows)?,
                splits: if is_split { narrow(splits.len())? } else { 0 },
                first_split: narrow(splits.start)?,
            };
            let apart = if is_split { splits.len() } else { 1 };
            self.units += self.tiles(seq) * self.kv_heads * apart;
            if is_split {
                self.partial_rows += tokens.len() * self.heads * apart;
            }
        }
        seqs[count] = SeqPlan {
            first_unit: narrow(self.units)?,
            first_partial: narrow(self.partial_rows)?,
            splits: 0,
            first_split: 0,
        };
        Ok(())
    }

    /// A tile's rows times the keys that they see, at most.
    fn tile_work(&self, batch: &BatchView<'_>, spec: &AttnSpec, seq: usize) -> usize {
        let tokens = self.tokens(seq);
        let rows = (tokens.len() * self.group).min(self.tile_rows);
        rows * key_splits(batch, spec, tokens).len()
    }

    fn tokens(&self, seq: usize) -> std::ops::Range<usize> {
        start(self.starts, seq)..start(self.starts, seq + 1)
    }

    /// Tiles of a head of a sequence.
    fn tiles(&self, seq: usize) -> usize {
        (self.tokens(seq).len() * self.group).div_ceil(self.tile_rows)
    }

    pub(super) fn units(&self) -> usize {
        self.units
    }

    pub(super) fn has_splits(&self) -> bool {
        self.partial_rows > 0
    }

    /// The unit of an index below [`Self::units`].
    pub(super) fn unit(&self, index: usize) -> Unit {
        // The sequence is the last one that begins at or before the unit: one without tokens has none.
        let after = self
            .seqs
            .partition_point(|seq| seq.first_unit as usize <= index);
        let seq = after - 1;
        let plan = &self.seqs[seq];
        let within = index - plan.first_unit as usize;
        let apart = (plan.splits as usize).max(1);
        let tile = within / (self.kv_heads * apart);
        let tokens = self.tokens(seq);
        let rows =
            tile * self.tile_rows..(tokens.len() * self.group).min((tile + 1) * self.tile_rows);
        Unit {
            seq,
            kv_head: within / apart % self.kv_heads,
            first_token: tokens.start,
            rows,
            split: (plan.splits > 0).then(|| plan.first_split as usize + within % apart),
        }
    }

    /// The partial results of a sequence; none if its tiles are not split.
    pub(super) fn partials(&self, seq: usize) -> Option<Partials> {
        let plan = &self.seqs[seq];
        (plan.splits > 0).then_some(Partials {
            first: plan.first_partial as usize,
            splits: plan.splits as usize,
            first_split: plan.first_split as usize,
            heads: self.heads,
        })
    }

    /// The first token of a sequence.
    pub(super) fn first_token(&self, seq: usize) -> usize {
        start(self.starts, seq)
    }

    /// The sequence of a token.
    pub(super) fn seq_of(&self, token: usize) -> usize {
        let token = i32::try_from(token).unwrap_or(i32::MAX);
        self.starts.partition_point(|start| *start <= token) - 1
    }
}

/// The splits that a sequence's tokens look into.
fn key_splits(
    batch: &BatchView<'_>,
    spec: &AttnSpec,
    tokens: std::ops::Range<usize>,
) -> std::ops::Range<usize> {
    let (mut least, mut end) = (usize::MAX, 0);
    for position in &batch.positions[tokens] {
        let position = usize::try_from(*position).unwrap_or(0);
        least = least.min(position);
        end = end.max(position + 1);
    }
    if end == 0 {
        return 0..0;
    }
    spec.first_key(least) / SPLIT..end.div_ceil(SPLIT)
}

fn start(starts: &[i32], seq: usize) -> usize {
    usize::try_from(starts[seq]).unwrap_or(0)
}

fn narrow(value: usize) -> Result<u32, KernelError> {
    u32::try_from(value).map_err(|_| too_large(value))
}

fn too_short(expected: usize, actual: usize) -> KernelError {
    KernelError::Length {
        what: "scratch",
        expected,
        actual,
    }
}
