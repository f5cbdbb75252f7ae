//! Large pages for large buffers, and for many middling ones that together are large.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Size of a large page, and the alignment that a buffer needs to get them.
pub(crate) const LARGE_PAGE: usize = 2 << 20;

/// Asks the system to back a buffer of our own with large pages, before it is first touched. It is only a wish: without
/// them the address tables are missed more often, and nothing else differs.
#[cfg(target_os = "linux")]
pub(crate) fn advise_large_pages(base: *mut u8, bytes: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(address: *mut u8, length: usize, advice: i32) -> i32;
    }
    if base.align_offset(LARGE_PAGE) == 0 {
        // SAFETY: advice about whole pages changes nothing that is in them, whoever owns what lies behind the buffer.
        unsafe { madvise(base, bytes, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn advise_large_pages(_base: *mut u8, _bytes: usize) {}

/// Size of a slab that pieces share.
const SLAB: usize = 32 << 20;
/// Pieces of at least this size have a slab of their own, and pieces below the other one no slab at all.
const OWN_SLAB: usize = SLAB / 2;
const IN_SLAB: usize = 128 << 10;
/// Alignment of a piece: what x86 fetches at once.
const PIECE_ALIGN: usize = 128;

/// Memory in large pages, freed with its last piece.
#[derive(Debug)]
struct Slab {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns plain memory, of which each piece has its own part.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn new(size: usize, align: usize) -> Option<Self> {
        let layout = Layout::from_size_align(size, align).ok()?;
        if size == 0 {
            return None;
        }
        // SAFETY: the layout has a size.
        let base = NonNull::new(unsafe { alloc(layout) })?;
        advise_large_pages(base.as_ptr(), size);
        Some(Self { base, layout })
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this very layout, and its pieces are gone.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// The slab that is being filled, and how much of it is taken.
static FILLING: Mutex<(Weak<Slab>, usize)> = Mutex::new((Weak::new(), 0));

/// A part of a slab.
#[derive(Debug)]
pub(crate) struct Piece {
    slab: Arc<Slab>,
    first: usize,
}

impl Piece {
    /// Uninitialised memory of so many bytes, aligned to 128; none if there is none, or for no bytes. The layers of a
    /// model lie one after the other, so that even small ones are on large pages: on small ones a thread reads weights
    /// up to 1.7 times slower.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        if !(IN_SLAB..OWN_SLAB).contains(&bytes) {
            let (size, align) = if bytes < IN_SLAB {
                (bytes, PIECE_ALIGN)
            } else {
                (bytes.checked_next_multiple_of(LARGE_PAGE)?, LARGE_PAGE)
            };
            let slab = Arc::new(Slab::new(size, align)?);
            return Some(Self { slab, first: 0 });
        }
        let mut filling = FILLING.lock().unwrap_or_else(PoisonError::into_inner);
        let (slab, first) = match filling.0.upgrade() {
            Some(slab) if SLAB - filling.1 >= bytes => (slab, filling.1),
            _ => (Arc::new(Slab::new(SLAB, LARGE_PAGE)?), 0),
        };
        let taken = SLAB.min((first + bytes).next_multiple_of(PIECE_ALIGN));
        *filling = (Arc::downgrade(&slab), taken);
        Some(Self { slab, first })
    }

    /// Where it begins.
    pub(crate) fn base(&self) -> NonNull<u8> {
        // SAFETY: a piece lies within its slab.
        unsafe { self.slab.base.add(self.first) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_overlap_and_live_as_long_as_they_are_held() {
        let sizes = [
            1,
            IN_SLAB,
            IN_SLAB + 1,
            3 << 20,
            OWN_SLAB - 1,
            OWN_SLAB - 1,
            OWN_SLAB,
            SLAB + 1,
        ];
        let pieces: Vec<(Piece, usize)> = (sizes.iter().cycle().take(40))
            .map(|size| (Piece::new(*size).unwrap(), *size))
            .collect();
        let mut spans: Vec<(usize, usize)> = (pieces.iter())
            .map(|(piece, size)| (piece.base().as_ptr().addr(), *size))
            .collect();
        spans.sort_unstable();
        assert!(spans.iter().all(|(at, _)| at % PIECE_ALIGN == 0));
        assert!(
            spans
                .windows(2)
                .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
        );
        for (piece, size) in &pieces {
            let end = piece.first + size;
            assert!(end <= piece.slab.layout.size());
        }
        assert!(Piece::new(0).is_none() && Piece::new(usize::MAX).is_none());
    }
}
