//! The memory of packed weights: blocks of 32 output columns, one after the other.

use std::ptr::NonNull;

use crate::KernelError;
use crate::micro::{COLUMNS, Words};
use crate::pages::Piece;
use crate::shared::product;

/// `blocks` blocks of `steps` steps each.
pub(crate) struct Blocks {
    memory: Piece,
    count: usize,
    steps: usize,
}

// SAFETY: it owns plain numbers, which are only read once it is shared.
unsafe impl Send for Blocks {}
// SAFETY: as above.
unsafe impl Sync for Blocks {}

impl Blocks {
    /// Zeroed blocks for so many columns. They lie on large pages where the system has them.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`], or [`KernelError::OutOfRange`] if that is no size.
    pub(crate) fn zeroed(columns: usize, steps: usize) -> Result<Self, KernelError> {
        let count = product(columns.div_ceil(COLUMNS), steps)?;
        let bytes = product(count, size_of::<Words>())?;
        let memory = Piece::new(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        let blocks = Self {
            memory,
            count,
            steps,
        };
        // SAFETY: it has room for so many, and all zeros are a value.
        unsafe { blocks.words().write_bytes(0, count) };
        Ok(blocks)
    }

    /// Where the words lie: a piece is aligned as they must be.
    fn words(&self) -> NonNull<Words> {
        self.memory.base().cast()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.count * size_of::<Words>()
    }

    /// The memory as it lies there.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: words are plain numbers, and so many bytes were allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.words().as_ptr().cast(), self.bytes()) }
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.count / self.steps
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    pub(crate) fn all(&self) -> &[Words] {
        // SAFETY: so many were allocated and zeroed.
        unsafe { std::slice::from_raw_parts(self.words().as_ptr(), self.count) }
    }

    pub(crate) fn block(&self, index: usize) -> &[Words] {
        &self.all()[index * self.steps..(index + 1) * self.steps]
    }

    pub(crate) fn block_mut(&mut self, index: usize) -> &mut [Words] {
        // SAFETY: so many were allocated and zeroed, and the borrow is exclusive.
        let all = unsafe { std::slice::from_raw_parts_mut(self.words().as_ptr(), self.count) };
        &mut all[index * self.steps..(index + 1) * self.steps]
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
