//! What the linear layers refuse, and that they have written nothing then.

use slackwater_kernels::{
    Act, Dtype, GateUp, KernelError, Kernels, Linear, Pool, embed, gate_up_act, linear, logits,
};

fn length(what: &'static str, expected: usize, actual: usize) -> KernelError {
    KernelError::Length {
        what,
        expected,
        actual,
    }
}

#[test]
fn weights_of_wrong_shapes_are_refused() {
    for dtype in Dtype::ALL {
        let pack = |weight: &[f32], columns, depth, bias: Option<&[f32]>| {
            Linear::pack(weight, columns, depth, bias, dtype).map(|packed| packed.columns())
        };
        let gated = |gate: &[f32], up: &[f32], columns, depth| {
            GateUp::pack(gate, up, columns, depth, dtype).map(|packed| packed.columns())
        };
        assert_eq!(pack(&[0.0; 5], 2, 3, None), Err(length("weight", 6, 5)));
        let bias = Some(&[0.0; 3][..]);
        assert_eq!(pack(&[0.0; 6], 2, 3, bias), Err(length("bias", 2, 3)));
        assert_eq!(gated(&[0.0; 5], &[0.0; 6], 2, 3), Err(length("gate", 6, 5)));
        assert_eq!(gated(&[0.0; 6], &[0.0; 7], 2, 3), Err(length("up", 6, 7)));
        for (columns, depth) in [(0, 3), (3, 0), (usize::MAX, 2), (1 << 31, 1)] {
            let out_of_range = |result| matches!(result, Err(KernelError::OutOfRange { .. }));
            assert!(out_of_range(pack(&[], columns, depth, None)));
            assert!(out_of_range(gated(&[], &[], columns, depth)));
        }
    }
}

#[test]
fn buffers_of_wrong_lengths_are_refused_and_nothing_is_written() {
    let pool = Pool::new(1).unwrap();
    let kernels = Kernels::best();
    for dtype in Dtype::ALL {
        let weights = Linear::pack(&[1.0; 6], 2, 3, None, dtype).unwrap();
        let gated = GateUp::pack(&[1.0; 6], &[1.0; 6], 2, 3, dtype).unwrap();
        assert_eq!((weights.scratch_len(2), gated.scratch_len(2)), (8, 8));
        let mut out = [7.0; 4];
        let mut scratch = [0; 8];
        let mut call = |fused: bool, x: &[f32], rows: usize, out_len: usize, words: usize| {
            let (to, words) = (&mut out[..out_len], &mut scratch[..words]);
            let result = if fused {
                gate_up_act(x, rows, &gated, Act::Silu, to, words, kernels, &pool)
            } else {
                linear(x, rows, &weights, to, words, kernels, &pool)
            };
            (result, out)
        };
        let untouched = [7.0; 4];
        for fused in [false, true] {
            let x = [1.0; 6];
            assert_eq!(
                call(fused, &x[..5], 2, 4, 8),
                (Err(length("x", 6, 5)), untouched)
            );
            assert_eq!(
                call(fused, &x, 2, 3, 8),
                (Err(length("out", 4, 3)), untouched)
            );
            if dtype == Dtype::Bf16 {
                assert_eq!(
                    call(fused, &x, 2, 4, 7),
                    (Err(length("scratch", 8, 7)), untouched)
                );
            }
            assert!(matches!(
                call(fused, &[], usize::MAX, 0, 0),
                (Err(KernelError::OutOfRange { .. }), [7.0, 7.0, 7.0, 7.0])
            ));
            assert_eq!(call(fused, &[], 0, 0, 0), (Ok(()), untouched));
        }
        assert_eq!(call(false, &[1.0; 6], 2, 4, 8), (Ok(()), [3.0; 4]));
    }
}

#[test]
fn rows_that_are_not_there_are_refused_and_nothing_is_written() {
    let pool = Pool::new(1).unwrap();
    let kernels = Kernels::best();
    for dtype in Dtype::ALL {
        let weights = Linear::pack(&[1.0; 6], 2, 3, None, dtype).unwrap();
        let mut out = [7.0; 4];
        let mut scratch = [0; 8];
        for id in [-1, 2, i32::MAX, i32::MIN] {
            let error = Err(KernelError::RowId { id, rows: 2 });
            let mut wide = [7.0; 6];
            assert_eq!(embed(&[0, id], &weights, &mut wide), error);
            assert_eq!(wide.map(f32::to_bits), [7.0_f32.to_bits(); 6]);
            let x = [1.0; 6];
            let picked = logits(
                &x,
                &[0, id],
                &weights,
                &mut out,
                &mut scratch,
                kernels,
                &pool,
            );
            assert_eq!(picked, error);
        }
        let mut call = |x: &[f32], rows: &[i32], out_len: usize, words: usize| {
            let (to, words) = (&mut out[..out_len], &mut scratch[..words]);
            let result = logits(x, rows, &weights, to, words, kernels, &pool);
            (result, out)
        };
        let untouched = [7.0; 4];
        assert_eq!(
            call(&[1.0; 5], &[0, 0], 4, 8),
            (Err(length("x", 3, 5)), untouched)
        );
        assert_eq!(
            call(&[1.0; 6], &[0, 0], 3, 8),
            (Err(length("out", 4, 3)), untouched)
        );
        assert_eq!(
            call(&[1.0; 6], &[1, 0], 4, 7),
            (Err(length("scratch", 8, 7)), untouched)
        );
        assert_eq!(call(&[], &[], 0, 0), (Ok(()), untouched));
        assert_eq!(call(&[1.0; 6], &[1, 0], 4, 8), (Ok(()), [3.0; 4]));
        let mut short = [7.0; 2];
        assert_eq!(embed(&[0], &weights, &mut short), Err(length("out", 3, 2)));
    }
}

#[test]
fn the_estimate_grows_with_the_work() {
    let weight = vec![0.0; 64 * 1_000];
    let packed = Linear::pack(&weight, 64, 1_000, None, Dtype::F32).unwrap();
    assert_eq!(
        [1, 100].map(|rows| packed.estimated_micros(rows)),
        [20, 200]
    );
    assert_eq!(
        (packed.columns(), packed.depth(), packed.dtype()),
        (64, 1_000, Dtype::F32)
    );
    assert_eq!((packed.bytes(), packed.packed().len()), (256_000, 256_000));
    let packed = Linear::pack(&weight, 64, 1_000, None, Dtype::Bf16).unwrap();
    assert_eq!(
        [1, 100].map(|rows| packed.estimated_micros(rows)),
        [10, 100]
    );
    assert_eq!((packed.bytes(), packed.dtype()), (128_000, Dtype::Bf16));
    let packed = GateUp::pack(&weight, &weight, 64, 1_000, Dtype::Bf16).unwrap();
    assert_eq!(packed.estimated_micros(1), 20);
    assert_eq!((packed.bytes(), packed.depth()), (256_000, 1_000));
}
