//! What the operations share: checks at their doors, and buffers of which each unit of work writes its own part.

use std::marker::PhantomData;

use crate::KernelError;

/// The largest dimension: products of two of them still fit a `usize`.
pub(crate) const MAX_DIMENSION: usize = (1 << 31) - 1;

/// A buffer whose parts are written by different threads.
pub(crate) struct Shared<'a, T> {
    base: *mut T,
    length: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` hands out disjoint pieces, as its callers promise, and a `T: Send` may be written from any thread.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self {
            base: buffer.as_mut_ptr(),
            length: buffer.len(),
            buffer: PhantomData,
        }
    }

    /// Elements `first..first + count`.
    ///
    /// # Safety
    /// No other piece that overlaps it is alive.
    ///
    /// # Panics
    /// If it does not lie within the buffer.
    #[allow(clippy::mut_from_ref, reason = "the callers' pieces do not overlap")]
    pub(crate) unsafe fn part(&self, first: usize, count: usize) -> &mut [T] {
        assert!(first <= self.length && count <= self.length - first);
        // SAFETY: it lies within the buffer, and the caller vouches for being alone there.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(first), count) }
    }
}

/// `a * b`.
///
/// # Errors
/// [`KernelError::OutOfRange`] if that is no size.
pub(crate) fn product(a: usize, b: usize) -> Result<usize, KernelError> {
    a.checked_mul(b).ok_or_else(|| too_large(a))
}

pub(crate) fn in_range(what: &'static str, value: usize) -> Result<(), KernelError> {
    if (1..=MAX_DIMENSION).contains(&value) {
        Ok(())
    } else {
        Err(KernelError::OutOfRange {
            what,
            value,
            limit: MAX_DIMENSION,
        })
    }
}

pub(crate) fn too_large(value: usize) -> KernelError {
    KernelError::OutOfRange {
        what: "a dimension",
        value,
        limit: MAX_DIMENSION,
    }
}

pub(crate) fn check_length(
    what: &'static str,
    expected: usize,
    actual: usize,
) -> Result<(), KernelError> {
    if expected == actual {
        Ok(())
    } else {
        Err(KernelError::Length {
            what,
            expected,
            actual,
        })
    }
}
