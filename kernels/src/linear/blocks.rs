//! The memory of packed weights: blocks of 32 output columns, one after the other.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use crate::KernelError;
use crate::micro::{COLUMNS, Words};
use crate::pages::{LARGE_PAGE, advise_large_pages};
use crate::shared::{product, too_large};

/// `blocks` blocks of `steps` steps each.
pub(crate) struct Blocks {
    words: NonNull<Words>,
    count: usize,
    steps: usize,
}

// SAFETY: it owns plain numbers, which are only read once it is shared.
unsafe impl Send for Blocks {}
// SAFETY: as above.
unsafe impl Sync for Blocks {}

impl Blocks {
    /// Zeroed blocks for so many columns. Large ones are aligned so that the system can back them with large pages.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`], or [`KernelError::OutOfRange`] if that is no size.
    pub(crate) fn zeroed(columns: usize, steps: usize) -> Result<Self, KernelError> {
        let count = product(columns.div_ceil(COLUMNS), steps)?;
        let layout = layout(count).ok_or_else(|| too_large(steps))?;
        // SAFETY: the layout has a size: neither dimension is zero.
        let base = unsafe { alloc(layout) };
        #[allow(
            clippy::cast_ptr_alignment,
            reason = "the layout is at least that aligned"
        )]
        let words = NonNull::new(base.cast::<Words>()).ok_or(KernelError::OutOfMemory {
            bytes: layout.size(),
        })?;
        advise_large_pages(base, layout.size());
        // SAFETY: it was allocated for so many, and all zeros are a value.
        unsafe { words.write_bytes(0, count) };
        Ok(Self {
            words,
            count,
            steps,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.count * size_of::<Words>()
    }

    /// The memory as it lies there.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: words are plain numbers, and so many bytes were allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.bytes()) }
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.count / self.steps
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    pub(crate) fn all(&self) -> &[Words] {
        // SAFETY: so many were allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }

    pub(crate) fn block(&self, index: usize) -> &[Words] {
        &self.all()[index * self.steps..(index + 1) * self.steps]
    }

    pub(crate) fn block_mut(&mut self, index: usize) -> &mut [Words] {
        // SAFETY: so many were allocated and zeroed, and the borrow is exclusive.
        let all = unsafe { std::slice::from_raw_parts_mut(self.words.as_ptr(), self.count) };
        &mut all[index * self.steps..(index + 1) * self.steps]
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.count) {
            // SAFETY: it was allocated with this very layout.
            unsafe { dealloc(self.words.as_ptr().cast(), layout) };
        }
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks")
            .field("blocks", &self.num_blocks())
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

fn layout(count: usize) -> Option<Layout> {
    let layout = Layout::array::<Words>(count).ok()?;
    if layout.size() < LARGE_PAGE {
        return (layout.size() > 0).then_some(layout);
    }
    layout.align_to(LARGE_PAGE).ok()
}
