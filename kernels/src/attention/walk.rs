//! A unit of work: a tile walks over its keys, split by split.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use std::ops::Range;

use super::SPLIT;
use super::inner::{
    BLOCKS, Chain, Tile, Values, dots, for_rows, step_rows, value_rows, weigh, weigh_one,
};
use super::plan::{Unit, padded, partial_floats};
use super::softmax::{Seen, State, settle};
use super::tile::{MAX_STEP, Room, Walk, depth, gather_queries, lay_out};
use crate::kv::BLOCK_SIZE;
use crate::shared::Shared;
use crate::vector::{Simd, per_isa};

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
    // Threads claim in turn, so this is what the thread will probably do next.
    let next = index + walk.threads;
    let next = (next < walk.plan.units()).then(|| first_keys(walk, &walk.plan.unit(next)));
    let to = Results { out, partials };
    // SAFETY: the caller's promises.
    unsafe {
        if walk.bf16 {
            run::<S, true>(walk, &unit, next, to);
        } else {
            run::<S, false>(walk, &unit, next, to);
        }
    }
}

/// Where results go: means to `out`, the states of splits that are worked on apart to `partials`.
#[derive(Clone, Copy)]
struct Results<'a, 'b> {
    out: &'a Shared<'b, f32>,
    partials: &'a Shared<'b, f32>,
}

/// `next` is the first tile that is read after the unit's own, if it is known.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn run<S: Simd, const BF16: bool>(
    walk: &Walk<'_>,
    unit: &Unit,
    next: Option<*const u32>,
    to: Results<'_, '_>,
) {
    let most_rows = step_rows(S::ISA);
    let mut room = Room::new();
    let keys = lay_out(walk, unit, &mut room, most_rows);
    let all = keys.start / SPLIT..keys.end.div_ceil(SPLIT);
    let splits = unit.split.map_or(all.clone(), |split| {
        split.max(all.start)..(split + 1).min(all.end)
    });
    // SAFETY: the caller's promises.
    unsafe {
        gather_queries::<BF16>(walk, &mut room, most_rows);
        for split in splits.clone() {
            let next = (split + 1 == splits.end).then_some(next).flatten();
            let tiles = Tiles::of(walk, unit, split, &keys, next);
            for s in 0..room.num_steps {
                see::<S, BF16>(walk, unit, &mut room, (s, split), &tiles, to);
            }
        }
    }
}

/// The first tile of keys that a unit reads: finding it in memory only costs a short decode a fortieth of its time.
#[inline(always)]
fn first_keys(walk: &Walk<'_>, unit: &Unit) -> *const u32 {
    let token = unit.first_token + unit.rows.start / walk.spec.group();
    let first = walk.spec.first_key(walk.position(token)) / BLOCK_SIZE;
    let first = unit.split.map_or(first, |split| first.max(split * BLOCKS));
    let table = &walk.batch.block_tables[unit.seq * walk.batch.table_width..];
    let id = table.get(first).and_then(|id| usize::try_from(*id).ok());
    walk.tiles.keys(id.unwrap_or(0), unit.kv_head)
}

/// The tiles of a split's blocks. Those of the keys are followed by the first one of the values, and those of the values by
/// the first keys of the next split, or of the next unit.
struct Tiles {
    keys: Chain,
    values: Chain,
}

impl Tiles {
    /// Those that hold any of the `keys`, which exist; the others are not to be looked at. `next` is what is read after a
    /// unit's last split.
    #[inline(always)]
    fn of(
        walk: &Walk<'_>,
        unit: &Unit,
        split: usize,
        keys: &Range<usize>,
        next: Option<*const u32>,
    ) -> Self {
        let table = &walk.batch.block_tables[unit.seq * walk.batch.table_width..];
        let id = |block: usize| usize::try_from(table[block]).unwrap_or(0);
        let (first, end) = (split * BLOCKS, (split + 1) * BLOCKS);
        let blocks = first.max(keys.start / BLOCK_SIZE)..end.min(keys.end.div_ceil(BLOCK_SIZE));
        let mut tiles = Self {
            keys: [std::ptr::null(); BLOCKS + 1],
            values: [std::ptr::null(); BLOCKS + 1],
        };
        for block in blocks.clone() {
            let id = id(block);
            tiles.keys[block - first] = walk.tiles.keys(id, unit.kv_head);
            tiles.values[block - first] = walk.tiles.values(id, unit.kv_head);
        }
        tiles.keys[blocks.end - first] = tiles.values[blocks.start - first];
        tiles.values[blocks.end - first] = if let Some(next) = next {
            next
        } else if end * BLOCK_SIZE < keys.end {
            walk.tiles.keys(id(end), unit.kv_head)
        } else {
            tiles.values[blocks.start - first]
        };
        tiles
    }
}

/// Which keys of a split the rows of a step see.
struct Sight {
    rows: [Seen; MAX_STEP],
    /// From the first key that any row sees to the last one.
    any: Seen,
    /// What all rows see, in whole rows of values; perhaps nothing.
    all: Seen,
}

impl Sight {
    #[inline(always)]
    fn of<const BF16: bool>(room: &Room, s: usize, split: usize) -> Self {
        let step = room.steps[s];
        let nothing = Seen {
            first: SPLIT,
            end: 0,
        };
        let mut sight = Self {
            rows: [nothing; MAX_STEP],
            any: nothing,
            all: Seen {
                first: 0,
                end: SPLIT,
            },
        };
        let rows = &room.rows[step.first..step.first + step.count];
        for (seen, row) in sight.rows.iter_mut().zip(rows) {
            *seen = Seen::of(row.first_key, row.last_key, split * SPLIT);
            let (any, all) = (&mut sight.any, &mut sight.all);
            if !seen.is_empty() {
                any.first = any.first.min(seen.first);
                any.end = any.end.max(seen.end);
            }
            all.first = all.first.max(seen.first);
            all.end = all.end.min(seen.end);
        }
        let tokens = BLOCK_SIZE / value_rows(BF16);
        let all = &mut sight.all;
        all.first = all.first.next_multiple_of(tokens);
        all.end = (all.end / tokens * tokens).max(all.first);
        sight
    }
}

/// A step's rows see a split.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn see<S: Simd, const BF16: bool>(
    walk: &Walk<'_>,
    unit: &Unit,
    room: &mut Room,
    (s, split): (usize, usize),
    tiles: &Tiles,
    to: Results<'_, '_>,
) {
    let step = room.steps[s];
    let sight = Sight::of::<BF16>(room, s, split);
    if sight.any.is_empty() {
        return;
    }
    let columns = padded(walk.spec.head_dim);
    let depth = depth::<BF16>(walk.spec);
    let queries = room.queries.as_mut_ptr().cast::<f32>();
    let queries = queries.wrapping_add(s * step_rows(S::ISA) * depth);
    let scores = room.scores.as_mut_ptr().cast::<f32>();
    // SAFETY: the room holds 12 rows of scores and states; the caller vouches for the tiles.
    unsafe {
        for block in sight.any.blocks() {
            let keys = Tile {
                at: tiles.keys[block],
                ahead: tiles.keys[block + 1],
            };
            let scores = scores.add(block * BLOCK_SIZE);
            for_rows!(
                S,
                step.padded,
                dots::<S, BF16>(queries, keys, depth, scores)
            );
        }
        for r in 0..step.padded {
            let state = room.split.at(r, columns);
            state.clear::<S>(columns);
            if !sight.rows[r].is_empty() {
                let cap = walk.spec.softcap;
                settle::<S, BF16>(state, scores.add(r * SPLIT), sight.rows[r], cap);
            }
        }
        let values = Values {
            tiles: &tiles.values,
            size: walk.spec.head_dim,
            sums: room.split.at(0, columns).sums,
            columns,
        };
        weigh_rows::<S, BF16>(&sight, (step.count, step.padded), scores, values);
        for r in 0..step.count {
            if !sight.rows[r].is_empty() {
                close::<S>(walk, unit, room, (s, r, split), columns, to);
            }
        }
    }
}

/// The values of a split go into the sums of a step's rows: what all rows see goes through together, and before it and
/// after it each row goes alone.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn weigh_rows<S: Simd, const BF16: bool>(
    sight: &Sight,
    (count, padded): (usize, usize),
    weights: *const f32,
    values: Values<'_>,
) {
    let all = sight.all;
    // SAFETY: the caller's promises.
    unsafe {
        for (r, seen) in sight.rows[..count].iter().enumerate() {
            let tokens = (seen.first, seen.end.min(all.first));
            weigh_one::<S, BF16>(weights.add(r * SPLIT), values.of_row(r), tokens);
        }
        if !all.is_empty() {
            let tokens = BLOCK_SIZE / value_rows(BF16);
            let range = (all.first / tokens, all.end / tokens);
            for_rows!(S, padded, weigh::<S, BF16>(weights, values, range));
        }
        for (r, seen) in sight.rows[..count].iter().enumerate() {
            let tokens = (seen.first.max(all.end), seen.end);
            weigh_one::<S, BF16>(weights.add(r * SPLIT), values.of_row(r), tokens);
        }
    }
}

/// A row's state of a split goes where it is merged, and after the row's last split its mean goes to `out`.
///
/// # Safety
/// As [`unit_body`].
#[inline(always)]
unsafe fn close<S: Simd>(
    walk: &Walk<'_>,
    unit: &Unit,
    room: &mut Room,
    (s, r, split): (usize, usize, usize),
    columns: usize,
    to: Results<'_, '_>,
) {
    let row = room.rows[room.steps[s].first + r];
    let splits = walk.splits(row.last_key);
    let state = room.split.at(r, columns);
    let merged = room.merged.at(s * step_rows(S::ISA) + r, columns);
    let size = walk.spec.head_dim;
    // SAFETY: states are the tile's own, and the row's output and its partial result of this split belong to this unit.
    unsafe {
        if let Some(apart) = unit.split.and_then(|_| walk.plan.partials(unit.seq)) {
            let floats = partial_floats(size);
            let at = apart.row(row.token - unit.first_token, row.head, split);
            let to = to.partials.part(at * floats, floats);
            return State::whole(to.as_mut_ptr()).copy::<S>(state, columns);
        }
        if splits.len() > 1 {
            if split == splits.start {
                merged.copy::<S>(state, columns);
            } else {
                merged.merge::<S>(state, columns);
            }
        }
        if split + 1 == splits.end {
            let done = if splits.len() > 1 { merged } else { state };
            done.finish::<S>(to.out.part(walk.out_at(row.token, row.head), size));
        }
    }
}
