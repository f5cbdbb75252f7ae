//! The CPU kernels: what a model computes most of its time, in a fixed order of operations.
//!
//! The one rule of this crate is the row rule: the bits of an output row depend only on that row's inputs and on the
//! weights. Not on the number of rows, the row's place among them, the thread count or the instruction set.
//!
//! - [`isa`]: which instruction sets this machine has, and the choice of one
//! - [`dtype`]: the number formats of weights; [`act`]: activations
//! - [`linear`]: packed weights and the linear layers
//! - `micro`: the loops in which their sums are made, compiled once per instruction set
//! - [`sample`]: from logits to tokens
//! - [`attention`], [`kv`], [`rope`]: attention over the paged cache of keys and values
//! - [`pool`]: the threads that share a kernel's units of work
//! - [`probe`]: how fast memory is now, for benchmarks
//! - [`error`]: what a kernel refuses

#![allow(
    unsafe_code,
    clippy::indexing_slicing,
    reason = "the inner loops need unchecked reads and shared output; each is guarded by a check at its door"
)]

pub mod act;
pub mod attention;
pub mod dtype;
pub mod error;
pub mod isa;
pub mod kv;
pub mod linear;
mod math;
mod micro;
pub mod norm;
mod pages;
pub mod pool;
pub mod probe;
pub mod rope;
pub mod sample;
mod shared;
mod vector;

pub use act::Act;
pub use attention::{AttnSpec, BatchView, QkNorm, attend, attend_scratch_len};
pub use dtype::Dtype;
pub use error::KernelError;
pub use isa::{Bf16Fault, Isa, Kernels};
pub use kv::{BLOCK_SIZE, KvCache};
pub use linear::{GateUp, Linear, embed, gate_up_act, linear, logits};
pub use norm::add_norm;
pub use pool::{Pool, StepGuard};
pub use probe::ReadProbe;
pub use rope::RopeTable;

/// Names the order of operations. It changes whenever the bits of any kernel may change, and is part of the numerics id.
pub const REVISION: u32 = 3;
