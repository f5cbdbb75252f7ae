//! Memory for activations: one allocation, carved into chunks that come back when they are dropped.
//!
//! Nothing is asked of the system during a step. Free ranges are kept in order of place and joined with their neighbours;
//! a chunk is cut from the first that is long enough. What a chunk holds at first is what was there before.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Floats to which chunks are rounded up: a cache line, and a vector of the widest instruction set.
const GRAIN: usize = 16;
/// Free ranges that the list holds without growing.
const RANGES: usize = 256;

/// Why there is no chunk, or no borrow of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No free range is this long.
    Exhausted { floats: usize, free: usize },
    /// Another call has it, or this one has been given it twice.
    Busy,
}

/// The allocation.
#[derive(Debug)]
pub(crate) struct Arena {
    base: NonNull<f32>,
    floats: usize,
    ranges: Mutex<Ranges>,
}

// SAFETY: the memory is reached only through chunks, which do not overlap and count their borrows.
unsafe impl Send for Arena {}
// SAFETY: as above; the list of ranges is behind a lock.
unsafe impl Sync for Arena {}

#[derive(Debug)]
struct Ranges {
    /// First float and length, by place, never two that touch.
    free: Vec<(usize, usize)>,
    used: usize,
    peak: usize,
}

impl Arena {
    /// `floats` zeros, all touched; `None` if there is no memory for them.
    pub(crate) fn new(floats: usize) -> Option<Self> {
        let floats = floats.max(1).checked_next_multiple_of(GRAIN)?;
        let layout = layout(floats)?;
        // SAFETY: the layout has a size.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?.cast();
        let mut free = Vec::with_capacity(RANGES);
        free.push((0, floats));
        Some(Self {
            base,
            floats,
            ranges: Mutex::new(Ranges {
                free,
                used: 0,
                peak: 0,
            }),
        })
    }

    /// Its size.
    pub(crate) const fn floats(&self) -> usize {
        self.floats
    }

    /// Floats in chunks now, and the most that ever were.
    pub(crate) fn used_and_peak(&self) -> (usize, usize) {
        let ranges = self.lock();
        (ranges.used, ranges.peak)
    }

    fn lock(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, floats: usize) -> Result<usize, Refused> {
        let mut ranges = self.lock();
        let found = ranges.free.iter_mut().find(|(_, length)| *length >= floats);
        let Some(range) = found else {
            let free = self.floats - ranges.used;
            return Err(Refused::Exhausted { floats, free });
        };
        let first = range.0;
        *range = (first + floats, range.1 - floats);
        if range.1 == 0 {
            ranges.free.retain(|(_, length)| *length > 0);
        }
        ranges.used += floats;
        ranges.peak = ranges.peak.max(ranges.used);
        Ok(first)
    }

    fn give(&self, first: usize, floats: usize) {
        let mut ranges = self.lock();
        ranges.used -= floats;
        let at = ranges.free.partition_point(|(start, _)| *start < first);
        let mut range = (first, floats);
        if ranges
            .free
            .get(at)
            .is_some_and(|next| next.0 == first + floats)
        {
            range.1 += ranges.free.remove(at).1;
        }
        let before = at.checked_sub(1).and_then(|at| ranges.free.get_mut(at));
        match before {
            Some(before) if before.0 + before.1 == first => before.1 += range.1,
            _ => ranges.free.insert(at, range),
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.floats) {
            // SAFETY: it was allocated with this layout, and no chunk is left: each holds the arena.
            unsafe { dealloc(self.base.as_ptr().cast(), layout) };
        }
    }
}

fn layout(floats: usize) -> Option<Layout> {
    Layout::from_size_align(
        floats.checked_mul(size_of::<f32>())?,
        GRAIN * size_of::<f32>(),
    )
    .ok()
}

/// A range of an arena, with a count of who is at it.
#[derive(Debug)]
pub(crate) struct Chunk {
    arena: Arc<Arena>,
    first: usize,
    floats: usize,
    /// Readers, or -1 for a writer.
    borrows: AtomicI32,
}

const WRITER: i32 = -1;

impl Chunk {
    /// At least `floats` floats.
    pub(crate) fn cut(arena: &Arc<Arena>, floats: usize) -> Result<Self, Refused> {
        let wanted = floats.max(1).checked_next_multiple_of(GRAIN);
        let floats = wanted.ok_or(Refused::Exhausted { floats, free: 0 })?;
        Ok(Self {
            first: arena.take(floats)?,
            arena: Arc::clone(arena),
            floats,
            borrows: AtomicI32::new(0),
        })
    }

    /// Where it begins.
    pub(crate) fn pointer(&self) -> *mut f32 {
        // SAFETY: a chunk lies within its arena.
        unsafe { self.arena.base.as_ptr().add(self.first) }
    }

    /// To read; others may too, but nobody may write.
    pub(crate) fn read(&self) -> Result<Reading<'_>, Refused> {
        self.hold()?;
        Ok(Reading(self))
    }

    /// Counts a reader that lives on its own; `release` ends it.
    pub(crate) fn hold(&self) -> Result<(), Refused> {
        let one_more = |count: i32| (0..i32::MAX).contains(&count).then(|| count + 1);
        let held = self
            .borrows
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, one_more);
        held.map(drop).map_err(|_| Refused::Busy)
    }

    /// Ends what `hold` began.
    pub(crate) fn release(&self) {
        self.borrows.fetch_sub(1, Ordering::Release);
    }

    /// To write, alone.
    pub(crate) fn write(&self) -> Result<Writing<'_>, Refused> {
        let alone = self
            .borrows
            .compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed);
        alone.map_err(|_| Refused::Busy)?;
        Ok(Writing(self))
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.arena.give(self.first, self.floats);
    }
}

/// A reader of a chunk.
pub(crate) struct Reading<'a>(&'a Chunk);

impl Reading<'_> {
    /// All that it holds.
    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: the range is the chunk's alone, was zeroed at first, and nobody writes while it is counted.
        unsafe { slice::from_raw_parts(self.0.pointer(), self.0.floats) }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The writer of a chunk.
pub(crate) struct Writing<'a>(&'a Chunk);

impl Writing<'_> {
    /// All that it holds.
    pub(crate) fn floats(&mut self) -> &mut [f32] {
        // SAFETY: the range is the chunk's alone, was zeroed at first, and this is the only borrow of it.
        unsafe { slice::from_raw_parts_mut(self.0.pointer(), self.0.floats) }
    }

    /// All that it holds, as words.
    pub(crate) fn words(&mut self) -> &mut [u32] {
        // SAFETY: as above, and a u32 has the size and the alignment of a float and no invalid values.
        unsafe { slice::from_raw_parts_mut(self.0.pointer().cast(), self.0.floats) }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.borrows.store(0, Ordering::Release);
    }
}
