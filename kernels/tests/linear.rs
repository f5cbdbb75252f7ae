//! The linear layer: against float64, against itself on other paths, and in other company.

use proptest::prelude::*;
use slackwater_kernels::{Dtype, Isa, Kernels, Linear, Pool, linear};

/// A layer and its inputs, from one seed.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    pub(crate) dtype: Dtype,
    pub(crate) x: Vec<f32>,
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Case {
    pub(crate) fn new(
        (rows, columns, depth): (usize, usize, usize),
        dtype: Dtype,
        with_bias: bool,
        seed: u64,
    ) -> Self {
        let mut state = seed;
        Self {
            rows,
            columns,
            depth,
            dtype,
            x: values(rows * depth, &mut state),
            weight: values(columns * depth, &mut state),
            bias: with_bias.then(|| values(columns, &mut state)),
        }
    }

    pub(crate) fn packed(&self) -> Linear {
        let (columns, depth) = (self.columns, self.depth);
        let bias = self.bias.as_deref();
        Linear::pack(&self.weight, columns, depth, bias, self.dtype).unwrap()
    }

    pub(crate) fn run(&self, packed: &Linear, kernels: Kernels, pool: &Pool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.rows * self.columns];
        let mut scratch = vec![u32::MAX; packed.scratch_len(self.rows)];
        let (x, rows) = (&self.x, self.rows);
        linear(x, rows, packed, &mut out, &mut scratch, kernels, pool).unwrap();
        out
    }

    /// Each row by itself.
    pub(crate) fn run_alone(&self, packed: &Linear) -> Vec<f32> {
        let pool = Pool::new(1).unwrap();
        let rows = self.x.chunks_exact(self.depth);
        let alone = |x: &[f32]| Self {
            rows: 1,
            x: x.to_vec(),
            ..self.clone()
        };
        rows.flat_map(|x| alone(x).run(packed, Kernels::best(), &pool))
            .collect()
    }

    /// The same case with its operands rounded to bf16.
    fn rounded(&self) -> Self {
        let all = |values: &[f32]| values.iter().copied().map(rounded).collect();
        Self {
            x: all(&self.x),
            weight: all(&self.weight),
            ..self.clone()
        }
    }

    /// The result in float64, and the sum of the magnitudes that went into each element.
    pub(crate) fn reference(&self) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        for x in self.x.chunks_exact(self.depth) {
            for (column, weight) in self.weight.chunks_exact(self.depth).enumerate() {
                let bias = self
                    .bias
                    .as_ref()
                    .map_or(0.0, |bias| f64::from(bias[column]));
                let products = || {
                    x.iter()
                        .zip(weight)
                        .map(|(x, w)| f64::from(*x) * f64::from(*w))
                };
                let sum = products().sum::<f64>() + bias;
                let magnitude = products().map(f64::abs).sum::<f64>() + bias.abs();
                out.push((sum, magnitude));
            }
        }
        out
    }
}

/// Error that a format may make, relative to the magnitudes of what is added. Two roundings to bf16 make 2^-7 of one
/// product at worst; in a sum they are of either sign.
pub(crate) fn tolerance(dtype: Dtype, depth: usize) -> f64 {
    match dtype {
        Dtype::F32 => 1e-6,
        Dtype::Bf16 if depth < 16 => 0.007_9,
        Dtype::Bf16 => 4e-3,
    }
}

/// To eight significant bits, halves to even.
fn rounded(x: f32) -> f32 {
    if x == 0.0 {
        return x;
    }
    let spacing = f64::from(x).abs().log2().floor() - 7.0;
    let unit = spacing.exp2();
    #[allow(clippy::cast_possible_truncation, reason = "eight bits are left")]
    let value = ((f64::from(x) / unit).round_ties_even() * unit) as f32;
    value
}

/// Numbers in -1..1 from a counter: splitmix64.
pub(crate) fn values(count: usize, state: &mut u64) -> Vec<f32> {
    (0..count)
        .map(|_| {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bits = u16::try_from((z >> 40) & 0xffff).unwrap();
            f32::from(bits) / 32_768.0 - 1.0
        })
        .collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(crate) fn paths() -> Vec<Kernels> {
    Isa::ALL
        .into_iter()
        .filter_map(|isa| Kernels::for_isa(isa).ok())
        .collect()
}

pub(crate) fn dtypes() -> impl Strategy<Value = Dtype> {
    prop::sample::select(Dtype::ALL.to_vec())
}

fn check_against_float64(case: &Case, out: &[f32], bound: f64) {
    for (index, (value, (expected, magnitude))) in out.iter().zip(case.reference()).enumerate() {
        let error = (f64::from(*value) - expected).abs();
        assert!(
            error <= bound * magnitude,
            "{} element {index}: {value} against {expected}, magnitude {magnitude}",
            case.dtype
        );
    }
}

#[test]
fn every_path_has_the_same_bits_and_agrees_with_float64() {
    let pool = Pool::new(2).unwrap();
    // Every tile height of every path, the edges of blocks, pairs and panels, and the shapes of a real model.
    let mut shapes: Vec<(usize, usize, usize)> = (1..=30).map(|rows| (rows, 40, 19)).collect();
    shapes.extend([
        (1, 1, 1),
        (1, 31, 1),
        (3, 32, 2),
        (5, 33, 3),
        (95, 65, 5),
        (96, 64, 7),
        (97, 63, 8),
        (200, 70, 31),
        (2, 960, 576),
        (1, 576, 1536),
    ]);
    for (seed, shape) in (0..).zip(shapes) {
        for (dtype, with_bias) in [
            (Dtype::F32, false),
            (Dtype::F32, true),
            (Dtype::Bf16, false),
            (Dtype::Bf16, true),
        ] {
            let case = Case::new(shape, dtype, with_bias, seed);
            let packed = case.packed();
            let outs: Vec<_> = paths()
                .into_iter()
                .map(|kernels| (kernels.isa(), case.run(&packed, kernels, &pool)))
                .collect();
            let (_, portable) = &outs[0];
            check_against_float64(&case, portable, tolerance(dtype, case.depth));
            if dtype == Dtype::Bf16 {
                check_against_float64(&case.rounded(), portable, 1e-6);
            }
            for (isa, out) in &outs {
                assert_eq!(bits(out), bits(portable), "{isa}, {dtype}, {shape:?}");
            }
        }
    }
}

/// One output element of one row.
fn element(x: &[f32], weight: &[f32], dtype: Dtype, kernels: Kernels) -> f32 {
    let packed = Linear::pack(weight, 1, x.len(), None, dtype).unwrap();
    let mut scratch = vec![0; packed.scratch_len(1)];
    let mut out = [f32::NAN];
    let pool = Pool::new(1).unwrap();
    linear(x, 1, &packed, &mut out, &mut scratch, kernels, &pool).unwrap();
    out[0]
}

#[test]
fn fp32_sums_are_fused_and_in_ascending_order() {
    let tiny = 2.0_f32.powi(-24);
    let e = 2.0_f32.powi(-13);
    for kernels in paths() {
        let sum = |x: &[f32], weight: &[f32]| element(x, weight, Dtype::F32, kernels).to_bits();
        // One fused rounding each: 1 + tiny rounds to 1, three times; from the other end the tinies would have added up.
        assert_eq!(sum(&[1.0; 4], &[1.0, tiny, tiny, tiny]), 1.0_f32.to_bits());
        // A product that only a fused multiply-add keeps: (1 + e)(1 - e) - 1 = -e^2.
        assert_eq!(sum(&[1.0, 1.0 - e], &[-1.0, 1.0 + e]), (-(e * e)).to_bits());
    }
}

#[test]
fn bf16_sums_take_the_odd_element_of_a_pair_first() {
    let half = 2.0_f32.powi(-24);
    let up = 1.0 + 2.0_f32.powi(-23);
    for kernels in paths() {
        let sum = |weight: &[f32]| element(&[1.0; 4], weight, Dtype::Bf16, kernels);
        // In the first pair the odd 1 comes before the even half, which is then rounded away, as is each later half.
        assert_eq!(sum(&[half, 1.0, half, half]).to_bits(), 1.0_f32.to_bits());
        // Odd first: both halves are there before the even 1. Then 1 + 2^-23 is kept.
        assert_eq!(sum(&[half, half, 1.0, 0.0]).to_bits(), up.to_bits());
        assert_eq!(sum(&[1.0, half, half, half]).to_bits(), 1.0_f32.to_bits());
    }
}

#[test]
fn bf16_operands_are_rounded_to_even_and_tiny_ones_are_zero() {
    let least = 2.0_f32.powi(-50);
    let below = f32::from_bits(least.to_bits() - 1);
    let (step, one) = (2.0_f32.powi(-7), 1.0_f32);
    for kernels in paths() {
        let product = |x: f32, w: f32| element(&[x], &[w], Dtype::Bf16, kernels).to_bits();
        for (value, rounded) in [
            (one + step / 2.0, one),
            (one + step * 1.5, one + step * 2.0),
            (one + step * 0.501, one + step),
            (least, least),
            (below, 0.0),
            (-below, 0.0),
            (f32::MAX, f32::INFINITY),
        ] {
            // A sum begins at +0, to which a product of -0 adds nothing.
            assert_eq!(product(value, 1.0), rounded.to_bits(), "{value:e}");
            assert_eq!(product(1.0, value), rounded.to_bits(), "{value:e}");
        }
        // The least product is normal, and so is the difference of two: nothing for an instruction to flush.
        let square = least * least;
        assert_eq!(product(least, least), square.to_bits());
        assert!(square.is_normal());
    }
}

#[test]
fn what_is_no_number_stays_in_its_row_and_has_one_pattern() {
    for dtype in Dtype::ALL {
        let mut case = Case::new((29, 50, 21), dtype, true, 3);
        let packed = case.packed();
        let clean = case.run_alone(&packed);
        let odd_nan = f32::from_bits(0xffc0_1234);
        for (row, value) in [
            (0, f32::NAN),
            (7, f32::INFINITY),
            (13, odd_nan),
            (28, f32::NEG_INFINITY),
        ] {
            case.x[row * 21 + row % 21] = value;
            case.x[row * 21 + (row + 1) % 21] = -value;
        }
        let pool = Pool::new(2).unwrap();
        let outs: Vec<_> = paths()
            .into_iter()
            .map(|kernels| case.run(&packed, kernels, &pool))
            .collect();
        for out in &outs {
            assert_eq!(bits(out), bits(&outs[0]), "{dtype}");
            for (row, (out, clean)) in out.chunks(50).zip(clean.chunks(50)).enumerate() {
                if [0, 7, 13, 28].contains(&row) {
                    assert!(out.iter().all(|value| !value.is_finite()));
                    let nan = |value: &&f32| value.is_nan();
                    assert!(
                        out.iter()
                            .filter(nan)
                            .all(|value| value.to_bits() == 0x7fc0_0000)
                    );
                } else {
                    assert_eq!(bits(out), bits(clean), "{dtype} row {row}");
                }
            }
        }
    }
}

#[test]
fn a_weight_that_is_no_number_stays_in_its_column() {
    for dtype in Dtype::ALL {
        let mut case = Case::new((14, 40, 9), dtype, false, 4);
        let clean = case.run_alone(&case.packed());
        case.weight[33 * 9 + 8] = f32::NAN;
        let pool = Pool::new(1).unwrap();
        for kernels in paths() {
            let out = case.run(&case.packed(), kernels, &pool);
            for (index, (out, clean)) in out.iter().zip(&clean).enumerate() {
                if index % 40 == 33 {
                    assert!(out.is_nan());
                } else {
                    assert_eq!(out.to_bits(), clean.to_bits());
                }
            }
        }
    }
}

#[test]
fn the_bf16_instruction_of_this_machine_is_not_faulty() {
    assert_eq!(Kernels::bf16_fault(), None);
    let best = Isa::ALL.into_iter().rfind(|isa| isa.is_available());
    assert_eq!(Some(Kernels::best().isa()), best);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_alone_is_the_same_row_in_any_company(
        shape in (1_usize..120, 1_usize..200, 1_usize..80),
        threads in 1_usize..5,
        dtype in dtypes(),
        with_bias: bool,
        seed: u64,
    ) {
        let case = Case::new(shape, dtype, with_bias, seed);
        let packed = case.packed();
        let pool = Pool::new(threads).unwrap();
        let expected = case.run_alone(&packed);
        for kernels in paths().into_iter().filter(|kernels| kernels.isa() != Isa::Portable) {
            prop_assert_eq!(bits(&case.run(&packed, kernels, &pool)), bits(&expected), "{}", kernels.isa());
        }
    }

    #[test]
    fn operands_of_any_size_give_the_same_bits_on_every_path(
        depth in 1_usize..40,
        dtype in dtypes(),
        words in prop::collection::vec(any::<u32>(), 80),
    ) {
        let x: Vec<f32> = words[..depth].iter().map(|word| f32::from_bits(*word)).collect();
        let weight: Vec<f32> = words[40..40 + depth].iter().map(|word| f32::from_bits(*word)).collect();
        let sums: Vec<u32> = paths()
            .into_iter()
            .map(|kernels| element(&x, &weight, dtype, kernels).to_bits())
            .collect();
        prop_assert!(sums.iter().all(|sum| *sum == sums[0]), "{:x?}", sums);
    }

    #[test]
    fn large_calls_are_shared_without_a_change(
        rows in prop::sample::select(vec![1_usize, 2, 16, 97, 200]),
        threads in 2_usize..5,
        dtype in dtypes(),
        seed: u64,
    ) {
        let case = Case::new((rows, 600, 300), dtype, true, seed);
        let packed = case.packed();
        let pool = Pool::new(threads).unwrap();
        let alone = case.run(&packed, Kernels::best(), &Pool::new(1).unwrap());
        prop_assert_eq!(bits(&case.run(&packed, Kernels::best(), &pool)), bits(&alone));
    }
}
