//! The norm: against float64, against itself on other paths, in other company, and what it refuses.

use proptest::prelude::*;
use slackwater_kernels::{Isa, KernelError, Kernels, Pool, add_norm};

const EPS: f32 = 1e-5;

/// Sums and normed rows.
type Rows = (Vec<f32>, Vec<f32>);

fn run(x: &[f32], delta: Option<&[f32]>, weight: &[f32], kernels: Kernels, threads: usize) -> Rows {
    let rows = x.len() / weight.len();
    let (mut sums, mut out) = (x.to_vec(), vec![f32::NAN; x.len()]);
    let pool = Pool::new(threads).unwrap();
    add_norm(
        &mut sums, delta, weight, EPS, rows, &mut out, kernels, &pool,
    )
    .unwrap();
    (sums, out)
}

fn bits(rows: &Rows) -> (Vec<u32>, Vec<u32>) {
    let of = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    (of(&rows.0), of(&rows.1))
}

fn cases() -> impl Strategy<Value = (usize, Vec<f32>, Option<Vec<f32>>, Vec<f32>)> {
    (1_usize..9, 1_usize..150, any::<bool>()).prop_flat_map(|(rows, width, with_delta)| {
        let values = |count| prop::collection::vec(-4.0_f32..4.0, count);
        let delta = values(rows * width).prop_map(move |delta| with_delta.then_some(delta));
        (Just(rows), values(rows * width), delta, values(width))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_are_near_float64_and_the_same_everywhere((rows, x, delta, weight) in cases()) {
        let width = weight.len();
        let whole = run(&x, delta.as_deref(), &weight, Kernels::best(), 1);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let kernels = Kernels::for_isa(isa).unwrap();
            prop_assert_eq!(bits(&run(&x, delta.as_deref(), &weight, kernels, 2)), bits(&whole));
        }
        for row in 0..rows {
            let at = row * width..(row + 1) * width;
            let delta = delta.as_ref().map(|delta| &delta[at.clone()]);
            let alone = run(&x[at.clone()], delta, &weight, Kernels::best(), 1);
            let here = (whole.0[at.clone()].to_vec(), whole.1[at.clone()].to_vec());
            prop_assert_eq!(bits(&alone), bits(&here));
            let sums: Vec<f32> = match delta {
                Some(delta) => x[at].iter().zip(delta).map(|(x, delta)| x + delta).collect(),
                None => x[at].to_vec(),
            };
            prop_assert_eq!(&here.0, &sums);
            let squares: f64 = sums.iter().map(|sum| f64::from(*sum).powi(2)).sum();
            #[allow(clippy::cast_precision_loss, reason = "a small width")]
            let scale = 1.0 / (squares / width as f64 + f64::from(EPS)).sqrt();
            for ((out, sum), weight) in here.1.iter().zip(&sums).zip(&weight) {
                let expected = f64::from(*sum) * scale * f64::from(*weight);
                prop_assert!((f64::from(*out) - expected).abs() <= 1e-6 * expected.abs());
            }
        }
    }
}

#[test]
fn many_rows_are_shared_among_threads_and_keep_their_bits() {
    let x: Vec<f32> = (0_u16..60_000)
        .map(|i| f32::from(i % 251) - 125.0)
        .collect();
    let x = x.repeat(4);
    let weight = vec![0.5; 240];
    let alone = run(&x, Some(&x), &weight, Kernels::best(), 1);
    let shared = run(&x, Some(&x), &weight, Kernels::best(), 3);
    assert_eq!(bits(&shared), bits(&alone));
}

#[test]
fn buffers_that_do_not_fit_are_refused_and_nothing_is_written() {
    let (pool, kernels) = (Pool::new(1).unwrap(), Kernels::best());
    let (mut x, mut out) = (vec![1.0; 6], vec![7.0; 6]);
    let wrong = |what, actual| KernelError::Length {
        what,
        expected: 6,
        actual,
    };
    let weight = [1.0; 3];
    let refused = add_norm(&mut x[..5], None, &weight, EPS, 2, &mut out, kernels, &pool);
    assert_eq!(refused, Err(wrong("x", 5)));
    let refused = add_norm(
        &mut x,
        Some(&[0.0; 7]),
        &weight,
        EPS,
        2,
        &mut out,
        kernels,
        &pool,
    );
    assert_eq!(refused, Err(wrong("delta", 7)));
    let refused = add_norm(&mut x, None, &weight, EPS, 2, &mut out[..4], kernels, &pool);
    assert_eq!(refused, Err(wrong("out", 4)));
    let refused = add_norm(
        &mut x,
        None,
        &weight,
        EPS,
        usize::MAX,
        &mut out,
        kernels,
        &pool,
    );
    assert!(matches!(refused, Err(KernelError::OutOfRange { .. })));
    assert_eq!((x, out), (vec![1.0; 6], vec![7.0; 6]));
    assert_eq!(
        add_norm(&mut [], None, &weight, EPS, 0, &mut [], kernels, &pool),
        Ok(())
    );
    assert_eq!(
        add_norm(&mut [], None, &[], EPS, 5, &mut [], kernels, &pool),
        Ok(())
    );
}
