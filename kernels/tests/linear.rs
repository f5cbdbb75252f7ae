//! The linear layer.

use proptest::prelude::*;
use slackwater_kernels::{
    Isa, KernelError, Kernels, PackedLinear, Pool, embed, estimated_micros, linear,
};

/// A layer and its inputs, from one seed.
#[derive(Debug, Clone)]
struct Case {
    rows: usize,
    columns: usize,
    depth: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn new(rows: usize, columns: usize, depth: usize, with_bias: bool, seed: u64) -> Self {
        let mut state = seed;
        Self {
            rows,
            columns,
            depth,
            x: values(rows * depth, &mut state),
            weight: values(columns * depth, &mut state),
            bias: with_bias.then(|| values(columns, &mut state)),
        }
    }

    fn packed(&self) -> PackedLinear {
        PackedLinear::pack(&self.weight, self.columns, self.depth, self.bias.as_deref()).unwrap()
    }

    fn run(&self, packed: &PackedLinear, kernels: Kernels, pool: &Pool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.rows * self.columns];
        linear(&self.x, self.rows, packed, &mut out, kernels, pool).unwrap();
        out
    }

    /// The result in float64, and the sum of the magnitudes that went into each element.
    fn reference(&self) -> Vec<(f64, f64)> {
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

/// Numbers in -1..1 from a counter: splitmix64.
fn values(count: usize, state: &mut u64) -> Vec<f32> {
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

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn paths() -> Vec<Kernels> {
    Isa::ALL
        .into_iter()
        .filter_map(|isa| Kernels::for_isa(isa).ok())
        .collect()
}

fn check_against_float64(case: &Case, out: &[f32]) {
    for (index, (value, (expected, magnitude))) in out.iter().zip(case.reference()).enumerate() {
        let error = (f64::from(*value) - expected).abs();
        assert!(
            error <= 1e-6 * magnitude,
            "element {index}: {value} against {expected}, magnitude {magnitude}"
        );
    }
}

#[test]
fn every_path_has_the_same_bits_and_agrees_with_float64() {
    let pool = Pool::new(2).unwrap();
    // Every tile height of every path, the edges of blocks and panels, and the shapes of a real model.
    let mut shapes: Vec<(usize, usize, usize)> = (1..=30).map(|rows| (rows, 40, 19)).collect();
    shapes.extend([
        (1, 1, 1),
        (1, 31, 1),
        (3, 32, 2),
        (5, 33, 3),
        (95, 65, 5),
        (96, 64, 7),
        (97, 63, 9),
        (200, 70, 31),
        (2, 960, 576),
        (1, 576, 1536),
    ]);
    for (seed, (rows, columns, depth)) in (0..).zip(shapes) {
        for with_bias in [false, true] {
            let case = Case::new(rows, columns, depth, with_bias, seed);
            let packed = case.packed();
            let outs: Vec<_> = paths()
                .into_iter()
                .map(|kernels| (kernels.isa(), case.run(&packed, kernels, &pool)))
                .collect();
            let (_, portable) = &outs[0];
            check_against_float64(&case, portable);
            for (isa, out) in &outs {
                assert_eq!(bits(out), bits(portable), "{isa}, {rows}x{columns}x{depth}");
            }
        }
    }
}

#[test]
fn sums_are_fused_and_in_ascending_order() {
    let tiny = 2.0_f32.powi(-24);
    // One fused rounding each: 1 + tiny rounds to 1, three times; from the other end the tinies would have added up.
    let packed = PackedLinear::pack(&[1.0, tiny, tiny, tiny], 1, 4, None).unwrap();
    let pool = Pool::new(1).unwrap();
    for kernels in paths() {
        let mut out = [0.0];
        linear(&[1.0; 4], 1, &packed, &mut out, kernels, &pool).unwrap();
        assert_eq!(bits(&out), bits(&[1.0]));
    }
    // A product that only a fused multiply-add keeps: (1 + e)(1 - e) - 1 = -e^2.
    let e = 2.0_f32.powi(-13);
    let packed = PackedLinear::pack(&[-1.0, 1.0 + e], 1, 2, None).unwrap();
    for kernels in paths() {
        let mut out = [0.0];
        linear(&[1.0, 1.0 - e], 1, &packed, &mut out, kernels, &pool).unwrap();
        assert_eq!(bits(&out), bits(&[-(e * e)]));
    }
}

#[test]
fn wrong_shapes_are_refused_and_nothing_is_written() {
    let length = |what, expected, actual| KernelError::Length {
        what,
        expected,
        actual,
    };
    let pack = |weight: &[f32], columns, depth, bias: Option<&[f32]>| {
        PackedLinear::pack(weight, columns, depth, bias).map(|packed| packed.columns())
    };
    assert_eq!(pack(&[0.0; 5], 2, 3, None), Err(length("weight", 6, 5)));
    assert_eq!(
        pack(&[0.0; 6], 2, 3, Some(&[0.0; 3])),
        Err(length("bias", 2, 3))
    );
    for (columns, depth) in [(0, 3), (3, 0), (usize::MAX, 2), (1 << 31, 1)] {
        assert!(matches!(
            pack(&[], columns, depth, None),
            Err(KernelError::OutOfRange { .. })
        ));
    }
    let pool = Pool::new(1).unwrap();
    let packed = PackedLinear::pack(&[1.0; 6], 2, 3, None).unwrap();
    let mut out = [7.0; 4];
    let mut call = |x: &[f32], rows, out_len: usize| {
        let result = linear(
            x,
            rows,
            &packed,
            &mut out[..out_len],
            Kernels::best(),
            &pool,
        );
        (result, out)
    };
    assert_eq!(call(&[1.0; 5], 2, 4), (Err(length("x", 6, 5)), [7.0; 4]));
    assert_eq!(call(&[1.0; 6], 2, 3), (Err(length("out", 4, 3)), [7.0; 4]));
    assert!(matches!(
        call(&[], usize::MAX, 0),
        (Err(KernelError::OutOfRange { .. }), [7.0, 7.0, 7.0, 7.0])
    ));
    assert_eq!(call(&[], 0, 0), (Ok(()), [7.0; 4]));
    assert_eq!(call(&[1.0; 6], 2, 4), (Ok(()), [3.0; 4]));
}

#[test]
fn rows_of_the_weight_come_back_as_they_were() {
    let case = Case::new(1, 70, 9, true, 5);
    let packed = case.packed();
    let ids = [69_i32, 0, 31, 32, 0];
    let mut out = vec![f32::NAN; ids.len() * 9];
    embed(&ids, &packed, &mut out).unwrap();
    let rows = ids.iter().map(|id| usize::try_from(*id).unwrap() * 9);
    let expected: Vec<f32> = rows
        .flat_map(|row| case.weight[row..row + 9].to_vec())
        .collect();
    assert_eq!(bits(&out), bits(&expected));
    let mut out = [7.0; 18];
    for id in [-1, 70, i32::MAX, i32::MIN] {
        assert_eq!(
            embed(&[0, id], &packed, &mut out),
            Err(KernelError::RowId { id, rows: 70 })
        );
    }
    assert_eq!(
        embed(&[0], &packed, &mut out),
        Err(KernelError::Length {
            what: "out",
            expected: 9,
            actual: 18
        })
    );
    assert_eq!(bits(&out), bits(&[7.0; 18]));
}

#[test]
fn the_estimate_grows_with_the_work() {
    let packed = PackedLinear::pack(&vec![0.0; 64 * 1_000], 64, 1_000, None).unwrap();
    assert_eq!(estimated_micros(1, &packed), 20);
    assert_eq!(estimated_micros(100, &packed), 200);
    assert_eq!((packed.columns(), packed.depth()), (64, 1_000));
    assert_eq!(packed.bytes(), 64 * 1_000 * 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_alone_is_the_same_row_in_any_company(
        rows in 1_usize..120,
        columns in 1_usize..200,
        depth in 1_usize..80,
        threads in 1_usize..5,
        with_bias: bool,
        seed: u64,
    ) {
        let case = Case::new(rows, columns, depth, with_bias, seed);
        let packed = case.packed();
        let alone = Pool::new(1).unwrap();
        let pool = Pool::new(threads).unwrap();
        let paths: Vec<_> = paths().into_iter().filter(|kernels| kernels.isa() != Isa::Portable).collect();
        let mut expected = Vec::new();
        for x in case.x.chunks_exact(depth) {
            let one = Case { rows: 1, x: x.to_vec(), ..case.clone() };
            expected.extend(one.run(&packed, Kernels::best(), &alone));
        }
        for kernels in paths {
            prop_assert_eq!(bits(&case.run(&packed, kernels, &pool)), bits(&expected), "{}", kernels.isa());
        }
    }

    #[test]
    fn large_calls_are_shared_without_a_change(
        rows in prop::sample::select(vec![1_usize, 2, 16, 97, 200]),
        threads in 2_usize..5,
        seed: u64,
    ) {
        let case = Case::new(rows, 600, 300, true, seed);
        let packed = case.packed();
        let pool = Pool::new(threads).unwrap();
        let alone = case.run(&packed, Kernels::best(), &Pool::new(1).unwrap());
        prop_assert_eq!(bits(&case.run(&packed, Kernels::best(), &pool)), bits(&alone));
    }
}
