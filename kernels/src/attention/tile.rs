//! A tile: query rows of a sequence and key-value head that walk over their keys together, and the room that they need.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::inner::{LINE, prefetch, step_for};
use super::plan::{Plan, TILE_FLOATS, TILE_ROWS, Unit};
use super::softmax::State;
use super::{AttnSpec, BatchView, SPLIT};
use crate::kv::LayerTiles;
use crate::vector::LANES;

/// Rows of a step, at most.
pub(super) const MAX_STEP: usize = 12;

/// What the units of a call have in common.
pub(super) struct Walk<'a> {
    pub(super) spec: &'a AttnSpec,
    pub(super) batch: &'a BatchView<'a>,
    pub(super) tiles: LayerTiles,
    pub(super) bf16: bool,
    /// The queries scaled, as [`super::prepare`] leaves them.
    pub(super) qkv: &'a [f32],
    pub(super) plan: &'a Plan<'a>,
    /// Threads that share the units.
    pub(super) threads: usize,
}

impl Walk<'_> {
    pub(super) fn position(&self, token: usize) -> usize {
        usize::try_from(self.batch.positions[token]).unwrap_or(0)
    }

    /// The splits that a query looks into.
    pub(super) fn splits(&self, position: usize) -> Range<usize> {
        self.spec.first_key(position) / SPLIT..position / SPLIT + 1
    }

    /// Where a query head's output begins.
    pub(super) fn out_at(&self, token: usize, head: usize) -> usize {
        (token * self.spec.num_heads + head) * self.spec.head_dim
    }
}

/// A query row.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) token: usize,
    pub(super) head: usize,
    pub(super) first_key: usize,
    pub(super) last_key: usize,
}

/// Rows that go through the inner loops together.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// The first of them among the tile's rows.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Rows that the inner loops take: those above `count` are padding.
    pub(super) padded: usize,
}

/// A tile's room. The state of row r of step s lies at `s * 12 + r`, or closer where steps are smaller.
pub(super) struct Room {
    pub(super) rows: [Row; TILE_ROWS],
    pub(super) steps: [Step; TILE_ROWS],
    pub(super) num_steps: usize,
    pub(super) queries: MaybeUninit<[f32; TILE_FLOATS]>,
    /// Of a step in a split: scores, then weights.
    pub(super) scores: MaybeUninit<[f32; MAX_STEP * SPLIT]>,
    /// Of a step in a split.
    pub(super) split: States<MAX_STEP>,
    /// Of all rows, over the splits so far.
    pub(super) merged: States<TILE_ROWS>,
}

impl Room {
    pub(super) const fn new() -> Self {
        let row = Row {
            token: 0,
            head: 0,
            first_key: 0,
            last_key: 0,
        };
        let step = Step {
            first: 0,
            count: 0,
            padded: 0,
        };
        Self {
            rows: [row; TILE_ROWS],
            steps: [step; TILE_ROWS],
            num_steps: 0,
            queries: MaybeUninit::uninit(),
            scores: MaybeUninit::uninit(),
            split: States::new(),
            merged: States::new(),
        }
    }
}

/// The states of some rows.
pub(super) struct States<const ROWS: usize> {
    most: MaybeUninit<[f32; ROWS]>,
    totals: MaybeUninit<[[f32; LANES]; ROWS]>,
    sums: MaybeUninit<[f32; TILE_FLOATS]>,
}

impl<const ROWS: usize> States<ROWS> {
    const fn new() -> Self {
        Self {
            most: MaybeUninit::uninit(),
            totals: MaybeUninit::uninit(),
            sums: MaybeUninit::uninit(),
        }
    }

    #[inline(always)]
    pub(super) fn at(&mut self, row: usize, columns: usize) -> State {
        let totals = self.totals.as_mut_ptr().cast::<f32>();
        let sums = self.sums.as_mut_ptr().cast::<f32>();
        State {
            most: self.most.as_mut_ptr().cast::<f32>().wrapping_add(row),
            total: totals.wrapping_add(row * LANES),
            sums: sums.wrapping_add(row * columns),
        }
    }
}

/// Finds the tile's rows and cuts them into steps of about one size; returns the keys that any of them sees.
#[inline(always)]
pub(super) fn lay_out(
    walk: &Walk<'_>,
    unit: &Unit,
    room: &mut Room,
    most_rows: usize,
) -> Range<usize> {
    let group = walk.spec.group();
    let (mut first, mut end) = (usize::MAX, 0);
    for (row, r) in room.rows.iter_mut().zip(unit.rows.clone()) {
        let token = unit.first_token + r / group;
        let last_key = walk.position(token);
        let first_key = walk.spec.first_key(last_key);
        *row = Row {
            token,
            head: unit.kv_head * group + r % group,
            first_key,
            last_key,
        };
        first = first.min(first_key);
        end = end.max(last_key + 1);
    }
    let keys = first..end;
    let rows = unit.rows.len();
    let num_steps = rows.div_ceil(most_rows);
    let mut first = 0;
    for (step, left) in room.steps.iter_mut().zip((1..=num_steps).rev()) {
        let count = (rows - first).div_ceil(left);
        *step = Step {
            first,
            count,
            padded: step_for(count),
        };
        first += count;
    }
    room.num_steps = num_steps;
    keys
}

/// Lays the queries out for [`dots`](super::inner::dots): a step's rows side by side.
///
/// # Safety
/// The rows and steps have been laid out for this walk.
#[inline(always)]
pub(super) unsafe fn gather_queries<const BF16: bool>(
    walk: &Walk<'_>,
    room: &mut Room,
    most_rows: usize,
) {
    let spec = walk.spec;
    let depth = depth::<BF16>(spec);
    let queries = room.queries.as_mut_ptr().cast::<f32>();
    let query = |row: &Row| {
        let at = row.token * spec.width() + row.head * spec.head_dim;
        &walk.qkv[at..at + depth]
    };
    let rows: usize = room.steps[..room.num_steps]
        .iter()
        .map(|step| step.count)
        .sum();
    for row in &room.rows[..rows] {
        for line in query(row).chunks(LINE) {
            prefetch(line.as_ptr().cast());
        }
    }
    for (s, step) in room.steps[..room.num_steps].iter().enumerate() {
        let to = queries.wrapping_add(s * most_rows * depth);
        for r in 0..step.padded {
            let row = &room.rows[step.first + r.min(step.count - 1)];
            for (d, x) in query(row).iter().enumerate() {
                // SAFETY: at most 12 rows a step and `TILE_FLOATS` words in all: the plan sees to it.
                unsafe { to.add(d * step.padded + r).write(*x) };
            }
        }
    }
}

/// Words of a query, and rows of a tile of keys.
pub(super) const fn depth<const BF16: bool>(spec: &AttnSpec) -> usize {
    if BF16 {
        spec.head_dim / 2
    } else {
        spec.head_dim
    }
}
