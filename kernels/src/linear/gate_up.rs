//! The first half of a gated feed-forward layer: `act(x G^T) * (x U^T)` in one pass.
//!
//! A block of gate columns and the block of the same up columns lie one after the other, so that one unit of work has
//! both sums of an element at hand.

use super::run::{Rows, Work, prepare, run};
use super::{Layout, checked_rows};
use crate::act::gate_tile;
use crate::micro::COLUMNS;
use crate::shared::{check_length, in_range, product};
use crate::{Act, Dtype, KernelError, Kernels, Pool};

/// The weights of gate and up, each `[I, K]`, packed for [`gate_up_act`].
#[derive(Debug)]
pub struct GateUp {
    columns: usize,
    layout: Layout,
}

impl GateUp {
    /// Packs two row-major `[columns, depth]` weights.
    ///
    /// # Errors
    /// As [`super::Linear::pack`].
    pub fn pack(
        gate: &[f32],
        up: &[f32],
        columns: usize,
        depth: usize,
        dtype: Dtype,
    ) -> Result<Self, KernelError> {
        in_range("the number of output columns", columns)?;
        in_range("the number of input columns", depth)?;
        let elements = product(columns, depth)?;
        check_length("gate", elements, gate.len())?;
        check_length("up", elements, up.len())?;
        let padded = columns.next_multiple_of(COLUMNS);
        let mut layout = Layout::zeroed(product(padded, 2)?, depth, dtype)?;
        let rows = COLUMNS * depth;
        for (index, (gate, up)) in gate.chunks(rows).zip(up.chunks(rows)).enumerate() {
            layout.pack(gate, 2 * index);
            layout.pack(up, 2 * index + 1);
        }
        Ok(Self { columns, layout })
    }

    /// Output columns, I.
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Input columns, K.
    pub const fn depth(&self) -> usize {
        self.layout.depth()
    }

    /// Format of the packed weights.
    pub const fn dtype(&self) -> Dtype {
        self.layout.dtype()
    }

    /// Memory of the packed weights, in bytes.
    pub fn bytes(&self) -> usize {
        self.layout.blocks().bytes()
    }

    /// The packed weights as they lie in memory; a benchmark reads them to learn what memory allows.
    pub fn packed(&self) -> &[u8] {
        self.layout.blocks().as_bytes()
    }

    /// See [`super::Linear::scratch_len`].
    pub fn scratch_len(&self, rows: usize) -> usize {
        self.layout.scratch_len(rows)
    }

    /// See [`super::Linear::estimated_micros`].
    pub fn estimated_micros(&self, rows: usize) -> u64 {
        self.layout.estimated_micros(rows)
    }
}

/// `out = act(x G^T) * (x U^T)` for `rows` rows: `x` is `[rows, K]` and `out` is `[rows, I]`, both row-major.
///
/// # Errors
/// [`KernelError::Length`] where a buffer does not fit.
#[allow(clippy::too_many_arguments, reason = "an operation of the model")]
pub fn gate_up_act(
    x: &[f32],
    rows: usize,
    weights: &GateUp,
    act: Act,
    out: &mut [f32],
    scratch: &mut [u32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<(), KernelError> {
    let (depth, dtype) = (weights.depth(), weights.dtype());
    checked_rows(rows, depth, weights.columns, x, out)?;
    let x = prepare(x, Rows::First(rows), depth, dtype, scratch, kernels, pool)?;
    let work = Work {
        blocks: weights.layout.blocks(),
        per_group: 2,
        dtype,
        columns: weights.columns,
    };
    let isa = kernels.isa();
    run(
        work,
        x,
        rows,
        out,
        &|[gate, up], rows, _| {
            // SAFETY: a `Kernels` exists only for what the machine has.
            unsafe { gate_tile(isa, act, gate, up, rows) };
        },
        kernels,
        pool,
    );
    Ok(())
}
