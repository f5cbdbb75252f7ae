//! Each message and each action on its way between the two vocabularies, whole values.

use std::time::Duration;

use slackwater_core::{
    Action, Class, Epoch, Event, Limits, Origin, Output, Placement, Refusal, Request, RequestDraft,
    RequestId, Time, WorkerFinish, WorkerId,
};
use slackwater_wire::Message;
use slackwater_wire::messages::{
    Accepted, Finish, HexId, Refused, RefusedScope, RequestClass, RequestFailure, RequestOutput,
    SamplingParams, StepOutputs, Submit,
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

fn request(class: Class) -> Request {
    let draft = RequestDraft {
        request_id: RequestId(5),
        prompt: vec![1, 2, 3],
        max_tokens: Some(16),
        min_tokens: 2,
        temperature: 0.5,
        top_p: 0.9,
        seed: 11,
        ignore_eos: true,
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
            request: request(ours),
            attempt: 3,
            history: history.to_vec(),
            credit_up_to: 1_024,
            remaining,
        };
        let submit = Submit {
            seq: 8,
            request_id: HexId(5),
            attempt: 3,
            choice_index: 0,
            class: wire,
            salt: 12,
            num_output_tokens: 0,
            credit_up_to: 1_024,
            remaining_micros: None,
            params: SamplingParams {
                max_tokens: 16,
                min_tokens: 2,
                temperature: 0.5,
                top_p: 0.9,
                seed: 11,
                ignore_eos: true,
            },
        };
        assert_eq!(
            message(&Action::Submit(placement(&[], None)), 8),
            Some(Message::Submit(submit.clone(), vec![1, 2, 3]))
        );
        let resumed = Submit {
            num_output_tokens: 2,
            remaining_micros: Some(1_500_000),
            ..submit
        };
        let remaining = Some(Duration::from_millis(1_500));
        assert_eq!(
            message(&Action::Resume(placement(&[9, 8], remaining)), 8),
            Some(Message::Submit(resumed, vec![1, 2, 3, 9, 8]))
        );
    }
}

fn output(request_id: u128, num_tokens: u32) -> RequestOutput {
    RequestOutput {
        request_id: HexId(request_id),
        attempt: 1,
        start: 6,
        num_tokens,
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
    let step = Message::StepOutputs(step, vec![7, 8, 9]);
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
        let heard = heard(Message::StepOutputs(step, Vec::new()), WORKER, EPOCH);
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
