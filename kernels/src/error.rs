//! What a kernel refuses, with the figures that a caller needs to see what was wrong.

use thiserror::Error;

use crate::{Bf16Fault, Isa};

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
    /// A row was asked for that a weight or an activation does not have.
    #[error("row {id} of {rows} rows")]
    RowId {
        /// What was asked for.
        id: i32,
        /// Rows that there are.
        rows: usize,
    },
    /// There is no memory for weights, keys and values or a table.
    #[error("no memory for {bytes} bytes")]
    OutOfMemory {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// A parameter of a request is out of its bounds.
    #[error("{name} {problem}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// What is wrong with it, and what is expected.
        problem: String,
    },
    /// The machine lacks an instruction set that was asked for.
    #[error("this machine has no {isa}")]
    IsaMissing {
        /// What was asked for.
        isa: Isa,
    },
    /// No instruction set has this name.
    #[error("unknown instruction set {name:?}, expected portable, avx2, avx512 or avx512bf16")]
    IsaUnknown {
        /// The name.
        name: String,
    },
    /// The machine's bf16 instruction gives other bits than fused multiply-adds.
    #[error("this machine's bf16 dot product cannot be used: {fault}")]
    Bf16Faulty {
        /// What was seen.
        fault: Bf16Fault,
    },
    /// No number format has this name.
    #[error("unknown number format {name:?}, expected float32 or bfloat16")]
    DtypeUnknown {
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
    /// An index of a call points nowhere.
    #[error("{what} is {value}, expected one below {count}")]
    Index {
        /// What it is an index of.
        what: &'static str,
        /// What was given.
        value: i64,
        /// How many there are.
        count: usize,
    },
    /// A head that the attention kernels are not made for.
    #[error("the head size is {head_dim}, expected an even number up to {limit}")]
    HeadDim {
        /// What was given.
        head_dim: usize,
        /// The largest size.
        limit: usize,
    },
    /// A rotary frequency that is no number, or too large for the positions.
    #[error("the rotary frequency of pair {pair} is no number or gives an angle over 2^20")]
    Angle {
        /// Its index.
        pair: usize,
    },
    /// A shape of two things that belong together differs.
    #[error("{what} is {actual} here and {expected} there")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// What one side has.
        expected: usize,
        /// What the other has.
        actual: usize,
    },
}
