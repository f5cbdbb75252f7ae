//! The first half of a call: each token's heads are normalised and rotated, and its keys and values written.

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined into that set's function"
)]

use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::{AttnSpec, BatchView, QkNorm};
use crate::RopeTable;
use crate::kv::{BLOCK_SIZE, LayerTiles, MAX_HEAD_DIM};
use crate::norm::norm_row;
use crate::vector::{LANES, Simd, per_isa, to_pair};

/// A unit takes at least this many tokens: each takes more than a microsecond, as no line of its place in the cache is at
/// hand. Asking for these lines before they are written saves nothing.
const MIN_TOKENS: usize = 2;
const UNITS_PER_THREAD: usize = 4;

pub(super) fn tokens_per_unit(tokens: usize, threads: usize) -> usize {
    tokens
        .div_ceil(threads.saturating_mul(UNITS_PER_THREAD))
        .max(MIN_TOKENS)
}

pub(super) struct Prepare<'a> {
    pub(super) spec: &'a AttnSpec,
    pub(super) rope: Option<&'a RopeTable>,
    pub(super) qk_norm: Option<QkNorm<'a>>,
    pub(super) batch: &'a BatchView<'a>,
    pub(super) tiles: LayerTiles,
    pub(super) bf16: bool,
}

per_isa! {
    pub(super) fn row = row_body(prepare: &Prepare<'_>, token: usize, row: &mut [f32]);
}

/// One token's row. Its queries are left scaled, and with a bf16 cache as `D / 2` pairs at the front of each head.
///
/// # Safety
/// The machine has the instruction set; the row's position and slot exist; no unit reads the cache.
#[inline(always)]
unsafe fn row_body<S: Simd>(prepare: &Prepare<'_>, token: usize, row: &mut [f32]) {
    let spec = prepare.spec;
    let size = spec.head_dim;
    let position = usize::try_from(prepare.batch.positions[token]).unwrap_or(0);
    let angles = prepare.rope.map(|rope| rope.at(position));
    let (queries, others) = row.split_at_mut(spec.num_heads * size);
    let (keys, values) = others.split_at_mut(spec.num_kv_heads * size);
    let slot = usize::try_from(prepare.batch.slot_mapping[token]).ok();
    // SAFETY: the caller vouches for the instructions, the position and the slot.
    unsafe {
        for head in queries.chunks_exact_mut(size) {
            turn::<S>(head, prepare.qk_norm.map(|norm| (norm.q, norm.eps)), angles);
            scale(head, spec.scale, prepare.bf16);
        }
        for head in keys.chunks_exact_mut(size) {
            turn::<S>(head, prepare.qk_norm.map(|norm| (norm.k, norm.eps)), angles);
        }
        let Some(slot) = slot else { return };
        let (block, offset) = (slot / BLOCK_SIZE, slot % BLOCK_SIZE);
        let heads = keys.chunks_exact(size).zip(values.chunks_exact(size));
        for (head, (key, value)) in heads.enumerate() {
            let (to_keys, to_values) = (
                prepare.tiles.keys(block, head),
                prepare.tiles.values(block, head),
            );
            if prepare.bf16 {
                // Even tokens come before odd ones in the lanes of keys, and are the first of each pair of values.
                let lane = offset % 2 * LANES + offset / 2;
                write_pairs(key, to_keys.add(lane), BLOCK_SIZE);
                let to_pairs = to_values.add(offset / 2 * size);
                write_halves(value, to_pairs.cast::<u16>().add(half_of(offset)));
            } else {
                write_singles(key, to_keys.add(offset), BLOCK_SIZE);
                write_singles(value, to_values.add(offset * size), 1);
            }
        }
    }
}

/// The norm and the rotation of a head.
///
/// # Safety
/// The machine has the instruction set; the angles are half as many as the head's elements.
#[inline(always)]
unsafe fn turn<S: Simd>(
    head: &mut [f32],
    norm: Option<(&[f32], f32)>,
    angles: Option<(&[f32], &[f32])>,
) {
    if let Some((weight, eps)) = norm {
        let mut normed = [0.0; MAX_HEAD_DIM];
        let normed = &mut normed[..head.len()];
        // SAFETY: the caller vouches for the instructions.
        unsafe { norm_row(S::ISA, head, None, weight, eps, normed) };
        head.copy_from_slice(normed);
    }
    let Some((cos, sin)) = angles else { return };
    let (low, high) = head.split_at_mut(cos.len());
    for at in (0..cos.len()).step_by(LANES) {
        let n = LANES.min(cos.len() - at);
        // SAFETY: `n` elements from `at` lie within all four; the caller vouches for the instructions.
        unsafe {
            let cosine = S::load_part(cos.as_ptr().add(at), n);
            let sine = S::load_part(sin.as_ptr().add(at), n);
            let (low, high) = (low.as_mut_ptr().add(at), high.as_mut_ptr().add(at));
            let (x, y) = (S::load_part(low, n), S::load_part(high, n));
            S::store_part(low, n, S::sub(S::mul(x, cosine), S::mul(y, sine)));
            S::store_part(high, n, S::add(S::mul(y, cosine), S::mul(x, sine)));
        }
    }
}

/// Scales a query, and rounds it to pairs in place if it meets a bf16 cache.
#[inline(always)]
fn scale(head: &mut [f32], scale: f32, bf16: bool) {
    for x in &mut *head {
        *x *= scale;
    }
    if bf16 {
        let mut pairs = [0; MAX_HEAD_DIM / 2];
        let pairs = &mut pairs[..head.len() / 2];
        to_pairs(head, pairs);
        for (x, pair) in head.iter_mut().zip(pairs) {
            *x = f32::from_bits(*pair);
        }
    }
}

#[inline(always)]
fn to_pairs(head: &[f32], pairs: &mut [u32]) {
    for (pair, x) in pairs.iter_mut().zip(head.chunks_exact(2)) {
        *pair = to_pair(x[0], x[1]);
    }
}

/// Writes a head as pairs of bf16, `stride` words apart.
///
/// # Safety
/// `to` is good for them, and is read by nobody now.
#[inline(always)]
unsafe fn write_pairs(head: &[f32], to: *mut u32, stride: usize) {
    let mut pairs = [0; MAX_HEAD_DIM / 2];
    let pairs = &mut pairs[..head.len() / 2];
    to_pairs(head, pairs);
    for (i, pair) in pairs.iter().enumerate() {
        // SAFETY: the caller vouches for the place. Two tokens of one slot are a caller's error, but no race.
        unsafe { AtomicU32::from_ptr(to.add(i * stride)).store(*pair, Ordering::Relaxed) };
    }
}

/// Which half word of a pair a token has: the even one is in the low half.
const fn half_of(token: usize) -> usize {
    (token % 2) ^ (cfg!(target_endian = "big") as usize)
}

/// Writes a head as bf16 in the half words at every other place.
///
/// # Safety
/// As [`write_pairs`].
#[inline(always)]
unsafe fn write_halves(head: &[f32], to: *mut u16) {
    let mut pairs = [0_u32; MAX_HEAD_DIM / 2];
    let pairs = &mut pairs[..head.len() / 2];
    to_pairs(head, pairs);
    for (i, pair) in pairs.iter().enumerate() {
        let half = |at: usize, x: u32| {
            #[allow(clippy::cast_possible_truncation, reason = "a half of 32 bits has 16")]
            let x = x as u16;
            // SAFETY: as in `write_pairs`.
            unsafe { AtomicU16::from_ptr(to.add(at)).store(x, Ordering::Relaxed) };
        };
        half(4 * i, *pair);
        half(4 * i + 2, *pair >> 16);
    }
}

/// Writes a head as float32, `stride` words apart.
///
/// # Safety
/// As [`write_pairs`].
#[inline(always)]
unsafe fn write_singles(head: &[f32], to: *mut u32, stride: usize) {
    for (i, x) in head.iter().enumerate() {
        // SAFETY: as in `write_pairs`.
        unsafe { AtomicU32::from_ptr(to.add(i * stride)).store(x.to_bits(), Ordering::Relaxed) };
    }
}
