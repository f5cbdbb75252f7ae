//! `x += delta`, then the root-mean-square norm of each row.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use crate::shared::{Shared, check_length, product};
use crate::vector::{LANES, Simd, per_isa, sum_lanes};
use crate::{KernelError, Kernels, Pool};

/// Elements that a unit of work takes, at least: a row is too little to wake anybody for.
const UNIT_ELEMENTS: usize = 64 * 1024;

/// Adds `delta` to `x` in place, then `out = x / sqrt(mean(x^2) + eps) * weight`; all row-major `[rows, weight.len()]`.
///
/// # Errors
/// [`KernelError::Length`] where a buffer does not fit.
#[allow(clippy::too_many_arguments, reason = "an operation of the model")]
pub fn add_norm(
    x: &mut [f32],
    delta: Option<&[f32]>,
    weight: &[f32],
    eps: f32,
    rows: usize,
    out: &mut [f32],
    kernels: Kernels,
    pool: &Pool,
) -> Result<(), KernelError> {
    let width = weight.len();
    let elements = product(rows, width)?;
    check_length("x", elements, x.len())?;
    check_length("out", elements, out.len())?;
    if let Some(delta) = delta {
        check_length("delta", elements, delta.len())?;
    }
    if elements == 0 {
        return Ok(());
    }
    let rows_per_unit = (UNIT_ELEMENTS / width).max(1);
    let (x, out) = (Shared::new(x), Shared::new(out));
    pool.run(rows.div_ceil(rows_per_unit), &|unit| {
        for row in unit * rows_per_unit..rows.min((unit + 1) * rows_per_unit) {
            let at = row * width;
            let delta = delta.map(|delta| &delta[at..at + width]);
            // SAFETY: rows do not overlap, each belongs to one unit, and a `Kernels` exists only for what the machine has.
            unsafe {
                let (x, out) = (x.part(at, width), out.part(at, width));
                norm_row(kernels.isa(), x, delta, weight, eps, out);
            }
        }
    });
    Ok(())
}

per_isa! {
    pub(crate) fn norm_row = norm_row_body(x: &mut [f32], delta: Option<&[f32]>, weight: &[f32], eps: f32, out: &mut [f32]);
}

/// One row; all slices are equally long.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn norm_row_body<S: Simd>(
    x: &mut [f32],
    delta: Option<&[f32]>,
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let width = x.len();
    let whole = width - width % LANES;
    let rest = width - whole;
    // SAFETY: every access lies below `width`, which is the length of all slices; the caller vouches for the instructions.
    unsafe {
        let mut squares = S::splat(0.0);
        for at in (0..width).step_by(LANES) {
            let n = LANES.min(width - at);
            let mut v = S::load_part(x.as_ptr().add(at), n);
            if let Some(delta) = delta {
                v = S::add(v, S::load_part(delta.as_ptr().add(at), n));
                S::store_part(x.as_mut_ptr().add(at), n, v);
            }
            squares = S::fma(v, v, squares);
        }
        #[allow(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
        let mean = sum_lanes::<S>(squares) / width as f32;
        let inverse = S::splat(1.0 / (mean + eps).sqrt());
        for at in (0..whole).step_by(LANES) {
            let v = S::mul(S::load(x.as_ptr().add(at)), inverse);
            S::store(
                out.as_mut_ptr().add(at),
                S::mul(v, S::load(weight.as_ptr().add(at))),
            );
        }
        let v = S::mul(S::load_part(x.as_ptr().add(whole), rest), inverse);
        let v = S::mul(v, S::load_part(weight.as_ptr().add(whole), rest));
        S::store_part(out.as_mut_ptr().add(whole), rest, v);
    }
}
