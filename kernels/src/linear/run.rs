//! One call over packed blocks: activations are made ready, then units sum tiles and store them.

use std::ops::Range;

use super::blocks::Blocks;
use super::plan::{Plan, even_parts};
use super::round::{claim, round_row, row_stride, row_words};
use crate::micro::{Ahead, COLUMNS, Lanes, MAX_TILE_ROWS, NO_SUMS, TileFn, TileSums, Words};
use crate::shared::{Shared, check_length};
use crate::vector::{Simd, per_isa};
use crate::{Dtype, Isa, KernelError, Kernels, Pool};

/// Elements that a unit of rounding takes, at least: a microsecond, and inside a step the other threads are awake.
const ROUND_ELEMENTS: usize = 4 * 1024;
/// Fewer rows read the weights as fast as memory gives them: asking for more at once makes it slower.
const AHEAD_ROWS: usize = 6;
/// Steps of a block, at most, for the whole next block to be asked for while one is summed: both fit a second-level cache.
/// Of longer blocks it is what lies half as far ahead.
const AHEAD_MOST: usize = 2_048;

/// Activations as the tiles read them: row r begins at word `r * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    words: &'a [u32],
    stride: usize,
}

/// The rows of `x` that a call is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// The first so many.
    First(usize),
    /// These, each checked to be a row of `x`.
    Picked(&'a [i32]),
}

impl Rows<'_> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::First(rows) => rows,
            Self::Picked(rows) => rows.len(),
        }
    }

    /// Where row `index` lies in `x`.
    fn place(self, index: usize) -> usize {
        match self {
            Self::First(_) => index,
            Self::Picked(rows) => usize::try_from(rows[index]).unwrap_or(0),
        }
    }
}

/// Brings rows of `x` into the form that the path wants, in `scratch` if they cannot be read where they are.
///
/// # Errors
/// [`KernelError::Length`] if `scratch` is too small.
pub(crate) fn prepare<'a>(
    x: &'a [f32],
    rows: Rows<'_>,
    depth: usize,
    dtype: Dtype,
    scratch: &'a mut [u32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<Inputs<'a>, KernelError> {
    if let (Dtype::F32, Rows::First(_)) = (dtype, rows) {
        return Ok(Inputs {
            words: as_words(x),
            stride: depth,
        });
    }
    let needed = rows.len() * row_words(depth);
    if scratch.len() < needed {
        check_length("scratch", needed, scratch.len())?;
    }
    let (isa, input) = (kernels.isa(), kernels.table().bf16_input);
    let stride = match dtype {
        Dtype::F32 => row_words(depth),
        Dtype::Bf16 => row_stride(depth, input),
    };
    let scratch = &mut scratch[..rows.len() * stride];
    let rows_per_unit = (ROUND_ELEMENTS / depth).max(1);
    let out = Shared::new(scratch);
    pool.run(rows.len().div_ceil(rows_per_unit), &|unit| {
        for row in unit * rows_per_unit..rows.len().min((unit + 1) * rows_per_unit) {
            let at = rows.place(row) * depth;
            let x = &x[at..at + depth];
            // SAFETY: rows do not overlap and each belongs to one unit.
            let out = unsafe { out.part(row * stride, stride) };
            match dtype {
                Dtype::F32 => out[..depth].copy_from_slice(as_words(x)),
                // SAFETY: a `Kernels` exists only for what the machine has.
                Dtype::Bf16 => unsafe { round_row(isa, x, out, input) },
            }
        }
    });
    Ok(Inputs {
        words: scratch,
        stride,
    })
}

/// What a call sums: packed blocks, of which each group of `per_group` is summed together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) blocks: &'a Blocks,
    pub(crate) per_group: usize,
    pub(crate) dtype: Dtype,
    /// Output columns: 32 for each group but the last.
    pub(crate) columns: usize,
}

/// Sums of one tile, for each block of a group.
pub(crate) type GroupSums = [TileSums; 2];

/// Turns the sums of so many rows of a group into its output, in the first of the sums. The last argument is the group.
pub(crate) type Finish<'a> = &'a (dyn Fn(&mut GroupSums, usize, usize) + Sync);

/// Sums all rows with all blocks and stores what `finish` makes of them in `out`, `[rows, columns]`.
pub(crate) fn run(
    work: Work<'_>,
    x: Inputs<'_>,
    rows: usize,
    out: &mut [f32],
    finish: Finish<'_>,
    kernels: Kernels,
    pool: &Pool,
) {
    if rows == 0 {
        return;
    }
    let num_groups = work.blocks.num_blocks() / work.per_group;
    let group_steps = work.blocks.steps() * work.per_group;
    let plan = Plan::new(rows, num_groups, group_steps, pool.threads());
    let (table, isa) = (kernels.table(), kernels.isa());
    let tiles = match work.dtype {
        Dtype::F32 => table.f32,
        Dtype::Bf16 => table.bf16,
    };
    let out = Shared::new(out);
    pool.run(plan.num_units(), &|unit| {
        let (panel, groups) = plan.unit(unit);
        let mut sums: GroupSums = [NO_SUMS; 2];
        for group in groups.clone() {
            let next = if group + 1 < groups.end {
                Some(group + 1)
            } else {
                plan.next_of_thread(unit, pool.threads())
            };
            let num_tiles = panel.len().div_ceil(tiles.len());
            for (index, tile) in even_parts(panel.clone(), tiles.len()).enumerate() {
                let place = Place {
                    group,
                    next,
                    index,
                    num_tiles,
                };
                // SAFETY: units do not overlap, so no other thread has this part of `out`.
                unsafe { claim_tile(tile.clone(), group, work.columns, &out) };
                // SAFETY: a `Kernels` exists only for what the machine has.
                unsafe { sum_group(work, x, tile.clone(), place, tiles, &mut sums) };
                finish(&mut sums, tile.len(), group);
                // SAFETY: as above; units do not overlap, so no other thread has this part of `out`.
                unsafe { store(isa, &sums[0], tile, group, work.columns, &out) };
            }
        }
    });
}

/// Where a tile stands in its unit.
#[derive(Debug, Clone, Copy)]
struct Place {
    group: usize,
    /// The group after it, if it is known.
    next: Option<usize>,
    /// The tile among those of its panel.
    index: usize,
    num_tiles: usize,
}

impl Place {
    /// What to ask for while so many rows are summed with `block`; `next` is the block after it.
    fn ahead(self, block: &[Words], next: Option<&[Words]>, rows: usize) -> Ahead {
        if self.num_tiles == 1 && rows < AHEAD_ROWS {
            return Ahead::nothing(block);
        }
        if block.len() > AHEAD_MOST {
            return Ahead::all(block.as_ptr().wrapping_add(AHEAD_MOST / 2));
        }
        match (next, self.num_tiles, self.index) {
            (Some(next), 1, _) => Ahead::all(next.as_ptr()),
            (Some(next), _, index @ (0 | 1)) => Ahead::half(next.as_ptr(), index == 1),
            _ => Ahead::nothing(block),
        }
    }
}

/// Sums a tile's rows with each block of a group.
///
/// # Safety
/// The machine has the instructions of `tiles`.
#[allow(clippy::inline_always, reason = "the body of a loop")]
#[inline(always)]
unsafe fn sum_group(
    work: Work<'_>,
    x: Inputs<'_>,
    rows: Range<usize>,
    place: Place,
    tiles: &[TileFn],
    sums: &mut GroupSums,
) {
    let words = &x.words[rows.start * x.stride..];
    let tile = tiles[rows.len() - 1];
    for (index, sums) in sums.iter_mut().take(work.per_group).enumerate() {
        let block = work.blocks.block(place.group * work.per_group + index);
        let next = place
            .next
            .map(|next| work.blocks.block(next * work.per_group + index));
        let ahead = place.ahead(block, next, rows.len());
        // SAFETY: the caller vouches for the instructions.
        unsafe { tile(words, x.stride, block, ahead, sums) };
    }
}

/// Fetches a tile's place for writing while it is summed: rows of a head lie far apart, in memory and not in a cache.
///
/// # Safety
/// Nobody else touches these rows and columns of `out` meanwhile.
unsafe fn claim_tile(rows: Range<usize>, group: usize, columns: usize, out: &Shared<'_, f32>) {
    let first = group * COLUMNS;
    let width = COLUMNS.min(columns - first);
    for row in rows {
        // SAFETY: the caller vouches for being alone there.
        claim(unsafe { out.part(row * columns + first, width) });
    }
}

/// Copies a tile to its place.
///
/// # Safety
/// The machine has the instruction set, and nobody else touches these rows and columns of `out` meanwhile.
unsafe fn store(
    isa: Isa,
    sums: &TileSums,
    rows: Range<usize>,
    group: usize,
    columns: usize,
    out: &Shared<'_, f32>,
) {
    let first = group * COLUMNS;
    let width = COLUMNS.min(columns - first);
    for (row, sums) in rows.zip(sums.iter().take(MAX_TILE_ROWS)) {
        // SAFETY: the caller vouches for being alone there, and for the instructions.
        unsafe { store_row(isa, sums, out.part(row * columns + first, width)) };
    }
}

per_isa! {
    // Copies the first sums of a row. Any NaN becomes the one NaN: which of its bits come out of a sum depends on the
    // instruction.
    fn store_row = store_row_body(sums: &Lanes, out: &mut [f32]);
}

/// # Safety
/// None beyond the instruction set of its caller.
#[allow(clippy::inline_always, reason = "compiled for an instruction set")]
#[inline(always)]
unsafe fn store_row_body<S: Simd>(sums: &Lanes, out: &mut [f32]) {
    let one_nan = |sum: f32| if sum.is_nan() { f32::NAN } else { sum };
    if let Ok(out) = <&mut [f32; COLUMNS]>::try_from(&mut *out) {
        for (out, sum) in out.iter_mut().zip(&sums.0) {
            *out = one_nan(*sum);
        }
        return;
    }
    for (out, sum) in out.iter_mut().zip(&sums.0) {
        *out = one_nan(*sum);
    }
}

fn as_words(x: &[f32]) -> &[u32] {
    // SAFETY: both are four plain bytes of the same alignment.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), x.len()) }
}
