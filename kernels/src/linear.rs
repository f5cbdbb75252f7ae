//! Packed weights and the linear layers of a model.
//!
//! Weights are packed once, at load time, into blocks of 32 output columns, in one of the layouts below. A call is cut
//! into units of some blocks times a panel of rows; units share nothing, so who runs which one cannot change a bit.
//!
//! - `f32`, `bf16`: the layouts; `blocks`: their memory
//! - `round`: activations on their way into a bf16 layer
//! - `plan`: how a call is cut; `run`: how it is carried out
//! - `gate_up`: two layers and an activation in one
//! - `self_check`: whether the machine's bf16 instruction does what we think

mod bf16;
pub(crate) mod blocks;
mod f32;
mod gate_up;
mod plan;
mod round;
mod run;
mod self_check;

pub use gate_up::{GateUp, gate_up_act};
pub(crate) use self_check::bf16_fault;

use self::blocks::Blocks;
use self::run::{Rows, Work, prepare, run};
use crate::micro::COLUMNS;
use crate::shared::{check_length, in_range, product};
use crate::{Dtype, KernelError, Kernels, Pool};

/// Blocks in one of the formats.
#[derive(Debug)]
enum Layout {
    F32 { depth: usize, blocks: Blocks },
    Bf16 { depth: usize, blocks: Blocks },
}

impl Layout {
    fn zeroed(columns: usize, depth: usize, dtype: Dtype) -> Result<Self, KernelError> {
        Ok(match dtype {
            Dtype::F32 => Self::F32 {
                depth,
                blocks: Blocks::zeroed(columns, f32::steps(depth))?,
            },
            Dtype::Bf16 => Self::Bf16 {
                depth,
                blocks: Blocks::zeroed(columns, bf16::steps(depth))?,
            },
        })
    }

    /// Writes up to 32 rows of a weight into block `index`.
    fn pack(&mut self, weight: &[f32], index: usize) {
        match self {
            Self::F32 { depth, blocks } => f32::pack_block(weight, *depth, blocks.block_mut(index)),
            Self::Bf16 { depth, blocks } => {
                bf16::pack_block(weight, *depth, blocks.block_mut(index));
            }
        }
    }

    /// Reads one row back.
    fn unpack(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::F32 { blocks, .. } => f32::unpack(blocks, row, out),
            Self::Bf16 { blocks, .. } => bf16::unpack(blocks, row, out),
        }
    }

    const fn dtype(&self) -> Dtype {
        match self {
            Self::F32 { .. } => Dtype::F32,
            Self::Bf16 { .. } => Dtype::Bf16,
        }
    }

    const fn depth(&self) -> usize {
        match self {
            Self::F32 { depth, .. } | Self::Bf16 { depth, .. } => *depth,
        }
    }

    const fn blocks(&self) -> &Blocks {
        match self {
            Self::F32 { blocks, .. } | Self::Bf16 { blocks, .. } => blocks,
        }
    }

    fn scratch_len(&self, rows: usize) -> usize {
        rows.saturating_mul(round::row_words(self.depth()))
    }

    fn estimated_micros(&self, rows: usize) -> u64 {
        let blocks = u64::try_from(self.blocks().num_blocks()).unwrap_or(u64::MAX);
        plan::block_nanos(rows, self.blocks().steps()).saturating_mul(blocks) / 1_000
    }
}

/// The weights of a linear layer, `[N, K]`, packed for [`linear`], [`logits`] and [`embed`].
#[derive(Debug)]
pub struct Linear {
    columns: usize,
    layout: Layout,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// Packs a row-major `[columns, depth]` weight and an optional bias of `columns` elements. bf16 weights are rounded
    /// to nearest even, those under 2^-50 to zero; the bias stays float32.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] for an empty dimension, [`KernelError::Length`] where a buffer does not fit the shape,
    /// [`KernelError::OutOfMemory`].
    pub fn pack(
        weight: &[f32],
        columns: usize,
        depth: usize,
        bias: Option<&[f32]>,
        dtype: Dtype,
    ) -> Result<Self, KernelError> {
        in_range("the number of output columns", columns)?;
        in_range("the number of input columns", depth)?;
        check_length("weight", product(columns, depth)?, weight.len())?;
        if let Some(bias) = bias {
            check_length("bias", columns, bias.len())?;
        }
        let mut layout = Layout::zeroed(columns, depth, dtype)?;
        for (index, rows) in weight.chunks(COLUMNS * depth).enumerate() {
            layout.pack(rows, index);
        }
        let bias = bias.map(|bias| {
            let mut bias = bias.to_vec();
            bias.resize(columns.next_multiple_of(COLUMNS), 0.0);
            bias
        });
        Ok(Self {
            columns,
            layout,
            bias,
        })
    }

    /// Output columns, N.
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

    /// Words of scratch that any call with so many rows may need. A call whose scratch is too small is refused; an fp32
    /// [`linear`] needs none.
    pub fn scratch_len(&self, rows: usize) -> usize {
        self.layout.scratch_len(rows)
    }

    /// What a call takes on one thread of an ordinary machine, in microseconds. It decides who runs it, never what comes
    /// out.
    pub fn estimated_micros(&self, rows: usize) -> u64 {
        self.layout.estimated_micros(rows)
    }

    /// Sums prepared rows and adds the bias.
    fn apply(
        &self,
        x: run::Inputs<'_>,
        rows: usize,
        out: &mut [f32],
        kernels: Kernels,
        pool: &Pool,
    ) {
        let work = Work {
            blocks: self.layout.blocks(),
            per_group: 1,
            dtype: self.dtype(),
            columns: self.columns,
        };
        let add_bias = |[sums, _]: &mut run::GroupSums, rows: usize, group: usize| {
            let Some(bias) = &self.bias else { return };
            let bias = &bias[group * COLUMNS..(group + 1) * COLUMNS];
            for sums in sums.iter_mut().take(rows) {
                for (sum, bias) in sums.0.iter_mut().zip(bias) {
                    *sum += bias;
                }
            }
        };
        run(work, x, rows, out, &add_bias, kernels, pool);
    }
}

/// `out = x W^T + b` for `rows` rows: `x` is `[rows, K]` and `out` is `[rows, N]`, both row-major. No rows are no work.
/// `scratch` holds rounded activations; see [`Linear::scratch_len`].
///
/// # Errors
/// [`KernelError::Length`] where a buffer does not fit.
pub fn linear(
    x: &[f32],
    rows: usize,
    weights: &Linear,
    out: &mut [f32],
    scratch: &mut [u32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<(), KernelError> {
    let (depth, dtype) = (weights.depth(), weights.dtype());
    checked_rows(rows, depth, weights.columns, x, out)?;
    let x = prepare(x, Rows::First(rows), depth, dtype, scratch, kernels, pool)?;
    weights.apply(x, rows, out, kernels, pool);
    Ok(())
}

/// [`linear`] on some rows of `x` only: `x` is `[any, K]`, `picked_rows` are indices into it, `out` is `[picked, N]`.
/// `scratch` is for as many rows as are picked.
///
/// # Errors
/// [`KernelError::Length`] where a buffer does not fit, [`KernelError::RowId`] for an index that is no row of `x`.
pub fn logits(
    x: &[f32],
    picked_rows: &[i32],
    weights: &Linear,
    out: &mut [f32],
    scratch: &mut [u32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<(), KernelError> {
    let (depth, dtype) = (weights.depth(), weights.dtype());
    let (rows, picked) = (x.len() / depth, picked_rows.len());
    check_length("x", rows * depth, x.len())?;
    check_length("out", product(picked, weights.columns)?, out.len())?;
    for id in picked_rows {
        row_of(*id, rows)?;
    }
    let in_order = picked_rows
        .iter()
        .zip(0..)
        .all(|(row, index)| *row == index);
    let rows = if in_order {
        Rows::First(picked)
    } else {
        Rows::Picked(picked_rows)
    };
    let x = prepare(x, rows, depth, dtype, scratch, kernels, pool)?;
    weights.apply(x, picked, out, kernels, pool);
    Ok(())
}

/// Copies rows of the weight, `[N, K]` as it is after rounding to its format, to `out`, `[ids, K]`. A tied head serves as
/// the embedding table this way.
///
/// # Errors
/// [`KernelError::Length`] where `out` does not fit, [`KernelError::RowId`] for an id that is no row.
pub fn embed(ids: &[i32], weights: &Linear, out: &mut [f32]) -> Result<(), KernelError> {
    let depth = weights.depth();
    check_length("out", product(ids.len(), depth)?, out.len())?;
    // All ids first: nothing is written when one is wrong.
    for id in ids {
        row_of(*id, weights.columns)?;
    }
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(depth)) {
        weights.layout.unpack(row_of(*id, weights.columns)?, out);
    }
    Ok(())
}

fn row_of(id: i32, rows: usize) -> Result<usize, KernelError> {
    let row = usize::try_from(id).ok().filter(|row| *row < rows);
    row.ok_or(KernelError::RowId { id, rows })
}

/// Checks `x`, `[rows, depth]`, and `out`, `[rows, columns]`.
fn checked_rows(
    rows: usize,
    depth: usize,
    columns: usize,
    x: &[f32],
    out: &[f32],
) -> Result<(), KernelError> {
    let (inputs, outputs) = (product(rows, depth)?, product(rows, columns)?);
    check_length("x", inputs, x.len())?;
    check_length("out", outputs, out.len())
}
