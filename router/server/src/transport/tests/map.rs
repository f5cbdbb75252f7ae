//! Each message and each action on its way between the two vocabularies, whole values.

use std::time::Duration;

use slackwater_core::{
    Action, Class, Epoch, Event, Grammar, GrammarKind, Limits, Logprobs, Origin, Output, Placement,
    Refusal, Request, RequestDraft, RequestId, Shaping, Time, TokenLogprobs, WorkerFinish,
    WorkerId,
};
use slackwater_wire::Message;
use slackwater_wire::messages::{
    self as wire, Accepted, Finish, HexId, Refused, RefusedScope, RequestClass, RequestFailure,
    RequestOutput, SamplingParams, StepOutputs, Submit,
};

use crate::transport::map::{Heard, heard, message};

const WORKER: WorkerId = WorkerId(4);
const EPOCH: Epoch = Epoch(77);

const fn at(seq: u64) -> Origin {
    Origin {
        worker: WORKER,
        epoch: EPOCH,
        seq,
    }
}

fn request(class: Class, shaping: Shaping) -> Request {
    let draft = RequestDraft {
        request_id: RequestId(5),
        prompt: vec![1, 2, 3],
        max_tokens: Some(16),
        min_tokens: 2,
        temperature: 0.5,
        top_p: 0.9,
        seed: 11,
        ignore_eos: true,
        shaping: std::sync::Arc::new(shaping),
        group: Some(RequestId(7)),
        choice_index: 2,
        class,
        salt: 12,
        arrival: Time::ZERO,
        expiry: None,
    };
    let limits = Limits {
        max_model_len: 64,
        vocab_size: 32,
    };
    Request::parse(draft, &limits).unwrap()
}

fn plain() -> SamplingParams {
    SamplingParams {
        max_tokens: 16,
        min_tokens: 2,
        temperature: 0.5,
        top_p: 0.9,
        top_k: 0,
        min_p: 0.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        repetition_penalty: 1.0,
        seed: 11,
        ignore_eos: true,
        logprobs: None,
        prompt_logprobs: None,
        grammar: None,
        num_stop_token_ids: 0,
        num_allowed_token_ids: None,
        bad_word_lengths: Vec::new(),
        num_logit_bias: 0,
    }
}

#[test]
fn what_shapes_a_distribution_travels_behind_prompt_and_history() {
    let shaping = Shaping {
        top_k: 5,
        min_p: 0.5,
        frequency_penalty: 0.25,
        presence_penalty: -0.25,
        repetition_penalty: 1.5,
        stop_token_ids: vec![20],
        allowed_token_ids: Some(vec![21, 22]),
        bad_words: vec![vec![23], vec![24, 25]],
        logit_bias: vec![(26, 1.5), (27, -2.0)],
        logprobs: Some(3),
        prompt_logprobs: Some(4),
        grammar: Some(Grammar {
            kind: GrammarKind::Regex,
            text: "a+".to_owned(),
        }),
    };
    for (history, prompt_logprobs) in [(vec![], Some(4)), (vec![9], None)] {
        let placement = Placement {
            worker: WORKER,
            epoch: EPOCH,
            request: request(Class::Standard, shaping.clone()),
            attempt: 1,
            history: history.clone(),
            credit_up_to: 1_024,
            remaining: None,
        };
        let Some(Message::Submit(submit, ids, floats)) = message(&Action::Submit(placement), 8)
        else {
            panic!("no Submit")
        };
        let params = SamplingParams {
            top_k: 5,
            min_p: 0.5,
            frequency_penalty: 0.25,
            presence_penalty: -0.25,
            repetition_penalty: 1.5,
            logprobs: Some(3),
            prompt_logprobs,
            grammar: Some(wire::Grammar {
                kind: wire::GrammarKind::Regex,
                text: "a+".to_owned(),
            }),
            num_stop_token_ids: 1,
            num_allowed_token_ids: Some(2),
            bad_word_lengths: vec![1, 2],
            num_logit_bias: 2,
            ..plain()
        };
        assert_eq!(submit.params, params);
        let lists = vec![20, 21, 22, 23, 24, 25, 26, 27];
        assert_eq!(ids, [vec![1, 2, 3], history, lists].concat());
        assert_eq!(floats, [1.5, -2.0]);
    }
}

#[test]
fn logprobs_are_split_among_requests_prompt_first() {
    let step = StepOutputs {
        seq: 3,
        step_micros: 0,
        outputs: vec![
            RequestOutput {
                num_top_logprobs: Some(1),
                num_prompt_logprobs: 2,
                num_top_prompt_logprobs: 1,
                ..output(1, 1)
            },
            RequestOutput {
                num_top_logprobs: Some(0),
                ..output(2, 2)
            },
        ],
    };
    let ids = vec![7, 8, 9, 10, 11, 12];
    let floats = vec![-1.0, -2.0, -0.5, -0.75, -3.0, -0.25, -4.0, -5.0];
    let Heard::Core(Event::WorkerOutputs { outputs, .. }) =
        heard(Message::StepOutputs(step, ids, floats), WORKER, EPOCH)
    else {
        panic!("no outputs")
    };
    let one = |logprob, top: &[(u32, f32)]| TokenLogprobs {
        logprob,
        top: top.to_vec(),
    };
    let found: Vec<_> = outputs
        .into_iter()
        .map(|each| (each.tokens, each.logprobs))
        .collect();
    let first = Logprobs {
        tokens: vec![one(-3.0, &[(12, -0.25)])],
        prompt: vec![one(-1.0, &[(10, -0.5)]), one(-2.0, &[(11, -0.75)])],
    };
    let second = Logprobs {
        tokens: vec![one(-4.0, &[]), one(-5.0, &[])],
        prompt: Vec::new(),
    };
    assert_eq!(found, [(vec![7], first), (vec![8, 9], second)]);
}

#[test]
fn submit_and_resume_are_one_message() {
    let classes = [
        (Class::Interactive, RequestClass::Interactive),
        (Class::Standard, RequestClass::Standard),
        (Class::Offline, RequestClass::Offline),
    ];
    for (ours, wire) in classes {
        let placement = |history: &[u32], remaining| Placement {
            worker: WORKER,
            epoch: EPOCH,
            request: request(ours, Shaping::default()),
            attempt: 3,
            history: history.to_vec(),
            credit_up_to: 1_024,
            remaining,
        };
        let submit = Submit {
            seq: 8,
            request_id: HexId(5),
            attempt: 3,
            group: Some(HexId(7)),
            choice_index: 2,
            class: wire,
            salt: 12,
            num_output_tokens: 0,
            credit_up_to: 1_024,
            remaining_micros: None,
            params: plain(),
        };
        assert_eq!(
            message(&Action::Submit(placement(&[], None)), 8),
            Some(Message::Submit(submit.clone(), vec![1, 2, 3], Vec::new()))
        );
        let resumed = Submit {
            num_output_tokens: 2,
            remaining_micros: Some(1_500_000),
            ..submit
        };
        let remaining = Some(Duration::from_millis(1_500));
        assert_eq!(
            message(&Action::Resume(placement(&[9, 8], remaining)), 8),
            Some(Message::Submit(resumed, vec![1, 2, 3, 9, 8], Vec::new()))
        );
    }
}

fn output(request_id: u128, num_tokens: u32) -> RequestOutput {
    RequestOutput {
        request_id: HexId(request_id),
        attempt: 1,
        start: 6,
        num_tokens,
        num_top_logprobs: None,
        num_prompt_logprobs: 0,
        num_top_prompt_logprobs: 0,
        num_cached_tokens: 2,
        finish: None,
        error: None,
    }
}

#[test]
fn a_step_is_split_among_its_requests() {
    let failure = RequestFailure {
        code: "internal_error".to_owned(),
        message: "why".to_owned(),
    };
    let ended = |finish, error| RequestOutput {
        finish: Some(finish),
        error,
        ..output(2, 0)
    };
    let step = StepOutputs {
        seq: 3,
        step_micros: 900,
        outputs: vec![
            output(1, 2),
            ended(Finish::Stop, None),
            ended(Finish::Length, None),
            ended(Finish::Cancelled, None),
            ended(Finish::Error, Some(failure)),
            output(3, 1),
        ],
    };
    let expected = |request_id, tokens: &[u32], finish| Output {
        request_id: RequestId(request_id),
        attempt: 1,
        start: 6,
        tokens: tokens.to_vec(),
        num_cached_tokens: 2,
        logprobs: Logprobs::NONE,
        finish,
    };
    let error = WorkerFinish::Error {
        code: "internal_error".to_owned(),
        message: "why".to_owned(),
    };
    let event = Event::WorkerOutputs {
        origin: at(3),
        step_micros: 900,
        outputs: vec![
            expected(1, &[7, 8], None),
            expected(2, &[], Some(WorkerFinish::Stop)),
            expected(2, &[], Some(WorkerFinish::Length)),
            expected(2, &[], Some(WorkerFinish::Cancelled)),
            expected(2, &[], Some(error)),
            expected(3, &[9], None),
        ],
    };
    let step = Message::StepOutputs(step, vec![7, 8, 9], Vec::new());
    assert_eq!(heard(step, WORKER, EPOCH), Heard::Core(event));
}

#[test]
fn an_output_that_contradicts_itself_is_a_violation() {
    let failure = || {
        Some(RequestFailure {
            code: String::new(),
            message: String::new(),
        })
    };
    for (finish, error) in [
        (Some(Finish::Error), None),
        (None, failure()),
        (Some(Finish::Stop), failure()),
    ] {
        let step = StepOutputs {
            seq: 3,
            step_micros: 0,
            outputs: vec![RequestOutput {
                finish,
                error,
                ..output(1, 0)
            }],
        };
        let heard = heard(
            Message::StepOutputs(step, Vec::new(), Vec::new()),
            WORKER,
            EPOCH,
        );
        assert!(matches!(heard, Heard::Violation(_)), "{heard:?}");
    }
}

#[test]
fn accepted_and_refused_keep_what_they_say() {
    let accepted = Message::Accepted(Accepted {
        seq: 2,
        request_id: HexId(5),
        attempt: 1,
    });
    let event = Event::WorkerAccepted {
        origin: at(2),
        request_id: RequestId(5),
        attempt: 1,
    };
    assert_eq!(heard(accepted, WORKER, EPOCH), Heard::Core(event));
    for (scope, elsewhere) in [(RefusedScope::Worker, true), (RefusedScope::Request, false)] {
        let refused = Message::Refused(Refused {
            seq: 2,
            request_id: HexId(5),
            attempt: 1,
            code: "no_room".to_owned(),
            message: "full".to_owned(),
            param: Some("prompt".to_owned()),
            scope,
        });
        let event = Event::WorkerRefused {
            origin: at(2),
            request_id: RequestId(5),
            attempt: 1,
            refusal: Refusal {
                code: "no_room".to_owned(),
                message: "full".to_owned(),
                param: Some("prompt".to_owned()),
                elsewhere,
            },
        };
        assert_eq!(heard(refused, WORKER, EPOCH), Heard::Core(event));
    }
}
