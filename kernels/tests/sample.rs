//! The sampler from outside: what it refuses, what it may not depend on, and small rows that can be checked by eye.
//!
//! Its arithmetic is checked against a numpy model from Python.

use proptest::prelude::*;
use slackwater_kernels::sample::{
    RequestSampler, RowError, RowRequest, Sampled, SamplingParams, prompt_logprobs, sample,
};
use slackwater_kernels::{Isa, KernelError, Kernels, Pool};

const INF: f32 = f32::INFINITY;

fn sampler(vocab_size: usize, params: SamplingParams) -> RequestSampler {
    RequestSampler::new(vocab_size, params, &[], &[]).unwrap()
}

fn row(sampler: &RequestSampler) -> RowRequest<'_> {
    RowRequest {
        sampler,
        position: 0,
        drafts: &[],
        mask: None,
    }
}

fn run(logits: &[f32], rows: &[RowRequest<'_>], masks: &[i32]) -> Vec<Sampled> {
    let pool = Pool::new(1).unwrap();
    let mut logits = logits.to_vec();
    let vocab_size = logits.len() / rows.len();
    sample(&mut logits, vocab_size, rows, masks, Kernels::best(), &pool).unwrap()
}

fn tokens(logits: &[f32], rows: &[RowRequest<'_>], masks: &[i32]) -> Vec<Result<u32, RowError>> {
    let sampled = run(logits, rows, masks);
    sampled.into_iter().map(|sampled| sampled.token).collect()
}

fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

/// Nearly normal numbers.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 65536.0 - 0.5
    };
    (0..count)
        .map(|_| (0..12).map(|_| next()).sum::<f32>() * 3.0)
        .collect()
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let first = (
        any::<u64>(),
        0_u32..3,
        prop::sample::select(vec![0.0, 1e-4, 0.3, 1.0, 100.0]),
        prop::sample::select(vec![-1, 0, 1, 5, 60, 97]),
        prop::sample::select(vec![1e-9, 0.3, 0.9, 1.0]),
        prop::sample::select(vec![0.0, 0.01, 1.0]),
    );
    let second = (
        prop::sample::select(vec![0.0, 1.5, -2.0]),
        prop::sample::select(vec![0.5, 1.0, 10.0]),
        prop::collection::vec((0_u32..97, -100.0..100.0), 0..4),
        prop::option::of(prop::collection::vec(0_u32..97, 1..40)),
        prop::collection::vec(prop::collection::vec(0_u32..97, 1..3), 0..5),
        prop::option::of(0_u32..=20),
    );
    (first, second).prop_map(|(first, second)| SamplingParams {
        seed: first.0,
        choice_index: first.1,
        temperature: first.2,
        top_k: first.3,
        top_p: first.4,
        min_p: first.5,
        frequency_penalty: second.0,
        presence_penalty: -second.0,
        repetition_penalty: second.1,
        logit_bias: second.2,
        allowed_token_ids: second.3,
        bad_words: second.4,
        min_tokens: 3,
        held_back_ids: vec![0, 96],
        logprobs: second.5,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_row_is_the_same_in_any_company_set_and_number_of_threads(
        params in prop::collection::vec(any_params(), 5),
        seed in any::<u32>(),
        drafts in prop::collection::vec(0_u32..97, 0..4),
        masks in prop::collection::vec(any::<i32>(), 8),
    ) {
        let vocab_size = 97;
        let logits = noise(seed, 5 * vocab_size);
        let samplers: Vec<_> = params
            .into_iter()
            .map(|params| RequestSampler::new(vocab_size, params, &[1, 2, 3, 2], &[7, 8, 7]).unwrap())
            .collect();
        let rows: Vec<_> = (0_usize..5)
            .map(|index| RowRequest {
                sampler: &samplers[index],
                position: u32::try_from(index).unwrap(),
                drafts: &drafts[..index.min(drafts.len())],
                mask: (index % 2 == 1).then_some(index / 2),
            })
            .collect();
        let expected = run(&logits, &rows, &masks);
        for threads in 1..=2 {
            let pool = Pool::new(threads).unwrap();
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let kernels = Kernels::for_isa(isa).unwrap();
                let mut logits = logits.clone();
                let got = sample(&mut logits, vocab_size, &rows, &masks, kernels, &pool).unwrap();
                prop_assert_eq!(&got, &expected, "{} with {} threads", isa, threads);
            }
        }
        for (index, row) in rows.iter().enumerate() {
            let alone = run(&logits[index * vocab_size..][..vocab_size], &[*row], &masks);
            prop_assert_eq!(&alone[0], &expected[index]);
        }
    }

    #[test]
    fn drafts_are_history(params in any_params(), seed in any::<u32>(), drafts in prop::collection::vec(0_u32..97, 1..6)) {
        let logits = noise(seed, 97);
        let mut sampler = RequestSampler::new(97, params, &[5, 6, 5], &[9, 10]).unwrap();
        let drafted = run(&logits, &[RowRequest { position: 7, drafts: &drafts, ..row(&sampler) }], &[]);
        sampler.extend(&drafts).unwrap();
        let accepted = run(&logits, &[RowRequest { position: 7, ..row(&sampler) }], &[]);
        prop_assert_eq!(drafted, accepted);
    }
}

#[test]
fn instruction_sets_agree_on_long_rows() {
    let vocab_size = 49_157;
    let mut logits = noise(3, vocab_size);
    for (index, logit) in logits.iter_mut().enumerate().skip(9).step_by(7) {
        *logit = if index % 2 == 0 { 4.25 } else { -INF };
    }
    let pool = Pool::new(1).unwrap();
    let filters = [
        (0, 1.0, 0.0),
        (50, 1.0, 0.0),
        (0, 0.9, 0.0),
        (20_000, 0.5, 1e-4),
    ];
    for (top_k, top_p, min_p) in filters {
        let mut seen: Vec<Vec<Sampled>> = Vec::new();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let params = SamplingParams {
                top_k,
                top_p,
                min_p,
                logprobs: Some(20),
                ..SamplingParams::default()
            };
            let sampler = sampler(vocab_size, params);
            let of_isa = (0..6).map(|position| {
                let kernels = Kernels::for_isa(isa).unwrap();
                let request = RowRequest {
                    position,
                    ..row(&sampler)
                };
                let mut logits = logits.clone();
                sample(&mut logits, vocab_size, &[request], &[], kernels, &pool).unwrap()
            });
            seen.push(of_isa.flatten().collect());
        }
        assert!(seen.iter().all(|of_isa| of_isa == &seen[0]));
    }
}

#[test]
fn the_lowest_of_equals_wins_where_nothing_is_drawn() {
    let logits = [1.0, 3.0, 3.0, -INF, 3.0];
    let greedy = sampler(5, greedy());
    assert_eq!(tokens(&logits, &[row(&greedy)], &[]), [Ok(1)]);
    for params in [
        SamplingParams {
            top_k: 1,
            ..SamplingParams::default()
        },
        SamplingParams {
            top_p: 1e-300,
            ..SamplingParams::default()
        },
        SamplingParams {
            temperature: 1e-5,
            top_k: 1,
            ..SamplingParams::default()
        },
    ] {
        let one = sampler(5, params);
        let rows: Vec<_> = (0..50)
            .map(|position| RowRequest {
                position,
                ..row(&one)
            })
            .collect();
        let logits = logits.repeat(50);
        assert_eq!(tokens(&logits, &rows, &[]), vec![Ok(1); 50]);
    }
}

#[test]
fn cuts_take_equals_by_id() {
    let flat = vec![0.5; 200];
    for (params, left) in [
        (
            SamplingParams {
                top_k: 70,
                ..SamplingParams::default()
            },
            70,
        ),
        (
            SamplingParams {
                top_p: 0.5,
                ..SamplingParams::default()
            },
            100,
        ),
        (
            SamplingParams {
                top_p: 0.8,
                top_k: 100,
                ..SamplingParams::default()
            },
            80,
        ),
        (
            SamplingParams {
                min_p: 1.0,
                ..SamplingParams::default()
            },
            200,
        ),
    ] {
        let sampler = sampler(200, params);
        let rows: Vec<_> = (0..3000)
            .map(|position| RowRequest {
                position,
                ..row(&sampler)
            })
            .collect();
        let mut seen = [false; 200];
        for token in tokens(&flat.repeat(3000), &rows, &[]) {
            seen[token.unwrap() as usize] = true;
        }
        assert_eq!(seen.iter().filter(|seen| **seen).count(), left);
        assert!(seen[..left].iter().all(|seen| *seen));
    }
}

#[test]
fn a_bad_row_is_an_error_and_its_neighbours_go_on() {
    for bad in [f32::NAN, -f32::NAN, INF] {
        for place in [0, 16, 70, 80, 84] {
            for params in [
                greedy(),
                SamplingParams {
                    logprobs: Some(3),
                    ..SamplingParams::default()
                },
            ] {
                let sampler = sampler(85, params);
                let good = noise(1, 85);
                let mut logits = good.repeat(3);
                logits[85 + place] = bad;
                let alone = run(&good, &[row(&sampler)], &[]).remove(0);
                let got = run(&logits, &[row(&sampler); 3], &[]);
                assert_eq!(got[1].token, Err(RowError::Numerics));
                assert_eq!((&got[0], &got[2]), (&alone, &alone));
            }
        }
    }
}

#[test]
fn the_one_that_is_left_is_taken_and_none_is_an_error() {
    for params in [
        greedy(),
        SamplingParams {
            top_p: 0.1,
            ..SamplingParams::default()
        },
    ] {
        let sampler = sampler(70, params);
        let mut logits = vec![-INF; 70];
        assert_eq!(
            tokens(&logits, &[row(&sampler)], &[]),
            [Err(RowError::DeadEnd)]
        );
        logits[66] = -3e38;
        assert_eq!(tokens(&logits, &[row(&sampler)], &[]), [Ok(66)]);
        let masked = RowRequest {
            mask: Some(1),
            ..row(&sampler)
        };
        let logits = vec![1.0; 70];
        // The last bits of the third word stand for nothing.
        assert_eq!(
            tokens(&logits, &[masked], &[-1, -1, -1, 0, 0, -64]),
            [Err(RowError::DeadEnd)]
        );
        assert_eq!(
            tokens(&logits, &[masked], &[-1, -1, -1, 0, 1 << 5, -64]),
            [Ok(37)]
        );
    }
}

#[test]
fn end_tokens_wait_for_min_tokens_unless_a_grammar_rules() {
    let params = SamplingParams {
        min_tokens: 2,
        held_back_ids: vec![1],
        ..greedy()
    };
    let sampler = sampler(3, params);
    let logits = [0.0, 9.0, 1.0];
    let at = |position, mask| RowRequest {
        position,
        mask,
        ..row(&sampler)
    };
    assert_eq!(tokens(&logits, &[at(1, None)], &[]), [Ok(2)]);
    assert_eq!(tokens(&logits, &[at(2, None)], &[]), [Ok(1)]);
    assert_eq!(tokens(&logits, &[at(0, Some(0))], &[0b010]), [Ok(1)]);
    assert_eq!(tokens(&logits, &[at(0, Some(0))], &[0b101]), [Ok(2)]);
}

#[test]
fn penalties_bias_and_words_in_their_order() {
    let logits = [4.0, 3.0, -1.0, 2.9];
    let one = |params, prompt: &[u32], output: &[u32], drafts: &[u32]| {
        let sampler = RequestSampler::new(4, params, prompt, output).unwrap();
        let request = RowRequest {
            drafts,
            ..row(&sampler)
        };
        tokens(&logits, &[request], &[])[0]
    };
    let frequency = SamplingParams {
        frequency_penalty: 0.6,
        ..greedy()
    };
    assert_eq!(one(frequency.clone(), &[0, 0, 0], &[0], &[]), Ok(0));
    assert_eq!(one(frequency.clone(), &[], &[0, 0], &[]), Ok(1));
    assert_eq!(one(frequency, &[], &[0], &[0, 1]), Ok(3));
    let presence = SamplingParams {
        presence_penalty: 1.05,
        ..greedy()
    };
    assert_eq!(one(presence.clone(), &[0], &[0], &[]), Ok(1));
    assert_eq!(one(presence, &[0], &[], &[]), Ok(0));
    let repetition = SamplingParams {
        repetition_penalty: 2.0,
        ..greedy()
    };
    assert_eq!(one(repetition.clone(), &[0], &[1], &[]), Ok(3));
    let upside_down = SamplingParams {
        logit_bias: vec![(2, 6.0)],
        ..repetition
    };
    assert_eq!(one(upside_down.clone(), &[], &[], &[]), Ok(2));
    // The bias comes first: 5 is divided, not -1 multiplied.
    assert_eq!(one(upside_down, &[2], &[], &[]), Ok(0));
    let words = SamplingParams {
        bad_words: vec![vec![3, 1, 0], vec![1]],
        ..greedy()
    };
    assert_eq!(one(words.clone(), &[3, 1], &[], &[]), Ok(0));
    assert_eq!(one(words.clone(), &[], &[3, 1], &[]), Ok(3));
    assert_eq!(one(words, &[], &[2, 3], &[1]), Ok(3));
    let allowed = SamplingParams {
        allowed_token_ids: Some(vec![2, 3, 2]),
        ..greedy()
    };
    assert_eq!(one(allowed, &[], &[], &[]), Ok(3));
}

#[test]
fn logprobs_are_those_of_the_raw_row() {
    let mut logits = noise(5, 5000);
    logits[77] = logits[4000];
    logits[3] = -INF;
    let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    let mut order: Vec<u32> = (0..5000).collect();
    order.sort_by(|a, b| {
        logits[*b as usize]
            .total_cmp(&logits[*a as usize])
            .then(a.cmp(b))
    });
    let close = |id: u32, got: f32| {
        (f64::from(logits[id as usize]) - total.ln() - f64::from(got)).abs() < 2e-6
    };
    let params = SamplingParams {
        logprobs: Some(20),
        logit_bias: vec![(9, 100.0)],
        ..SamplingParams::default()
    };
    let sampled = run(&logits, &[row(&sampler(5000, params))], &[]).remove(0);
    assert_eq!(sampled.token, Ok(9));
    assert!(close(9, sampled.logprob.unwrap()));
    let ids: Vec<_> = sampled.top.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, order[..20]);
    assert!(sampled.top.iter().all(|(id, logprob)| close(*id, *logprob)));

    let pool = Pool::new(2).unwrap();
    let two = [&logits[..], &vec![f32::NAN; 5000]].concat();
    let got = prompt_logprobs(&two, 5000, &[3, 9], 2, Kernels::best(), &pool).unwrap();
    assert_eq!((got[0].token, got[0].logprob), (Ok(3), Some(-INF)));
    assert_eq!(got[0].top[..], sampled.top[..2]);
    assert_eq!(got[1].token, Err(RowError::Numerics));
}

#[test]
fn what_does_not_fit_is_refused() {
    let (pool, kernels) = (Pool::new(1).unwrap(), Kernels::best());
    let sampler = sampler(33, greedy());
    let mut logits = vec![0.0; 33];
    let mut refused = |request, vocab_size, masks: &[i32]| {
        sample(&mut logits, vocab_size, &[request], masks, kernels, &pool).unwrap_err()
    };
    let length = |what, expected, actual| KernelError::Length {
        what,
        expected,
        actual,
    };
    assert_eq!(refused(row(&sampler), 34, &[]), length("logits", 34, 33));
    let masked = RowRequest {
        mask: Some(1),
        ..row(&sampler)
    };
    assert_eq!(refused(masked, 33, &[0; 3]), length("masks", 4, 3));
    let drafted = RowRequest {
        drafts: &[33],
        ..row(&sampler)
    };
    let problem = "drafts has id 33, expected ids below 33";
    assert_eq!(refused(drafted, 33, &[]).to_string(), problem);
    let other = self::sampler(32, greedy());
    assert_eq!(
        refused(row(&other), 33, &[]),
        length("a row of logits", 32, 33)
    );
    assert!(prompt_logprobs(&[0.0; 33], 33, &[33], 1, kernels, &pool).is_err());
    assert!(prompt_logprobs(&[0.0; 33], 33, &[1], 21, kernels, &pool).is_err());
}

#[test]
fn parameters_out_of_bounds_are_refused_by_name() {
    let plain = SamplingParams::default;
    let refused = |params: SamplingParams| match RequestSampler::new(10, params, &[], &[]) {
        Err(KernelError::Parameter { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    for bad in [-0.1, 100.5, f64::NAN, INF.into()] {
        assert_eq!(
            refused(SamplingParams {
                temperature: bad,
                ..plain()
            }),
            "temperature"
        );
    }
    for bad in [-2, 11] {
        assert_eq!(
            refused(SamplingParams {
                top_k: bad,
                ..plain()
            }),
            "top_k"
        );
    }
    for bad in [0.0, 1.01, f64::NAN] {
        assert_eq!(
            refused(SamplingParams {
                top_p: bad,
                ..plain()
            }),
            "top_p"
        );
    }
    for bad in [-0.01, 1.01, f64::NAN] {
        assert_eq!(
            refused(SamplingParams {
                min_p: bad,
                ..plain()
            }),
            "min_p"
        );
    }
    for bad in [-2.01, 2.01, f64::NAN] {
        assert_eq!(
            refused(SamplingParams {
                frequency_penalty: bad,
                ..plain()
            }),
            "frequency_penalty"
        );
        assert_eq!(
            refused(SamplingParams {
                presence_penalty: bad,
                ..plain()
            }),
            "presence_penalty"
        );
    }
    for bad in [0.0, -1.0, 10.1, 1e-45, f64::NAN] {
        assert_eq!(
            refused(SamplingParams {
                repetition_penalty: bad,
                ..plain()
            }),
            "repetition_penalty"
        );
    }
    for bad in [
        vec![(0, 100.1)],
        vec![(0, f64::NAN)],
        vec![(10, 1.0)],
        vec![(0, 1.0); 301],
    ] {
        assert_eq!(
            refused(SamplingParams {
                logit_bias: bad,
                ..plain()
            }),
            "logit_bias"
        );
    }
    for bad in [vec![], vec![10], vec![0; 1025]] {
        assert_eq!(
            refused(SamplingParams {
                allowed_token_ids: Some(bad),
                ..plain()
            }),
            "allowed_token_ids"
        );
    }
    for bad in [vec![vec![10]], vec![vec![1]; 129]] {
        assert_eq!(
            refused(SamplingParams {
                bad_words: bad,
                ..plain()
            }),
            "bad_words"
        );
    }
    for bad in [vec![vec![]], vec![vec![1; 65]]] {
        assert_eq!(
            refused(SamplingParams {
                bad_words: bad,
                ..plain()
            }),
            "a sequence of bad_words"
        );
    }
    assert_eq!(
        refused(SamplingParams {
            held_back_ids: vec![10],
            ..plain()
        }),
        "held_back_ids"
    );
    assert_eq!(
        refused(SamplingParams {
            logprobs: Some(21),
            ..plain()
        }),
        "logprobs"
    );
    let text = RequestSampler::new(10, plain(), &[12], &[])
        .unwrap_err()
        .to_string();
    assert_eq!(text, "prompt_ids has id 12, expected ids below 10");
    assert!(RequestSampler::new(10, plain(), &[], &[10]).is_err());
    assert!(RequestSampler::new(0, plain(), &[], &[]).is_err());
    assert!(sampler(10, plain()).extend(&[10]).is_err());
}
