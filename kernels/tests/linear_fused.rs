//! Gate and up in one, logits of picked rows, and the embedding out of the packed head.

use proptest::prelude::*;
use slackwater_kernels::{
    Act, Dtype, GateUp, Isa, Kernels, Linear, Pool, embed, gate_up_act, logits,
};

use crate::linear::{Case, bits, dtypes, paths, tolerance, values};

/// Gate, up, and what `gate_up_act` makes of them.
struct Gated {
    gate: Case,
    up: Case,
    packed: GateUp,
}

impl Gated {
    fn new(shape: (usize, usize, usize), dtype: Dtype, seed: u64) -> Self {
        let gate = Case::new(shape, dtype, false, seed);
        let mut state = seed ^ 0xffff;
        let up = Case {
            weight: values(gate.weight.len(), &mut state),
            ..gate.clone()
        };
        let (_, columns, depth) = shape;
        let packed = GateUp::pack(&gate.weight, &up.weight, columns, depth, dtype).unwrap();
        Self { gate, up, packed }
    }

    fn run(&self, x: &[f32], kernels: Kernels, pool: &Pool) -> Vec<f32> {
        let rows = x.len() / self.gate.depth;
        let mut out = vec![f32::NAN; rows * self.gate.columns];
        let mut scratch = vec![u32::MAX; self.packed.scratch_len(rows)];
        let (packed, act) = (&self.packed, Act::Silu);
        gate_up_act(x, rows, packed, act, &mut out, &mut scratch, kernels, pool).unwrap();
        out
    }
}

#[test]
fn gate_and_up_agree_with_float64() {
    let pool = Pool::new(2).unwrap();
    for dtype in Dtype::ALL {
        for shape in [(1, 1, 1), (3, 33, 7), (14, 64, 40), (97, 50, 12)] {
            let case = Gated::new(shape, dtype, 11);
            let (gates, ups) = (case.gate.reference(), case.up.reference());
            for kernels in paths() {
                let out = case.run(&case.gate.x, kernels, &pool);
                assert_eq!(out.len(), gates.len());
                for ((out, gate), up) in out.iter().zip(&gates).zip(&ups) {
                    let silu = |x: f64| x / (1.0 + (-x).exp());
                    let expected = silu(gate.0) * up.0;
                    // The slope of silu is at most 1.1.
                    let magnitude = 1.1 * gate.1 * up.0.abs() + silu(gate.0).abs() * up.1;
                    let bound = tolerance(dtype, case.gate.depth) * magnitude.max(1e-3);
                    assert!(
                        (f64::from(*out) - expected).abs() <= bound,
                        "{out} against {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_in_its_gated_row() {
    let pool = Pool::new(1).unwrap();
    for dtype in Dtype::ALL {
        let case = Gated::new((15, 40, 6), dtype, 5);
        let mut x = case.gate.x.clone();
        let clean = case.run(&x, Kernels::best(), &pool);
        x[4 * 6 + 1] = f32::NAN;
        for kernels in paths() {
            let out = case.run(&x, kernels, &pool);
            for (index, (out, clean)) in out.iter().zip(&clean).enumerate() {
                if index / 40 == 4 {
                    assert_eq!(out.to_bits(), f32::NAN.to_bits());
                } else {
                    assert_eq!(out.to_bits(), clean.to_bits());
                }
            }
        }
    }
}

/// Logits of picked rows.
fn picked_logits(
    case: &Case,
    packed: &Linear,
    rows: &[i32],
    kernels: Kernels,
    pool: &Pool,
) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows.len() * case.columns];
    let mut scratch = vec![u32::MAX; packed.scratch_len(rows.len())];
    logits(&case.x, rows, packed, &mut out, &mut scratch, kernels, pool).unwrap();
    out
}

#[test]
fn rows_of_the_weight_come_back_as_they_were_rounded() {
    for dtype in Dtype::ALL {
        let case = Case::new((1, 70, 9), dtype, true, 5);
        let packed = case.packed();
        let ids = [69_i32, 0, 31, 32, 0];
        let mut out = vec![f32::NAN; ids.len() * 9];
        embed(&ids, &packed, &mut out).unwrap();
        for (id, out) in ids.iter().zip(out.chunks(9)) {
            let row = usize::try_from(*id).unwrap() * 9;
            for (out, weight) in out.iter().zip(&case.weight[row..row + 9]) {
                match dtype {
                    Dtype::F32 => assert_eq!(out.to_bits(), weight.to_bits()),
                    Dtype::Bf16 => {
                        assert_eq!(out.to_bits() & 0xffff, 0);
                        assert!(
                            (out - weight).abs() <= weight.abs() / 256.0,
                            "{out} of {weight}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn rounding_an_embedding_again_changes_nothing() {
    let case = Case::new((1, 40, 7), Dtype::Bf16, false, 8);
    let ids: Vec<i32> = (0..40).collect();
    let read = |packed: &Linear| {
        let mut out = vec![0.0; 40 * 7];
        embed(&ids, packed, &mut out).unwrap();
        out
    };
    let once = read(&case.packed());
    let again = Linear::pack(&once, 40, 7, None, Dtype::Bf16).unwrap();
    assert_eq!(bits(&read(&again)), bits(&once));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_gated_row_alone_is_the_same_row_in_any_company(
        shape in (1_usize..110, 1_usize..100, 1_usize..60),
        threads in 1_usize..4,
        dtype in dtypes(),
        seed: u64,
    ) {
        let case = Gated::new(shape, dtype, seed);
        let (alone, pool) = (Pool::new(1).unwrap(), Pool::new(threads).unwrap());
        let x = &case.gate.x;
        let rows = x.chunks(case.gate.depth);
        let expected: Vec<f32> = rows.flat_map(|x| case.run(x, Kernels::best(), &alone)).collect();
        for kernels in paths().into_iter().filter(|kernels| kernels.isa() != Isa::Portable) {
            prop_assert_eq!(bits(&case.run(x, kernels, &pool)), bits(&expected), "{}", kernels.isa());
        }
        let portable = Kernels::for_isa(Isa::Portable).unwrap();
        let few = 5.min(case.gate.rows);
        let some = case.run(&x[..few * case.gate.depth], portable, &pool);
        prop_assert_eq!(bits(&some), bits(&expected[..few * case.gate.columns]));
    }

    #[test]
    fn picked_rows_are_the_rows_of_the_whole(
        shape in (1_usize..40, 1_usize..100, 1_usize..40),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        dtype in dtypes(),
        seed: u64,
    ) {
        let case = Case::new(shape, dtype, true, seed);
        let packed = case.packed();
        let pool = Pool::new(2).unwrap();
        let all = case.run_alone(&packed);
        let picks: Vec<usize> = picks.iter().map(|pick| pick.index(case.rows)).collect();
        let rows: Vec<i32> = picks.iter().map(|row| i32::try_from(*row).unwrap()).collect();
        let expected: Vec<f32> = picks
            .iter()
            .flat_map(|row| all[row * case.columns..(row + 1) * case.columns].to_vec())
            .collect();
        for kernels in paths() {
            prop_assert_eq!(bits(&picked_logits(&case, &packed, &rows, kernels, &pool)), bits(&expected));
        }
        let first: Vec<i32> = (0..).take(case.rows).collect();
        prop_assert_eq!(bits(&picked_logits(&case, &packed, &first, Kernels::best(), &pool)), bits(&all));
    }
}
