//! Angles of the rotary embedding: a table of cosines and sines by position.
//!
//! Sine and cosine are our own, in float64 by additions and multiplications alone, so that they have the same bits on any
//! machine; libm's do not. They are far closer to the true value than half a unit of float32.

#![allow(
    clippy::excessive_precision,
    reason = "coefficients as they are published"
)]

use crate::KernelError;
use crate::kv::{MAX_HEAD_DIM, check_head_dim};
use crate::shared::{in_range, product};

const TWO_OVER_PI: f64 = std::f64::consts::FRAC_2_PI;
/// pi / 2 in two parts; the first has 33 bits, so that its product with a quadrant's number of up to 20 bits is exact
/// (FreeBSD msun, `e_rem_pio2.c`).
const HALF_PI_HIGH: f64 = f64::from_bits(0x3ff9_21fb_5440_0000);
const HALF_PI_LOW: f64 = f64::from_bits(0x3dd0_b461_1a62_6331);
/// Minimax coefficients of `(sin r - r) / r^3` and of `(cos r - 1 + r^2 / 2) / r^4` in powers of `r^2` on
/// `[-pi / 4, pi / 4]`, lowest first (FreeBSD msun, `k_sin.c` and `k_cos.c`).
const SIN: [f64; 6] = [
    -1.666_666_666_666_663_243_48e-1,
    8.333_333_333_322_489_461_24e-3,
    -1.984_126_982_985_794_931_34e-4,
    2.755_731_370_707_006_767_89e-6,
    -2.505_076_025_340_686_341_95e-8,
    1.589_690_995_211_550_102_21e-10,
];
const COS: [f64; 6] = [
    4.166_666_666_666_660_190_37e-2,
    -1.388_888_888_887_410_957_49e-3,
    2.480_158_728_947_672_941_78e-5,
    -2.755_731_435_139_066_330_35e-7,
    2.087_572_321_298_174_827_90e-9,
    -1.135_964_755_778_819_482_65e-11,
];
/// Up to here the reduction of the argument is exact enough.
const MAX_ANGLE: f32 = 1_048_576.0;

/// Cosines and sines `[max_positions][D / 2]`, float32, times a scale.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
    max_positions: usize,
}

impl RopeTable {
    /// The angle of position `p` and pair `i` is `p * inv_freq[i]`, rounded to float32.
    ///
    /// # Errors
    /// [`KernelError::OutOfRange`] for no or too many positions, [`KernelError::HeadDim`] for no or too many pairs,
    /// [`KernelError::Angle`] where an angle is not a number up to 2^20, [`KernelError::OutOfMemory`].
    pub fn new(inv_freq: &[f32], scale: f32, max_positions: usize) -> Result<Self, KernelError> {
        in_range("the number of positions", max_positions)?;
        check_head_dim(inv_freq.len().min(MAX_HEAD_DIM) * 2)?;
        let last = position(max_positions - 1);
        for (pair, frequency) in inv_freq.iter().enumerate() {
            if !(last * frequency).abs().le(&MAX_ANGLE) {
                return Err(KernelError::Angle { pair });
            }
        }
        let entries = product(max_positions, inv_freq.len())?;
        let (mut cos, mut sin) = (reserved(entries)?, reserved(entries)?);
        for row in 0..max_positions {
            for frequency in inv_freq {
                let (s, c) = sin_cos(f64::from(position(row) * frequency));
                cos.push(to_f32(c * f64::from(scale)));
                sin.push(to_f32(s * f64::from(scale)));
            }
        }
        Ok(Self {
            cos,
            sin,
            pairs: inv_freq.len(),
            max_positions,
        })
    }

    /// Pairs of elements that are rotated: half a head.
    pub const fn pairs(&self) -> usize {
        self.pairs
    }

    /// Positions of the table.
    pub const fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Bytes of the table.
    pub const fn bytes(&self) -> usize {
        2 * self.pairs * self.max_positions * size_of::<f32>()
    }

    /// Cosines and sines of a position, `[D / 2]` each.
    ///
    /// # Panics
    /// If the table has no such position.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let at = position * self.pairs..(position + 1) * self.pairs;
        (&self.cos[at.clone()], &self.sin[at])
    }
}

#[allow(
    clippy::cast_precision_loss,
    reason = "as the models do it in training"
)]
fn position(position: usize) -> f32 {
    position as f32
}

#[allow(clippy::cast_possible_truncation, reason = "the table is float32")]
fn to_f32(x: f64) -> f32 {
    x as f32
}

fn reserved(entries: usize) -> Result<Vec<f32>, KernelError> {
    let mut table = Vec::new();
    table
        .try_reserve_exact(entries)
        .map_err(|_| KernelError::OutOfMemory {
            bytes: entries.saturating_mul(size_of::<f32>()),
        })?;
    Ok(table)
}

/// Sine and cosine of an angle up to [`MAX_ANGLE`] in magnitude.
fn sin_cos(angle: f64) -> (f64, f64) {
    let quadrant = (angle * TWO_OVER_PI).round_ties_even();
    let r = (angle - quadrant * HALF_PI_HIGH) - quadrant * HALF_PI_LOW;
    let square = r * r;
    let poly = |coefficients: &[f64; 6]| {
        coefficients
            .iter()
            .rev()
            .fold(0.0, |sum, coefficient| sum * square + coefficient)
    };
    let sin = r + r * square * poly(&SIN);
    let cos = 1.0 - (0.5 * square - square * square * poly(&COS));
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a whole number of up to 20 bits"
    )]
    match (quadrant as i32).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}
