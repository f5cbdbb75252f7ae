//! Packed weights and the linear layer `y = x W^T + b`.
//!
//! Weights are packed once, at load time, into blocks of 32 output columns: `[N/32][K][32]`. A call is cut into units of
//! some blocks times a panel of rows; units share nothing, so who runs which one cannot change a bit.

use crate::micro::{COLUMNS, Lanes, MAX_TILE_ROWS, Table, TileSums};
use crate::{KernelError, Kernels, Pool};

/// Rows of a panel: their activations stay in the second-level cache while the weights go by.
const PANEL_ROWS: usize = 96;
/// Aim for the length of a unit: long against a claim, short against a thread that loses its core in the middle of one.
const UNIT_NANOS: u64 = 40_000;
/// Work below this is not worth waking anybody for.
const ALONE_NANOS: u64 = 20_000;
/// Units for each thread, at least, where there are blocks enough: so that the last one to finish is not waited for long.
const UNITS_PER_THREAD: usize = 3;

/// The weights of a linear layer, `[N, K]` as `[N/32][K][32]` fp32; N is padded with zeros.
#[derive(Debug)]
pub struct PackedLinear {
    columns: usize,
    depth: usize,
    blocks: Vec<Lanes>,
    bias: Option<Vec<f32>>,
}

impl PackedLinear {
    /// Packs a row-major `[columns, depth]` weight and an optional bias of `columns` elements.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] for an empty dimension, [`KernelError::Length`] where a buffer does not fit the shape,
    /// [`KernelError::OutOfMemory`].
    pub fn pack(
        weight: &[f32],
        columns: usize,
        depth: usize,
        bias: Option<&[f32]>,
    ) -> Result<Self, KernelError> {
        in_range("the number of output columns", columns)?;
        in_range("the number of input columns", depth)?;
        let elements = columns
            .checked_mul(depth)
            .ok_or_else(|| too_large(columns))?;
        check_length("weight", elements, weight.len())?;
        if let Some(bias) = bias {
            check_length("bias", columns, bias.len())?;
        }
        let mut blocks = zeroed(columns.div_ceil(COLUMNS), depth)?;
        let rows_of_blocks = weight.chunks(COLUMNS * depth);
        for (rows, block) in rows_of_blocks.zip(blocks.chunks_exact_mut(depth)) {
            for (column, row) in rows.chunks_exact(depth).enumerate() {
                for (lanes, value) in block.iter_mut().zip(row) {
                    lanes.0[column] = *value;
                }
            }
        }
        Ok(Self {
            columns,
            depth,
            blocks,
            bias: bias.map(<[f32]>::to_vec),
        })
    }

    /// Output columns, N.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Input columns, K.
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// Memory of the packed weights, in bytes.
    pub const fn bytes(&self) -> usize {
        self.blocks.len() * size_of::<Lanes>()
    }

    fn num_blocks(&self) -> usize {
        self.columns.div_ceil(COLUMNS)
    }

    fn block(&self, index: usize) -> &[Lanes] {
        &self.blocks[index * self.depth..(index + 1) * self.depth]
    }

    /// Copies one row's sums of a block to its place in the output, with the bias.
    fn store(&self, sums: &Lanes, block: usize, out: &mut [f32]) {
        match &self.bias {
            None => out.copy_from_slice(&sums.0[..out.len()]),
            Some(bias) => {
                let bias = &bias[block * COLUMNS..];
                for ((out, sum), bias) in out.iter_mut().zip(&sums.0).zip(bias) {
                    *out = sum + bias;
                }
            }
        }
    }
}

/// Copies rows of the weight, `[N, K]` as it was before it was packed, to `out`, `[ids, K]`. A tied head serves as the
/// embedding table this way.
///
/// # Errors
/// [`KernelError::Length`] where `out` does not fit, [`KernelError::RowId`] for an id that is no row.
pub fn embed(ids: &[i32], weights: &PackedLinear, out: &mut [f32]) -> Result<(), KernelError> {
    let expected = ids
        .len()
        .checked_mul(weights.depth)
        .ok_or_else(|| too_large(ids.len()))?;
    check_length("out", expected, out.len())?;
    let row = |id: &i32| {
        usize::try_from(*id)
            .ok()
            .filter(|row| *row < weights.columns)
            .ok_or(KernelError::RowId {
                id: *id,
                rows: weights.columns,
            })
    };
    // All ids first: nothing is written when one is wrong.
    ids.iter().try_for_each(|id| row(id).map(drop))?;
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(weights.depth)) {
        let row = row(id)?;
        for (out, lanes) in out.iter_mut().zip(weights.block(row / COLUMNS)) {
            *out = lanes.0[row % COLUMNS];
        }
    }
    Ok(())
}

/// `out = x W^T + b` for `rows` rows: `x` is `[rows, K]` and `out` is `[rows, N]`, both row-major. No rows are no work.
///
/// # Errors
/// [`KernelError::Length`] where `x` or `out` does not fit.
pub fn linear(
    x: &[f32],
    rows: usize,
    weights: &PackedLinear,
    out: &mut [f32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<(), KernelError> {
    let inputs = rows.checked_mul(weights.depth);
    let outputs = rows.checked_mul(weights.columns);
    let (Some(inputs), Some(outputs)) = (inputs, outputs) else {
        return Err(too_large(rows));
    };
    check_length("x", inputs, x.len())?;
    check_length("out", outputs, out.len())?;
    if rows == 0 {
        return Ok(());
    }
    let plan = Plan::new(rows, weights, pool.threads());
    let sink = Sink {
        base: out.as_mut_ptr(),
        columns: weights.columns,
    };
    let table = kernels.table();
    pool.run(plan.num_units(), &|unit| {
        let (panel, blocks) = plan.unit(unit);
        for block in blocks {
            // SAFETY: a `Kernels` exists only for what the machine has. Units do not overlap, so no other thread has this
            // part of `out`, which outlives `run` and has `rows * columns` elements.
            unsafe { sum_panel(table, x, weights, panel.clone(), block, &sink) };
        }
    });
    Ok(())
}

/// What a call takes on one thread of an ordinary machine, in microseconds. It decides who runs it, never what comes out.
pub fn estimated_micros(rows: usize, weights: &PackedLinear) -> u64 {
    let blocks = u64::try_from(weights.num_blocks()).unwrap_or(u64::MAX);
    block_nanos(rows, weights.depth).saturating_mul(blocks) / 1_000
}

/// Nanoseconds for one weight block and so many rows: reading it at 12 GB/s or computing at 64 GFLOP/s.
fn block_nanos(rows: usize, depth: usize) -> u64 {
    let steps = u64::try_from(depth).unwrap_or(u64::MAX);
    let rows = u64::try_from(rows).unwrap_or(u64::MAX);
    steps.saturating_mul(rows.max(10))
}

/// Sums one panel of rows with one weight block.
///
/// # Safety
/// The machine has the table's instructions, `panel` and `block` lie within `x`, the weights and `sink`, and nobody else
/// touches these rows and columns of `sink` meanwhile.
unsafe fn sum_panel(
    table: &Table,
    x: &[f32],
    weights: &PackedLinear,
    panel: std::ops::Range<usize>,
    block: usize,
    sink: &Sink,
) {
    let first_column = block * COLUMNS;
    let width = COLUMNS.min(weights.columns - first_column);
    let mut sums: TileSums = [Lanes::ZERO; MAX_TILE_ROWS];
    let tiles = panel.len().div_ceil(table.tiles.len());
    for tile in 0..tiles {
        // Equal parts: 13 rows are 7 and 6, not 12 and 1.
        let from = panel.start + panel.len() * tile / tiles;
        let to = panel.start + panel.len() * (tile + 1) / tiles;
        let x = &x[from * weights.depth..to * weights.depth];
        // SAFETY: the caller vouches for the instructions.
        unsafe { table.tiles[to - from - 1](x, weights.block(block), &mut sums) };
        for (row, sums) in (from..to).zip(&sums) {
            // SAFETY: the caller vouches for the place and for being alone there.
            let out = unsafe { sink.part(row, first_column, width) };
            weights.store(sums, block, out);
        }
    }
}

/// How a call is cut into units.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    rows: usize,
    num_blocks: usize,
    blocks_per_unit: usize,
}

impl Plan {
    fn new(rows: usize, weights: &PackedLinear, threads: usize) -> Self {
        let num_blocks = weights.num_blocks();
        let nanos = block_nanos(rows.min(PANEL_ROWS), weights.depth);
        let total = estimated_micros(rows, weights).saturating_mul(1_000);
        let blocks_per_unit = if threads == 1 || total < ALONE_NANOS {
            num_blocks
        } else {
            let aim = usize::try_from(UNIT_NANOS / nanos.max(1)).unwrap_or(1);
            aim.min(num_blocks / (threads * UNITS_PER_THREAD))
        };
        Self {
            rows,
            num_blocks,
            blocks_per_unit: blocks_per_unit.max(1),
        }
    }

    fn units_per_panel(&self) -> usize {
        self.num_blocks.div_ceil(self.blocks_per_unit)
    }

    fn num_units(&self) -> usize {
        self.units_per_panel() * self.rows.div_ceil(PANEL_ROWS)
    }

    /// Rows and weight blocks of one unit.
    fn unit(&self, unit: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let row = unit / self.units_per_panel() * PANEL_ROWS;
        let block = unit % self.units_per_panel() * self.blocks_per_unit;
        (
            row..self.rows.min(row + PANEL_ROWS),
            block..self.num_blocks.min(block + self.blocks_per_unit),
        )
    }
}

/// The output, shared by the threads of one call, each of which has other rows or columns of it.
struct Sink {
    base: *mut f32,
    columns: usize,
}

// SAFETY: `part` hands out disjoint pieces, as its callers promise, and f32 may be written from any thread.
unsafe impl Sync for Sink {}

impl Sink {
    /// Columns `first..first + width` of one row.
    ///
    /// # Safety
    /// The row and the columns lie within the output, and no other piece that overlaps them is alive.
    #[allow(clippy::mut_from_ref, reason = "the callers' pieces do not overlap")]
    unsafe fn part(&self, row: usize, first: usize, width: usize) -> &mut [f32] {
        // SAFETY: the caller vouches for both bounds and for being alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(row * self.columns + first), width) }
    }
}

fn zeroed(num_blocks: usize, depth: usize) -> Result<Vec<Lanes>, KernelError> {
    let lanes = num_blocks
        .checked_mul(depth)
        .ok_or_else(|| too_large(depth))?;
    let mut blocks = Vec::new();
    blocks
        .try_reserve_exact(lanes)
        .map_err(|_| KernelError::OutOfMemory {
            bytes: lanes.saturating_mul(size_of::<Lanes>()),
        })?;
    blocks.resize(lanes, Lanes::ZERO);
    Ok(blocks)
}

/// The largest dimension: products of two of them still fit a `usize`.
const MAX_DIMENSION: usize = (1 << 31) - 1;

fn in_range(what: &'static str, value: usize) -> Result<(), KernelError> {
    if (1..=MAX_DIMENSION).contains(&value) {
        Ok(())
    } else {
        Err(KernelError::OutOfRange {
            what,
            value,
            limit: MAX_DIMENSION,
        })
    }
}

fn too_large(value: usize) -> KernelError {
    KernelError::OutOfRange {
        what: "a dimension",
        value,
        limit: MAX_DIMENSION,
    }
}

fn check_length(what: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if expected == actual {
        Ok(())
    } else {
        Err(KernelError::Length {
            what,
            expected,
            actual,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_each_row_and_block_once() {
        for (rows, columns, depth, threads) in [
            (1, 1, 1, 1),
            (1, 1536, 576, 2),
            (97, 576, 1536, 3),
            (300, 33, 7, 8),
            (16, 49_152, 8, 2),
        ] {
            let weights =
                PackedLinear::pack(&vec![0.0; columns * depth], columns, depth, None).unwrap();
            let plan = Plan::new(rows, &weights, threads);
            let mut seen = vec![0; rows * weights.num_blocks()];
            for unit in 0..plan.num_units() {
                let (panel, blocks) = plan.unit(unit);
                for row in panel {
                    for block in blocks.clone() {
                        seen[row * weights.num_blocks() + block] += 1;
                    }
                }
            }
            assert_eq!(seen, vec![1; seen.len()], "{plan:?}");
        }
    }

    #[test]
    fn wide_weights_are_shared_and_small_ones_are_not() {
        let units = |rows, columns, depth| {
            let weights =
                PackedLinear::pack(&vec![0.0; columns * depth], columns, depth, None).unwrap();
            Plan::new(rows, &weights, 2).num_units()
        };
        assert_eq!(units(1, 64, 64), 1);
        assert!(units(1, 1536, 576) >= 6);
        assert!(units(192, 64, 576) >= 2);
    }
}
