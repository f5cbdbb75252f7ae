//! One fixed message of each kind, and of each shape of a kind. The golden file is made of them.

use slackwater_wire::Message;
use slackwater_wire::messages::{
    Accepted, AskBlocks, BlocksCleared, BlocksRemoved, BlocksStored, Bye, ByeCode, Cancel, Credit,
    Finish, Grammar, GrammarKind, Heartbeat, Hello, HexId, Metric, MetricName, Ready, Refused,
    RefusedScope, RequestClass, RequestFailure, RequestOutput, RouterHeartbeat, SamplingParams,
    StepOutputs, Submit, Welcome, WorkerStats,
};

const FIRST: HexId = HexId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
const SECOND: HexId = HexId(0xff);

/// All fixtures by name.
pub(crate) fn all() -> Vec<(&'static str, Message)> {
    let mut all = handshake();
    all.extend(requests());
    all.extend(answers());
    all.extend(link());
    all.extend(blocks());
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
        group: None,
        choice_index: 0,
        class: RequestClass::Interactive,
        salt: u64::MAX,
        num_output_tokens: 0,
        credit_up_to: 1024,
        remaining_micros: None,
        params: params(),
    }
}

pub(crate) fn params() -> SamplingParams {
    SamplingParams {
        max_tokens: 64,
        min_tokens: 0,
        temperature: 0.7,
        top_p: 0.95,
        top_k: 0,
        min_p: 0.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        repetition_penalty: 1.0,
        seed: 0x8000_0000_0000_0001,
        ignore_eos: false,
        logprobs: None,
        prompt_logprobs: None,
        grammar: None,
        num_stop_token_ids: 0,
        num_allowed_token_ids: None,
        bad_word_lengths: Vec::new(),
        num_logit_bias: 0,
    }
}

/// A `Submit` that says everything there is to say.
pub(crate) fn full() -> Message {
    let params = SamplingParams {
        top_k: 40,
        min_p: 0.05,
        frequency_penalty: -2.0,
        presence_penalty: 1.5,
        repetition_penalty: 1.25,
        logprobs: Some(20),
        prompt_logprobs: Some(0),
        grammar: Some(Grammar {
            kind: GrammarKind::JsonSchema,
            text: r#"{"type":"object"}"#.to_owned(),
        }),
        num_stop_token_ids: 2,
        num_allowed_token_ids: Some(3),
        bad_word_lengths: vec![1, 2],
        num_logit_bias: 2,
        ..params()
    };
    let submit = Submit {
        group: Some(SECOND),
        choice_index: 3,
        num_output_tokens: 1,
        params,
        ..submit()
    };
    let prompt_and_history = [1, 2, 511];
    let lists = [10, 11, 20, 21, 22, 30, 40, 41, 50, 51];
    let ids = prompt_and_history.into_iter().chain(lists).collect();
    Message::Submit(submit, ids, vec![-100.0, 0.5])
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
            ..params()
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
        (
            "submit",
            Message::Submit(submit(), vec![1, 2, 511], Vec::new()),
        ),
        (
            "submit_resume",
            Message::Submit(resume, vec![u32::MAX, 0, 65_536, 258], Vec::new()),
        ),
        ("submit_full", full()),
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
        num_top_logprobs: None,
        num_prompt_logprobs: 0,
        num_top_prompt_logprobs: 0,
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
        (
            "step_outputs",
            Message::StepOutputs(step(), vec![7, 8, 9], Vec::new()),
        ),
        ("step_outputs_logprobs", logprobs()),
        (
            "step_outputs_empty",
            Message::StepOutputs(
                StepOutputs {
                    seq: 5,
                    step_micros: 0,
                    outputs: Vec::new(),
                },
                Vec::new(),
                Vec::new(),
            ),
        ),
    ]
}

/// Two prompt positions with one likeliest each and a token with two; tokens without likeliest ones; one without any.
fn logprobs() -> Message {
    let outputs = vec![
        RequestOutput {
            num_tokens: 1,
            num_top_logprobs: Some(2),
            num_prompt_logprobs: 2,
            num_top_prompt_logprobs: 1,
            ..output()
        },
        RequestOutput {
            request_id: SECOND,
            num_tokens: 2,
            num_top_logprobs: Some(0),
            ..output()
        },
        RequestOutput {
            request_id: HexId(1),
            num_tokens: 1,
            ..output()
        },
    ];
    let step = StepOutputs {
        seq: 6,
        step_micros: 1,
        outputs,
    };
    let ids = vec![7, 8, 9, 10, 100, 101, 7, 200];
    let prompt = [-1.5, -2.5, -1.0, -0.5];
    let first = [-0.25, -0.25, f32::NEG_INFINITY];
    let second = [-3.0, -4.0];
    let floats = prompt.into_iter().chain(first).chain(second).collect();
    Message::StepOutputs(step, ids, floats)
}

fn blocks() -> Vec<(&'static str, Message)> {
    let half = |hash: u64| u32::try_from(hash & 0xffff_ffff).unwrap();
    let halves = |hash: u64| [half(hash), half(hash >> 32)];
    let words = |hashes: &[u64]| hashes.iter().copied().flat_map(halves).collect();
    let stored = BlocksStored {
        seq: 10,
        num_blocks: 2,
    };
    let removed = BlocksRemoved {
        seq: 11,
        num_blocks: 1,
    };
    vec![
        ("ask_blocks", Message::AskBlocks(AskBlocks { seq: 9 })),
        (
            "blocks_stored",
            Message::BlocksStored(
                stored,
                words(&[u64::MAX, 5, 5, 0x0123_4567_89ab_cdef, u64::MAX, 5]),
            ),
        ),
        (
            "blocks_removed",
            Message::BlocksRemoved(removed, words(&[5, u64::MAX])),
        ),
        (
            "blocks_cleared",
            Message::BlocksCleared(BlocksCleared { seq: 12 }),
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
            metric(MetricName::ParkedSlices, None, 1.0),
            metric(MetricName::ParkedTokensWasted, None, 2.0),
            metric(MetricName::DraftTokens, None, 5.0),
            metric(MetricName::AcceptedDraftTokens, None, 4.0),
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
