//! The CPU kernels: what a model computes most of its time, in a fixed order of operations.
//!
//! The one rule of this crate is the row rule: the bits of an output row depend only on that row's inputs and on the
//! weights. Not on the number of rows, the row's place among them, the thread count or the instruction set.
//!
//! - [`isa`]: which instruction sets this machine has, and the choice of one
//! - [`linear`]: packed weights and the linear layer
//! - `micro`: the one loop in which the sums are made, compiled once per instruction set
//! - [`pool`]: the threads that share a kernel's units of work
//! - [`error`]: what a kernel refuses

#![allow(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "the inner loops need unchecked reads and shared output; each is guarded by a check at its door"
)]

pub mod error;
pub mod isa;
pub mod linear;
mod micro;
pub mod pool;

pub use error::KernelError;
pub use isa::{Isa, Kernels};
pub use linear::{PackedLinear, embed, estimated_micros, linear};
pub use pool::{Pool, StepGuard};

/// Names the order of operations. It changes whenever the bits of any kernel may change, and is part of the numerics id.
pub const REVISION: u32 = 1;
