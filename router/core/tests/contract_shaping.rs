//! The contract of what shapes a distribution and of logprobs: bounds, and what of a worker's words is believed.

use std::sync::Arc;

use slackwater_core::{
    Action, Event, Grammar, GrammarKind, Logprobs, Output, Request, RequestDraft, RequestError,
    RequestId, Shaping, TokenLogprobs, WorkerFinish,
};

use crate::contract::{LIMITS, at, core_with, cut, draft, output, outputs, tell};

fn position(logprob: f32, top: &[(u32, f32)]) -> TokenLogprobs {
    TokenLogprobs {
        logprob,
        top: top.to_vec(),
    }
}

/// A request for logprobs of its tokens and of its prompt, which has three.
fn request_with_logprobs(id: u128) -> Request {
    let shaping = Shaping {
        logprobs: Some(1),
        prompt_logprobs: Some(0),
        ..Shaping::default()
    };
    let draft = RequestDraft {
        shaping: Arc::new(shaping),
        ..draft(id)
    };
    Request::parse(draft, &LIMITS).unwrap()
}

fn with_logprobs(output: Output, tokens: &[TokenLogprobs], prompt: &[TokenLogprobs]) -> Output {
    let logprobs = Logprobs {
        tokens: tokens.to_vec(),
        prompt: prompt.to_vec(),
    };
    Output { logprobs, ..output }
}

#[test]
fn prompt_logprobs_are_given_out_once_and_whole_though_a_worker_dies_in_the_prefill() {
    let mut core = core_with(2);
    let prompt = [position(-1.0, &[]), position(-2.0, &[])];
    let token = [position(-0.5, &[(8, -0.5)])];
    tell(
        &mut core,
        Event::RequestArrived(request_with_logprobs(1)),
        at(1),
    );
    let prefill = with_logprobs(output(1, 1, 0, &[]), &[], &prompt[..1]);
    assert_eq!(
        tell(&mut core, outputs(1, 2, vec![prefill.clone()]), at(2)),
        []
    );
    tell(&mut core, cut(1), at(3));
    let again = Output {
        attempt: 2,
        ..prefill
    };
    let first = with_logprobs(output(1, 2, 0, &[8]), &token, &prompt[1..]);
    let next = with_logprobs(output(1, 2, 1, &[9]), &token, &[]);
    let delivered = tell(&mut core, outputs(2, 2, vec![again, first, next]), at(4));
    let delivery = |start, token_id, prompt: &[TokenLogprobs]| Action::Deliver {
        request_id: RequestId(1),
        start,
        tokens: vec![token_id],
        num_cached_tokens: 2,
        logprobs: Logprobs {
            tokens: token.to_vec(),
            prompt: prompt.to_vec(),
        },
    };
    assert_eq!(delivered, [delivery(0, 8, &prompt), delivery(1, 9, &[])]);
}

#[test]
fn logprobs_that_do_not_fit_what_was_asked_for_close_the_link() {
    let whole = [position(-1.0, &[]), position(-2.0, &[])];
    let token = [position(-0.5, &[(8, -0.5)])];
    let two_tops = [position(-0.5, &[(8, -0.5), (9, -1.0)])];
    let unknown = [position(-0.5, &[(LIMITS.vocab_size, -0.5)])];
    let first = || output(1, 1, 0, &[8]);
    let cases = [
        (with_logprobs(first(), &[], &whole), Some("logprobs")),
        (
            with_logprobs(first(), &token, &whole[..1]),
            Some("logprobs"),
        ),
        (
            with_logprobs(first(), &token, &[&whole[..], &whole[..1]].concat()),
            Some("logprobs"),
        ),
        (with_logprobs(first(), &two_tops, &whole), Some("logprobs")),
        (
            with_logprobs(first(), &unknown, &whole),
            Some("token_range"),
        ),
        (with_logprobs(first(), &token, &whole), None),
    ];
    for (output, reason) in cases {
        let mut core = core_with(1);
        tell(
            &mut core,
            Event::RequestArrived(request_with_logprobs(1)),
            at(1),
        );
        tell(&mut core, outputs(1, 2, vec![output]), at(2));
        let broken = core.counters().protocol_violations.iter();
        let broken: Vec<_> = broken
            .map(|(reason, count)| (reason.name(), count))
            .collect();
        assert_eq!(broken, Vec::from_iter(reason.map(|reason| (reason, 1))));
    }
}

#[test]
fn a_stop_token_may_end_a_request_that_ignores_end_tokens() {
    for (stop_token_ids, is_legal) in [(vec![], false), (vec![8], true)] {
        let mut core = core_with(1);
        let shaping = Shaping {
            stop_token_ids,
            ..Shaping::default()
        };
        let draft = RequestDraft {
            ignore_eos: true,
            shaping: Arc::new(shaping),
            ..draft(1)
        };
        let request = Request::parse(draft, &LIMITS).unwrap();
        tell(&mut core, Event::RequestArrived(request), at(1));
        let mut last = output(1, 1, 0, &[8]);
        last.finish = Some(WorkerFinish::Stop);
        tell(&mut core, outputs(1, 2, vec![last]), at(2));
        assert_eq!(core.live_requests() == 0, is_legal);
    }
}

#[test]
fn what_shapes_a_distribution_is_checked_bound_by_bound() {
    let base = Shaping::default;
    let grammar = |bytes| Grammar {
        kind: GrammarKind::Regex,
        text: "x".repeat(bytes),
    };
    let vocab = LIMITS.vocab_size;
    let cases: Vec<(&str, Shaping, bool)> = vec![
        (
            "top_k",
            Shaping {
                top_k: vocab,
                ..base()
            },
            true,
        ),
        (
            "top_k",
            Shaping {
                top_k: vocab + 1,
                ..base()
            },
            false,
        ),
        (
            "min_p",
            Shaping {
                min_p: 1.0,
                ..base()
            },
            true,
        ),
        (
            "min_p",
            Shaping {
                min_p: 1.01,
                ..base()
            },
            false,
        ),
        (
            "min_p",
            Shaping {
                min_p: f64::NAN,
                ..base()
            },
            false,
        ),
        (
            "frequency_penalty",
            Shaping {
                frequency_penalty: -2.0,
                ..base()
            },
            true,
        ),
        (
            "frequency_penalty",
            Shaping {
                frequency_penalty: -2.1,
                ..base()
            },
            false,
        ),
        (
            "presence_penalty",
            Shaping {
                presence_penalty: 2.1,
                ..base()
            },
            false,
        ),
        (
            "repetition_penalty",
            Shaping {
                repetition_penalty: 0.0,
                ..base()
            },
            false,
        ),
        (
            "repetition_penalty",
            Shaping {
                repetition_penalty: 10.1,
                ..base()
            },
            false,
        ),
        (
            "repetition_penalty",
            Shaping {
                repetition_penalty: f64::INFINITY,
                ..base()
            },
            false,
        ),
        (
            "stop_token_ids",
            Shaping {
                stop_token_ids: vec![0; 64],
                ..base()
            },
            true,
        ),
        (
            "stop_token_ids",
            Shaping {
                stop_token_ids: vec![0; 65],
                ..base()
            },
            false,
        ),
        (
            "stop_token_ids",
            Shaping {
                stop_token_ids: vec![vocab],
                ..base()
            },
            false,
        ),
        (
            "allowed_token_ids",
            Shaping {
                allowed_token_ids: Some(vec![]),
                ..base()
            },
            false,
        ),
        (
            "allowed_token_ids",
            Shaping {
                allowed_token_ids: Some(vec![0; 1_025]),
                ..base()
            },
            false,
        ),
        (
            "allowed_token_ids",
            Shaping {
                allowed_token_ids: Some(vec![vocab]),
                ..base()
            },
            false,
        ),
        (
            "bad_words",
            Shaping {
                bad_words: vec![vec![1; 64]; 128],
                ..base()
            },
            true,
        ),
        (
            "bad_words",
            Shaping {
                bad_words: vec![vec![1]; 129],
                ..base()
            },
            false,
        ),
        (
            "bad_words",
            Shaping {
                bad_words: vec![vec![1; 65]],
                ..base()
            },
            false,
        ),
        (
            "bad_words",
            Shaping {
                bad_words: vec![vec![]],
                ..base()
            },
            false,
        ),
        (
            "bad_words",
            Shaping {
                bad_words: vec![vec![vocab]],
                ..base()
            },
            false,
        ),
        (
            "logit_bias",
            Shaping {
                logit_bias: vec![(1, -100.0); 300],
                ..base()
            },
            true,
        ),
        (
            "logit_bias",
            Shaping {
                logit_bias: vec![(1, 0.0); 301],
                ..base()
            },
            false,
        ),
        (
            "logit_bias",
            Shaping {
                logit_bias: vec![(1, 100.5)],
                ..base()
            },
            false,
        ),
        (
            "logit_bias",
            Shaping {
                logit_bias: vec![(1, f32::NAN)],
                ..base()
            },
            false,
        ),
        (
            "logit_bias",
            Shaping {
                logit_bias: vec![(vocab, 1.0)],
                ..base()
            },
            false,
        ),
        (
            "logprobs",
            Shaping {
                logprobs: Some(20),
                ..base()
            },
            true,
        ),
        (
            "logprobs",
            Shaping {
                logprobs: Some(21),
                ..base()
            },
            false,
        ),
        (
            "prompt_logprobs",
            Shaping {
                prompt_logprobs: Some(21),
                ..base()
            },
            false,
        ),
        (
            "grammar",
            Shaping {
                grammar: Some(grammar(524_288)),
                ..base()
            },
            true,
        ),
        (
            "grammar",
            Shaping {
                grammar: Some(grammar(524_289)),
                ..base()
            },
            false,
        ),
    ];
    for (param, shaping, is_good) in cases {
        let draft = RequestDraft {
            shaping: Arc::new(shaping),
            ..draft(1)
        };
        let found = Request::parse(draft.clone(), &LIMITS).err();
        let wanted = (!is_good).then_some(RequestError::OutOfRange { param });
        assert_eq!(found, wanted, "{:?}", draft.shaping);
    }
}
