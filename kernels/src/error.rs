//! What a kernel refuses, with the figures that a caller needs to see what was wrong.

use thiserror::Error;

use crate::Isa;

/// A call that cannot be carried out. Nothing has been written when it is returned.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A dimension of a weight or of a pool that must be positive is zero, or too large to count.
    #[error("{what} is {value}, expected 1 to {limit}")]
    OutOfRange {
        /// What was given.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The largest value that is taken.
        limit: usize,
    },
    /// A buffer does not hold as many elements as its shape says.
    #[error("{what} has {actual} elements, expected {expected}")]
    Length {
        /// Name of the buffer.
        what: &'static str,
        /// Elements that its shape asks for.
        expected: usize,
        /// Elements that it has.
        actual: usize,
    },
    /// A row was asked for that the weight does not have.
    #[error("row {id} of a weight of {rows} rows")]
    RowId {
        /// What was asked for.
        id: i32,
        /// Rows of the weight.
        rows: usize,
    },
    /// There is no memory for the packed weights.
    #[error("no memory for {bytes} bytes of packed weights")]
    OutOfMemory {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The machine lacks an instruction set that was asked for.
    #[error("this machine has no {isa}")]
    IsaMissing {
        /// What was asked for.
        isa: Isa,
    },
    /// No instruction set has this name.
    #[error("unknown instruction set {name:?}, expected portable, avx2 or avx512")]
    IsaUnknown {
        /// The name.
        name: String,
    },
    /// The operating system gave no thread.
    #[error("cannot start thread {index} of the pool: {reason}")]
    Thread {
        /// Index of the thread; the caller is 0.
        index: usize,
        /// The operating system's words.
        reason: String,
    },
}
