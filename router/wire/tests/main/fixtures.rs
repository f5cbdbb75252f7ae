//! One fixed message of each kind, and of each shape of a kind. The golden file is made of them.

use slackwater_wire::Message;
use slackwater_wire::messages::{
    Accepted, Bye, ByeCode, Cancel, Credit, Finish, Heartbeat, Hello, HexId, Metric, MetricName,
    Ready, Refused, RefusedScope, RequestClass, RequestFailure, RequestOutput, RouterHeartbeat,
    SamplingParams, StepOutputs, Submit, Welcome, WorkerStats,
};

const FIRST: HexId = HexId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
const SECOND: HexId = HexId(0xff);

/// All fixtures by name.
pub(crate) fn all() -> Vec<(&'static str, Message)> {
    let mut all = handshake();
    all.extend(requests());
    all.extend(answers());
    all.extend(link());
    all
}

fn handshake() -> Vec<(&'static str, Message)> {
    let hello = Hello {
        schema_hash: "0123456789abcdef".to_owned(),
        token: "00112233445566778899aabbccddeeff".to_owned(),
        pid: 4242,
    };
    let welcome = Welcome {
        worker_id: 3,
        epoch: 0xdead_beef_0000_0001,
        heartbeat_micros: 200_000,
        silence_micros: 2_000_000,
    };
    vec![
        ("hello", Message::Hello(hello)),
        ("welcome", Message::Welcome(welcome)),
        ("ready", Message::Ready(ready())),
    ]
}

pub(crate) fn ready() -> Ready {
    Ready {
        seq: 1,
        model_name: "tiny".to_owned(),
        weights_hash: "1111111111111111".to_owned(),
        text_hash: "2222222222222222".to_owned(),
        vocab_size: 512,
        block_size: 16,
        num_blocks: 1024,
        max_model_len: 2048,
        slots: 32,
        dtype: "float32".to_owned(),
        numerics: "reference-f32".to_owned(),
        kv_layout: "blocks-v1".to_owned(),
        features: vec!["logprobs".to_owned(), "größe \"q\"".to_owned()],
    }
}

pub(crate) fn submit() -> Submit {
    Submit {
        seq: 1,
        request_id: FIRST,
        attempt: 1,
        choice_index: 0,
        class: RequestClass::Interactive,
        salt: u64::MAX,
        num_output_tokens: 0,
        credit_up_to: 1024,
        remaining_micros: None,
        params: SamplingParams {
            max_tokens: 64,
            min_tokens: 0,
            temperature: 0.7,
            top_p: 0.95,
            seed: 0x8000_0000_0000_0001,
            ignore_eos: false,
        },
    }
}

fn requests() -> Vec<(&'static str, Message)> {
    let resume = Submit {
        seq: 2,
        attempt: 2,
        class: RequestClass::Offline,
        salt: 0,
        num_output_tokens: 2,
        remaining_micros: Some(59_000_000),
        params: SamplingParams {
            max_tokens: 4,
            min_tokens: 3,
            temperature: 0.0,
            top_p: 1.0,
            seed: 7,
            ignore_eos: true,
        },
        ..submit()
    };
    let credit = Credit {
        seq: 3,
        request_id: FIRST,
        attempt: 2,
        up_to: 2048,
    };
    let cancel = Cancel {
        seq: 4,
        request_id: SECOND,
        attempt: 1,
    };
    vec![
        ("submit", Message::Submit(submit(), vec![1, 2, 511])),
        (
            "submit_resume",
            Message::Submit(resume, vec![u32::MAX, 0, 65_536, 258]),
        ),
        ("credit", Message::Credit(credit)),
        ("cancel", Message::Cancel(cancel)),
    ]
}

pub(crate) fn output() -> RequestOutput {
    RequestOutput {
        request_id: FIRST,
        attempt: 1,
        start: 0,
        num_tokens: 0,
        num_cached_tokens: 0,
        finish: None,
        error: None,
    }
}

fn answers() -> Vec<(&'static str, Message)> {
    let accepted = Accepted {
        seq: 2,
        request_id: FIRST,
        attempt: 1,
    };
    let refused = |param: Option<&str>, scope| Refused {
        seq: 3,
        request_id: SECOND,
        attempt: 1,
        code: "context_length_exceeded".to_owned(),
        message: "the prompt has 9000 tokens, the limit is 2048".to_owned(),
        param: param.map(str::to_owned),
        scope,
    };
    vec![
        ("accepted", Message::Accepted(accepted)),
        (
            "refused_request",
            Message::Refused(refused(Some("messages"), RefusedScope::Request)),
        ),
        (
            "refused_worker",
            Message::Refused(refused(None, RefusedScope::Worker)),
        ),
        ("step_outputs", Message::StepOutputs(step(), vec![7, 8, 9])),
        (
            "step_outputs_empty",
            Message::StepOutputs(
                StepOutputs {
                    seq: 5,
                    step_micros: 0,
                    outputs: Vec::new(),
                },
                Vec::new(),
            ),
        ),
    ]
}

fn step() -> StepOutputs {
    let second = |finish, error| RequestOutput {
        request_id: SECOND,
        finish: Some(finish),
        error,
        ..output()
    };
    let failure = RequestFailure {
        code: "internal_error".to_owned(),
        message: "out of blocks".to_owned(),
    };
    StepOutputs {
        seq: 4,
        step_micros: 12_345,
        outputs: vec![
            RequestOutput {
                start: 5,
                num_tokens: 2,
                num_cached_tokens: 16,
                ..output()
            },
            output(),
            RequestOutput {
                start: 7,
                num_tokens: 1,
                finish: Some(Finish::Stop),
                ..output()
            },
            second(Finish::Length, None),
            second(Finish::Cancelled, None),
            second(Finish::Error, Some(failure)),
        ],
    }
}

pub(crate) fn stats() -> WorkerStats {
    let metric = |name, label: Option<&str>, value| Metric {
        name,
        label: label.map(str::to_owned),
        value,
    };
    WorkerStats {
        seq: 7,
        num_running: 3,
        num_waiting: 1,
        kv_blocks_used: 100,
        kv_blocks_total: 1024,
        metrics: vec![
            metric(MetricName::StepRowsBucket, Some("+Inf"), 12.0),
            metric(MetricName::StepRowsSum, None, 36.5),
            metric(MetricName::StepRowsCount, None, 12.0),
            metric(MetricName::PromptTokens, None, 1e15),
            metric(MetricName::GenerationTokens, None, 0.0),
            metric(MetricName::PrefixCacheQueries, None, 10.0),
            metric(MetricName::PrefixCacheHits, None, 4.0),
            metric(MetricName::Preemptions, None, 0.0),
            metric(MetricName::MemoryBytes, Some("weights"), 538_000_000.0),
        ],
    }
}

fn link() -> Vec<(&'static str, Message)> {
    let heartbeat = Heartbeat {
        seq: u64::MAX,
        progress: 9_007_199_254_740_993,
        busy: true,
    };
    let bye = |seq, code, message: &str| {
        Message::Bye(Bye {
            seq,
            code,
            message: message.to_owned(),
        })
    };
    vec![
        ("heartbeat", Message::Heartbeat(heartbeat)),
        (
            "router_heartbeat",
            Message::RouterHeartbeat(RouterHeartbeat { seq: 6 }),
        ),
        ("worker_stats", Message::WorkerStats(stats())),
        (
            "bye_schema_mismatch",
            bye(0, ByeCode::SchemaMismatch, "update one side"),
        ),
        ("bye_bad_token", bye(0, ByeCode::BadToken, "")),
        (
            "bye_too_many_workers",
            bye(0, ByeCode::TooManyWorkers, "64 workers are connected"),
        ),
        ("bye_drain", bye(8, ByeCode::Drain, "shutting down")),
        ("bye_violation", bye(9, ByeCode::Violation, "seq 5 after 3")),
        (
            "bye_model_mismatch",
            bye(1, ByeCode::ModelMismatch, "\u{1f30a} tiny\n"),
        ),
    ]
}
