//! The activation between the two halves of a gated layer.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::math::silu;
use crate::micro::{COLUMNS, TileSums};
use crate::vector::{LANES, Simd, per_isa};

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// `x / (1 + e^-x)`.
    Silu,
}

per_isa! {
    // `gate = act(gate) * up`, for the first `rows` rows of a tile.
    pub(crate) fn gate_tile = gate_tile_body(act: Act, gate: &mut TileSums, up: &TileSums, rows: usize);
}

/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn gate_tile_body<S: Simd>(act: Act, gate: &mut TileSums, up: &TileSums, rows: usize) {
    for (gate, up) in gate.iter_mut().zip(up).take(rows) {
        for at in (0..COLUMNS).step_by(LANES) {
            // SAFETY: both hold `COLUMNS` elements, and the caller vouches for the instructions.
            unsafe {
                let to = gate.0.as_mut_ptr().add(at);
                let activated = match act {
                    Act::Silu => silu::<S>(S::load(to)),
                };
                S::store(to, S::mul(activated, S::load(up.0.as_ptr().add(at))));
            }
        }
    }
}
