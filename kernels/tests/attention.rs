//! Attention over the paged cache: against float64, and against itself in every other way to carry it out.

mod world;

use proptest::prelude::*;
use slackwater_kernels::{
    AttnSpec, Dtype, Isa, KernelError, Kernels, KvCache, Pool, QkNorm, RopeTable, attend,
    attend_scratch_len,
};
use world::{Chunk, StepBatch, Way, World, bits, spec};

const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

/// Every element is within the format's error of the float64 result, relative to what went into it.
fn assert_close(world: &World, outs: &[Vec<f32>]) {
    let limit = match world.dtype {
        Dtype::F32 => 2e-6,
        Dtype::Bf16 => 4e-3,
    };
    for (out, reference) in outs.iter().zip(world.reference()) {
        assert_eq!(out.len(), reference.len());
        for (i, (x, (exact, magnitude))) in out.iter().zip(reference).enumerate() {
            let error = (f64::from(*x) - exact).abs() / magnitude.max(1e-3);
            assert!(
                error <= limit,
                "element {i}: {x} is not {exact}, off by {error:e}"
            );
        }
    }
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn specs() -> impl Strategy<Value = AttnSpec> {
    let shape = (
        prop::sample::select(vec![1, 3, 4, 5, 8]),
        1..3_usize,
        prop::sample::select(vec![2, 16, 64, 80, 128, 256]),
    );
    let window = prop::option::of(prop::sample::select(vec![1, 7, 32, 33, 100, 300]));
    let softcap = prop::option::of(prop::sample::select(vec![1.5_f32, 50.0]));
    (shape, window, softcap).prop_map(|((group, kv_heads, head_dim), window, softcap)| AttnSpec {
        window,
        softcap,
        ..spec(group, kv_heads, head_dim)
    })
}

fn worlds() -> impl Strategy<Value = World> {
    let lengths = prop::collection::vec(
        prop_oneof![4 => 1..40_usize, 2 => 40..200_usize, 1 => 250..330_usize],
        1..4,
    );
    let dtype = prop::sample::select(DTYPES.to_vec());
    (
        specs(),
        dtype,
        lengths,
        any::<u64>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(spec, dtype, lengths, seed, rope, norm)| {
            let world = World::new(spec, dtype, &lengths, seed);
            let world = if rope { world.with_rope() } else { world };
            if norm { world.with_norm(seed) } else { world }
        })
}

/// Cuts the sequences into chunks, and deals the chunks to steps: each step goes on with some of the sequences.
fn dealt(world: &World, cuts: &[usize]) -> Vec<Vec<Chunk>> {
    let mut done = vec![0; world.seqs.len()];
    let mut cuts = cuts.iter().cycle();
    let mut steps = Vec::new();
    while (0..done.len()).any(|seq| done[seq] < world.length(seq)) {
        let mut step = Vec::new();
        for (seq, done) in done.iter_mut().enumerate() {
            let size = (*cuts.next().unwrap()).min(world.length(seq) - *done);
            if size > 0 {
                step.push((seq, *done..*done + size));
                *done += size;
            }
        }
        if cuts.next().unwrap().is_multiple_of(2) {
            step.reverse();
        }
        if step.is_empty() {
            for (seq, done) in done.iter_mut().enumerate() {
                step.push((seq, *done..world.length(seq)));
                *done = world.length(seq);
            }
            step.retain(|(_, range)| !range.is_empty());
        }
        steps.push(step);
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn close_to_float64(world in worlds()) {
        assert_close(&world, &world.run(&Way::plain(&world)));
    }

    #[test]
    fn the_way_does_not_show(
        world in worlds(),
        cuts in prop::collection::vec(prop_oneof![Just(0_usize), Just(1), 2..20_usize, 20..150_usize], 2..9),
        threads in 1..5_usize,
        first_block in 0..4_usize,
        backwards in any::<bool>(),
    ) {
        let expected = bits(&world.run(&Way::plain(&world)));
        for isa in available() {
            let way = Way {
                steps: dealt(&world, &cuts),
                isa,
                threads,
                first_block,
                backwards,
                // Every element of either format is then a NaN.
                stale: 0xff,
            };
            prop_assert!(bits(&world.run(&way)) == expected, "{isa}");
        }
    }
}

#[test]
fn a_long_context_alone_is_split_between_threads_and_keeps_its_bits() {
    for dtype in DTYPES {
        for window in [None, Some(300)] {
            let spec = AttnSpec {
                window,
                ..spec(3, 2, 64)
            };
            let world = World::new(spec, dtype, &[1_100], 5).with_rope();
            let plain = world.run(&Way::plain(&world));
            assert_close(&world, &plain);
            let one_by_one = (1_000..1_100).map(|at| vec![(0, at..at + 1)]);
            let way = Way {
                steps: std::iter::once(vec![(0, 0..1_000)])
                    .chain(one_by_one)
                    .collect(),
                threads: 3,
                ..Way::plain(&world)
            };
            assert_eq!(bits(&world.run(&way)), bits(&plain));
        }
    }
}

#[test]
fn a_nan_in_a_row_shows_in_the_rows_that_see_it_and_nowhere_else() {
    for dtype in DTYPES {
        for part in 0..3 {
            let mut world = World::new(spec(2, 1, 16), dtype, &[70, 70], 9);
            let clean = world.run(&Way::plain(&world));
            // Query, key or value of token 40 of the first sequence.
            let at = 40 * world.width() + [0, 32, 48][part] + 3;
            world.seqs[0][at] = f32::NAN;
            let way = Way {
                steps: vec![vec![(0, 0..70), (1, 0..70)]],
                ..Way::plain(&world)
            };
            let outs = world.run(&way);
            let width = 32;
            for (token, (row, clean)) in outs[0]
                .chunks(width)
                .zip(clean[0].chunks(width))
                .enumerate()
            {
                let is_touched = if part == 0 { token == 40 } else { token >= 40 };
                if is_touched {
                    assert!(row.iter().any(|x| x.is_nan()), "part {part} token {token}");
                } else {
                    assert_eq!(row, clean, "part {part} token {token}");
                }
            }
            assert_eq!(outs[1], clean[1]);
        }
    }
}

#[test]
fn a_slot_of_minus_one_is_not_written() {
    let world = World::new(spec(1, 1, 16), Dtype::F32, &[1], 3);
    let kv = KvCache::new(1, 1, 16, 2, Dtype::F32).unwrap();
    let mut before = vec![0; kv.block_bytes()];
    before.fill(5);
    kv.import_block(0, &before).unwrap();
    let mut batch = StepBatch::new(&world, &[(0, 0..1)], &[vec![0]]);
    batch.slots[0] = -1;
    let mut out = vec![0.0; 16];
    call(&world, &batch, &kv, &mut out).unwrap();
    let mut after = vec![0; kv.block_bytes()];
    kv.export_block(0, &mut after).unwrap();
    assert_eq!(before, after);
}

fn call(
    world: &World,
    batch: &StepBatch,
    kv: &KvCache,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let mut scratch = vec![0.0; attend_scratch_len(&world.spec, 64, 4_096, 1)];
    attend(
        &mut batch.qkv.clone(),
        kv,
        0,
        &world.spec,
        None,
        None,
        &batch.view(),
        out,
        &mut scratch,
        Kernels::best(),
        &Pool::new(1).unwrap(),
    )
}

/// A name, and what makes a good batch a bad one.
type Spoil = (&'static str, fn(&mut StepBatch));

#[test]
fn what_points_nowhere_is_refused() {
    let world = World::new(spec(2, 1, 16), Dtype::F32, &[40], 3);
    let kv = KvCache::new(1, 1, 16, 3, Dtype::F32).unwrap();
    let good = || StepBatch::new(&world, &[(0, 0..40)], &[vec![1, 2]]);
    let mut out = vec![0.0; 40 * 32];
    assert_eq!(call(&world, &good(), &kv, &mut out), Ok(()));
    let spoil: [Spoil; 11] = [
        ("slot", |batch| batch.slots[7] = 96),
        ("slot below", |batch| batch.slots[7] = -2),
        ("position", |batch| batch.positions[7] = 40),
        ("position below", |batch| batch.positions[7] = -1),
        ("block", |batch| batch.tables[1] = 3),
        ("block below", |batch| batch.tables[0] = -1),
        ("table", |batch| batch.table_width = 1),
        ("starts", |batch| batch.starts[1] = 39),
        ("first start", |batch| batch.starts[0] = 1),
        ("length", |batch| batch.lens[0] = -1),
        ("qkv", |batch| {
            batch.qkv.pop();
        }),
    ];
    for (what, spoil) in spoil {
        let mut batch = good();
        spoil(&mut batch);
        assert!(call(&world, &batch, &kv, &mut out).is_err(), "{what}");
    }
    assert!(call(&world, &good(), &kv, &mut out[1..]).is_err());
    let other = World {
        spec: spec(1, 2, 16),
        ..world.clone()
    };
    assert!(call(&other, &good(), &kv, &mut out).is_err());
}

#[test]
fn scratch_rope_and_norm_that_do_not_fit_are_refused() {
    let world = World::new(spec(2, 1, 16), Dtype::F32, &[600], 3);
    let kv = KvCache::new(1, 1, 16, 20, Dtype::F32).unwrap();
    let tables = vec![(1..20).collect::<Vec<i32>>()];
    let batch = StepBatch::new(&world, &[(0, 599..600)], &tables);
    let pool = Pool::new(2).unwrap();
    let short_rope = RopeTable::new(&[1.0; 8], 1.0, 599).unwrap();
    let other_rope = RopeTable::new(&[1.0; 4], 1.0, 600).unwrap();
    let weight = [1.0; 15];
    let norm = QkNorm {
        q: &weight,
        k: &weight,
        eps: 0.0,
    };
    let attempt = |scratch: usize, rope: Option<&RopeTable>, norm| {
        let mut out = [0.0; 32];
        let mut scratch = vec![0.0; scratch];
        let (qkv, view) = (&mut batch.qkv.clone(), batch.view());
        attend(
            qkv,
            &kv,
            0,
            &world.spec,
            rope,
            norm,
            &view,
            &mut out,
            &mut scratch,
            Kernels::best(),
            &pool,
        )
    };
    let enough = attend_scratch_len(&world.spec, 1, 600, 2);
    assert_eq!(attempt(enough, None, None), Ok(()));
    assert!(attempt(enough - 1, None, None).is_err());
    assert!(attempt(0, None, None).is_err());
    assert!(attempt(enough, Some(&short_rope), None).is_err());
    assert!(attempt(enough, Some(&other_rope), None).is_err());
    assert!(attempt(enough, None, Some(norm)).is_err());
}
