//! A unit of work: some query rows of a sequence and key-value head walk over their keys.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::inner::{Tile, dots, for_rows, step_for, step_rows, weigh};
use super::plan::{Plan, TILE_FLOATS, TILE_ROWS, Unit, padded, partial_floats};
use super::softmax::{Seen, State, see};
use super::{AttnSpec, BatchView, SPLIT};
use crate::kv::{BLOCK_SIZE, LayerTiles};
use crate::shared::Shared;
use crate::vector::{LANES, Simd, per_isa};

/// Rows of a step, at most.
const MAX_STEP: usize = 12;

/// What the units of a call have in common.
pub(super) struct Walk<'a> {
    pub(super) spec: &'a AttnSpec,
    pub(super) batch: &'a BatchView<'a>,
    pub(super) tiles: LayerTiles,
    pub(super) bf16: bool,
    /// The queries scaled, as [`super::prepare`] leaves them.
    pub(super) qkv: &'a [f32],
    pub(super) plan: &'a Plan<'a>,
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

per_isa! {
    pub(super) fn unit = unit_body(walk: &Walk<'_>, index: usize, out: &Shared<'_, f32>, partials: &Shared<'_, f32>);
}

/// The unit of an index.
///
/// # Safety
/// The machine has the instruction set; the batch has passed the door; nobody writes to the cache, and nobody else to the
/// unit's rows of `out` and `partials`.
#[inline(always)]
unsafe fn unit_body<S: Simd>(
    walk: &Walk<'_>,
    index: usize,
    out: &Shared<'_, f32>,
    partials: &Shared<'_, f32>,
) {
    let unit = walk.plan.unit(index);
    // SAFETY: the caller's promises.
    unsafe {
        if walk.bf16 {
            run::<S, true>(walk, &unit, out, partials);
        } else {
            run::<S, false>(walk, &unit, out, partials);
        }
    }
}

/// A query row.
#[derive(Clone, Copy, Default)]
struct Row {
    token: usize,
    head: usize,
    first_key: usize,
    last_key: usize,
}

/// Rows that go through the inner loops together.
#[derive(Clone, Copy, Default)]
struct Step {
    /// The first of them among the tile's rows.
    first: usize,
    count: usize,
    /// Rows that the inner loops take: those above `count` are padding.
    padded: usize,
}

/// A tile's room. The state of row r of step s lies at `s * 12 + r`, or closer where steps are smaller.
struct Room {
    rows: [Row; TILE_ROWS],
    steps: [Step; TILE_ROWS],
    num_steps: usize,
    queries: MaybeUninit<[f32; TILE_FLOATS]>,
    scores: MaybeUninit<[f32; MAX_STEP * BLOCK_SIZE]>,
    split: States,
    merged: States,
}

/// The states of a tile's rows.
struct States {
    most: [f32; TILE_ROWS],
    totals: MaybeUninit<[f32; TILE_ROWS * LANES]>,
    sums: MaybeUninit<[f32; TILE_FLOATS]>,
}

impl States {
    fn new() -> Self {
        Self {
            most: [f32::NEG_INFINITY; TILE_ROWS],
            totals: MaybeUninit::uninit(),
            sums: MaybeUninit::uninit(),
        }
    }

    #[inline(always)]
    fn at(&mut self, row: usize, columns: usize) -> State {
        State {
            most: (&raw mut self.most).cast::<f32>().wrapping_add(row),
            total: self
                .totals
                .as_mut_ptr()
                .cast::<f32>()
                .wrapping_add(row * LANES),
            sums: self
                .sums
                .as_mut_ptr()
                .cast::<f32>()
                .wrapping_add(row * columns),
        }
    }
}

/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn run<S: Simd, const BF16: bool>(
    walk: &Walk<'_>,
    unit: &Unit,
    out: &Shared<'_, f32>,
    partials: &Shared<'_, f32>,
) {
    let columns = padded(walk.spec.head_dim);
    let most_rows = step_rows(S::ISA);
    let mut room = Room {
        rows: [Row::default(); TILE_ROWS],
        steps: [Step::default(); TILE_ROWS],
        num_steps: 0,
        queries: MaybeUninit::uninit(),
        scores: MaybeUninit::uninit(),
        split: States::new(),
        merged: States::new(),
    };
    let keys = lay_out(walk, unit, &mut room, most_rows);
    let all = keys.start / SPLIT..keys.end.div_ceil(SPLIT);
    let splits = unit.split.map_or(all.clone(), |split| {
        split.max(all.start)..(split + 1).min(all.end)
    });
    if splits.is_empty() {
        return;
    }
    let last_block = (splits.end * SPLIT).min(keys.end).div_ceil(BLOCK_SIZE) - 1;
    // SAFETY: the caller's promises.
    unsafe {
        gather_queries::<BF16>(walk, &mut room, most_rows);
        for split in splits {
            let blocks = (split * SPLIT).max(keys.start) / BLOCK_SIZE
                ..((split + 1) * SPLIT).min(keys.end).div_ceil(BLOCK_SIZE);
            walk_split::<S, BF16>(
                walk, unit, &mut room, blocks, last_block, columns, most_rows,
            );
            close_split::<S>(walk, unit, &mut room, split, columns, most_rows, partials);
        }
        if unit.split.is_none() {
            finish::<S, BF16>(walk, &mut room, columns, most_rows, out);
        }
    }
}

/// Finds the tile's rows and cuts them into steps of about one size; returns the keys that any of them sees.
#[inline(always)]
fn lay_out(walk: &Walk<'_>, unit: &Unit, room: &mut Room, most_rows: usize) -> Range<usize> {
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

/// Lays the queries out for [`dots`]: a step's rows side by side.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn gather_queries<const BF16: bool>(walk: &Walk<'_>, room: &mut Room, most_rows: usize) {
    let spec = walk.spec;
    let depth = depth::<BF16>(spec);
    let queries = room.queries.as_mut_ptr().cast::<f32>();
    for (s, step) in room.steps[..room.num_steps].iter().enumerate() {
        let to = queries.wrapping_add(s * most_rows * depth);
        for r in 0..step.padded {
            let row = &room.rows[step.first + r.min(step.count - 1)];
            let at = row.token * spec.width() + row.head * spec.head_dim;
            let query = &walk.qkv[at..at + depth];
            for (d, x) in query.iter().enumerate() {
                // SAFETY: at most 12 rows a step and `TILE_FLOATS` words in all: the plan sees to it.
                unsafe { to.add(d * step.padded + r).write(*x) };
            }
        }
    }
}

const fn depth<const BF16: bool>(spec: &AttnSpec) -> usize {
    if BF16 {
        spec.head_dim / 2
    } else {
        spec.head_dim
    }
}

/// All rows of the tile see some blocks, one by one; the unit goes on up to `last_block`.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn walk_split<S: Simd, const BF16: bool>(
    walk: &Walk<'_>,
    unit: &Unit,
    room: &mut Room,
    blocks: Range<usize>,
    last_block: usize,
    columns: usize,
    most_rows: usize,
) {
    let table = &walk.batch.block_tables[unit.seq * walk.batch.table_width..];
    for s in 0..room.num_steps {
        for r in 0..room.steps[s].padded {
            // SAFETY: the state is the tile's own.
            unsafe {
                room.split
                    .at(s * most_rows + r, columns)
                    .clear::<S>(columns);
            }
        }
    }
    for block in blocks {
        let tiles = |block: usize| {
            let id = usize::try_from(table[block]).unwrap_or(0);
            let keys = walk.tiles.keys(id, unit.kv_head).cast_const();
            (keys, walk.tiles.values(id, unit.kv_head).cast_const())
        };
        let (this, next) = (tiles(block), tiles((block + 1).min(last_block)));
        for s in 0..room.num_steps {
            // The first step asks for the next tiles.
            let ahead = if s == 0 { next } else { this };
            let keys = Tile {
                at: this.0,
                ahead: ahead.0,
            };
            let values = Tile {
                at: this.1,
                ahead: ahead.1,
            };
            let start = block * BLOCK_SIZE;
            // SAFETY: the block exists, and is read only.
            unsafe {
                step_block::<S, BF16>(walk, room, s, start, (keys, values), columns, most_rows);
            }
        }
    }
}

/// A step's rows see a block, which begins at token `start`.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined into one loop")]
unsafe fn step_block<S: Simd, const BF16: bool>(
    walk: &Walk<'_>,
    room: &mut Room,
    s: usize,
    start: usize,
    (keys, values): (Tile, Tile),
    columns: usize,
    most_rows: usize,
) {
    let step = room.steps[s];
    let mut seen = [Seen::ALL; MAX_STEP];
    let mut any = Seen {
        first: BLOCK_SIZE,
        end: 0,
    };
    let mut all = Seen::ALL;
    for (seen, row) in seen
        .iter_mut()
        .zip(&room.rows[step.first..step.first + step.count])
    {
        *seen = Seen::of(row.first_key, row.last_key, start);
        any = Seen {
            first: any.first.min(seen.first),
            end: any.end.max(seen.end),
        };
        all = Seen {
            first: all.first.max(seen.first),
            end: all.end.min(seen.end),
        };
    }
    if any.first >= any.end {
        return;
    }
    let depth = depth::<BF16>(walk.spec);
    let size = walk.spec.head_dim;
    let queries = room
        .queries
        .as_mut_ptr()
        .cast::<f32>()
        .wrapping_add(s * most_rows * depth);
    let scores = room.scores.as_mut_ptr().cast::<f32>();
    let base = s * most_rows;
    // SAFETY: the room holds 12 rows of scores and the states of all rows; the caller vouches for the tiles.
    unsafe {
        for_rows!(
            S,
            step.padded,
            dots::<S, BF16>(queries, keys, depth, scores)
        );
        let seen = &seen[..step.count];
        for (r, seen) in seen.iter().enumerate() {
            if seen.first < seen.end {
                let state = room.split.at(base + r, columns);
                see::<S>(
                    state,
                    scores.add(r * BLOCK_SIZE),
                    *seen,
                    walk.spec.softcap,
                    columns,
                );
            }
        }
        let sums = room.split.at(base, columns).sums;
        // What all rows see goes through together, and before it and after it each row goes alone.
        let common = (all.first, all.end.max(all.first));
        for (r, seen) in seen.iter().enumerate() {
            let tokens = (seen.first, seen.end.min(common.0));
            let weights = scores.add(r * BLOCK_SIZE);
            weigh_one::<S, BF16>(
                weights,
                values,
                size,
                tokens,
                sums.add(r * columns),
                columns,
            );
        }
        if common.0 < common.1 {
            for_rows!(
                S,
                step.padded,
                weigh::<S, BF16>(scores, values, size, common, sums, columns)
            );
        }
        for (r, seen) in seen.iter().enumerate() {
            let tokens = (seen.first.max(common.1), seen.end);
            let weights = scores.add(r * BLOCK_SIZE);
            weigh_one::<S, BF16>(
                weights,
                values,
                size,
                tokens,
                sums.add(r * columns),
                columns,
            );
        }
    }
}

/// [`weigh`] for one row, and for no token at all.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn weigh_one<S: Simd, const BF16: bool>(
    weights: *const f32,
    values: Tile,
    size: usize,
    tokens: (usize, usize),
    sums: *mut f32,
    columns: usize,
) {
    if tokens.0 < tokens.1 {
        // SAFETY: as the caller vouches.
        unsafe { weigh::<S, BF16, 1>(weights, values, size, tokens, sums, columns) };
    }
}

/// A split's states go where they are merged.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined into one loop")]
unsafe fn close_split<S: Simd>(
    walk: &Walk<'_>,
    unit: &Unit,
    room: &mut Room,
    split: usize,
    columns: usize,
    most_rows: usize,
    partials: &Shared<'_, f32>,
) {
    let apart = unit.split.and_then(|_| walk.plan.partials(unit.seq));
    for s in 0..room.num_steps {
        for r in 0..room.steps[s].count {
            let row = room.rows[room.steps[s].first + r];
            let splits = walk.splits(row.last_key);
            if !splits.contains(&split) {
                continue;
            }
            let slot = s * most_rows + r;
            let state = room.split.at(slot, columns);
            // SAFETY: states are the tile's own, and the row's partial result of this split belongs to this unit.
            unsafe {
                if let Some(apart) = apart {
                    let floats = partial_floats(walk.spec.head_dim);
                    let at = apart.row(row.token - unit.first_token, row.head, split);
                    let to = partials.part(at * floats, floats);
                    State::whole(to.as_mut_ptr()).copy::<S>(state, columns);
                } else if split == splits.start {
                    room.merged.at(slot, columns).copy::<S>(state, columns);
                } else {
                    room.merged.at(slot, columns).merge::<S>(state, columns);
                }
            }
        }
    }
}

/// Writes the rows' outputs.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn finish<S: Simd, const BF16: bool>(
    walk: &Walk<'_>,
    room: &mut Room,
    columns: usize,
    most_rows: usize,
    out: &Shared<'_, f32>,
) {
    for s in 0..room.num_steps {
        for r in 0..room.steps[s].count {
            let row = room.rows[room.steps[s].first + r];
            let state = room.merged.at(s * most_rows + r, columns);
            // SAFETY: the row's output belongs to this unit; each row has seen its own key at least.
            unsafe {
                let out = out.part(walk.out_at(row.token, row.head), walk.spec.head_dim);
                state.finish::<S, BF16>(out);
            }
        }
    }
}
