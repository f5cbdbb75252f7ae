//! The table of angles, against the standard library's float64 functions.

#![allow(clippy::cast_precision_loss, reason = "positions are small")]

use proptest::prelude::*;
use slackwater_kernels::{KernelError, RopeTable};

/// The nearest float32, or its neighbour where the exact value lies within a hair of the middle of two.
fn assert_nearest(x: f32, exact: f64) {
    let ulp = f64::from(f32::from_bits(x.abs().to_bits() + 1)) - f64::from(x.abs());
    let error = (f64::from(x) - exact).abs();
    assert!(error <= ulp * 0.500_001, "{x} is not {exact}");
}

proptest! {
    #[test]
    fn cosines_and_sines_are_the_nearest_float32(
        frequency in prop_oneof![Just(1.0_f32), 1e-8..1.0_f32, 1.0..8.0_f32],
        positions in 1..3_000_usize,
        far in any::<bool>(),
    ) {
        let frequency = if far { frequency * 40.0 } else { frequency };
        let table = RopeTable::new(&[frequency, -frequency], 1.0, positions).unwrap();
        for position in 0..positions {
            let angle = f64::from(position as f32 * frequency);
            let (cos, sin) = table.at(position);
            assert_nearest(cos[0], angle.cos());
            assert_nearest(sin[0], angle.sin());
            prop_assert_eq!((cos[1], sin[1]), (cos[0], -sin[0]));
        }
    }
}

#[test]
fn a_million_positions() {
    let table = RopeTable::new(&[1.0], 1.0, 1_000_000).unwrap();
    for position in (0..1_000_000).step_by(7) {
        let (cos, sin) = table.at(position);
        assert_nearest(cos[0], (position as f64).cos());
        assert_nearest(sin[0], (position as f64).sin());
    }
    assert_eq!(table.bytes(), 8_000_000);
}

#[test]
fn the_scale_multiplies_before_rounding() {
    let table = RopeTable::new(&[0.3], 1.19, 100).unwrap();
    for position in 0..100 {
        let angle = f64::from(position as f32 * 0.3_f32);
        assert_nearest(table.at(position).0[0], angle.cos() * f64::from(1.19_f32));
    }
}

#[test]
fn known_bits() {
    let table = RopeTable::new(&[1.0], 1.0, 4).unwrap();
    let bits: Vec<(u32, u32)> = (0..4)
        .map(|position| table.at(position))
        .map(|(cos, sin)| (cos[0].to_bits(), sin[0].to_bits()))
        .collect();
    assert_eq!(
        bits,
        [
            (0x3f80_0000, 0),
            (0x3f0a_5140, 0x3f57_6aa4),
            (0xbed5_1133, 0x3f68_c7b7),
            (0xbf7d_7026, 0x3e10_81c3)
        ]
    );
}

#[test]
fn what_is_no_angle_is_refused() {
    let angle = |pair| Err::<(), _>(KernelError::Angle { pair });
    let made = |inv_freq: &[f32], positions| RopeTable::new(inv_freq, 1.0, positions).map(drop);
    assert_eq!(made(&[1.0, f32::NAN], 5), angle(1));
    assert_eq!(made(&[f32::INFINITY], 5), angle(0));
    assert_eq!(made(&[1.1], 1 << 20), angle(0));
    assert!(made(&[], 5).is_err());
    assert!(made(&[1.0; 129], 5).is_err());
    assert!(made(&[1.0], 0).is_err());
}
